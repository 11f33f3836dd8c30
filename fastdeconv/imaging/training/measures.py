"""How good a trained network is, beside bicubic enlargement or the spoiled input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.metrics import checkerboard, detail_psnr, overshoot, psnr, ssim

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Measures:
    """One picture by one method.

    Attributes
    ----------
    psnr, detail_psnr : float
        In dB: of all pixels, and of the tenth with the steepest gradients.
    ssim : float
    overshoot : float
        On the mean beside edges, in percent of their height.
    checkerboard : float
        In dB over the spectrum beside; NaN where nothing is enlarged or the picture is too small.
    """

    psnr: float
    ssim: float
    detail_psnr: float
    overshoot: float
    checkerboard: float


def measure(truth: Image, image: Image, border: int, scale: int) -> Measures:
    """Measure a plane against the truth."""
    fits = scale > 1 and min(truth.shape) >= 48 + 2 * border
    return Measures(
        psnr=psnr(truth, image, border),
        ssim=ssim(truth, image, border),
        detail_psnr=detail_psnr(truth, image, border),
        overshoot=100 * overshoot(truth, image, border, reach=max(4, 2 * scale)).mean,
        checkerboard=checkerboard(image, scale, border) if fits else np.nan,
    )


def mean(measures: Mapping[str, Measures]) -> Measures:
    """Return the means over pictures."""
    names = [f.name for f in fields(Measures)]
    return Measures(**{name: float(np.mean([getattr(m, name) for m in measures.values()])) for name in names})
