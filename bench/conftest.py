"""Options of ``pytest bench/``."""

from __future__ import annotations

import pytest

from fastdeconv.bench.command import DTYPES, several
from fastdeconv.bench.contenders import CONTENDERS, PEERS
from fastdeconv.bench.layers import select, variants
from fastdeconv.bench.operands import TIMED


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose rows, with the meaning they have in ``fastdeconv bench``."""
    group = parser.getgroup("fastdeconv")
    group.addoption("--layers", default="all", help="as in fastdeconv bench (all)")
    group.addoption("--pass", dest="passes", type=several(TIMED), default=list(TIMED), help=", ".join(TIMED))
    group.addoption("--dtype", dest="dtypes", type=several(DTYPES), default=[], help="float32,float64")
    names = tuple(peer.name for peer in PEERS)
    group.addoption("--peers", type=several(names), default=[], help=f"with commas: {', '.join(names)} (none)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a row for each layer, pass and contender."""
    option = metafunc.config.getoption
    try:
        layers = variants(select(option("layers")), option("dtypes"), [])
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    metafunc.parametrize("layer", layers, ids=[f"{layer.name}-{layer.problem.dtype}" for layer in layers])
    metafunc.parametrize("pass_", option("passes"))
    kinds = [kind for kind in CONTENDERS if not kind.is_peer or kind.name in option("peers")]
    metafunc.parametrize("kind", kinds, ids=[kind.name for kind in kinds], scope="session")
