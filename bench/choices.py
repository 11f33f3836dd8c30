"""How far the choice of kernels is from the best one, on random problems, and the weights that would bring it closer.

Every implementation that serves a problem is timed. The weights of `fastdeconv.kernels.cpu.costs` are fitted to those
times: least squares of relative errors, none of them negative. With channels last, they are those of the kernels that
take arrays so: the others take as long as with channels first, and for copies of the arrays.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fastdeconv.bench.peak import flops_per_second
from fastdeconv.dispatch import TABLES, geometry_of, plan, table_of
from fastdeconv.kernels.geometry import Geometry, Implementation
from fastdeconv.problem import Pass, Problem

Array = NDArray[Any]

# Operations of a problem, and elements of its largest array, at most: about a hundred milliseconds.
_FLOPS, _ELEMENTS = 4e9, 5e7
_ROUNDS = 5
# How often the input is one pixel, as in a generator's first layer.
_ONE_PIXEL = 0.04
# How often groups have so few channels, as in depthwise layers.
_DEPTHWISE, _FEW = 0.1, 4
# Implementations for tiny problems and for proofs.
_ASIDE = ("direct_loops", "reference")
_STEPS = 4000  # of the fit


class Timed(NamedTuple):
    """A problem, the least time of each implementation in seconds, and which one is chosen."""

    problem: Problem
    seconds: dict[str, float]
    chosen: str

    @property
    def loss(self) -> float:
        """The chosen one's time over the least."""
        return self.seconds[self.chosen] / min(self.seconds.values())


def draw(rng: np.random.Generator, least: float, channels_last: bool = False) -> Problem | None:
    """Return a random problem of at least so many operations, or None if what came out is not or is too large."""
    ndim = int(rng.choice([1, 2, 2, 2, 3]))
    stride = int(rng.choice([1, 1, 2, 2, 2, 3, 4]))
    kernel = int(rng.integers(stride, 2 * stride + 4))
    padding = int(rng.integers(0, (kernel + 1) // 2))
    groups = int(rng.choice([1, 1, 1, 1, 4]))
    channels = [max(1, int(2 ** rng.uniform(*range_)) // groups) * groups for range_ in ((2, 9), (0, 8.5))]
    if rng.random() < _DEPTHWISE:
        groups = channels[0]
        channels = [groups * (int(rng.integers(1, _FEW + 1)) if rng.random() < 1 / 3 else 1) for _ in range(2)]
    batch = int(rng.choice([1, 1, 2, 8, 32]))
    side = int(2 ** rng.uniform(*{1: (6, 14), 2: (2, 8), 3: (2, 5)}[ndim]))
    if rng.random() < _ONE_PIXEL:
        side, batch, padding = 1, int(2 ** rng.uniform(0, 9)), 0
    try:
        problem = Problem.from_shapes(
            (batch, channels[0], *(side,) * ndim), (channels[0], channels[1] // groups, *(kernel,) * ndim), ndim=ndim,
            stride=stride, padding=padding, groups=groups, channels_last=channels_last,
        )  # fmt: skip
    except ValueError:
        return None
    largest = max(math.prod(problem.input_shape), math.prod(problem.output_shape))
    return problem if least < problem.flops < _FLOPS and largest < _ELEMENTS else None


def measure(problem: Problem, pass_: Pass, rng: np.random.Generator) -> Timed | None:
    """Time all that serve a problem, round by round; None if `direct_loops` does."""
    chosen = plan(problem, pass_).implementation.name
    if chosen in _ASIDE:
        return None
    x, w, y = (rng.standard_normal(math.prod(shape)).astype(np.float32) for shape in (
        problem.input_shape, problem.weight_shape, problem.output_shape))  # fmt: skip
    operands = {"forward": (x, w, None, y), "input_grad": (y, w, x), "weight_grad": (x, y, w)}[pass_]
    calls = {}
    for implementation in serving(problem, pass_):
        with contextlib.suppress(ValueError):  # it would need too much scratch memory
            calls[implementation.name] = plan(problem, pass_, algorithm=implementation.name).run
    for call in calls.values():
        call(*operands)
    seconds = dict.fromkeys(calls, math.inf)
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call(*operands)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return Timed(problem, seconds, chosen)


def serving(problem: Problem, pass_: Pass) -> list[Implementation]:
    """Return the implementations for problems of any size that serve this one."""
    geometry = geometry_of(problem)
    table = table_of("cpu", pass_, problem.ndim, channels_last=problem.channels_last)
    return [i for i in table if i.name not in _ASIDE and i.declines(geometry) is None]


def fit(rows: list[tuple[dict[str, float], float]]) -> tuple[dict[str, float], float]:
    """Return the weights of kinds of work that fit times best, none negative, and the spread of the errors.

    Parameters
    ----------
    rows : list of (dict, float)
        Counts of the kinds of work, and what they took.

    Returns
    -------
    weights : dict of str to float
    spread : float
        Root of the mean square of the logarithm of estimated over measured times.
    """
    kinds = list(rows[0][0])
    counts = np.array([[row[0][kind] for kind in kinds] for row in rows], float)
    took = np.array([row[1] for row in rows])
    scale = np.linalg.norm(counts / took[:, None], axis=0)
    scale[scale == 0] = 1.0
    weights = np.zeros(len(kinds))
    # Errors count relative to the geometric mean of both times, so that too long and too short count alike.
    expected = took
    for _ in range(6):
        relative = 1 / np.sqrt(expected * took)
        left = counts / scale * relative[:, None]
        gram, right = left.T @ left, left.T @ (took * relative)
        scaled = weights * scale
        for _ in range(_STEPS):
            for j in np.flatnonzero(np.diag(gram)):
                scaled[j] = max(0.0, scaled[j] + (right[j] - gram[j] @ scaled) / gram[j, j])
        weights = scaled / scale
        expected = counts @ weights
    return dict(zip(kinds, weights)), float(np.sqrt(np.mean(np.log(expected / took) ** 2)))


def _report(timed: list[Timed], pass_: Pass) -> None:
    losses = np.array([each.loss for each in timed])
    mean, (p90, p99) = np.exp(np.log(losses).mean()), np.percentile(losses, [90, 99])
    print(f"{pass_}: {len(timed)} problems, chosen over best {mean:.3f} (geometric mean), p90 {p90:.2f}, p99 {p99:.2f}")
    pairs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in timed:
        pairs[each.chosen, min(each.seconds, key=each.seconds.__getitem__)].append(each.loss)
    print(f"{'chosen':<20} {'best':<20} problems  mean  worst")
    for (chosen, best), found in sorted(pairs.items(), key=lambda pair: -float(np.log(pair[1]).sum())):
        print(f"{chosen:<20} {best:<20} {len(found):8} {np.exp(np.log(found).mean()):5.2f} {max(found):6.2f}")


def _fit(timed: list[Timed], pass_: Pass, channels_last: bool) -> None:
    peak = flops_per_second("float32") / 2
    costs: dict[str, Callable[[Geometry], dict[str, float]]] = {
        i.name: i.cost.counts for i in TABLES["cpu", pass_] if i.cost is not None and channels_last in i.channels_last
    }
    for name, counts in costs.items():
        rows = [(counts(geometry_of(each.problem)), each.seconds[name] * peak)
                for each in timed if name in each.seconds]  # fmt: skip
        if not rows:
            continue
        weights, spread = fit(rows)
        told = ", ".join(f'"{kind}": {weight:.3g}' for kind, weight in weights.items() if weight > 0)
        print(f'("{name}", "{pass_}"): {{{told}}},  # {len(rows)} problems, errors of {spread:.0%}')


def run(options: argparse.Namespace) -> int:
    """Do what the options of ``bench choices`` ask for."""
    for pass_ in options.passes:
        rng = np.random.default_rng(options.seed)
        timed: list[Timed] = []
        start = time.monotonic()
        with tqdm(desc=pass_, unit=" problems") as bar:
            while time.monotonic() - start < options.seconds:
                if (problem := draw(rng, options.least, options.channels_last)) and (
                    row := measure(problem, pass_, rng)
                ):
                    timed.append(row)
                    bar.update()
        if not timed:
            print(f"{pass_}: no problem was timed in {options.seconds:g} seconds")
            continue
        _report(timed, pass_)
        if options.fit:
            _fit(timed, pass_, options.channels_last)
    return 0
