"""``python -m bench``: time fastdeconv against its peers on real layers and print a table."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np

import fastdeconv as fd
from fastdeconv.bench.contenders import Fastdeconv, Operands, Torch
from fastdeconv.bench.layers import LAYERS, Layer
from fastdeconv.bench.timing import Times, interleaved
from fastdeconv.dispatch import plan
from fastdeconv.kernels.cpu import host
from fastdeconv.problem import PASSES, Pass, Problem

# Peers need minutes for a call of these: https://github.com/pytorch/pytorch/issues/120982.
_HOPELESS = {"istft_dw_k1024s256"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code, 1 if a result is wrong."""
    options = _parser().parse_args(arguments)
    threads = fd.get_num_threads()
    peer = Torch(threads) if importlib.util.find_spec("torch") else None
    ours = Fastdeconv()
    versions = {c.name: c.version() for c in (ours, peer) if c is not None}
    versions |= {"numba": numba.__version__, "numpy": np.__version__, "python": platform.python_version()}
    machine = f"{host.NAME}, {host.VECTOR_BITS}-bit vectors, {threads} threads, {platform.system()}"
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"{machine}; {options.rounds} interleaved rounds; every contender allocates its result; milliseconds")
    if peer is None:
        print("torch: not installed, so only fastdeconv is timed (pip install torch==2.13.0)")
    rows: list[dict[str, Any]] = []
    wrong = 0
    for pass_ in options.passes:
        print(f"\n{pass_}, {options.dtype}")
        print(f"{'layer':20}{'kernel':14}{'best':>10}{'median (p20-p80)':>28}{'GFLOP/s':>9}", end="")
        print(f"{'torch best':>12}{'median (p20-p80)':>28}{'ratio':>8}" if peer else "")
        ratios: list[float] = []
        for layer in options.layers:
            row = _row(layer, pass_, options, ours, None if layer.name in _HOPELESS else peer)
            rows.append(row)
            wrong += "error" in row
            if "ratio" in row:
                ratios.append(row["ratio"])
            print(row["text"], flush=True)
        if ratios:
            ahead = sum(r >= 1 for r in ratios)
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            print(
                f"torch's best time over ours: geometric mean {mean:.2f}, ahead on {ahead} of {len(ratios)} rows, ",
                end="",
            )
            print(f"lowest {min(ratios):.2f}")
    if options.json:
        for row in rows:
            del row["text"]
        report = {"versions": versions, "machine": machine, "rounds": options.rounds, "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if wrong else 0


def _row(
    layer: Layer, pass_: Pass, options: argparse.Namespace, ours: Fastdeconv, peer: Torch | None
) -> dict[str, Any]:
    problem = layer.problem
    operands = Operands(problem)
    kernel = plan(problem, pass_).implementation.name
    row: dict[str, Any] = {"layer": layer.name, "problem": str(problem), "pass": pass_, "kernel": kernel}
    calls = [ours.compute(operands, pass_)]
    if peer is not None:
        calls.append(peer.compute(operands, pass_))
        error = _error(ours.result(calls[0]()), peer.result(calls[1]()), problem, pass_)
        if error is not None:
            row |= {"error": error, "text": f"{layer.name:20}WRONG, not timed: {error}; {pass_} {problem}"}
            return row
    times = interleaved(calls, options.rounds)
    row |= {"fastdeconv": _record(times[0]), "gflops": problem.flops / times[0].best / 1e9}
    text = f"{layer.name:20}{kernel:14}{_columns(times[0], 10)}{row['gflops']:9.1f}"
    if peer is not None:
        row |= {"torch": _record(times[1]), "ratio": times[1].best / times[0].best}
        text += f"{_columns(times[1], 12)}{row['ratio']:8.2f}"
    row["text"] = text
    return row


def _error(ours: Any, theirs: Any, problem: Problem, pass_: Pass) -> str | None:
    """Return what is wrong with a result, or None if it agrees with the peer's to rounding."""
    length = problem.accumulation_length(pass_)
    # Operands are normal: a sum of n products is about √n, and its rounding error a small multiple of eps·√n·log n.
    allowed = 64 * np.finfo(problem.dtype).eps * math.sqrt(length) * max(1.0, math.log2(length))
    difference = float(np.abs(ours - theirs).max())
    return None if difference <= allowed else f"largest difference {difference:.2g}, allowed {allowed:.2g}"


def _record(times: Times) -> dict[str, float]:
    return {"best": times.best, "p20": times.p20, "median": times.median, "p80": times.p80}


def _columns(times: Times, width: int) -> str:
    spread = f"{times.median * 1e3:.3f} ({times.p20 * 1e3:.3f}-{times.p80 * 1e3:.3f})"
    return f"{times.best * 1e3:{width}.3f}{spread:>28}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition(":")[2].strip())
    parser.add_argument(
        "--layers", type=_layers, default="all", metavar="NAMES",
        help="all, 2d, or names and descriptors with commas between them (default: all)",
    )  # fmt: skip
    parser.add_argument("--pass", dest="passes", type=_passes, default=PASSES, metavar="PASSES", help=", ".join(PASSES))
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each contender (default: 9)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    return parser


def _passes(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in PASSES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(PASSES)}")
    return names


def _layers(text: str) -> list[Layer]:
    if text == "all":
        return list(LAYERS)
    if text == "2d":
        return [layer for layer in LAYERS if layer.problem.ndim == 2]
    known = {layer.name: layer for layer in LAYERS}
    layers = []
    for name in text.split(","):
        try:
            layers.append(known[name] if name in known else Layer("given", "given", Problem.parse(name)))
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"{name!r} is neither a layer nor a descriptor: {error}") from None
    return layers


if __name__ == "__main__":
    sys.exit(main())
