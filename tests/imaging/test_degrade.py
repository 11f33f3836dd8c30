"""Reduction, blur, noise and JPEG against their definitions."""

import io

import numpy as np
import pytest
from PIL import Image

from fastdeconv.imaging.colour import luminance
from fastdeconv.imaging.degrade import add_noise, blur, degrade, jpeg, reduce
from fastdeconv.imaging.network import Degradation
from fastdeconv.imaging.resize import resize

pytestmark = pytest.mark.quick


def picture(height=61, width=47, seed=0):
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


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


def test_jpeg_is_pillows_and_grey():
    image = picture(64, 48)
    with io.BytesIO() as file:
        Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, "JPEG", quality=40)
        expected = np.asarray(Image.open(file)).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(jpeg(image, 40), expected)
    assert np.abs(jpeg(image, 90) - image).mean() < np.abs(jpeg(image, 40) - image).mean() / 2
    assert jpeg(image * 3 - 1, 40).dtype == np.float32
    np.testing.assert_array_equal(jpeg(np.full((9, 9), 7, np.float32), 40), 1)


def test_degrade_draws_one_value_from_each_range():
    image, rng = picture(60, 40), np.random.default_rng(0)
    np.testing.assert_array_equal(degrade(image, 2, None, rng), reduce(image, 2))
    fixed = Degradation(blur=(1.6, 1.6), noise=(0.01, 0.01))
    twin = np.random.default_rng(3)
    twin.random(2)  # one for each range
    expected = add_noise(blur(image, 1.6), 0.01, twin)
    np.testing.assert_array_equal(degrade(image, 1, fixed, np.random.default_rng(3)), expected)
    wide = Degradation(jpeg=(20, 80))
    drawn = [degrade(image, 1, wide, rng) for _ in range(6)]
    possible = [jpeg(image, quality) for quality in range(20, 81)]
    which = {next(i for i, p in enumerate(possible) if np.array_equal(p, d)) for d in drawn}
    assert len(which) > 2
