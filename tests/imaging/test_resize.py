"""Bicubic resizing against Pillow's, against values by hand and against sums written out."""

import numpy as np
import pytest
from PIL import Image

from fastdeconv.functional import conv_transpose2d
from fastdeconv.imaging.resize import REACH, bicubic_kernel, cubic, enlarge_inside, resize

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


def matrix(length, new_length):
    """Return the weights of one axis as imresize's documentation has them, one element at a time."""
    weights = np.zeros((new_length, length))
    scale = new_length / length
    shrink = min(scale, 1)
    for i in range(new_length):
        centre = (i + 0.5) / scale - 0.5
        row = np.zeros(length)
        for j in range(int(centre - 3 / shrink) - 1, int(centre + 3 / shrink) + 2):
            inside = j % (2 * length)
            row[min(inside, 2 * length - 1 - inside)] += cubic(np.array(shrink * (centre - j)))
        weights[i] = row / row.sum()
    return weights


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(122, 141), (23, 30), (61, 10), (7, 200), (1, 1)])
def test_resize_is_two_sums(size, dtype):
    image = picture().astype(dtype)
    expected = matrix(61, size[0]) @ picture().astype(float) @ matrix(47, size[1]).T
    result = resize(image, size)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, atol=16 * np.finfo(dtype).eps)


def test_resize_takes_stacks_and_any_strides():
    stack = np.random.default_rng(0).random((2, 3, 20, 18), dtype=np.float32)
    expected = np.stack([[resize(plane, (13, 25)) for plane in planes] for planes in stack])
    np.testing.assert_array_equal(resize(stack, (13, 25)), expected)
    channels_last = np.ascontiguousarray(stack.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(resize(channels_last.transpose(0, 3, 1, 2), (13, 25)), expected)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_bicubic_kernel_enlarges_as_resize_does(scale):
    kernel = bicubic_kernel(scale)
    padded = np.pad(picture(), 2, mode="symmetric")
    enlarged = conv_transpose2d(padded, kernel, stride=scale, padding=(len(kernel) - scale) // 2 + 2 * scale)
    np.testing.assert_allclose(enlarged, resize(picture(), (61 * scale, 47 * scale)), atol=2e-6)


@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_enlarging_parts_gives_parts(scale):
    padded = np.pad(picture(), REACH, mode="symmetric")
    whole = enlarge_inside(padded, scale)
    np.testing.assert_allclose(whole, resize(picture(), (61 * scale, 47 * scale)), atol=1e-6)
    part = np.ascontiguousarray(padded[20 : 33 + 2 * REACH, 7 : 40 + 2 * REACH])
    np.testing.assert_array_equal(enlarge_inside(part, scale), whole[20 * scale : 33 * scale, 7 * scale : 40 * scale])
