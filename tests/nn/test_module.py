"""What all modules share: names and state, forward and backward in their order, modes, conversion."""

import contextlib
from collections import OrderedDict

import numpy as np
import pytest

from fastdeconv import nn

RNG = np.random.default_rng(0)


def _model(**keywords):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, **keywords),
        nn.BatchNorm2d(4),
        nn.PReLU(4),
        nn.Residual(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Tanh()),
        nn.ConvTranspose2d(4, 1, 4, 2, 1),
    )


def _x(dtype="float32"):
    return np.random.default_rng(1).standard_normal((3, 2, 6, 7)).astype(dtype)


NAMES = [
    "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "2.weight",
    "3.0.weight", "4.weight", "4.bias",
]  # fmt: skip


# -- names and state --------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_names():
    model = _model()
    assert list(model.state_dict()) == NAMES
    buffers = [name for name, _ in model.named_buffers()]
    assert buffers == NAMES[4:7]
    assert [name for name, _ in model.named_parameters()] == [name for name in NAMES if name not in buffers]
    assert [name for name, _ in model.named_modules()] == ["", "0", "1", "2", "3", "3.0", "3.1", "4"]
    assert len(model) == 5
    assert model[2] is list(model)[2]


def test_names_given():
    model = nn.Sequential(OrderedDict(first=nn.Conv1d(1, 1, 1), second=nn.ReLU()))
    assert list(model.state_dict()) == ["first.weight", "first.bias"]


def test_a_shared_parameter_is_listed_once():
    layer = nn.PReLU()
    model = nn.Sequential(layer, layer)
    assert [name for name, _ in model.named_parameters()] == ["0.weight"]
    assert list(model.state_dict()) == ["0.weight", "1.weight"]


@pytest.mark.quick
def test_state_is_live_and_loading_copies():
    model, other = _model(rng=0), _model(rng=1)
    state = model.state_dict()
    model.parameters().__next__().data[...] = 7
    assert (state["0.weight"] == 7).all()
    other.load_state_dict(state)
    state["0.weight"][...] = 8
    assert (other.state_dict()["0.weight"] == 7).all()


def test_loading_converts_floats_and_not_strict():
    layer = nn.Conv2d(1, 1, 1)
    weight = layer.weight.data
    layer.load_state_dict({"weight": np.full((1, 1, 1, 1), 0.1), "more": 3}, strict=False)
    assert weight.dtype == np.float32
    assert weight[0, 0, 0, 0] == np.float32(0.1)


def test_loading_lists_every_fault_and_changes_nothing():
    model = _model()
    state = {name: value.copy() + 1 for name, value in model.state_dict().items()}
    before = {name: value.copy() for name, value in model.state_dict().items()}
    del state["0.bias"]
    state["extra"] = np.zeros(3)
    state["2.weight"] = np.zeros(3, np.float32)
    state["3.0.weight"] = "weights"
    state["1.num_batches_tracked"] = np.zeros(())
    state["4.bias"] = np.zeros(1, complex)
    with pytest.raises(ValueError, match="state does not fit this Sequential") as caught:
        model.load_state_dict(state)
    message = str(caught.value)
    for part in (
        "0.bias is missing", "extra is unknown here", "2.weight must have shape (4,); got (3,)",
        "3.0.weight must be an array of numbers", "1.num_batches_tracked must be of integers; got float64",
        "4.bias must be an array of numbers",
    ):  # fmt: skip
        assert part in message
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(TypeError, match="state must be a mapping"):
        model.load_state_dict([1])


def test_a_long_list_of_faults_is_cut():
    model = nn.Sequential(*(nn.PReLU() for _ in range(30)))
    with pytest.raises(ValueError, match=r"19\.weight is missing; and 10 more"):
        model.load_state_dict({})


# -- forward and backward ---------------------------------------------------------------------------------------

LAYERS = {
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3), (1, 2, 5, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3), (1, 2, 5, 5)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(2), (1, 2, 5, 5)),
    "ReLU": (nn.ReLU, (3, 4)),
    "LeakyReLU": (nn.LeakyReLU, (3, 4)),
    "PReLU": (nn.PReLU, (3, 4)),
    "Tanh": (nn.Tanh, (3, 4)),
    "Sigmoid": (nn.Sigmoid, (3, 4)),
    "GELU": (nn.GELU, (3, 4)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (1, 8, 3, 2)),
    "Identity": (nn.Identity, (3, 4)),
    "Sequential": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), (1, 2, 5, 5)),
    "Residual": (lambda: nn.Residual(nn.Conv2d(2, 2, 3, padding=1)), (1, 2, 5, 5)),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", LAYERS)
def test_backward_needs_a_forward_of_its_own(name):
    make, shape = LAYERS[name]
    layer = make()
    x = RNG.standard_normal(shape).astype(np.float32)
    with pytest.raises(RuntimeError, match="forward has not been called"):
        layer.backward(x)
    y = layer(x)
    with pytest.raises(ValueError, match="must have the shape"):
        layer.backward(y[..., :-1])
    with pytest.raises(TypeError, match="float32"):
        layer.backward(y.astype(np.float64))
    gradient = layer.backward(np.ones_like(y))  # the faults above have taken nothing away
    assert gradient.shape == x.shape
    with pytest.raises(RuntimeError, match="backward has already been called"):
        layer.backward(np.ones_like(y))
    with nn.no_grad():
        layer(x)
    with pytest.raises(RuntimeError, match="under no_grad"):
        layer.backward(np.ones_like(y))
    layer(x)
    layer.to("float32")
    with pytest.raises(RuntimeError, match="moved or converted"):
        layer.backward(np.ones_like(y))


@pytest.mark.quick
@pytest.mark.parametrize("name", LAYERS)
def test_layers_let_go_of_what_they_kept(name):
    make, shape = LAYERS[name]
    layer = make()
    layer.backward(np.ones_like(layer(RNG.standard_normal(shape).astype(np.float32))))
    assert all(module._kept is None for _, module in layer.named_modules())
    with nn.no_grad():
        layer(RNG.standard_normal(shape).astype(np.float32))
    assert all(module._kept is None for _, module in layer.named_modules())


@pytest.mark.quick
@pytest.mark.parametrize("name", LAYERS)
def test_without_the_gradient_of_the_input(name):
    make, shape = LAYERS[name]
    layer, x = make(), RNG.standard_normal(shape).astype(np.float32)
    gy = RNG.standard_normal(layer(x).shape).astype(np.float32)
    layer.backward(gy)
    expected = [p.grad for p in layer.parameters()]
    layer.zero_grad()
    layer.needs_input_grad = False
    layer(x)
    assert layer.backward(gy) is None
    for parameter, gradient in zip(layer.parameters(), expected):
        np.testing.assert_array_equal(parameter.grad, gradient)


@pytest.mark.quick
def test_gradients_accumulate():
    model, x = _model(rng=0).eval(), _x()
    gy = np.ones_like(model(x))
    model.backward(gy)
    once = {name: p.grad.copy() for name, p in model.named_parameters()}
    model(x)
    model.backward(gy)
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.grad, 2 * once[name])
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_frozen_parameters_get_no_gradient():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(), nn.ConvTranspose2d(3, 1, 3))
    for parameter in model.parameters():
        parameter.requires_grad = False
    gx = model.backward(np.ones_like(model(_x())))
    assert gx.shape == _x().shape
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.quick
def test_no_grad_gives_the_same_bits_and_leaves_the_input_alone():
    model, x = _model(rng=0).eval(), _x()
    before = x.copy()
    expected = model(x)
    with nn.no_grad():
        np.testing.assert_array_equal(model(x), expected)
        with nn.no_grad():
            pass
        np.testing.assert_array_equal(model(x), expected)
    np.testing.assert_array_equal(x, before)
    model(x)
    model.backward(expected)  # gradients are wanted again


def test_no_grad_never_overwrites_what_a_branch_needs():
    body = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Tanh())
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Residual(body), nn.Residual(nn.LeakyReLU(0.5)))
    expected = model(_x())
    with nn.no_grad():
        np.testing.assert_array_equal(model(_x()), expected)


@pytest.mark.quick
def test_against_finite_differences():
    rng = np.random.default_rng(2)
    model = _model(rng=0).to("float64")
    for parameter in model.parameters():
        parameter.data += 0.1 * rng.standard_normal(parameter.shape)
    x = _x("float64")
    gy = rng.standard_normal(model(x).shape)
    gradients = {"x": model.backward(gy)} | {name: p.grad for name, p in model.named_parameters()}
    arrays = {"x": x} | {name: p.data for name, p in model.named_parameters()}
    for name, array in arrays.items():
        direction = rng.standard_normal(array.shape)
        base, values = array.copy(), []
        for step in (1e-6, -1e-6):
            array[...] = base + step * direction
            values.append(float((gy * model(x)).sum()))
        array[...] = base
        slope = (values[0] - values[1]) / 2e-6
        assert slope == pytest.approx(float((gradients[name] * direction).sum()), rel=1e-5, abs=1e-8), name


class Subclass(np.ndarray):
    """What NumPy makes a plain array of without a copy."""


@pytest.mark.parametrize("name", LAYERS)
def test_arrays_of_the_caller_stay_as_they_are(name):
    make, shape = LAYERS[name]
    layer = make()
    x = RNG.standard_normal(shape).astype(np.float32)
    gy = RNG.standard_normal(layer(x).shape).astype(np.float32)
    x_before, gy_before = x.copy(), gy.copy()
    gx = layer.backward(gy)
    for grad_enabled in (True, False):
        with nn.no_grad() if not grad_enabled else contextlib.nullcontext():
            np.testing.assert_array_equal(layer(x.view(Subclass)), layer(np.asfortranarray(x)))
    layer(x.view(Subclass))
    np.testing.assert_array_equal(layer.backward(gy.view(Subclass)), gx)
    layer(np.asfortranarray(x))
    np.testing.assert_array_equal(layer.backward(np.asfortranarray(gy)), gx)
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(gy, gy_before)


class Doubled(nn.Module):
    """A layer of somebody else's, with neither state nor hidden methods."""

    def forward(self, x):
        return 2 * x

    def backward(self, grad_output):
        return 2 * grad_output


class Shifted(nn.ReLU):
    """A layer of ours, changed by somebody else."""

    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.quick
def test_layers_of_others():
    x = _x("float64")
    plain = nn.Sequential(nn.Conv2d(2, 3, 3, rng=0, dtype="float64"), nn.ReLU())
    mixed = nn.Sequential(nn.Conv2d(2, 3, 3, rng=0, dtype="float64"), Shifted(), Doubled())
    y = plain(x)
    np.testing.assert_allclose(mixed(x), 2 * (y + 1))
    gy = RNG.standard_normal(y.shape)
    np.testing.assert_allclose(mixed.backward(gy), 2 * plain.backward(gy))
    with pytest.raises(NotImplementedError, match="Module must define forward"):
        nn.Module()(x)


def test_residual_must_keep_the_shape():
    with pytest.raises(ValueError, match=r"its own shape \(3, 2, 6, 7\); got \(3, 2, 4, 5\)"):
        nn.Residual(nn.Conv2d(2, 2, 3))(_x())


def test_empty_containers():
    x = _x()
    model = nn.Sequential()
    assert model(x) is x
    np.testing.assert_array_equal(model.backward(x), x)
    doubled = nn.Residual()
    np.testing.assert_array_equal(doubled(x), 2 * x)
    np.testing.assert_array_equal(doubled.backward(x), 2 * x)


# -- modes and conversion ---------------------------------------------------------------------------------------


def test_modes():
    model = _model()
    assert model.eval() is model
    assert not any(module.training for _, module in model.named_modules())
    model.train()
    assert all(module.training for _, module in model.named_modules())


def test_conversion():
    model = _model(rng=0)
    x = _x()
    y = model(x)
    model.backward(np.ones_like(y))
    assert model.to("float64") is model
    state = model.state_dict()
    assert state.pop("1.num_batches_tracked").dtype == np.int64
    assert {value.dtype.name for value in state.values()} == {"float64"}
    assert all(p.grad.dtype == np.float64 for p in model.parameters())
    np.testing.assert_allclose(model.train()(x.astype(np.float64)), y, atol=1e-5)
    weight = model[0].weight.data
    assert model.to("cpu")[0].weight.data is weight


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (3, TypeError, "where must be a device"),
        ("float16", ValueError, "device must be"),
        ("auto", ValueError, '"auto" is for single calls'),
        ("cuda", RuntimeError, "device"),
    ],
)
def test_conversions_that_cannot_be(where, error, message, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(error, match=message):
        _model().to(where)


def test_repr():
    assert repr(nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, bias=False), nn.GELU())) == (
        "Sequential(\n  (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(2, 2), bias=False)\n"
        "  (1): GELU(approximate='none')\n)"
    )
    assert repr(nn.PReLU(3).weight) == "<Parameter (3,) float32>"


def test_parameters_must_be_floats():
    with pytest.raises(TypeError, match="data must be float32 or float64; got int64"):
        nn.Parameter(np.arange(3))
    with pytest.raises(TypeError, match="data must be a NumPy array"):
        nn.Parameter([1.0])
