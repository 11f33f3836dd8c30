"""How good an enlarged or restored plane is: in all, where there is detail, and by the artefacts that it has.

PSNR and SSIM are taken as super-resolution is measured: on luminance, with the border shaved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
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


def detail_psnr(truth: Image, image: Image, border: int, share: float = 0.1) -> float:
    """PSNR in dB over the pixels with the steepest gradients: edges and texture, where detail is lost.

    The gradient is that of the truth, by central differences; its magnitude ranks the pixels.

    Parameters
    ----------
    border : int
        Pixels left out on each side.
    share : float
        Of the pixels that count, above 0 and at most 1.

    Raises
    ------
    ValueError
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1; got {share}")
    truth, image = _shaved(truth, image, border)
    down, across = np.gradient(truth)
    steepness = down**2 + across**2
    steep = steepness >= np.quantile(steepness, 1 - share)
    error = np.mean((truth[steep] - image[steep]).astype(np.float64) ** 2)
    with np.errstate(divide="ignore"):
        return float(-10 * np.log10(error))


# What `overshoot` takes for flat, and for an edge: ranges of the truth in units of the full scale.
_FLAT, _EDGE = 8 / 255, 64 / 255


class Overshoot(NamedTuple):
    """How far a plane overshoots beside edges, as a share of the edge's height: on the mean, and at most.

    The peak is the 99th percentile, so that single pixels of a photograph do not decide it.
    """

    mean: float
    peak: float


def overshoot(truth: Image, image: Image, border: int, reach: int = 4) -> Overshoot:
    """Return how far a plane overshoots beside edges, as a share of their height.

    Ringing and halos make the flat parts along an edge brighter than its bright side, or darker than its dark side. So
    the pixels that count are those that are flat in the truth (a range of at most 8 of 255 levels in the 3×3 pixels)
    and near an edge (of at least 64 levels in the square that extends `reach` pixels to each side). Each counts by how
    much it exceeds the largest of the truth's pixels in that square, or falls short of the smallest, over the range
    between them; one in between counts nothing, however wrong it is: blur alone has no overshoot.

    Parameters
    ----------
    border : int
        Pixels left out on each side.
    reach : int
        At least 1. For a plane enlarged by a factor, twice the factor at least: bicubic enlargement blurs one input
        pixel to each side of an edge, and overshoots in the next one. Whoever looks less far sees the blur alone.

    Returns
    -------
    Overshoot
        Zeros where no pixel counts.
    """
    truth, image = _shaved(truth, image, border)
    low, high = _extremes(truth, reach)
    nearest_low, nearest_high = _extremes(truth, 1)
    beside = (nearest_high - nearest_low <= _FLAT) & (high - low >= _EDGE)
    if not beside.any():
        return Overshoot(0.0, 0.0)
    beyond = np.maximum(image - high, 0) + np.maximum(low - image, 0)
    shares = beyond[beside] / (high - low)[beside]
    return Overshoot(float(shares.mean(dtype=np.float64)), float(np.percentile(shares, 99)))


def _extremes(image: Image, reach: int) -> tuple[Image, Image]:
    """Return the smallest and the largest value around each pixel."""
    low = high = np.pad(image, reach, mode="edge")
    for axis in (0, 1):  # a square's extremes are those of its rows' extremes
        low = sliding_window_view(low, 2 * reach + 1, axis=axis).min(axis=-1)
        high = sliding_window_view(high, 2 * reach + 1, axis=axis).max(axis=-1)
    return low, high


# Side of the squares whose spectra are averaged: 2, 3 and 4 divide it, so that patterns of these periods are one bin.
_SQUARE = 48


def checkerboard(image: Image, scale: int, border: int = 0) -> float:
    """Return how far patterns of period `scale` stand out of the spectrum, in dB: 0 is noise level.

    What a transposed convolution of stride `scale` does unevenly repeats every `scale` pixels, and is found at the
    frequencies ``(i / scale, j / scale)`` cycles a pixel, not both zero. The power there is compared with the median
    power a little beside, and the largest of the ratios is returned. Power is the mean over squares of 48×48 pixels,
    half overlapping, each less its mean and under Hann's window (Welch's method).

    Parameters
    ----------
    image : ndarray, shape (H, W)
        At least 48 pixels a side inside the border.
    scale : int
        2, 3 or 4.
    border : int
        Pixels left out on each side.

    Raises
    ------
    ValueError

    References
    ----------
    Odena, Dumoulin and Olah, Deconvolution and checkerboard artifacts, Distill 2016. Welch, The use of fast Fourier
    transform for the estimation of power spectra, IEEE Trans. Audio Electroacoustics 15 (1967).
    """
    if scale not in (2, 3, 4):
        raise ValueError(f"scale must be 2, 3 or 4; got {scale}")
    image, _ = _shaved(image, image, border)
    if min(image.shape) < _SQUARE:
        raise ValueError(f"image must have {_SQUARE} pixels a side inside the border; got shape {image.shape}")
    squares = sliding_window_view(image, (_SQUARE, _SQUARE))[:: _SQUARE // 2, :: _SQUARE // 2]
    window = np.hanning(_SQUARE + 1)[:-1]
    window = np.outer(window, window)
    power = np.zeros((_SQUARE, _SQUARE))
    for square in squares.reshape(-1, _SQUARE, _SQUARE):
        power += np.abs(np.fft.fft2((square - square.mean(dtype=np.float64)) * window)) ** 2
    step = _SQUARE // scale
    ratios = [
        power[i, j] / _beside(power, i, j) for i in range(0, _SQUARE, step) for j in range(0, _SQUARE, step) if i or j
    ]
    return float(10 * np.log10(max(ratios)))


def _beside(power: NDArray[np.float64], i: int, j: int) -> float:
    """Return the median power around a frequency, outside of the window's main lobe, which is 2 bins to each side."""
    away = np.array([-6, -5, -4, -3, 3, 4, 5, 6])
    # Pictures have more power at frequencies along an axis than beside it: compare within the axis.
    down = away if i else np.array([0])
    across = away if j else np.array([0])
    around = power[np.ix_((i + down) % _SQUARE, (j + across) % _SQUARE)]
    return float(np.median(around)) or np.finfo(float).tiny


def phase_bias(truth: Image, image: Image, scale: int, border: int = 0) -> float:
    """Return the standard deviation of the mean error over the ``scale²`` phases of a pixel.

    Pixels whose row and column leave the same remainders form a phase. A checkerboard that is the same all over a plane
    is a phase that is brighter on the mean than another; what is random within a phase averages out. `checkerboard`
    says how far a pattern stands out of what is around it in the spectrum, this how strong it is, even in a plane
    that has nothing else.

    Parameters
    ----------
    scale : int
        At least 1.
    border : int
        Pixels left out on each side.

    Returns
    -------
    float
        In units of the full scale.
    """
    truth, image = _shaved(truth, image, border)
    error = image.astype(np.float64) - truth
    means = [error[i::scale, j::scale].mean() for i in range(scale) for j in range(scale)]
    return float(np.std(means))
