"""``pytest bench/``: rows of pytest-benchmark, to keep with ``--benchmark-json`` and compare over time."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import fastdeconv as fd
from fastdeconv.bench import gate
from fastdeconv.bench.contenders import one_line
from fastdeconv.bench.contenders.base import Contender, UnsupportedError
from fastdeconv.bench.contenders.ours import Fastdeconv
from fastdeconv.bench.layers import Layer
from fastdeconv.bench.operands import Operands, TimedPass
from fastdeconv.bench.results import OURS
from fastdeconv.bench.suite import first_result, new_row
from fastdeconv.bench.timing import settle

# What other libraries warn of is not ours to repair.
pytestmark = pytest.mark.filterwarnings("default")


@functools.cache
def started(kind: type[Contender]) -> Contender:
    """Return the contender, or skip the row if it is not installed."""
    if missing := kind.missing():
        pytest.skip(f"{kind.name}: {missing} is not installed (pip install {kind.install})")
    return kind(fd.get_num_threads())


def test_layer(benchmark: Any, layer: Layer, pass_: TimedPass, kind: type[Contender]) -> None:
    """Check the result, then time the call."""
    if pass_ not in kind.passes:
        pytest.skip(f"{kind.name} has no {pass_}")
    operands = Operands(layer.problem)
    try:
        compute, arrays = first_result(started(kind), operands, pass_)
    except Exception as error:  # whatever another library raises for what it lacks
        if not kind.is_peer and not isinstance(error, UnsupportedError):
            raise
        pytest.skip(f"{kind.name}: {one_line(error)}")
    if kind.name == OURS:
        wrong = gate.against_definition(operands, pass_, arrays)
    else:
        _, ours = first_result(started(Fastdeconv), operands, pass_)
        wrong = gate.against_ours(layer.problem, pass_, ours, arrays)
        del ours
    assert wrong is None, f"{wrong}; {pass_} {layer.problem}"
    del arrays
    row = new_row(layer, pass_)
    benchmark.group = f"{layer.name} {pass_} {row.dtype}"
    benchmark.extra_info.update(
        problem=row.problem, kernel=row.kernel if kind.name == OURS else None, flops=row.flops, bytes=row.bytes,
        version=started(kind).version(), threads=fd.get_num_threads(),
    )  # fmt: skip
    settle()
    benchmark(compute)
