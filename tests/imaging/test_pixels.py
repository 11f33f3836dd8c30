"""Planes out of images and into them: every element type, any steps, mirrored borders, rounding."""

import numpy as np
import pytest

from fastdeconv.imaging.pixels import DTYPES, Page, Region


def image(dtype, *shape):
    values = np.random.default_rng(0).random(shape)
    full = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    return (values * full).astype(dtype), full


@pytest.mark.parametrize("dtype", DTYPES)
def test_loading_is_a_weighted_sum_mirrored_at_the_borders(dtype):
    array, full = image(dtype, 7, 9, 3)
    page = Page.of(array, np.moveaxis(array, -1, 0))
    assert (page.shape, page.full) == ((3, 7, 9), full)
    padded = np.pad(array / full, ((20, 20), (20, 20), (0, 0)), mode="symmetric")
    for region in (Region(0, 7, 0, 9), Region(-20, 27, -20, 29), Region(2, 3, 8, 9), Region(-3, 4, 5, 15)):
        rows, columns = slice(20 + region.top, 20 + region.bottom), slice(20 + region.left, 20 + region.right)
        expected = padded[rows, columns] @ [0.5, 0.25, -1] + 0.1
        np.testing.assert_allclose(page.load(region, 0, (0.5, 0.25, -1), 0.1), expected, atol=1e-6)
        np.testing.assert_allclose(page.load(region, 2), padded[rows, columns, 2], atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_loaded_is_stored_as_it_was(dtype):
    array, _ = image(dtype, 4, 6, 5)
    if dtype == "float64":
        array = array.astype(np.float32).astype(dtype)
    page, result = Page.of(array, array), np.zeros_like(array)
    target = Page.of(result, result)
    for channel in range(4):
        target.store(Region(0, 6, 0, 5), channel, page.load(Region(0, 6, 0, 5), channel))
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_levels_are_rounded_and_clipped(dtype):
    full = np.iinfo(dtype).max
    plane = np.array([[-1, -0.4 / full, 0.4 / full, 0.6 / full, 0.5, 1 - 0.6 / full, 1.0, 7.0]], np.float32)
    result = np.full((3, 10), 9, dtype)
    Page.of(result, result[None]).store(Region(1, 2, 1, 9), 0, plane)
    expected = [9, 0, 0, 0, 1, full // 2 + 1, full - 1, full, full, 9]
    np.testing.assert_array_equal(result, [[9] * 10, expected, [9] * 10])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_plane_is_added(dtype):
    plane, extra = np.full((2, 2), 0.5, np.float32), np.array([[0.1, 0], [-0.1, 0.3]], np.float32)
    result = np.zeros((2, 2), dtype)
    page = Page.of(result, result[None])
    page.store(Region(0, 2, 0, 2), 0, plane, extra, 2.0)
    np.testing.assert_allclose(result / page.full, np.minimum(plane + 2 * extra, 1 if page.full > 1 else 9), atol=3e-3)
