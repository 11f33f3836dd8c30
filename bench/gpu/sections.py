"""What follows from the rows of a run, and what else is measured after them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from fastdeconv.bench.contenders.base import Compute, Contender, UnsupportedError
from fastdeconv.bench.gpu import contenders, overlap
from fastdeconv.bench.gpu.precisions import PRECISIONS
from fastdeconv.bench.layers import Layer
from fastdeconv.bench.operands import Operands
from fastdeconv.bench.results import Results, geometric_mean
from fastdeconv.bench.timing import summary

Rows = list[dict[str, Any]]

# cuDNN's time over ours in the same layout and precision: the geometric mean, and no row below.
MEAN, LEAST = 1.3, 0.8
_PAIRS = {
    "channels first": (contenders.Ours.name, contenders.CuDnn.name),
    "channels last": (contenders.OursChannelsLast.name, contenders.CuDnnChannelsLast.name),
}
# Calls that are launched without waiting: the device's queue holds about a thousand.
_CALLS = 50


def targets(results: Results, layers: list[Layer]) -> Rows:
    """Compare each pass in each layout with what it aims at."""
    found: Rows = []
    for (precision, pass_), rows in results.groups().items():
        for layout, (ours, peer) in _PAIRS.items():
            timed = [row for row in rows if ours in row.times and peer in row.times]
            if not timed:
                continue
            ratios = {row.layer: row.times[peer].median / row.times[ours].median for row in timed}
            mean, lowest = geometric_mean(list(ratios.values())), min(ratios, key=ratios.__getitem__)
            met = mean >= MEAN and ratios[lowest] >= LEAST
            found.append({
                "precision": precision, "pass": pass_, "layout": layout, "layers": len(timed), "mean": mean,
                "lowest": ratios[lowest], "on": lowest, "target": "met" if met else "missed",
            })  # fmt: skip
    return found


def host(results: Results, layers: list[Layer]) -> Rows:
    """Time what a call costs the host, which does not wait for the device, on the smallest layer."""
    layer = min(layers, key=lambda layer: layer.problem.flops)
    operands = Operands(layer.problem)
    started, _ = contenders.start(PRECISIONS["float32"])
    found: Rows = []
    for pass_ in dict.fromkeys(row.pass_ for row in results.rows):
        row: dict[str, Any] = {"layer": layer.name, "pass": pass_}
        for contender in started:
            try:
                seconds = _launching(contender, contender.compute(operands, pass_), results.rounds)
            except UnsupportedError:
                seconds = None
            row[f"{contender.name} µs"] = None if seconds is None else 1e6 * seconds
        found.append(row)
    return found


def _launching(contender: Contender, call: Compute, rounds: int) -> float:
    taken = []
    for _ in range(rounds + 1):
        contender.wait()
        start = time.perf_counter()
        for _ in range(_CALLS):
            call()
        taken.append((time.perf_counter() - start) / _CALLS)
    contender.wait()
    return summary(taken[1:]).median  # the first compiles and loads


class Section(NamedTuple):
    """A part of a run beside its rows."""

    name: str
    title: str
    run: Callable[[Results, list[Layer]], Rows]
    timed: bool  # whether it measures anything


CHECKS = "checks"
SECTIONS = (
    Section(
        "targets",
        f"cuDNN's time over ours, same layout and precision: aim {MEAN} (geometric mean), no layer below {LEAST}",
        targets,
        timed=False,
    ),
    Section("host", "What a call costs the host, float32, the smallest layer", host, timed=True),
    Section(
        "overlap",
        "fd.batch.map from and to the host, float32: share is the time of its slowest part alone over that of all",
        lambda results, layers: overlap.share(layers),
        timed=True,
    ),
)
TITLES = {CHECKS: "Checks of each kernel on the device"} | {section.name: section.title for section in SECTIONS}
