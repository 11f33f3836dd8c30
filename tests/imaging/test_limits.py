"""What is added stays within the range around: by the definition, by array operations, and what it is for."""

import numpy as np
import pytest

from fastdeconv.imaging import metrics, tiles
from fastdeconv.imaging.enhance import Upscaler
from fastdeconv.imaging.limits import REACH, limit, limited
from fastdeconv.imaging.network import Description, Network
from fastdeconv.imaging.resize import resize


def defined(added, base, plane, radius, scale):
    """Return the result pixel by pixel."""
    result = added.copy()
    reach = min(REACH, radius)
    for y, x in np.ndindex(added.shape):
        i, j = y // scale + radius, x // scale + radius
        around = plane[i - reach : i + reach + 1, j - reach : j + reach + 1]
        low = min(around.min() - base[y, x], 0)
        high = max(around.max() - base[y, x], 0)
        result[y, x] = min(max(added[y, x], low), high)
    return result


@pytest.mark.parametrize("radius", [2, 3, 8])
@pytest.mark.parametrize(("scale", "height", "width"), [(2, 1, 1), (2, 9, 34), (3, 5, 23), (4, 7, 40)])
def test_the_definition(scale, height, width, radius):
    rng = np.random.default_rng(0)
    plane = rng.random((height + 2 * radius, width + 2 * radius), np.float32)
    inner = np.s_[scale * radius : scale * (radius + height), scale * radius : scale * (radius + width)]
    base = resize(plane, (scale * plane.shape[0], scale * plane.shape[1]))[inner]
    added = rng.normal(0, 2, base.shape).astype(np.float32)
    expected = defined(added, base, plane, radius, scale)
    assert (expected != added).any()
    np.testing.assert_allclose(limited(added, base, plane, radius, scale), expected, atol=1e-6)
    limit(added, plane, radius, scale)
    np.testing.assert_allclose(added, expected, atol=1e-6)


def test_nan_stays_and_limits_nothing():
    plane = np.zeros((12, 12), np.float32)
    plane[6, 6] = np.nan
    added = np.ones((8, 8), np.float32)
    added[0, 0] = np.nan
    limit(added, plane, 4, 2)
    assert np.isnan(added[0, 0])
    assert np.isfinite(added[1:, 1:]).all()


def strong():
    """Return a network that adds far too much."""
    network = Network(Description(2, features=4, shrunk=3, maps=1), seed=1)
    network.body[-1].weight.data[...] *= 3000
    return network


def test_no_edge_overshoots_more_than_bicubic_enlargement():
    truth = np.full((96, 96), 0.25, np.float32)
    truth[:, 48:] = 0.75
    small = resize(truth, (48, 48))
    made = {"bicubic": resize(small, truth.shape), "ours": tiles.apply(strong(), small)}
    found = {name: metrics.overshoot(truth, plane, 8) for name, plane in made.items()}
    assert np.abs(made["ours"] - made["bicubic"]).max() > 0.1
    assert found["ours"].mean <= found["bicubic"].mean + 1e-4
    assert found["ours"].peak <= found["bicubic"].peak + 1e-4


def test_images_are_limited_and_regions_agree():
    upscaler = Upscaler(2, features=4, shrunk=3, maps=1)
    upscaler.network = strong()
    image = np.random.default_rng(0).integers(0, 256, (30, 21, 3), np.uint8)
    whole = upscaler.transform(image, channel_axis=-1, tile=None)
    np.testing.assert_array_equal(upscaler.transform(image, channel_axis=-1, tile=7), whole)
    plane = np.random.default_rng(0).random((30, 30), np.float32)
    free, kept = (tiles.apply(upscaler.network, plane, limits=limits) for limits in (False, True))
    assert free.min() < -1
    assert free.max() > 2
    assert -0.3 < kept.min() < kept.max() < 1.3
    free = upscaler.transform(image, channel_axis=-1, limits=False)
    assert np.abs(free.astype(int) - whole).max() > 50
