"""Problems too large for a cache are computed in parts: bands of images, and parts of the transformed tiles."""

import numpy as np
import pytest
from cases import EDGE_CASES, IMPLEMENTATIONS, assert_alone, declines, integers, oracle, poisoned, problem

from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cpu import frame
from fastdeconv.kernels.cpu.winograd import products, weight
from fastdeconv.kernels.cpu.winograd.axes import groups

CUT = {
    "2d": problem((2, 3, 60, 20), (3, 2, 4, 4), stride=2, padding=1),
    "image": problem((1, 3, 61, 20), (3, 1, 9, 9), stride=2, padding=4, output_padding=1),
    "stride_1": problem((1, 3, 61, 20), (3, 10, 5, 5), padding=2),
    "padding_over_kernel": problem((1, 3, 61, 9), (3, 5, 3, 3), padding=(5, 4)),
    "groups": problem((1, 4, 50, 9), (4, 3, 3, 3), padding=(3, 2), dilation=(2, 1), groups=2),
    "early_rows": problem((1, 2, 70, 9), (2, 1, 2, 3), stride=(3, 4), padding=(1, 0), output_padding=(2, 0)),
    "one_tap": problem((1, 5, 40, 9), (5, 3, 2, 2), stride=2),
    "3d": problem((1, 2, 40, 7, 9), (2, 3, 3, 3, 3), stride=2, padding=1),
    "3d_stride_is_kernel": problem((1, 3, 20, 6, 7), (3, 2, 2, 2, 2), stride=2),
}

# What is computed by chunks whose first rows may lie above the array, or in lattices.
LATTICES = {
    "above": problem((2, 3, 24, 11), (3, 2, 9, 9)),
    "above_lattices": problem((2, 8, 41, 120), (8, 8, 9, 3), stride=(3, 1), dilation=(4, 1)),
    "above_products": problem((2, 8, 40, 120), (8, 8, 5, 1), stride=(5, 1), dilation=(4, 1)),
    "dilated": problem((1, 5, 41, 23), (5, 4, 3, 3), padding=2, dilation=2),
    "dilated_rows": problem((2, 3, 37, 11), (3, 2, 3, 2), padding=(5, 0), dilation=(5, 3)),
    "dilated_stride": problem((1, 2, 29, 17), (2, 3, 3, 3), stride=2, padding=1, dilation=3),
}


def check(implementation, pass_, p):
    a, b = integers(p, pass_)
    got = poisoned(p, pass_)
    bias = (np.arange(p.out_channels, dtype=p.dtype),) if pass_ == "forward" else ()
    implementation.bind(geometry_of(p))(a.ravel(), b.ravel(), *bias, got.reshape(-1))
    want = oracle(p, pass_, a, b)
    if bias:
        want = want + bias[0].reshape(-1, *[1] * p.ndim)
    np.testing.assert_array_equal(got, want, f"{pass_} {implementation.name} {p}")
    assert_alone(got)


@pytest.mark.parametrize("cached", [2000, 8000, 20_000])
@pytest.mark.parametrize("name", CUT)
def test_bands(name, cached, monkeypatch):
    monkeypatch.setattr(frame, "CACHED", cached)
    bands, cut = frame.bands, []

    def recorded(*arguments):
        cut.append(bands(*arguments))
        return cut[-1]

    monkeypatch.setattr(frame, "bands", recorded)
    served = 0
    for pass_, implementation in IMPLEMENTATIONS:
        cuts = implementation.name in ("direct_tile", "direct_joint", "direct_dot")
        if cuts and declines(implementation, pass_, CUT[name]) is None:
            check(implementation, pass_, CUT[name])
            served += 1
    assert served >= 3
    assert cached != 8000 or any(cut), "no band was cut"


@pytest.mark.parametrize(
    "name", ["dcgan", "deblur", "groups", "1d_long", "1d_hifigan", "3d", "3d_vnet", *CUT, *LATTICES]
)
@pytest.mark.parametrize("chunk", [0, 1, 20])
def test_parts_of_tiles(name, chunk, monkeypatch):
    """Made by all threads together where there are no chunks, or chunk by chunk."""
    p = CUT.get(name) or LATTICES.get(name) or EDGE_CASES[name]
    for module, constant in ((products, "_TILES"), (weight, "_TILES"), (products, "_PRODUCTS"), (products, "RUN")):
        monkeypatch.setattr(module, constant, 64)
    monkeypatch.setattr(products, "_FEWEST", max(chunk, 1))
    monkeypatch.setattr(products, "_CHUNK", 1)
    monkeypatch.setattr(products, "_LARGE", 10**6 if chunk else 0)
    monkeypatch.setattr(products, "_WEIGHTS", 10**6)
    for pass_, implementation in IMPLEMENTATIONS:
        if implementation.name in ("winograd", "direct_product") and declines(implementation, pass_, p) is None:
            check(implementation, pass_, p)


@pytest.mark.parametrize("name", LATTICES)
def test_chunks_of_one_image(name):
    """With the sizes that are used: a chunk's first rows may lie above the array, or belong to one lattice only."""
    p = LATTICES[name]
    for pass_, implementation in IMPLEMENTATIONS:
        if implementation.name in ("winograd", "direct_product") and declines(implementation, pass_, p) is None:
            check(implementation, pass_, p)


@pytest.mark.parametrize("tiles", [2000, 100_000, 9 << 20])
@pytest.mark.parametrize("batch", [2, 6, 7])
def test_ranges_of_tiles(tiles, batch, monkeypatch):
    monkeypatch.setattr(products, "_TILES", tiles)
    monkeypatch.setattr(products, "_LARGE", 0)
    monkeypatch.setattr(products, "_RANGE", 1)
    for p in (
        problem((batch, 3, 6, 5), (3, 2, 4, 4), stride=2, padding=1),
        problem((batch, 4, 4, 9), (4, 10, 3, 3), padding=2, dilation=(1, 2), groups=2),
        problem((batch, 3, 3, 4, 5), (3, 2, 3, 2, 4), stride=(2, 1, 2)),
    ):
        for pass_, implementation in IMPLEMENTATIONS:
            if implementation.name == "winograd" and pass_ != "weight_grad":
                check(implementation, pass_, p)


@pytest.mark.parametrize("name", ["stride_1", "stride_2", "groups", "wide", "volume_of_one_slice"])
def test_chunks_of_an_image(name, monkeypatch):
    """Neighbours add to some rows of both: every second one comes first, and zeroes them."""
    p = {
        "stride_1": problem((2, 3, 37, 9), (3, 9, 3, 3), padding=1),
        "stride_2": problem((1, 3, 31, 8), (3, 5, 4, 4), stride=2, padding=1),
        "groups": problem((1, 4, 29, 8), (4, 2, 3, 4), stride=(1, 2), padding=(2, 1), groups=2),
        "wide": problem((1, 2, 21, 500), (2, 3, 3, 3), padding=1),
        "volume_of_one_slice": problem((1, 3, 1, 30, 8), (3, 2, 1, 3, 3)),
    }[name]
    monkeypatch.setattr(products, "_FEWEST", 600 if name == "wide" else 6)
    monkeypatch.setattr(products, "_LARGE", 2)
    monkeypatch.setattr(products, "_WEIGHTS", 10**6)
    monkeypatch.setattr(products, "_threads", lambda: 2)
    chosen = []
    choose = products._strips_of_a_chunk
    monkeypatch.setattr(products, "_strips_of_a_chunk", lambda group: chosen.append(choose(group)) or chosen[-1])
    (winograd,) = (i for pass_, i in IMPLEMENTATIONS if i.name == "winograd" and pass_ == "input_grad")
    check(winograd, "input_grad", p)
    assert any(chunks > 1 for _, chunks in chosen)


@pytest.mark.parametrize(
    "p",
    [
        problem((1, 16, 2, 40, 40), (16, 16, 3, 3, 3), padding=1),  # two slices under one tile
        problem((1, 16, 1, 40, 40), (16, 16, 3, 3, 3), padding=(2, 1, 1), dilation=(2, 1, 1)),  # lattices of slices
        problem((13, 8, 8, 16, 16), (8, 8, 3, 3, 3), padding=1),  # a last part with more ranges than the others
        problem(
            (1, 8, 30, 40), (8, 8, 3, 3), stride=2, padding=1, output_padding=1
        ),  # groups of tiles add to each other
        problem((1, 3, 40, 600), (3, 8, 3, 3), padding=1),  # several strips of a row
    ],
    ids=str,
)
def test_results_that_several_tiles_add_to(p):
    (winograd,) = (i for pass_, i in IMPLEMENTATIONS if i.name == "winograd" and pass_ == "input_grad")
    check(winograd, "input_grad", p)


def test_plain_products_are_cut_alike_for_every_batch():
    p = problem((1, 64, 16, 16), (64, 600, 4, 2), stride=(4, 2), padding=(2, 1))
    g = frame.merged(geometry_of(p))
    for forward in (True, False):
        alone = groups(g, forward)
        assert all(groups(g._replace(batch=n), forward) == alone for n in (2, 7, 64))
