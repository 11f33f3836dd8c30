"""What spoils a picture, with known settings: reduction, blur, noise and JPEG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from skimage.filters import gaussian

from fastdeconv.imaging.resize import resize

if TYPE_CHECKING:
    from fastdeconv.imaging.network import Degradation

Image = NDArray[np.float32]


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


def jpeg(image: Image, quality: int) -> Image:
    """Compress as grey JPEG and decompress, as libjpeg does through Pillow; the result has the 256 levels stored.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        From 0 to 1; what lies beyond is clipped.
    quality : int
        From 1 to 100.

    Returns
    -------
    ndarray of float32, shape (H, W)
    """
    from PIL import Image as Pillow

    levels = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
    with io.BytesIO() as file:
        Pillow.fromarray(levels).save(file, "JPEG", quality=quality)
        with Pillow.open(file) as picture:
            return np.asarray(picture, np.float32) / np.float32(255)


def degrade(image: Image, scale: int, degradation: Degradation | None, rng: np.random.Generator) -> Image:
    """Spoil a plane as pictures are spoiled on their way: reduced, or blurred, then noisy, then compressed.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        From 0 to 1, with sides that `scale` divides.
    scale : int
        1, or how many times smaller the result is.
    degradation : Degradation, optional
        From each of its ranges one value is drawn.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float32, shape (H / scale, W / scale)
    """
    # Blur belongs to the scene, so it comes before the reduction; noise and compression belong to what is stored.
    sigma = rng.uniform(*degradation.blur) if degradation else 0.0
    if sigma:
        image = blur(image, sigma)
    if scale > 1:
        image = reduce(image, scale)
    if degradation is None:
        return image
    noise = rng.uniform(*degradation.noise)
    if noise:
        image = add_noise(image, noise, rng)
    if degradation.jpeg:
        low, high = degradation.jpeg
        image = jpeg(image, int(rng.integers(low, high + 1)))
    return image
