"""One contender in a process of its own: what first calls cost, what memory, and how processes share a machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastdeconv.bench.contenders import CONTENDERS
from fastdeconv.bench.contenders.base import Contender, UnsupportedError
from fastdeconv.bench.operands import Operands, TimedPass, piece
from fastdeconv.bench.timing import interleaved
from fastdeconv.kernels.cpu import warm
from fastdeconv.problem import Problem

# The library is imported before anything else, so that its import is timed alone.
_PROGRAM = """
import importlib, sys, time
start = time.perf_counter()
importlib.import_module(sys.argv[1])
imported = time.perf_counter() - start
from fastdeconv.bench import fresh
fresh.child(sys.argv[2], imported, *sys.argv[3:])
"""
_TIMEOUT = 120.0  # seconds


def run(
    task: str,
    contender: type[Contender],
    problem: Problem | Sequence[Problem],
    pass_: TimedPass,
    threads: int,
    copies: int = 1,
    env: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Run a task of `TASKS` in as many processes at once and return what each found.

    Parameters
    ----------
    problem : Problem or sequence of Problem
        What the task is about; several for "model".
    env : mapping, optional
        Environment variables, beside those of this process.

    Raises
    ------
    RuntimeError
        A process failed or took too long.
    """
    problems = [problem] if isinstance(problem, Problem) else problem
    command = [
        sys.executable, "-c", _PROGRAM, contender.modules[0], task, contender.name, pass_, str(threads),
        *map(str, problems),
    ]  # fmt: skip
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                    env=os.environ | dict(env or {}),
                )
            )
            for _ in range(copies)
        ]  # fmt: skip
        for child in children:
            stack.callback(child.kill)  # no effect on one that has ended
        if task == "throughput":
            for child in children:
                _read_line(child)  # it is ready
        try:
            answers = []
            for child in children:
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            for child in children:
                out, err = child.communicate(timeout=_TIMEOUT)
                if child.returncode:
                    raise RuntimeError((err.strip().splitlines() or ["no message"])[-1])
                answers.append(json.loads(out.splitlines()[-1]))
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no answer after {_TIMEOUT:.0f} s") from None
        return answers


def _read_line(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    child.stdout.readline()


def child(task: str, imported: float, name: str, pass_: TimedPass, threads: str, *descriptors: str) -> None:
    """Carry out a task and print what it found as JSON."""
    kind = next(contender for contender in CONTENDERS if contender.name == name)
    operands = [Operands(Problem.parse(descriptor)) for descriptor in descriptors]
    start = time.perf_counter()
    contender = kind(int(threads))
    try:
        found = TASKS[task](contender, pass_, *operands)
    except UnsupportedError as error:
        sys.exit(str(error))
    print(json.dumps(found | {"import": imported, "all": time.perf_counter() - start}))


def _first_call(contender: Contender, pass_: TimedPass, operands: Operands) -> dict[str, float]:
    start = time.perf_counter()
    compute = contender.compute(operands, pass_)
    compute()
    first = time.perf_counter() - start
    return {"first": first, "call": interleaved([compute], 9, 0.5)[0].median}


def _model(contender: Contender, pass_: TimedPass, *operands: Operands) -> dict[str, float]:
    """Run all layers twice, as those of one model, and count our kernels that were compiled or loaded."""
    model = [contender.compute(each, pass_) for each in operands]
    times = []
    for _ in range(2):
        start = time.perf_counter()
        for compute in model:
            compute()
        times.append(time.perf_counter() - start)
    return {"kernels": warm.ready(), "first": times[0], "second": times[1]}


def _memory(contender: Contender, pass_: TimedPass, operands: Operands) -> dict[str, float]:
    # What the library keeps for good (threads, code) is there after a call on a piece of the layer.
    contender.compute(Operands(piece(operands.problem, 1 / 32)), pass_)()
    compute = contender.compute(operands, pass_)
    # Start the high-water mark anew: importing and compiling may have needed more than the call will.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _peak()
    value = compute()
    after = _peak()
    result = sum(array.nbytes for array in contender.arrays(value, operands, pass_))
    return {"peak": after - before, "result": result}


def _peak() -> int:
    """Return the largest memory of this process since the mark was reset. Not ru_maxrss, which counts its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _throughput(contender: Contender, pass_: TimedPass, operands: Operands, seconds: float = 2.0) -> dict[str, float]:
    compute = contender.compute(operands, pass_)
    compute()
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    calls = 0
    while time.perf_counter() - start < seconds:
        compute()
        calls += 1
    return {"calls": calls / (time.perf_counter() - start)}


TASKS: dict[str, Callable[..., dict[str, float]]] = {
    "first_call": _first_call,
    "model": _model,
    "memory": _memory,
    "throughput": _throughput,
}
