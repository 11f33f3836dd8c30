"""Batches give the bits of single calls, by every kernel."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from cases import EDGE_CASES, floats, problem, runs

import fastdeconv as fd
from fastdeconv import batch
from fastdeconv.dispatch import choose, plan
from fastdeconv.tuning import batch_invariance, conditions

RNG = np.random.default_rng(0)


def other_kernel_for_many(pass_):
    """Return a layer that has another kernel for one image than for thirteen; which one does depends on the machine."""
    arguments = {"stride": 2, "padding": 1}
    for channels, size in itertools.product((16, 32, 64, 128, 256, 512), (3, 4, 8, 16)):
        shape, w_shape = (channels, size, size), (channels, 32, 4, 4)
        names = {plan(problem((n, *shape), w_shape, **arguments), pass_).implementation.name for n in (1, 13)}
        if len(names) == 2 and "winograd" in names:
            return shape, w_shape, arguments
    raise AssertionError("no layer has another kernel for many images")


LAYERS = {
    "other_kernel_for_many": other_kernel_for_many("forward"),
    "other_tiles_for_many": ((128, 16, 16), (128, 64, 4, 4), {"stride": 2, "padding": 1}),
    "image_output": ((17, 9, 11), (17, 3, 4, 4), {"stride": 2, "padding": 1}),
    "depthwise": ((16, 7, 7), (16, 1, 3, 3), {"padding": 1, "groups": 16}),
    "1d": ((9, 33), (9, 5, 8), {"stride": 4}),
    "3d": ((3, 4, 5, 6), (3, 4, 2, 3, 3), {"stride": 2}),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_prepared_weight_gives_the_bits_of_its_calls(name, prefetch):
    shape, w_shape, arguments = LAYERS[name]
    bias = RNG.random(w_shape[1] * arguments.get("groups", 1), np.float32)
    layer = fd.prepare(RNG.random(w_shape, np.float32), bias, **arguments)
    images = RNG.standard_normal((13, *shape)).astype("float32")
    want = np.stack([layer(image) for image in images])
    for size in ("auto", 8):
        for source in (images, iter(images)):
            got = list(batch.map(layer, source, device="cpu", batch_size=size, prefetch=prefetch))
            np.testing.assert_array_equal(np.stack(got).view("u4"), want.view("u4"))


@pytest.mark.quick
def test_a_function_gives_the_bits_of_its_calls():
    for pass_ in ("forward", "input_grad"):
        shape, w_shape, arguments = other_kernel_for_many(pass_)
        w = RNG.standard_normal(w_shape).astype("float32")

        def forward(x, w=w, arguments=arguments):
            return np.tanh(fd.conv_transpose2d(x, w, **arguments))

        def backward(gy, w=w, shape=shape, arguments=arguments):
            return fd.grad.conv_transpose2d_input((len(gy), *shape), w, gy, **arguments)

        items = RNG.standard_normal((13, *shape)).astype("float32")
        function = forward
        if pass_ == "input_grad":
            items, function = fd.conv_transpose2d(items, w, **arguments), backward
        want = np.concatenate([function(item[None]) for item in items])
        np.testing.assert_array_equal(np.stack(list(batch.map(function, items, device="cpu"))), want)
        assert not np.array_equal(function(items), want), "a stack should have other bits, or this shows nothing"


@pytest.mark.quick
@pytest.mark.parametrize("item", [(5, 7), (1, 5, 7), (3, 1, 5, 7)])
def test_items_are_what_a_prepared_weight_takes(item):
    bare = len(item) == 2
    layer = fd.prepare(RNG.random((4, 4) if bare else (1, 2, 4, 4)), stride=2)
    items = [RNG.random(item) for _ in range(5)]
    for got, x in zip(batch.map(layer, items, device="cpu"), items, strict=True):
        np.testing.assert_array_equal(got, layer(x))


def test_batches_of_their_own_get_the_kernel_of_their_own():
    shape, w_shape, arguments = LAYERS["other_kernel_for_many"]
    layer = fd.prepare(RNG.standard_normal(w_shape).astype("float32"), **arguments)
    blocks = RNG.standard_normal((3, 40, *shape)).astype("float32")
    for got, block in zip(batch.map(layer, blocks, device="cpu"), blocks, strict=True):
        np.testing.assert_array_equal(got, layer(block))


SPREAD = (
    "textbook", "dcgan", "dcgan_last", "fsrcnn", "fcn", "deblur", "groups_wide", "depthwise", "kernel_1_many_channels",
    "lattices_parallel", "parallel", "rows_kernel_under_padding", "1d_hifigan", "3d_vnet",
)  # fmt: skip


@pytest.mark.parametrize(
    ("pass_", "algorithm", "p"),
    [run for run in runs({n: replace(EDGE_CASES[n], batch=1) for n in SPREAD}) if run.values[0] != "weight_grad"],
)
def test_every_kernel_is_batch_invariant_or_says_that_it_is_not(pass_, algorithm, p):
    single, many = replace(p, batch=1), replace(p, batch=5)
    images, w = floats(many, pass_)
    single = plan(single, pass_, "cpu", algorithm)
    with batch_invariance():
        stacked = choose(many, pass_, "cpu", algorithm, conditions())
    assert stacked.problem == many
    bias = (None,) * (pass_ == "forward")
    shape = many.output_shape if pass_ == "forward" else many.input_shape
    want, got = np.full(shape, np.nan, p.dtype), np.full(shape, np.nan, p.dtype)
    for image, result in zip(images, want):
        single.run(image.ravel(), w.ravel(), *bias, result.ravel())
    stacked.run(images.ravel(), w.ravel(), *bias, got.ravel())
    np.testing.assert_array_equal(got, want, f"{algorithm} {many}")


def test_where_scratch_memory_is_short_for_many_images_go_one_by_one():
    many = problem((8, 64, 5, 5), (64, 64, 4, 4), stride=2, padding=1)
    x, w = floats(many, "forward")
    needed = plan(replace(many, batch=1), "forward", "cpu", "direct_tile").workspace
    assert plan(many, "forward", "cpu", "direct_tile").workspace > needed
    layer = fd.prepare(w, stride=2, padding=1, algorithm="direct_tile")
    want = np.stack([layer(image) for image in x])
    fd.set_workspace_limit(needed)
    try:
        with batch_invariance():
            np.testing.assert_array_equal(layer(x), want)
            np.testing.assert_array_equal(fd.conv_transpose2d(x, w, stride=2, padding=1, algorithm="direct_tile"), want)
        with pytest.raises(ValueError, match="bytes of scratch memory"):
            layer(x)
    finally:
        fd.set_workspace_limit(None)
