"""Weights prepared for many calls: the same bits as the calls, whatever is held and whoever else calls."""

import copy
import doctest
import gc
import pickle
import sys
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
from cases import EDGE_CASES, FEWER, IMPLEMENTATIONS, call, floats, in_memory, integers, parameters, problem, runs

import fastdeconv as fd
from fastdeconv.dispatch import geometry_of, plan
from fastdeconv.kernels.cpu import planes
from fastdeconv.kernels.cpu.winograd import products
from fastdeconv.kernels.geometry import Bound
from fastdeconv.prepare import MOST_SHAPES

WINOGRAD = "mb2ic64ih20iw20oc64kh4kw4sh2sw2ph1pw1"
BLOCKS = "mb2ic16ih5iw3oc16kh2kw2sh2sw2ph0pw0"


def prepared(p, w, algorithm=None, bias=None):
    return fd.prepare(w, bias, **parameters(p), algorithm=algorithm)


def same(got, want, message=""):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.view(f"u{got.itemsize}" if got.itemsize <= 8 else "u8"),
                                  want.view(f"u{got.itemsize}" if got.itemsize <= 8 else "u8"), message)  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize(("pass_", "algorithm", "p"), [run for run in runs(FEWER) if run.values[0] == "forward"])
def test_the_bits_of_the_call(pass_, algorithm, p):
    x, w = in_memory(p, pass_, *floats(p, pass_))
    bias = np.linspace(-1, 1, p.out_channels, dtype=p.dtype)
    for b in (None, bias):
        ready = prepared(p, w, algorithm, b)
        want = call(p, pass_, x, w, algorithm, bias=b)
        for _ in range(2):
            same(ready(x), want, f"{algorithm} {p}")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("pass_", "algorithm", "p"),
    [run for run in runs(FEWER) if run.values[0] == "forward" and run.values[1] in ("winograd", "direct_product")],
)
def test_the_bits_of_transformed_weights_of_any_size(pass_, algorithm, p, monkeypatch):
    """Those of few channels are padded to so many more that they would be transformed in every call."""
    implementation = next(i for of, i in IMPLEMENTATIONS if of == pass_ and i.name == algorithm)
    x, w = (a.ravel() for a in floats(p, pass_))
    want, got = (np.full(int(np.prod(p.output_shape)), np.nan, "float32") for _ in range(2))
    monkeypatch.setattr(products, "_STORED", 10**6)
    bound = implementation.bind(geometry_of(p))
    bound.run(x, w, None, want)
    held = bound.prepare(w)
    w[:] = np.nan
    held.run(x, None, got)
    same(got, want, f"{algorithm} {p}")


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64", "complex128", "int8", "uint16", "int64"])
@pytest.mark.parametrize(
    "name", ["textbook", "dcgan", "deblur", "groups", "stride_is_kernel", "unbatched", "1d_hifigan", "3d", "fsrcnn"]
)
def test_every_element_type(name, dtype):
    p = replace(EDGE_CASES[name], dtype=dtype)
    x, w = integers(p, "forward", 100, largest=2) if np.dtype(dtype).kind in "iu" else floats(p, "forward")
    bias = np.arange(p.out_channels).astype(dtype)
    for b in (None, bias):
        same(prepared(p, w, bias=b)(x), call(p, "forward", x, w, bias=b), str(p))


@pytest.mark.quick
def test_kernels_prepare_weights_in_a_form_of_their_own():
    """Some do in every table; what they hold is theirs, and none of it is the weight's memory."""
    preparing = set()
    for pass_, implementation in IMPLEMENTATIONS:
        names = ("stride_is_kernel_many_channels", "fcn", "many_images")
        for p in (*(EDGE_CASES[name] for name in names), *map(fd.Problem.parse, (WINOGRAD, BLOCKS))):
            if implementation.declines(geometry_of(p)) is not None:
                continue
            bound = implementation.bind(geometry_of(p))
            if not isinstance(bound, Bound) or bound.prepare is None:
                continue
            preparing.add((pass_, implementation.name))
            x, w = (a.ravel() for a in floats(p, pass_))
            want = np.empty(int(np.prod(p.output_shape)), "float32")
            bound.run(x, w, None, want)
            held = bound.prepare(w)
            assert held.nbytes >= w.nbytes
            w[:] = np.nan
            got = np.full_like(want, np.nan)
            held.run(x, None, got)
            same(got, want)
    names = [
        "direct_tile",
        "direct_blocks",
        "direct_col2im",
        "direct_images",
        "direct_windows",
        "winograd",
        "direct_product",
    ]
    assert preparing == {("forward", name) for name in names}


@pytest.mark.quick
def test_later_changes_of_the_arrays_do_not_matter():
    for p in (EDGE_CASES["textbook"], EDGE_CASES["dcgan"], EDGE_CASES["fcn"]):
        x, w = floats(p, "forward")
        bias = np.ones(p.out_channels, "float32")
        want = call(p, "forward", x, w, bias=bias)
        ready = prepared(p, w, bias=bias)
        w[...] = bias[...] = 7
        same(ready(x), want)
        w[...] = bias[...] = np.nan
        same(ready(x), want)


@pytest.mark.quick
def test_arrays_of_any_strides_and_order():
    p = problem((2, 5, 9, 10), (5, 6, 4, 4), stride=2, padding=1)
    x, w = floats(p, "forward")
    want = call(p, "forward", x, w)
    for weight in (w, np.asfortranarray(w), w.astype(">f4"), w[::-1].copy()[::-1], np.lib.stride_tricks.as_strided(w)):
        ready = prepared(p, weight)
        for given in (x, np.asfortranarray(x), x.astype(">f4"), x[:, :, ::-1].copy()[:, :, ::-1]):
            same(ready(given), want)
    outs = np.full((2, 6, 18, 40), np.nan, "float32")
    assert ready(x, outs[..., ::2]) is not None
    np.testing.assert_array_equal(outs[..., ::2], want)
    assert np.isnan(outs[..., 1::2]).all()
    out = np.full_like(want, np.nan)
    assert ready(x, out=out) is out


@pytest.mark.quick
@pytest.mark.parametrize(
    ("x", "w"),
    [((5, 7), (3, 3)), ((9,), (4,)), ((4, 7), (4, 3, 3)), ((2, 4, 7), (4, 3, 3)), ((4, 7, 8), (4, 3, 3, 3)),
     ((2, 4, 7, 8), (4, 3, 3, 3)), ((2, 3, 4, 5), (2, 3, 2, 2, 2)), ((1, 2, 3, 4, 5), (2, 3, 2, 2, 2))],
)  # fmt: skip
def test_the_weight_tells_the_dimensions(x, w):
    x, w = np.random.default_rng(0).random(x), np.random.default_rng(1).random(w)
    ready = fd.prepare(w, stride=2)
    function = getattr(fd, f"conv_transpose{ready.ndim}d")
    assert ready.ndim == (w.ndim if w.ndim < 3 else w.ndim - 2)
    same(ready(x), function(x, w, stride=2))


@pytest.mark.quick
def test_output_sizes():
    p = problem((2, 5, 6, 7), (5, 3, 3, 3), stride=3)
    x, w = floats(p, "forward")
    ready = fd.prepare(w, stride=3)
    for size in (None, (18, 21), (19, 22), [20, 23], np.array([18, 23]), (2, 3, 20, 22), 20, None):
        arguments = {} if size is None else {"output_size": size}
        if isinstance(size, int):
            with pytest.raises(ValueError, match="output_size must be from"):
                ready(x, **arguments)
            continue
        same(ready(x, **arguments), fd.conv_transpose2d(x, w, stride=3, **arguments), str(size))
    with pytest.raises(TypeError, match="output_size must be"):
        ready(x, output_size=(18.0, 21))
    with pytest.raises(TypeError, match="output_size must be"):
        ready(x, output_size=True)


@pytest.mark.quick
def test_it_holds_a_few_shapes_those_used_last():
    p = problem((1, 9, 8, 8), (9, 8, 4, 4), stride=2)
    _, w = floats(p, "forward")
    ready = prepared(p, w, "direct_tile")
    bare = ready.nbytes
    assert bare == w.nbytes
    assert "no shape yet" in repr(ready)
    arrays = [np.random.default_rng(n).random((1, 9, 8, n + 8), "float32") for n in range(MOST_SHAPES + 2)]
    most = 0
    for x in arrays:
        ready(x)
        ready(arrays[0])
        most = max(most, ready.nbytes)
    assert len(ready._ready) == MOST_SHAPES
    assert {key[0][3] for key in ready._ready} == {8, *(8 + n for n in range(3, MOST_SHAPES + 2))}
    assert bare < most <= bare + MOST_SHAPES * 2 * w.nbytes
    held = plan(replace(p, batch=1), "forward", algorithm="direct_tile").prepare(w.ravel()).nbytes
    assert f"(1, 9, 8, 8) by direct_tile ({held:,} bytes)" in repr(ready)
    assert f"{ready.nbytes:,} bytes" in repr(ready)
    ready(np.ones((1, 8, 8, 9), "float32").transpose(0, 3, 1, 2))
    assert "(1, 9, 8, 8) with channels last by direct_tile" in repr(ready)
    for x in arrays:
        same(ready(x), call(replace(p, input_size=x.shape[2:]), "forward", x, w, "direct_tile"))


@pytest.mark.quick
def test_a_shape_seen_before_is_not_validated_again(monkeypatch):
    p = EDGE_CASES["dcgan"]
    x, w = floats(p, "forward")
    ready = prepared(p, w)
    want = ready(x)
    monkeypatch.setattr(sys.modules["fastdeconv.prepare"], "plan_call", None)
    monkeypatch.setattr(planes, "pack", None)
    same(ready(x), want)


@pytest.mark.quick
def test_the_choice_is_that_of_the_moment():
    p = fd.Problem.parse(WINOGRAD)
    x, w = floats(p, "forward")
    ready = prepared(p, w)
    ready(x)
    try:
        for limit in (0, None):
            fd.set_workspace_limit(limit)
            same(ready(x), call(p, "forward", x, w))
            name = plan(p, "forward").implementation.name
            assert name in repr(ready)
    finally:
        fd.set_workspace_limit(None)


@pytest.mark.quick
def test_empty_batches():
    ready = fd.prepare(np.ones((3, 2, 2, 2)))
    assert ready(np.ones((0, 3, 4, 4))).shape == (0, 2, 5, 5)


@pytest.mark.quick
def test_memory_is_given_back():
    ready = fd.prepare(np.ones((64, 64, 3, 3), "float32"))
    x = np.ones((1, 64, 9, 9), "float32")
    ready(x)
    (held,) = (weakref.ref(each.run) for each in ready._ready.values())
    assert held() is not None
    del ready
    gc.collect()
    assert held() is None


@pytest.mark.quick
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda ready: pickle.loads(pickle.dumps(ready))])
def test_copies_and_pickles(duplicate):
    p = EDGE_CASES["each_axis_its_own"]
    x, w = floats(p, "forward")
    ready = prepared(p, w, bias=np.ones(p.out_channels, "float32"))
    want = ready(x)
    same(duplicate(ready)(x), want)


def test_many_threads_at_once():
    p = problem((1, 17, 20, 21), (17, 9, 4, 4), stride=2, padding=1)
    _, w = floats(p, "forward")
    ready = prepared(p, w)
    arrays = [np.random.default_rng(n).random((1, 17, 20, 21 + n), "float32") for n in range(MOST_SHAPES + 2)]
    wanted = [fd.conv_transpose2d(x, w, stride=2, padding=1) for x in arrays]
    wrong = []
    start = threading.Barrier(6)

    def work(seed):
        start.wait()
        for n in np.random.default_rng(seed).integers(len(arrays), size=60):
            wrong.extend([n] * (not np.array_equal(ready(arrays[n]), wanted[n])))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(ready._ready) <= MOST_SHAPES


@pytest.mark.quick
def test_the_example_in_its_documentation():
    module = sys.modules["fastdeconv.prepare"]
    found = doctest.DocTestFinder().find(module.prepare, "prepare", globs={})
    results = [doctest.DocTestRunner().run(test) for test in found]
    assert sum(r.attempted for r in results) > 0
    assert sum(r.failed for r in results) == 0
