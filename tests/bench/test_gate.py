"""The gate: right results pass for every kind of layer, planted faults do not, and no clock runs for them."""

import numpy as np
import pytest
from cases import problem

from fastdeconv.bench import gate, suite
from fastdeconv.bench.contenders.base import Contender, UnsupportedError
from fastdeconv.bench.contenders.ours import Fastdeconv
from fastdeconv.bench.layers import Layer
from fastdeconv.bench.operands import TIMED, Operands, bytes_moved, flops, piece
from fastdeconv.problem import Problem

pytestmark = pytest.mark.quick

LAYERS = {
    "2d": problem((2, 6, 7, 9), (6, 2, 3, 4), stride=(2, 3), padding=(1, 2), output_padding=(1, 0), groups=3),
    "1d_float64": problem((1, 3, 20), (3, 2, 5), stride=3, dilation=2, padding=4, dtype="float64"),
    "3d": problem((1, 2, 3, 4, 5), (2, 3, 2, 3, 1), stride=2, padding=(0, 1, 0)),
    "depthwise": problem((1, 5, 8, 8), (5, 1, 3, 3), groups=5, padding=1),
}


class Double(Contender):
    """Stands for a peer: fastdeconv's results, changed."""

    name = "double"
    modules = ("numpy",)
    install = "numpy"
    conditions = "planted"

    def __init__(self, threads=1, change=lambda array: array):
        self.calls = 0
        self._inner = Fastdeconv(threads)
        self._change = change

    def compute(self, operands, pass_):
        compute = self._inner.compute(operands, pass_)

        def counted():
            self.calls += 1
            return compute()

        return counted

    def arrays(self, value, operands, pass_):
        return tuple(self._change(array.copy()) for array in self._inner.arrays(value, operands, pass_))


def with_fault(array):
    array[(0,) * array.ndim] += 0.01
    return array


@pytest.mark.parametrize("pass_", TIMED)
@pytest.mark.parametrize("name", LAYERS)
def test_right_results_pass(name, pass_):
    operands = Operands(LAYERS[name])
    ours = Fastdeconv(1)
    arrays = ours.arrays(ours.compute(operands, pass_)(), operands, pass_)
    assert gate.against_definition(operands, pass_, arrays) is None
    assert gate.against_ours(operands.problem, pass_, arrays, arrays) is None


@pytest.mark.parametrize("pass_", TIMED)
@pytest.mark.parametrize("value", [0.01, np.nan])
def test_one_wrong_element_is_found(pass_, value):
    operands = Operands(LAYERS["2d"])
    ours = Fastdeconv(1)
    right = ours.arrays(ours.compute(operands, pass_)(), operands, pass_)
    for which in range(len(right)):
        wrong = tuple(array.copy() for array in right)
        wrong[which][(-1,) * wrong[which].ndim] += value
        assert gate.against_definition(operands, pass_, wrong) is not None
        assert gate.against_ours(operands.problem, pass_, right, wrong) is not None


def test_another_shape_or_type_is_found():
    operands = Operands(LAYERS["depthwise"])
    y = Fastdeconv(1).compute(operands, "forward")()
    assert "shape" in gate.against_definition(operands, "forward", (y[..., :-1],))
    assert "float64" in gate.against_ours(operands.problem, "forward", (y,), (y.astype(float),))


def test_a_wrong_peer_is_not_timed():
    wrong, right = Double(change=with_fault), Double()
    wrong.name = "wrong"
    row = suite.run_row(Layer("a", "b", LAYERS["2d"]), "forward", [Fastdeconv(1), wrong, right], 2, 0.1)
    assert set(row.times) == {"fastdeconv", "double"}
    assert row.disagrees == ["wrong"]
    assert row.notes["wrong"].startswith("wrong, not timed: forward differs by up to 0.01")
    assert wrong.calls == 1


def test_nobody_is_timed_if_we_are_wrong():
    ours, peer = Double(change=with_fault), Double()
    ours.name, ours.is_peer = "fastdeconv", False
    row = suite.run_row(Layer("a", "b", LAYERS["2d"]), "step", [ours, peer], 2, 0.1)
    assert row.error is not None
    assert row.times == {}
    assert (ours.calls, peer.calls) == (1, 0)


def test_what_a_peer_lacks_is_a_note():
    class Lacking(Double):
        def compute(self, operands, pass_):
            raise UnsupportedError("no such thing")

    class Crashing(Double):
        name = "crashing"

        def compute(self, operands, pass_):
            raise RuntimeError("two\nlines")

    row = suite.run_row(Layer("a", "b", LAYERS["3d"]), "forward", [Fastdeconv(1), Lacking(), Crashing()], 2, 0.1)
    assert row.notes == {"double": "no such thing", "crashing": "two lines"}
    assert set(row.times) == {"fastdeconv"}


def test_a_hopeless_peer_is_judged_by_a_piece(monkeypatch):
    monkeypatch.setattr(suite, "HOPELESS", 1e-9)
    big = problem((1, 64, 40, 40), (64, 16, 4, 4), stride=2)
    peer = Double()
    row = suite.run_row(Layer("a", "b", big), "forward", [Fastdeconv(1), peer], 1, 0.1)
    assert "s a call, judged by mb1ic64" in row.notes["double"]
    assert peer.calls == 1
    assert set(row.times) == {"fastdeconv"}


@pytest.mark.parametrize("share", [1 / 2, 1 / 32])
def test_a_piece_is_the_same_layer_and_smaller(share):
    for text in ("mb64ic8ih4iw4oc4kh4kw4sh2sw2ph1pw1", "g8mb1ic8iw500oc8kw64sw16", "mb1ic2id9ih9iw9oc2kd3kh3kw3"):
        whole = Problem.parse(text)
        part = piece(whole, share)
        assert part.flops <= share * whole.flops
        assert part.weight_shape == whole.weight_shape
        assert part.stride == whole.stride


def test_what_a_step_counts():
    p = LAYERS["2d"]
    assert flops(p, "step") == 3 * flops(p, "forward") == 3 * p.flops
    # x, w and gy are read; y, gx and the new weight are written.
    assert bytes_moved(p, "step") == 2 * bytes_moved(p, "weight_grad") == 2 * p.bytes
