"""One row of the suite: start each contender carefully, check its result, then time all side by side."""

from __future__ import annotations

import time

from fastdeconv.bench import gate
from fastdeconv.bench.contenders import one_line
from fastdeconv.bench.contenders.base import Compute, Contender, UnsupportedError
from fastdeconv.bench.layers import Layer
from fastdeconv.bench.operands import Array, Operands, TimedPass, bytes_moved, flops, piece
from fastdeconv.bench.results import OURS, Row
from fastdeconv.bench.timing import Clock, interleaved, wall_clock
from fastdeconv.dispatch import plan
from fastdeconv.problem import PASSES, Problem

# A call that would take longer is not made: some libraries need a minute for a layer that others do in milliseconds.
HOPELESS = 5.0  # seconds
_TRIAL_SHARE = 1 / 32


class TooSlowError(UnsupportedError):
    """A call would take longer than `HOPELESS`."""


def new_row(layer: Layer, pass_: TimedPass, device: str = "cpu") -> Row:
    """Return a row without times."""
    problem = layer.problem
    return Row(
        layer.name, layer.source, str(problem), pass_, problem.dtype, kernels(problem, pass_, device),
        flops(problem, pass_), bytes_moved(problem, pass_),
    )  # fmt: skip


def kernels(problem: Problem, pass_: TimedPass, device: str = "cpu") -> str:
    """Return the name of the kernel that serves a pass; of a step, all of them."""
    passes = PASSES if pass_ == "step" else (pass_,)
    return "+".join(dict.fromkeys(plan(problem, each, device).implementation.name for each in passes))


def run_row(layer: Layer, pass_: TimedPass, contenders: list[Contender], rounds: int, seconds: float) -> Row:
    """Check and time one pass of one layer.

    Parameters
    ----------
    contenders : list of Contender
        Ours first: no one is timed if its result is wrong.
    rounds : int
    seconds : float
        For the timing of all contenders together; each is measured at least once.
    """
    return measure(new_row(layer, pass_), Operands(layer.problem), contenders, rounds, seconds)


def measure(
    row: Row,
    operands: Operands,
    contenders: list[Contender],
    rounds: int,
    seconds: float,
    clock: Clock = wall_clock,
    accuracy: gate.Accuracy | None = None,
) -> Row:
    """Check the results of a row's contenders, time those that are right, and return the row; see `run_row`."""
    pass_ = row.pass_
    entered: dict[str, Compute] = {}
    ours: tuple[Array, ...] = ()
    for contender in contenders:
        if pass_ not in contender.passes:
            continue
        try:
            compute, arrays = first_result(contender, operands, pass_)
        except Exception as error:  # whatever another library raises, the others can still be timed
            if not contender.is_peer and not isinstance(error, UnsupportedError):
                raise
            row.notes[contender.name] = one_line(error)
            continue
        if contender.name == OURS:
            row.error = gate.against_definition(operands, pass_, arrays, accuracy)
            if row.error is not None:
                return row
            ours = arrays
        elif wrong := gate.against_ours(operands.problem, pass_, ours, arrays, accuracy):
            row.notes[contender.name] = f"wrong, not timed: {wrong}"
            row.disagrees.append(contender.name)
            continue
        entered[contender.name] = compute
    del ours, arrays
    times = interleaved(list(entered.values()), rounds, seconds / len(entered), clock)
    row.times = dict(zip(entered, times))
    return row


def first_result(contender: Contender, operands: Operands, pass_: TimedPass) -> tuple[Compute, tuple[Array, ...]]:
    """Return a contender's function, called once, and what it returned.

    Raises
    ------
    TooSlowError
        By a piece of the layer, the whole would take too long.
    """
    if contender.is_peer:
        _try_piece(contender, operands.problem, pass_)
    compute = contender.compute(operands, pass_)
    return compute, contender.arrays(compute(), operands, pass_)


def _try_piece(contender: Contender, problem: Problem, pass_: TimedPass) -> None:
    if problem.flops < contender.surely_fast:
        return
    small = piece(problem, _TRIAL_SHARE)
    compute = contender.compute(Operands(small), pass_)
    seconds = _seconds(contender, compute)
    if seconds < HOPELESS:  # else even compilation is no excuse
        seconds = _seconds(contender, compute)
    expected = seconds * problem.flops / small.flops
    if expected > HOPELESS:
        raise TooSlowError(f"about {expected:.0f} s a call, judged by {small}")


def _seconds(contender: Contender, call: Compute) -> float:
    start = time.perf_counter()
    call()
    contender.wait()
    return time.perf_counter() - start
