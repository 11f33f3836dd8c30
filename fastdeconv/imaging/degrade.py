"""What spoils a picture, with known settings: reduction, blur and noise; and bicubic resizing both ways."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.filters import gaussian

Image = NDArray[np.float32]


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -1/2, at distances `x` in pixels.

    References
    ----------
    Keys, Cubic convolution interpolation for digital image processing, IEEE Trans. ASSP 29 (1981).
    """
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Resize by bicubic interpolation as MATLAB's imresize does: antialiased when reducing, mirrored at borders.

    Parameters
    ----------
    image : ndarray, shape (H, W)
    size : (int, int)
        The new height and width.

    Returns
    -------
    ndarray, shape size
    """
    for axis, length in enumerate(size):
        image = np.moveaxis(_resize_rows(np.moveaxis(image, axis, 0), length), 0, axis)
    return np.ascontiguousarray(image)


def _resize_rows(image: Image, length: int) -> Image:
    rows = len(image)
    scale = length / rows
    shrink = min(scale, 1.0)  # a wider kernel when reducing is the antialiasing
    centre = (np.arange(length) + 0.5) / scale - 0.5
    taps = int(np.ceil(4 / shrink)) + 1
    index = np.floor(centre - 2 / shrink).astype(int)[:, None] + 1 + np.arange(taps)
    weights = cubic(shrink * (centre[:, None] - index))
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = index % (2 * rows)
    mirrored = np.minimum(mirrored, 2 * rows - 1 - mirrored)
    result = np.zeros((length, *image.shape[1:]), image.dtype)
    for w, i in zip(weights.T, mirrored.T):
        result += w.astype(image.dtype)[:, None] * image[i]
    return result


def reduce(image: Image, factor: int) -> Image:
    """Reduce by an integer factor that divides both sides, and round to the 256 levels of a stored picture."""
    height, width = image.shape
    if height % factor or width % factor:
        raise ValueError(f"image must have sides that {factor} divides; got shape {image.shape}")
    small = resize(image, (height // factor, width // factor))
    return np.clip(np.rint(small * 255), 0, 255).astype(np.float32) / np.float32(255)


def blur(image: Image, sigma: float) -> Image:
    """Blur with a Gaussian of standard deviation `sigma` pixels, mirrored at the borders."""
    blurred: Image = gaussian(image, sigma, mode="mirror", truncate=4.0)
    return blurred


def add_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Add white Gaussian noise of standard deviation `sigma`, in units of the full scale; nothing is clipped."""
    return image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
