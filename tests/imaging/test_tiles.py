"""Planes through networks: against the module on a mirrored plane, without seams, and in little memory."""

import tracemalloc

import numpy as np
import pytest

from fastdeconv import memory, nn
from fastdeconv.imaging import tiles
from fastdeconv.imaging.network import Description, Network
from fastdeconv.imaging.pixels import Region
from fastdeconv.imaging.tiles import apply, regions


def network(scale, **layers):
    made = Network(Description(scale, **{"features": 5, "shrunk": 3, "maps": 1} | layers))
    rng = np.random.default_rng(0)
    for parameter in made.parameters():
        parameter.data[...] += rng.normal(0, 0.05, parameter.shape)
    return made


def picture(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(23, 31), (1, 1), (2, 40)])
def test_a_plane_is_mirrored_at_its_borders(scale, shape):
    made, plane = network(scale), picture(*shape)
    with nn.no_grad():
        expected = made(np.pad(plane, made.description.radius, mode="symmetric")[None, None])[0, 0]
    result = apply(made, plane, limits=False)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=4e-6)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_tiles_have_no_seams(scale):
    made, plane = network(scale), picture(57, 71)
    whole = apply(made, plane, tile=None)
    for tile in (1000, 40, 16, 7, "auto"):
        np.testing.assert_array_equal(apply(made, plane, tile=tile), whole)


def test_any_strides():
    made, plane = network(2), picture(20, 30)
    expected = apply(made, plane)
    np.testing.assert_array_equal(apply(made, np.asfortranarray(plane)), expected)
    np.testing.assert_array_equal(apply(made, plane[::-1])[::-1], apply(made, plane[::-1].copy())[::-1])


def test_the_weights_are_those_of_now():
    made, plane = network(2), picture(20, 30)
    before = apply(made, plane, limits=False)
    made.body[-1].bias.data[...] += 0.5
    np.testing.assert_allclose(apply(made, plane, limits=False), before + 0.5, atol=1e-6)


def test_regions_cover_a_page_once():
    for tile in (None, "auto", 1, 5, 100):
        seen = np.zeros((13, 17), int)
        for top, bottom, left, right in regions(13, 17, 2, tile):
            seen[top:bottom, left:right] += 1
        assert (seen == 1).all()
    assert list(regions(13, 17, 2, None)) == [Region(0, 13, 0, 17)]


def test_auto_takes_whole_rows_within_the_budget(monkeypatch):
    monkeypatch.setattr(tiles, "BUDGET", 8 << 20)
    cut = list(regions(5000, 700, 2, "auto"))
    assert all((r.left, r.right) == (0, 700) for r in cut)
    assert all(4 * 4 * (r.bottom - r.top) * 700 <= 8 << 20 for r in cut)
    # An extremely wide page is cut both ways.
    assert max((r.right - r.left) * (r.bottom - r.top) for r in regions(100, 10**6, 2, "auto")) < 1 << 19


def test_memory_is_bounded(monkeypatch):
    made, plane = network(2), picture(2000, 500)
    apply(made, plane[:64])
    monkeypatch.setattr(tiles, "BUDGET", 2 << 20)
    monkeypatch.setattr(memory, "_LIMIT", 0)  # every plane is new, and counted
    tracemalloc.start()
    try:
        result = apply(made, plane)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.nbytes < peak < result.nbytes + (3 << 20)


@pytest.mark.parametrize(
    ("plane", "tile", "message"),
    [
        ([[1.0]], "auto", "plane must be an array of float32; got list"),
        (np.zeros((4, 4)), "auto", "plane must be an array of float32; got float64"),
        (np.zeros((4, 4, 1), np.float32), "auto", r"plane must have two axes, neither empty; got shape \(4, 4, 1\)"),
        (np.zeros((0, 4), np.float32), "auto", "neither empty"),
        (np.zeros((4, 4), np.float32), 0, "tile must be at least 1 pixel; got 0"),
        (np.zeros((4, 4), np.float32), "all", "\"auto\" or None; got 'all'"),
        (np.zeros((4, 4), np.float32), 2.5, "tile must be an int"),
    ],
)
def test_what_is_refused(plane, tile, message):
    with pytest.raises((TypeError, ValueError), match=message):
        apply(network(2), plane, tile)
