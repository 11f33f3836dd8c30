"""Bicubic resizing against Pillow's and against values by hand; blur and noise against their definitions."""

import numpy as np
import pytest
from PIL import Image

from fastdeconv.imaging.colour import luminance
from fastdeconv.imaging.degrade import add_noise, blur, cubic, reduce, resize

pytestmark = pytest.mark.quick


def picture(height=61, width=47, seed=0):
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def test_cubic_is_keys_kernel():
    np.testing.assert_array_equal(cubic(np.array([0.0, 1, 2, 3, -1])), [1, 0, 0, 0, 0])
    np.testing.assert_allclose(cubic(np.array([0.5, 1.5, -0.5])), [0.5625, -0.0625, 0.5625])


@pytest.mark.parametrize("size", [(30, 23), (20, 47), (122, 94), (61, 100), (13, 11)])
def test_resize_agrees_with_pillow_away_from_borders(size):
    # Pillow weighs the same taps but drops those beyond the border, where imresize mirrors.
    ours = resize(picture(), size)
    pillow = np.asarray(Image.fromarray(picture()).resize(size[::-1], Image.Resampling.BICUBIC))
    inner = tuple(slice(4, n - 4) for n in size)
    np.testing.assert_allclose(ours[inner], pillow[inner], atol=2e-6)


def test_resize_mirrors_at_borders_like_imresize():
    # MATLAB: imresize([1 2 4 8], 0.5) and imresize([1 2 4 8], 2), by hand from its weights.
    row = np.array([[1, 2, 4, 8]], np.float32)
    half = cubic(np.arange(-3.5, 4) / 2) / 2
    mirrored = np.array([4, 2, 1, 1, 2, 4, 8, 8, 4, 2], np.float32)
    expected = [half @ mirrored[:8] / half.sum(), half @ mirrored[2:] / half.sum()]
    np.testing.assert_allclose(resize(row, (1, 2))[0], expected, rtol=1e-6)
    double = resize(row, (1, 8))[0]
    taps = cubic(np.array([-1.75, -0.75, 0.25, 1.25]))
    np.testing.assert_allclose(double[0], taps @ np.array([2, 1, 1, 2])[[0, 1, 2, 3]], rtol=1e-6)


def test_resize_keeps_constants_and_ramps():
    np.testing.assert_allclose(resize(np.full((9, 7), 0.3, np.float32), (31, 4)), 0.3, rtol=1e-6)
    ramp = np.tile(np.arange(40, dtype=np.float32), (3, 1))
    np.testing.assert_allclose(resize(ramp, (3, 20))[0, 4:-4], np.arange(20)[4:-4] * 2 + 0.5, rtol=1e-5)


def test_reduce_gives_the_levels_of_a_stored_picture():
    small = reduce(picture(60, 40), 2)
    assert small.shape == (30, 20)
    np.testing.assert_allclose(small * 255, np.rint(small * 255), atol=1e-4)
    np.testing.assert_allclose(small, resize(picture(60, 40), (30, 20)).clip(0, 1), atol=0.5 / 255 + 1e-6)


def test_reduce_refuses_odd_sides():
    with pytest.raises(ValueError, match=r"sides that 2 divides; got shape \(61, 47\)"):
        reduce(picture(), 2)


def test_blur_is_the_gaussian_it_says():
    point = np.zeros((41, 41), np.float32)
    point[20, 20] = 1
    row = np.exp(-0.5 * (np.arange(-20, 21) / 1.6) ** 2)
    row /= row.sum()
    np.testing.assert_allclose(blur(point, 1.6), np.outer(row, row), atol=2e-5)


def test_noise_has_its_size_and_follows_the_generator():
    flat = np.full((300, 300), 0.5, np.float32)
    noisy = add_noise(flat, 2 / 255, np.random.default_rng(1))
    assert noisy.dtype == np.float32
    assert abs((noisy - flat).std() * 255 - 2) < 0.02
    np.testing.assert_array_equal(noisy, add_noise(flat, 2 / 255, np.random.default_rng(1)))


def test_luminance_is_bt601():
    colours = np.array([[[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]], np.float32)
    expected = np.array([[16, 235, 81.481, 144.553, 40.966]]) / 255
    np.testing.assert_allclose(luminance(colours), expected, rtol=1e-6)
    assert luminance(picture()).dtype == np.float32
    np.testing.assert_array_equal(luminance(picture()), picture())
