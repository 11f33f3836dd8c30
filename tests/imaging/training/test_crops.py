"""Training crops: input and residual belong together under every symmetry, and the generator alone decides."""

import numpy as np
import pytest

from fastdeconv.imaging.degrade import degrade
from fastdeconv.imaging.network import Degradation, Description, Network
from fastdeconv.imaging.resize import resize
from fastdeconv.imaging.training.crops import FACTORS, Crops, _turned, pair, spoiled, trimmed

pytestmark = pytest.mark.quick


def description(scale=2, **other):
    return Description(scale, features=4, shrunk=2, maps=1, feature_size=3, taps=3, **other)


def plane(height=60, width=80, seed=0):
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_crop_of_any_symmetry_is_found_in_its_pair(scale):
    what = description(scale)
    x = plane(20, 24)
    truth = plane(20 * scale, 24 * scale, seed=1)
    crops = Crops([pair(x, truth)], what, side=6, batch=64)
    residual = truth - (resize(x, truth.shape) if scale > 1 else x)
    window = 6 + 2 * what.radius
    places = {}
    for i in range(20 - window + 1):
        for j in range(24 - window + 1):
            out = residual[scale * (i + what.radius) :, scale * (j + what.radius) :][: 6 * scale, : 6 * scale]
            for symmetry in range(8):
                key = _turned(x[i : i + window, j : j + window], symmetry).tobytes()
                places[key] = symmetry, _turned(out, symmetry)
    given, wanted = crops(0, np.random.default_rng(0))
    assert given.shape == (64, 1, window, window)
    assert wanted.shape == (64, 1, 6 * scale, 6 * scale)
    assert given.dtype == wanted.dtype == np.float32
    seen = set()
    for a, b in zip(given[:, 0], wanted[:, 0]):
        symmetry, expected = places[a.tobytes()]
        np.testing.assert_array_equal(b, expected)
        seen.add(symmetry)
    assert seen == set(range(8))


def test_the_symmetries_are_those_of_the_square():
    crop = np.arange(9, dtype=np.float32).reshape(3, 3)
    turned = {np.ascontiguousarray(f(m)).tobytes() for m in (crop, crop.T) for f in (
        lambda a: a, lambda a: np.rot90(a), lambda a: np.rot90(a, 2), lambda a: np.rot90(a, 3)
    )}  # fmt: skip
    assert {np.ascontiguousarray(_turned(crop, k)).tobytes() for k in range(8)} == turned


def test_the_generator_decides_and_every_pair_has_its_share():
    pairs = [pair(plane(20, 20), plane(40, 40)), pair(plane(40, 60, 2), plane(80, 120, 3))]
    crops = Crops(pairs, description(), side=6, batch=400)
    for one, other in zip(crops(5, np.random.default_rng(1)), crops(9, np.random.default_rng(1))):
        np.testing.assert_array_equal(one, other)
    small = set(pairs[0].input.ravel().tolist())
    window = 6 + 2 * description().radius
    share = (21 - window) ** 2 / ((21 - window) ** 2 + (41 - window) * (61 - window))
    given, _ = crops(0, np.random.default_rng(2))
    from_small = np.mean([float(x[0, 0, 0]) in small for x in given])
    assert from_small == pytest.approx(share, abs=0.05)


def test_photographs_are_spoiled_in_every_size_that_is_large_enough():
    what = description(2, degradation=Degradation(jpeg=(40, 40)))
    pairs = spoiled([plane(101, 121)], what, seed=0, min_side=60)
    sizes = [tuple(int(n * f) // 2 * 2 for n in (101, 121)) for f in FACTORS if int(101 * f) >= 60]
    assert [p.residual.shape for p in pairs] == sizes
    assert len(sizes) < len(FACTORS)
    assert all(p.input.shape == (h // 2, w // 2) for p, (h, w) in zip(pairs, sizes))
    truth = trimmed(plane(101, 121), 2)
    expected = degrade(truth, 2, what.degradation, np.random.default_rng(0))
    np.testing.assert_array_equal(pairs[0].input, expected)
    np.testing.assert_allclose(pairs[0].residual + resize(expected, truth.shape), truth, atol=1e-6)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("fastdeconv.imaging.training.crops.MAX_PIXELS", 6000)
    pairs = spoiled([plane(), plane(seed=1)], description(), seed=0, min_side=20)
    assert 4800 <= sum(p.residual.size for p in pairs) <= 6000


def test_what_crops_teach_is_what_the_network_gives():
    what = description(3)
    network = Network(what, seed=1)
    x, truth = plane(30, 30), plane(90, 90, seed=1)
    given, wanted = Crops([pair(x, truth)], what, side=8, batch=3)(0, np.random.default_rng(0))
    # The body is taught the truth less what the network adds it to.
    np.testing.assert_allclose(network(given) - network.body(given), network.skip(given), atol=1e-6)
    truths = wanted + network.skip(given)
    assert truths.min() > -1e-5
    assert truths.max() < 1 + 1e-5


def test_trimmed_cuts_to_a_multiple_of_the_factor():
    assert trimmed(plane(7, 10), 2).shape == (6, 10)
    assert trimmed(plane(7, 10), 1).shape == (7, 10)
