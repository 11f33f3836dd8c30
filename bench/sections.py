"""What a table of medians does not show: first calls, memory, threads, processes that share a machine.

Each section is a function of the run's layers that returns rows for a table, with units in the names of the columns.
Layers are chosen by what they cost, not by name.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import fastdeconv as fd
from fastdeconv.bench import fresh
from fastdeconv.bench.contenders import CONTENDERS
from fastdeconv.bench.contenders.base import Contender
from fastdeconv.bench.contenders.ours import Fastdeconv
from fastdeconv.bench.layers import Layer
from fastdeconv.bench.operands import Operands, TimedPass
from fastdeconv.bench.timing import interleaved

Rows = list[dict[str, Any]]

_PROCESSES = 3  # in turn, for a median


def startup(layers: list[Layer], names: list[str], threads: int, rounds: int) -> Rows:
    """Time the first call in a fresh process, and the calls after it, on the cheapest layer and a middling one."""
    ranked = sorted(layers, key=lambda layer: layer.problem.flops)
    rows = []
    for layer in dict.fromkeys((ranked[0], ranked[len(ranked) // 2])):
        for kind in _kinds(names, "forward"):
            caches = ("empty", "filled") if kind is Fastdeconv else ("",)
            with tempfile.TemporaryDirectory() as folder:
                for cache in caches:
                    env = {"NUMBA_CACHE_DIR": folder} if cache else {}
                    count = 1 if cache == "empty" else _PROCESSES  # the first process fills it
                    rows.append(_first_calls(kind, layer, threads, count, cache, env))
    return rows


def _first_calls(
    kind: type[Contender], layer: Layer, threads: int, count: int, cache: str, env: dict[str, str]
) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": layer.name, "contender": kind.name + (f", {cache} cache" if cache else "")}
    try:
        found = [fresh.run("first_call", kind, layer.problem, "forward", threads, env=env)[0] for _ in range(count)]
    except RuntimeError as error:
        return row | {"import s": None, "first call s": None, "later calls ms": None, "note": str(error)[:80]}
    middle = {key: statistics.median(each[key] for each in found) for key in ("import", "first", "call")}
    return row | {
        "import s": middle["import"],
        "first call s": middle["first"],
        "later calls ms": 1e3 * middle["call"],
        "note": "",
    }


def compilation(layers: list[Layer], names: list[str], threads: int, rounds: int) -> Rows:
    """Run all layers, as those of one model, in a process with an empty and in one with a filled cache."""
    passes: tuple[TimedPass, ...] = ("forward", "step")
    problems = [layer.problem for layer in layers]
    rows: Rows = []
    for pass_ in passes:
        row: dict[str, Any] = {"pass": pass_, "layers": len(layers)}
        with tempfile.TemporaryDirectory() as folder:
            env = {"NUMBA_CACHE_DIR": folder}
            try:
                cold, filled = (fresh.run("model", Fastdeconv, problems, pass_, threads, env=env)[0] for _ in range(2))
            except RuntimeError as error:
                empty = dict.fromkeys(("kernels", "import s", "cold s", "warm s", "second run ms"))
                rows.append(row | empty | {"note": str(error)[:80]})
            else:
                rows.append(row | {
                    "kernels": cold["kernels"], "import s": filled["import"], "cold s": cold["first"],
                    "warm s": filled["first"], "second run ms": 1e3 * filled["second"], "note": "",
                })  # fmt: skip
    return rows


def memory(layers: list[Layer], names: list[str], threads: int, rounds: int) -> Rows:
    """Measure what a call adds to the peak of a process's memory, on the two layers with the largest arrays.

    Linux only: elsewhere every row has a note instead.
    """
    rows: Rows = []
    passes: tuple[TimedPass, ...] = ("forward", "step")
    for layer in sorted(layers, key=lambda layer: -layer.problem.bytes)[:2]:
        for pass_ in passes:
            for kind in _kinds(names, pass_):
                row: dict[str, Any] = {"layer": layer.name, "pass": pass_, "contender": kind.name}
                try:
                    # Twice: the second finds our compiled kernels on disk, so that no compiler is measured.
                    found = [fresh.run("memory", kind, layer.problem, pass_, threads)[0] for _ in range(2)][1]
                except RuntimeError as error:
                    rows.append(row | {"peak MB": None, "result MB": None, "note": str(error)[:80]})
                else:
                    rows.append(row | {"peak MB": found["peak"] / 1e6, "result MB": found["result"] / 1e6, "note": ""})
    return rows


def scaling(layers: list[Layer], names: list[str], threads: int, rounds: int) -> Rows:
    """Time our forward pass with one thread and with more, doubling."""
    counts = [*(2**i for i in range(threads.bit_length()) if 2**i < threads), threads]
    rows: Rows = []
    try:
        for layer in layers:
            row: dict[str, Any] = {"layer": layer.name}
            operands = Operands(layer.problem)
            for count in counts:
                compute = Fastdeconv(count).compute(operands, "forward")
                compute()
                row[f"{count} threads ms"] = 1e3 * interleaved([compute], rounds, 1.0)[0].median
            row["speed-up"] = row[f"{counts[0]} threads ms"] / row[f"{threads} threads ms"]
            rows.append(row)
    finally:
        fd.set_num_threads(threads)
    return rows


def oversubscription(layers: list[Layer], names: list[str], threads: int, rounds: int) -> Rows:
    """Count our calls a second on a middling layer: one process with all threads, several with one or all each."""
    layer = sorted(layers, key=lambda layer: layer.problem.flops)[len(layers) // 2]
    rows: Rows = []
    for processes, each in dict.fromkeys(((1, threads), (threads, 1), (threads, threads))):
        found = fresh.run("throughput", Fastdeconv, layer.problem, "forward", each, copies=processes)
        rows.append({
            "layer": layer.name, "processes": processes, "threads each": each,
            "calls a second, together": sum(answer["calls"] for answer in found),
        })  # fmt: skip
    return rows


def _kinds(names: list[str], pass_: TimedPass) -> list[type[Contender]]:
    return [kind for kind in CONTENDERS if kind.name in names and pass_ in kind.passes]


class Section(NamedTuple):
    """An optional part of a run."""

    title: str
    run: Callable[[list[Layer], list[str], int, int], Rows]


SECTIONS = {
    "startup": Section("First call in a fresh process: forward", startup),
    "compilation": Section("First run of all layers in a fresh process, as of one model", compilation),
    "memory": Section("Memory that a call adds to the process's peak", memory),
    "scaling": Section("Threads: our forward pass", scaling),
    "oversubscription": Section("Processes that share the machine: our forward pass", oversubscription),
}
