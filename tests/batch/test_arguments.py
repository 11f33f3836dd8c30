"""Arguments that will not do, and the bar."""

import contextlib
import io
import sys

import numpy as np
import pytest
from batching import check, numbered, picky, tripled

from fastdeconv import batch


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"function": 3}, TypeError, "^function must be a prepared weight or a function of a stacked array; got 3"),
        ({"source": 3}, TypeError, "^source must be a NumPy array, or an iterable of them; got 3"),
        ({"source": "images"}, TypeError, "^source must be .* got 'images'"),
        ({"source": np.float32(1)}, TypeError, "^source must be"),
        ({"source": np.array(1.0)}, ValueError, "^source must have an axis .* without axes"),
        ({"source": np.ma.ones(3)}, TypeError, "^source must have no mask"),
        ({"source": np.array([None])}, TypeError, "^source must have numbers .* object"),
        ({"device": "gpu"}, ValueError, "^device must be .* got 'gpu'"),
        ({"device": 0}, TypeError, "^device must be .* got 0"),
        ({"batch_size": 0}, ValueError, "^batch_size must be at least 1; got 0"),
        ({"batch_size": 1.5}, TypeError, "^batch_size must be an int"),
        ({"batch_size": "all"}, TypeError, "^batch_size must be an int"),
        ({"prefetch": -1}, ValueError, "^prefetch must be at least 0; got -1"),
        ({"prefetch": None}, TypeError, "^prefetch must be an int"),
        ({"memory_limit": 0}, ValueError, "^memory_limit must be at least 1; got 0"),
        ({"memory_limit": "1G"}, TypeError, "^memory_limit must be an int"),
        ({"errors": "ignore"}, ValueError, "^errors must be .* got 'ignore'"),
        ({"progress": 1}, TypeError, "^progress must be True or False; got 1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        batch.map(**{"function": tripled, "source": [], "device": "cpu", **arguments})


@pytest.mark.quick
def test_no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(RuntimeError, match=r'^device "cuda" needs CuPy.*install "fastdeconv\[cuda13\]"'):
            batch.map(tripled, [], device=device)
    check(list(batch.map(tripled, numbered(3), device="auto")))


@pytest.mark.quick
@pytest.mark.parametrize("errors", ["raise", "skip"])
@pytest.mark.parametrize("result", [None, 3.0, [1, 2], np.zeros(()), np.zeros((1, 5)), np.zeros((0,))])
def test_a_function_that_returns_something_else(result, errors):
    with pytest.raises(TypeError, match=r"^function must return"):
        list(batch.map(lambda x: result if len(x) > 1 else x, numbered(5), device="cpu", batch_size=3, errors=errors))


@pytest.mark.quick
@pytest.mark.parametrize("source", [numbered(30), iter(numbered(30))], ids=["list", "iterator"])
def test_a_bar_when_asked_for(monkeypatch, source):
    pytest.importorskip("tqdm")
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with contextlib.suppress(ExceptionGroup):
        batch.map(picky, source, device="cpu", progress=True, errors="collect", out=np.empty((30, 2, 3), np.float32))
    assert "batch.map" in stream.getvalue()
    assert ("30/30" if isinstance(source, list) else "30item") in stream.getvalue()


@pytest.mark.quick
def test_no_bar_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    check(list(batch.map(tripled, numbered(3), device="cpu")))
    with pytest.raises(ImportError, match=r"^progress=True needs tqdm: pip install tqdm"):
        batch.map(tripled, numbered(3), device="cpu", progress=True)
