"""What the kernels of a model cost a process that runs it for the first time: how many they are, how long they take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from fastdeconv.bench.contenders.ours import Fastdeconv
from fastdeconv.bench.layers import Layer
from fastdeconv.bench.operands import Operands, TimedPass
from fastdeconv.problem import Problem

_PROGRAM = """
import sys, time
start = time.perf_counter()
import fastdeconv
imported = time.perf_counter() - start
from fastdeconv.bench import compilation
compilation.child(imported, *sys.argv[1:])
"""
_TIMEOUT = 120.0  # seconds


def compilation(layers: list[Layer], names: list[str], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Run all layers, as those of one model, in a process with an empty and in one with a filled cache."""
    passes: tuple[TimedPass, ...] = ("forward", "step")
    rows = []
    for pass_ in passes:
        with tempfile.TemporaryDirectory() as folder:
            cold, warm = (_first_run(layers, pass_, threads, folder) for _ in range(2))
        rows.append({
            "pass": pass_, "layers": len(layers), "kernels": cold["kernels"], "import s": warm["import"],
            "cold s": cold["first"], "warm s": warm["first"], "second run ms": 1e3 * warm["second"],
        })  # fmt: skip
    return rows


def _first_run(layers: list[Layer], pass_: TimedPass, threads: int, cache: str) -> dict[str, float]:
    command = [sys.executable, "-c", _PROGRAM, pass_, str(threads), *(str(layer.problem) for layer in layers)]
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(imported: float, pass_: TimedPass, threads: str, *descriptors: str) -> None:
    """Run the pass of every layer twice and print what it took as JSON."""
    from fastdeconv.kernels.cpu import warm

    contender = Fastdeconv(int(threads))
    model = [contender.compute(Operands(Problem.parse(descriptor)), pass_) for descriptor in descriptors]
    times = []
    for _ in range(2):
        start = time.perf_counter()
        for compute in model:
            compute()
        times.append(time.perf_counter() - start)
    print(json.dumps({"import": imported, "kernels": warm.ready(), "first": times[0], "second": times[1]}))
