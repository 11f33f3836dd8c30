"""PSNR and SSIM as super-resolution is measured: on luminance, with the border shaved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

Image = NDArray[np.float32]


def _shaved(truth: Image, image: Image, border: int) -> tuple[Image, Image]:
    if truth.shape != image.shape:
        raise ValueError(f"image must have the truth's shape {truth.shape}; got {image.shape}")
    inside = (slice(border, truth.shape[0] - border), slice(border, truth.shape[1] - border))
    return truth[inside], image[inside]


def psnr(truth: Image, image: Image, border: int) -> float:
    """Peak signal-to-noise ratio in dB of planes whose full scale is 1; infinite for equal ones.

    Parameters
    ----------
    border : int
        Pixels left out on each side.
    """
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(*_shaved(truth, image, border), data_range=1.0))


def ssim(truth: Image, image: Image, border: int) -> float:
    """Structural similarity of planes whose full scale is 1: Gaussian window of σ 1.5 (11×11), K1 0.01, K2 0.03.

    Parameters
    ----------
    border : int
        Pixels left out on each side; at least 11 must remain on each axis.

    References
    ----------
    Wang, Bovik, Sheikh and Simoncelli, Image quality assessment: from error visibility to structural similarity,
    IEEE Trans. Image Processing 13 (2004).
    """
    a, b = _shaved(truth, image, border)
    value = structural_similarity(a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    return float(value)
