"""What an update rule keeps: its state, the bits of its steps, and which arrays it takes."""

from __future__ import annotations

import io

import numba
import numpy as np
import pytest

from fastdeconv import optim
from fastdeconv.kernels.cpu import threads
from fastdeconv.optim import EMA, SGD, Adam, AdamW, RMSprop

RULES = {
    "sgd": (SGD(0.05, weight_decay=0.1, l1=0.01), set()),
    "momentum": (SGD(0.05, momentum=0.9, dampening=0.3), {"momentum_buffer"}),
    "nesterov": (SGD(0.05, momentum=0.9, nesterov=True), {"momentum_buffer"}),
    "adam": (Adam(0.03, weight_decay=0.1), {"exp_avg", "exp_avg_sq"}),
    "amsgrad": (Adam(0.03, amsgrad=True), {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
    "adamw": (AdamW(0.03), {"exp_avg", "exp_avg_sq"}),
    "rmsprop": (RMSprop(0.02), {"square_avg"}),
    "rmsprop_all": (RMSprop(0.02, momentum=0.7, centered=True), {"square_avg", "grad_avg", "momentum_buffer"}),
}
# More than two blocks, and no whole number of vectors.
SHAPE = (37, 61)


def start(name, shape=SHAPE, dtype="float32"):
    rng = np.random.default_rng(5)
    w = rng.standard_normal(shape).astype(dtype)
    return w, [rng.standard_normal(shape).astype(dtype) for _ in range(6)], RULES[name][0].start(w)


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(RULES))
def test_goes_on_from_its_state_to_the_bit(name, dtype):
    w, gradients, update = start(name, dtype=dtype)
    for gradient in gradients[:3]:
        update(gradient)
    state, other = update.state_dict(), w.copy()
    assert set(state) == {"step"} | RULES[name][1]
    for gradient in gradients[3:]:
        update(gradient, 0.5)

    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    again = RULES[name][0].start(other)
    with np.load(file, allow_pickle=False) as loaded:
        again.load_state_dict(dict(loaded))
    for gradient in gradients[3:]:
        again(gradient, 0.5)
    np.testing.assert_array_equal(other, w)
    for key, value in update.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key], value)


@pytest.mark.parametrize("name", list(RULES))
def test_state_has_the_names_of_torch(name):
    torch = pytest.importorskip("torch")
    rule, names = RULES[name]
    leaf = torch.zeros(3, requires_grad=True)
    options = {
        key: getattr(rule, key)
        for key in ("weight_decay", "momentum", "dampening", "nesterov", "amsgrad", "centered")
        if hasattr(rule, key)
    }
    theirs = getattr(torch.optim, type(rule).__name__)([leaf], lr=0.1, **options)
    leaf.grad = torch.ones(3)
    theirs.step()
    state = theirs.state_dict()["state"].get(0, {})
    assert {key for key, value in state.items() if value is not None} - {"step"} == names


@pytest.mark.quick
@pytest.mark.parametrize("name", list(RULES))
def test_any_number_of_threads_gives_the_same_bits(name, monkeypatch):
    results = []
    entered = []
    enter = threads.enter
    monkeypatch.setattr(threads, "enter", lambda call: entered.append(call) or enter(call))
    count = numba.get_num_threads()
    try:
        for each in (1, count):
            numba.set_num_threads(each)
            w, gradients, update = start(name, (200_003,))
            for gradient in gradients[:3]:
                update(gradient)
            results.append(w)
    finally:
        numba.set_num_threads(count)
    assert len(entered) == 6
    np.testing.assert_array_equal(*results)


@pytest.mark.quick
@pytest.mark.parametrize("name", list(RULES))
def test_few_elements_start_no_thread(name, monkeypatch):
    def refuse(call):
        raise AssertionError("threads were started")

    monkeypatch.setattr(threads, "enter", refuse)
    for shape in ((), (0,), (1,), (56,), (56, 3, 3, 3)):
        w, gradients, update = start(name, shape)
        before = w.copy()
        update(gradients[0])
        assert (w != before).all()


@pytest.mark.quick
@pytest.mark.parametrize("name", list(RULES))
def test_what_is_not_finite_stays_in_its_element(name):
    for bad in (np.nan, np.inf):
        w, gradients, update = start(name)
        clean, _, other = start(name)
        gradients[1][3, 5] = bad
        for gradient in gradients:
            update(gradient)
        gradients[1][3, 5] = 0
        for gradient in gradients:
            other(gradient)
        assert not np.isfinite(w[3, 5])
        w[3, 5] = clean[3, 5]
        np.testing.assert_array_equal(w, clean)


@pytest.mark.quick
def test_a_nan_reaches_the_largest_mean_square():
    w = np.zeros(2)
    update = Adam(0.1, amsgrad=True).start(w)
    update(np.array([np.nan, 1.0]))
    update(np.zeros(2))
    assert np.isnan(update.state_dict()["max_exp_avg_sq"]).tolist() == [True, False]


@pytest.mark.quick
def test_gradients_in_any_order_of_memory():
    w, gradients, update = start("adam")
    other, _, again = start("adam")
    update(gradients[0])
    again(np.asfortranarray(gradients[0]))
    update(gradients[1])
    again(np.repeat(gradients[1], 2, axis=1)[:, ::2])
    np.testing.assert_array_equal(w, other)


STRIDED = np.zeros((4, 6))[:, ::2]
LOCKED = np.zeros(3)
LOCKED.flags.writeable = False


def load(**state):
    update = Adam(0.1).start(np.zeros((2, 3), "float32"))
    good = update.state_dict()
    update.load_state_dict({k: v for k, v in (good | state).items() if v is not None})


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Adam(0.1).start([1.0]), TypeError, "parameter must be a NumPy array; got"),
        (lambda: Adam(0.1).start(np.zeros(3, int)), TypeError, "parameter must be float32 or float64; got int64"),
        (lambda: Adam(0.1).start(np.zeros(3, "f2")), TypeError, "parameter must be float32 or float64; got float16"),
        (lambda: Adam(0.1).start(np.zeros(3, ">f4")), TypeError, "parameter is changed in place, and so must be a"),
        (lambda: Adam(0.1).start(STRIDED), ValueError, r"parameter must be C-contiguous; got strides \(48, 16\)"),
        (lambda: Adam(0.1).start(LOCKED), ValueError, "parameter must be writeable; got a read-only array"),
        (lambda: SGD(1).start(np.zeros(3))(np.zeros(4)), ValueError, r"parameter's shape \(3,\); got \(4,\)"),
        (lambda: SGD(1).start(np.zeros(3))(np.zeros(3, "f4")), TypeError, "dtype float64; got float32"),
        (lambda: SGD(1).start(np.zeros(3))(None), TypeError, "gradient must be a NumPy array; got None"),
        (lambda: load(exp_avg=None), ValueError, "'step', 'exp_avg', 'exp_avg_sq': 'exp_avg' is missing"),
        (lambda: load(step=None, more=np.ones(1)), ValueError, "'step' is missing; 'more' is unexpected"),
        (
            lambda: load(exp_avg=np.zeros((3, 2), "f4")),
            ValueError,
            r"'exp_avg' is float32 \(3, 2\), and must be float32 \(2, 3\)",
        ),
        (lambda: load(exp_avg_sq=np.zeros((2, 3))), ValueError, "'exp_avg_sq' is float64 .*, and must be float32"),
        (lambda: load(step=np.array(1.0)), ValueError, r"'step' is float64 \(\), and must be int64 \(\)"),
        (lambda: load(step=np.array(-1)), ValueError, "'step' counts, and so must be at least 0; got -1"),
        (lambda: load(step=3), TypeError, r"state\['step'\] must be a NumPy array; got 3"),
        (lambda: Adam(0.1).start(np.zeros(3)).load_state_dict(None), TypeError, "state must be a dict of NumPy arrays"),
        (lambda: EMA(0.9).start([np.zeros(3)]).load_state_dict({}), ValueError, "'step' is missing; '0' is missing"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.quick
def test_a_state_that_is_refused_changes_nothing():
    _, gradients, update = start("adam")
    update(gradients[0])
    before = update.state_dict()
    bad = {key: np.array(value + 1) for key, value in before.items()} | {"exp_avg_sq": np.zeros(3)}
    with pytest.raises(ValueError, match="'exp_avg_sq'"):
        update.load_state_dict(bad)
    for key, value in update.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.quick
def test_public_names():
    assert all(hasattr(optim, name) for name in optim.__all__)
