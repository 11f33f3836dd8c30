"""Rough estimates of what spoiled a picture, from the picture alone: blur, noise, blocks of JPEG.

They choose among a few networks, and are not measurements:

- `noise` is told from the finest detail. Grain, grass and other fine texture counts as noise; compression and scaling
  after the noise came hide it.
- `blur` is told from the sharpest edges, for a picture whose blur is the same all over. One with a single sharp object
  before a soft background counts as sharp, one without edges gets no estimate that means anything, and strong noise
  makes edges look sharper than they are. Lenses and sensors blur too: 0.5 to 0.7 pixels are a sharp photograph.
- `blockiness` finds blocks of 8×8 pixels that begin at the picture's first pixel. Cropped or scaled pictures have them
  elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.inference import applied
from fastdeconv.kernels.cpu.chain import Chain, Layer

Image = NDArray[np.float32]

# Up to these a picture is left as it is. Clean photographs of scikit-image are estimated at 0.2 to 0.8 pixels and, but
# for grass and gravel, 0 to 3.3/255; their blocks at 0.97 to 1.08, those of JPEG of quality 40 at 1.23 and more.
SHARP = 0.9  # pixels
CLEAN = 3.5 / 255
BLOCKS_SHOW = 1.12
# What is taken for the quality of pictures whose blocks show: that they show says no more.
USUAL_QUALITY = 40

# Of a larger picture the middle is looked at.
_SIDE = 1536
# The blur that is added to see how much edges lose, in pixels; and the side of its kernel.
_ADDED, _TAPS = 1.0, 9
# Edges are the steepest pixels, one in so many; their sharpest part counts.
_EDGES, _SHARPEST = 50, 0.2
# A picture with no more contrast than this at its steepest pixels has no edges.
_FLAT = 1e-3
# Steps between pixels that are no more than rounding.
_ROUNDING = 0.25 / 255


def _middle(plane: Image) -> Image:
    # Blocks begin at multiples of 8.
    starts = [(n - min(n, _SIDE)) // 16 * 8 for n in plane.shape]
    return plane[starts[0] : starts[0] + _SIDE, starts[1] : starts[1] + _SIDE]


def noise(plane: Image) -> float:
    """Estimate the standard deviation of white noise by the median of the finest diagonal detail.

    Parameters
    ----------
    plane : ndarray of float32, shape (H, W)
        Luminance from 0 to 1.

    Returns
    -------
    float
        As a share of the full scale.

    References
    ----------
    Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 81 (1994), with Haar's wavelet.
    """
    p = _middle(plane)
    p = p[: len(p) // 2 * 2, : p.shape[1] // 2 * 2]
    if not p.size:
        return 0.0
    detail = (p[::2, ::2] - p[::2, 1::2] - p[1::2, ::2] + p[1::2, 1::2]) / 2
    return float(np.median(np.abs(detail)) / 0.6745)


def blur(plane: Image) -> float:
    """Estimate the standard deviation of a Gaussian blur from how much steeper edges are than after blurring once more.

    An edge that was blurred by σ has a slope as 1/σ; one more blur of σ₀ makes it 1/√(σ² + σ₀²).

    Parameters
    ----------
    plane : ndarray of float32, shape (H, W)
        Luminance from 0 to 1.

    Returns
    -------
    float
        In pixels; 0 for a picture without edges or too small to tell.

    References
    ----------
    Zhuo and Sim, Defocus map estimation from a single image, Pattern Recognition 44 (2011).
    """
    p = _middle(plane)
    if min(p.shape) < 2 * _TAPS:
        return 0.0
    inside = _TAPS // 2
    softer = applied(_gaussian(), np.ascontiguousarray(p))
    before, after = _slope(p[inside:-inside, inside:-inside]), _slope(softer)
    count = max(1, before.size // _EDGES)
    steepest = np.argpartition(before.ravel(), -count)[-count:]
    slopes = before.ravel()[steepest]
    if slopes.max() < _FLAT:
        return 0.0
    ratio = np.maximum(slopes / np.maximum(after.ravel()[steepest], 1e-6), 1.01)
    return float(np.quantile(_ADDED / np.sqrt(ratio**2 - 1), _SHARPEST))


def _gaussian() -> Chain:
    row = np.exp(-0.5 * ((np.arange(_TAPS) - _TAPS // 2) / _ADDED) ** 2)
    kernel = (np.outer(row, row) / row.sum() ** 2).astype(np.float32)
    return Chain([Layer(kernel[None, None], np.zeros(1, np.float32), np.ones(1, np.float32))], 1)


def _slope(p: Image) -> Image:
    across, down = p[1:-1, 2:] - p[1:-1, :-2], p[2:, 1:-1] - p[:-2, 1:-1]
    slope: Image = np.hypot(across, down)
    return slope


def blockiness(plane: Image) -> float:
    """Return how much larger differences between neighbours are across the borders of 8×8 blocks than elsewhere.

    Parameters
    ----------
    plane : ndarray of float32, shape (H, W)
        Luminance from 0 to 1, uncropped.

    Returns
    -------
    float
        Near 1 where no blocks show.
    """
    p = _middle(plane)
    ratios = []
    for rows in (p, p.T):
        if rows.shape[1] < 32:
            continue
        steps = np.abs(np.diff(rows, axis=1)).mean(axis=0)
        border = np.arange(len(steps)) % 8 == 7
        # Next to a border on both sides, so that a slope in the picture counts on both.
        near = np.roll(border, 1) | np.roll(border, -1)
        ratios.append(float((steps[border].mean() + _ROUNDING) / (steps[near].mean() + _ROUNDING)))
    return float(np.mean(ratios)) if ratios else 1.0
