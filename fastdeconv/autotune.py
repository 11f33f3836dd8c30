"""Time every implementation of a problem here, and use the fastest from then on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import tuning
from fastdeconv.devices import resolve
from fastdeconv.dispatch import Plan, choose, costs_of, geometry_of, outdone, plan, table_of
from fastdeconv.explain import passes_of, problem_of
from fastdeconv.kernels.cpu import host
from fastdeconv.kernels.cpu.threads import get_num_threads
from fastdeconv.lowering import lower
from fastdeconv.problem import IntOrTuple, Pass, Problem, as_int, numpy_dtype, shown

Array = NDArray[Any]

# For the rounds of one implementation, in seconds.
_SECONDS = 1.0
# An implementation that yields is not called on large problems if it should take this many times as long as the best.
_HOPELESS = 8
_LARGE = 5e7  # flops
_PIECE = 1 / 32
# Largest operand, and sums of magnitudes: with room for what transforms add, exact in every element type but those that
# wrap around, where all wrap alike.
_VALUES, _SUMS = 2, 2**13
_WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Tuned:
    """What `autotune` found for one pass.

    Attributes
    ----------
    pass_ : str
    choice : str
        The implementation that runs from now on, the fastest.
    before : str
        The one that ran without times.
    seconds : dict of str to float
        Median time of a run of each implementation, fastest first.
    left_out : dict of str to str
        Why others were not timed, by implementation; those that decline are not listed.
    """

    pass_: Pass
    choice: str
    before: str
    seconds: dict[str, float]
    left_out: dict[str, str]

    def __str__(self) -> str:
        gain = self.seconds.get(self.before, np.nan) / self.seconds[self.choice]
        same = self.choice == self.before
        lines = [
            f"{self.pass_}: {self.choice}, {'as before' if same else f'{gain:.2f} times as fast as {self.before}'}"
        ]
        width = max(map(len, (*self.seconds, *self.left_out)))
        lines += [f"  {name:{width}}  {tuning.milliseconds(seconds):>9} ms" for name, seconds in self.seconds.items()]
        lines += [f"  {name:{width}}  not timed: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class AutotuneResult:
    """What `autotune` found; its `str` is a table.

    Attributes
    ----------
    problem : Problem
    threads : int
        The number of threads that the times are for.
    passes : tuple of Tuned
    kept : str
        Where the times are kept, in a sentence.
    """

    problem: Problem
    threads: int
    passes: tuple[Tuned, ...]
    kept: str

    @property
    def wrong(self) -> dict[str, str]:
        """The implementations whose results were wrong, by pass and name."""
        return {
            f"{tuned.pass_} {name}": reason
            for tuned in self.passes
            for name, reason in tuned.left_out.items()
            if reason.startswith(_WRONG)
        }

    def __str__(self) -> str:
        head = f"{self.problem}\n{host.NAME}, {host.VECTOR_BITS}-bit vectors, {self.threads} threads; {self.kept}"
        return "\n".join([head, *map(str, self.passes)])


def autotune(
    problem: Any,
    weight: Any = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    output_size: IntOrTuple | None = None,
    pass_: Pass | None = None,
    rounds: int = 9,
    device: str | None = None,
) -> AutotuneResult:
    """Time every implementation that serves a problem, and remember the fastest on this machine.

    Later calls of this and of other processes use it: those with the same sizes and dtype, the number of threads that
    is set now, the same kind of CPU and the same kernels. `fastdeconv.explain` shows it. A call that names an
    algorithm is not affected, nor is the limit of scratch memory.

    Parameters
    ----------
    problem : Problem, str or ndarray
        A problem, its descriptor, or the input of a call, followed by the call's other arguments.
    weight : ndarray
        Only with an input. The values of both do not matter.
    stride, padding, output_padding, groups, dilation, output_size
        As in the call; only with an input.
    pass_ : {"forward", "input_grad", "weight_grad"}, optional
        One pass only.
    rounds : int
        Measurements of each implementation; slow ones get fewer.
    device : {"cpu"}, optional
        Only kernels for the CPU are timed.

    Returns
    -------
    AutotuneResult
        Print it.

    Raises
    ------
    TypeError, ValueError
        As the call does; no such pass; `rounds` is not an int of at least 1; a batch of 0.
    RuntimeError
        No implementation's result was right.

    Warns
    -----
    RuntimeWarning
        The times cannot be kept in a file, or it is damaged. Said once in a process.

    Notes
    -----
    Implementations must first agree with the reference exactly: operands are integers so small that all sums are
    exact, in any order. One whose result is wrong is not timed. Those expected to be slower than others are timed
    too, unless the problem is large and a piece of it tells that they take more than 8 times as long.

    The times are in a JSON file beside the compiled kernels, whose folder ``fastdeconv info`` shows; delete it to
    forget them. Sums in another order have other last bits: results are still the same on every run, but may differ
    from those before, and between numbers of threads with different choices.
    """
    passes = passes_of(pass_)
    if resolve(device) not in ("cpu", "auto"):
        raise ValueError(f'device must be "cpu" or None, as only its kernels are timed; got {shown(device)}')
    described = problem_of(problem, weight, stride, padding, output_padding, groups, dilation, output_size)
    rounds = as_int("rounds", rounds)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1; got {rounds}")
    if described.batch < 1:
        raise ValueError(f"problem must have a batch of at least 1, or there is nothing to time; got {described}")
    tuned = tuple(_tune(described, each, rounds) for each in passes)
    threads = get_num_threads()
    _, kept = tuning.remember(
        {tuning.Key(str(described), each.pass_, threads, host.NAME): each.seconds for each in tuned}
    )
    return AutotuneResult(described, threads, tuned, kept)


def _tune(problem: Problem, pass_: Pass, rounds: int) -> Tuned:
    from fastdeconv.bench.timing import interleaved

    table = table_of("cpu", pass_, problem.ndim, channels_last=problem.channels_last)
    *others, last = table
    geometry = geometry_of(lower(problem, pass_)[0])
    operands = _operands(problem, pass_)
    reference = plan(problem, pass_, "cpu", last.name)
    want = _result(reference, operands)
    left_out: dict[str, str] = {}
    calls: dict[str, Callable[[], None]] = {}
    best = np.inf
    serving = [i for i in others if i.declines(geometry) is None]
    # Those that are slow by their own account come last, when there is a time to compare with.
    costs = costs_of(table, geometry)
    for candidate in sorted(serving, key=lambda i: outdone(i, geometry, costs) is not None):
        try:
            forced = plan(problem, pass_, "cpu", candidate.name)
        except ValueError:  # above the limit of scratch memory
            continue
        if outdone(candidate, geometry, costs) is not None:
            expected = _expected(problem, pass_, candidate.name)
            if expected > _HOPELESS * best:
                left_out[candidate.name] = f"about {tuning.milliseconds(expected)} ms, judged by a piece of the problem"
                continue
        got = _result(forced, operands)
        if wrong := int((got != want).sum()):
            left_out[candidate.name] = f"{_WRONG}: {wrong} of {want.size} elements differ from the reference"
            continue
        calls[candidate.name] = call = _call(forced, operands, got)
        best = min(best, _seconds(call))
    if not calls:
        if left_out:
            told = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise RuntimeError(f"no implementation of the {pass_} pass is right for {problem}: {told}")
        calls[last.name] = _call(reference, operands, want)
    measured = interleaved(list(calls.values()), rounds, _SECONDS)
    seconds = dict(sorted(((n, t.median) for n, t in zip(calls, measured)), key=lambda each: each[1]))
    untuned = choose(problem, pass_, "cpu", None, tuning.conditions()._replace(threads=0))
    return Tuned(pass_, next(iter(seconds)), untuned.implementation.name, seconds, left_out)


def _operands(problem: Problem, pass_: Pass) -> tuple[Array | None, ...]:
    """Return a pass's inputs as vectors of integers whose sums are exact in any order, also between transforms."""
    rng = np.random.default_rng(0)
    x, w, y = problem.input_shape, problem.weight_shape, problem.output_shape
    shapes = {"forward": (x, w), "input_grad": (y, w), "weight_grad": (x, y)}[pass_]
    density = min(1.0, _SUMS / (_VALUES**2 * problem.accumulation_length(pass_)))

    def draw(size: int) -> Array:
        return (rng.integers(-_VALUES, _VALUES, size, endpoint=True) * (rng.random(size) < density)).astype(np.int8)

    def vector(shape: tuple[int, ...]) -> Array:
        values = draw(math.prod(shape))
        if problem.dtype.startswith("complex"):
            return (values + 1j * draw(values.size)).astype(problem.dtype)
        return values.astype(numpy_dtype(problem.dtype))

    a, b = map(vector, shapes)
    return (a, b, None) if pass_ == "forward" else (a, b)


def _result(plan: Plan, operands: tuple[Array | None, ...]) -> Array:
    problem = plan.problem
    shape = {
        "forward": problem.output_shape, "input_grad": problem.input_shape, "weight_grad": problem.weight_shape,
    }[plan.pass_]  # fmt: skip
    dtype = numpy_dtype(problem.dtype)
    out = np.full(math.prod(shape), np.nan if dtype.kind in "fc" else np.iinfo(dtype).max, dtype)
    plan.run(*operands, out)
    return out


def _call(plan: Plan, operands: tuple[Array | None, ...], out: Array) -> Callable[[], None]:
    return lambda: plan.run(*operands, out)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _expected(problem: Problem, pass_: Pass, name: str) -> float:
    """Return about how long a run takes, by that of a piece; 0 if the problem is small, or the piece not served."""
    from fastdeconv.bench.operands import piece

    if problem.flops < _LARGE:
        return 0.0
    small = piece(problem, _PIECE)
    operands = _operands(small, pass_)
    try:
        forced = plan(small, pass_, "cpu", name)
    except ValueError:
        return 0.0
    call = _call(forced, operands, _result(forced, operands))
    return _seconds(call) * problem.flops / small.flops
