"""A layer of ours beside the same layer of torch: state, result, all gradients."""

import numpy as np


def copied(ours, theirs):
    """Load torch's weights into ours, with the names checked; return both in one mode."""
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    return ours.train(theirs.training)


def close(got, expected, tolerance, what):
    """Compare with the size of the expected array as the scale."""
    expected = expected.detach().numpy()
    assert got.dtype == expected.dtype, what
    assert got.shape == expected.shape, what
    scale = abs(expected).max(initial=0) or 1
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale, err_msg=what)


def compare(ours, theirs, *shape, tolerance=1e-12, seed=0, rounds=1, spread=1.0):
    """Run both on the same input and output gradient, and compare all that comes of it."""
    import torch

    copied(ours, theirs)
    rng = np.random.default_rng(seed)
    dtype = next((p.dtype for p in ours.parameters()), np.dtype("float64"))
    for _ in range(rounds):
        x = (spread * rng.standard_normal(shape)).astype(dtype)
        before = x.copy()
        tx = torch.tensor(x, requires_grad=True)
        ours.zero_grad()
        theirs.zero_grad()
        y, ty = ours(x), theirs(tx)
        close(y, ty, tolerance, "output")
        gy = rng.standard_normal(y.shape).astype(dtype)
        gy_before = gy.copy()
        gx = ours.backward(gy)
        ty.backward(torch.tensor(gy))
        close(gx, tx.grad, tolerance, "input gradient")
        for (name, p), (their_name, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert name == their_name
            close(p.grad, q.grad, tolerance, f"gradient of {name}")
        for name, buffer in theirs.named_buffers():
            close(ours.state_dict()[name], buffer, tolerance, name)
        # Neither call may touch the caller's arrays.
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(gy, gy_before)
