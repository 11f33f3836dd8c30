"""Update rules, averages, clipping and losses on arrays of a GPU: PTX as it is compiled, on a fake CuPy."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

from on_machine import program, run_in_simulator
from ptx_machine import Machine

from fastdeconv import losses
from fastdeconv.kernels.cpu import updates as cpu
from fastdeconv.kernels.cuda import updates
from fastdeconv.optim import EMA, SGD, Adam, AdamW, RMSprop, clip_grad_norm, clip_grad_value

RNG = np.random.default_rng(8)
FLAGS = {
    "sgd": [0, cpu.DECAY | cpu.L1, cpu.MOMENTUM | cpu.L1, cpu.MOMENTUM | cpu.NESTEROV | cpu.DECAY],
    "adam": [0, cpu.DECAY, cpu.L1, cpu.AMSGRAD | cpu.DECAY],
    "rmsprop": [0, cpu.DECAY | cpu.L1, cpu.MOMENTUM, cpu.CENTERED, cpu.CENTERED | cpu.MOMENTUM | cpu.DECAY],
    "average": [0],
    "scaled": [0],
}
COUNT = 700  # more than two blocks, and no whole number of warps


@pytest.fixture
def gpu(monkeypatch):
    return fake_cupy.install(monkeypatch)


def up(*arrays):
    return [fake_cupy.asarray(a) for a in arrays]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(FLAGS))
def test_kernels_do_what_those_of_the_cpu_do(name, dtype):
    step = updates.launch(name, dtype, COUNT)
    assert program(step).local == {}
    for flags in FLAGS[name]:
        vectors = RNG.uniform(0.5, 2, (updates.RULES[name].vectors, COUNT)).astype(dtype)
        vectors[1:2] -= 1
        vectors[0, ::7] *= -1
        vectors[0, ::5] = 0
        settings = RNG.uniform(0.1, 0.9, updates.RULES[name].settings).astype(dtype)
        if name == "rmsprop":
            vectors[3] /= 5  # a variance that is no difference of nearly equal numbers
            settings[3:5] = 0.9, 0.1
        want, got = vectors.copy(), np.full((len(vectors), COUNT + 9), np.nan, dtype)
        got[:, :COUNT] = vectors
        options = (flags,) if name not in ("average", "scaled") else ()
        getattr(cpu, name).entry(dtype)(0, 1, cpu.units(COUNT), 1, (*want, settings, *options))
        machine = Machine()
        places = [machine.place(row) for row in got]
        machine.launch(program(step), step.grid, (step.threads,), [*places, COUNT, flags, *settings.tolist()])
        assert np.isnan(got[:, COUNT:]).all()
        np.testing.assert_allclose(got[:, :COUNT], want, rtol=0, atol=16 * np.finfo(dtype).eps)


RULES = {
    "sgd": SGD(0.05, weight_decay=0.1, l1=0.02),
    "nesterov": SGD(0.05, momentum=0.9, nesterov=True),
    "amsgrad": Adam(0.03, amsgrad=True, weight_decay=0.1),
    "adamw": AdamW(0.03),
    "rmsprop": RMSprop(0.02, momentum=0.7, centered=True),
}


@pytest.mark.parametrize("name", list(RULES))
def test_rules_on_device_arrays(name, gpu):
    w = RNG.standard_normal((3, 5, 7)).astype("f4")
    (v,) = up(w)
    on_cpu, on_gpu = (RULES[name].start(each) for each in (w, v))
    for count in range(4):
        gradient = RNG.standard_normal(w.shape).astype("f4")
        on_cpu(gradient, 0.5)
        on_gpu(*up(gradient if count % 2 else np.asfortranarray(gradient)), 0.5)
    np.testing.assert_allclose(v.get(), w, rtol=0, atol=1e-5)
    state = on_gpu.state_dict()
    assert all(type(each) is np.ndarray for each in state.values())
    for key, value in on_cpu.state_dict().items():
        np.testing.assert_allclose(state[key], value, rtol=1e-4, atol=1e-5)

    (again,) = up(v.get())
    other = RULES[name].start(again)
    other.load_state_dict(state)
    for update in (on_gpu, other):
        update(*up(gradient))
    np.testing.assert_array_equal(again.get(), v.get())


def test_a_step_waits_for_nothing(gpu):
    (w, g) = up(np.ones(300, "f4"), np.ones(300, "f4"))
    update = Adam(0.1).start(w)
    update(g)
    before = gpu.synchronized, len(gpu.transfers), len(gpu.launches)
    update(g)
    assert (gpu.synchronized, len(gpu.transfers), len(gpu.launches)) == (before[0], before[1], before[2] + 1)


def test_empty_parameters_launch_nothing(gpu):
    (w,) = up(np.ones((0, 3), "f4"))
    Adam(0.1).start(w)(w)
    assert gpu.launches == []


def test_the_gradient_lies_where_the_parameter_does(gpu):
    w = np.ones(3, "f4")
    with pytest.raises(ValueError, match="gradient must be on cuda:0, as the parameter; got cpu"):
        SGD(0.1).start(*up(w))(w)
    with pytest.raises(ValueError, match="gradient must be on cpu, as the parameter; got cuda:0"):
        SGD(0.1).start(w)(*up(w))


def test_averages(gpu):
    parameters = [RNG.standard_normal(shape).astype("f4") for shape in ((4, 5), (3,))]
    moved = [RNG.standard_normal(each.shape).astype("f4") for each in parameters]
    there = up(*parameters)
    averages = [EMA(0.9, warmup=True).start(each) for each in (parameters, there)]
    for each, device, new in zip(parameters, there, moved):
        each[...] = new
        device.set(new)
    for average in averages:
        average.update()
    for mean, other in zip(averages[0].arrays, averages[1].arrays):
        np.testing.assert_allclose(other.get(), mean, rtol=0, atol=1e-6)
    state = averages[1].state_dict()
    again = EMA(0.9, warmup=True).start(there)
    again.load_state_dict(state)
    for a, b in zip(again.arrays, averages[1].arrays):
        np.testing.assert_array_equal(a.get(), b.get())


def test_clipping(gpu):
    gradients = [RNG.standard_normal(shape).astype("f4") for shape in ((40, 5), (3,))]
    for clip, limit in ((clip_grad_norm, 1.5), (clip_grad_norm, 1e9), (clip_grad_value, 0.3)):
        here, there = [each.copy() for each in gradients], up(*gradients)
        norms = clip(here, limit), clip(there, limit)
        assert norms[0] is None or norms[0] == pytest.approx(norms[1], rel=1e-12)
        for each, other in zip(here, there):
            np.testing.assert_allclose(other.get(), each, rtol=1e-6)


@pytest.mark.parametrize("loss", [losses.MSE(), losses.L1(), losses.Charbonnier(0.02), losses.Huber(0.4)], ids=repr)
def test_losses(loss, gpu):
    y, y_true = (RNG.standard_normal((3, 5, 7)).astype("f4") for _ in range(2))
    y[0, 0] = y_true[0, 0]
    value, gradient = loss.value_and_gradient(y, y_true)
    a, b = up(y, y_true)
    for out in (None, fake_cupy.empty(y.shape, "f4"), fake_cupy.empty(y.shape[::-1], "f4").transpose(2, 1, 0), a):
        again, got = loss.value_and_gradient(a, b, out)
        assert again == pytest.approx(value, rel=1e-12)
        assert out is None or got is out
        np.testing.assert_array_equal(got.get(), gradient)
    with pytest.raises(ValueError, match="y and y_true must be on one device; y is on cuda:0, y_true is on cpu"):
        loss(b, y_true)


SIMULATED = """
import numpy as np
from fastdeconv.kernels.cpu import updates as cpu
from fastdeconv.kernels.cuda import updates
from fastdeconv.kernels.cuda.device import SIMULATED, cuda
assert SIMULATED
rng = np.random.default_rng(8)
for name, flags in (("sgd", cpu.MOMENTUM | cpu.DECAY), ("adam", cpu.AMSGRAD), ("rmsprop", cpu.L1), ("average", 0)):
    vectors = rng.uniform(0.5, 2, (updates.RULES[name].vectors, 300)).astype("f4")
    settings = rng.uniform(0.1, 0.9, updates.RULES[name].settings).astype("f4")
    want = vectors.copy()
    options = (flags,) if name != "average" else ()
    getattr(cpu, name).entry("float32")(0, 1, cpu.units(300), 1, (*want, settings, *options))
    step = updates.launch(name, "float32", 300)
    cuda.jit(step.kernel)[step.grid, step.threads](*vectors, 300, flags, *settings)
    np.testing.assert_allclose(vectors, want, rtol=1e-6)
"""


def test_simulator():
    """The same Python, with no compiler between."""
    run_in_simulator(SIMULATED)
