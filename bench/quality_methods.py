"""What networks are compared with: bicubic enlargement, and the filters of scikit-image, each at its best setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.network import Description
from fastdeconv.imaging.resize import resize

Image = NDArray[np.float32]

_MARGIN = 16  # of mirrored pixels, against the seams of methods that take a plane for periodic or black beyond


@dataclass(frozen=True)
class Method:
    """What makes a plane from its input.

    Attributes
    ----------
    name : str
    apply : callable
        Of the input and a setting.
    setting : str
        What the settings are called.
    settings : tuple of float
        Those to choose from; one where there is nothing to choose.
    """

    name: str
    apply: Callable[[Image, float], Image]
    setting: str = ""
    settings: tuple[float, ...] = (0.0,)


def baselines(description: Description) -> tuple[Method, ...]:
    """Return what a network of this description is to be compared with; gain is measured over the first."""
    if description.scale > 1:
        return (Method("bicubic", lambda x, _: _enlarged(x, description.scale)),)
    spoiled = Method("input", lambda x, _: x)
    degradation = description.degradation
    if degradation is None:
        return (spoiled,)
    if degradation.jpeg:
        return (spoiled, *_SMOOTHING)
    if degradation.blur[1]:
        return (spoiled, *_deblurring(sum(degradation.blur) / 2))
    return (spoiled, *_SMOOTHING)


def _enlarged(x: Image, scale: int) -> Image:
    return resize(x, (scale * x.shape[0], scale * x.shape[1]))


def _deblurring(sigma: float) -> tuple[Method, Method]:
    """Return the filters that are told the blur."""
    from skimage.restoration import richardson_lucy, wiener

    radius = int(np.ceil(4 * sigma))
    row = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    psf = (np.outer(row, row) / row.sum() ** 2).astype(np.float32)

    def by_wiener(x: Image, balance: float) -> Image:
        return _inside(wiener(_mirrored(x), psf, balance, clip=False))

    def by_richardson_lucy(x: Image, iterations: float) -> Image:
        # It takes what it is given for counts of light, which are not below zero.
        return _inside(richardson_lucy(np.maximum(_mirrored(x), 0), psf, int(iterations), clip=False))

    return (
        Method("Wiener", by_wiener, "balance", (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032)),
        Method("Richardson–Lucy", by_richardson_lucy, "iterations", (6, 10, 16, 25, 40, 60)),
    )


def _by_total_variation(x: Image, weight: float) -> Image:
    from skimage.restoration import denoise_tv_chambolle

    return np.asarray(denoise_tv_chambolle(x, weight, max_num_iter=60), np.float32)


def _by_non_local_means(x: Image, strength: float) -> Image:
    from skimage.restoration import denoise_nl_means

    return np.asarray(denoise_nl_means(x, 5, 6, h=strength, fast_mode=True), np.float32)


_SMOOTHING = (
    Method("total variation", _by_total_variation, "weight", (0.005, 0.01, 0.02, 0.03)),
    Method("non-local means", _by_non_local_means, "strength", (0.005, 0.01, 0.02, 0.03)),
)


def _mirrored(x: Image) -> Image:
    return np.pad(x, _MARGIN, mode="symmetric")


def _inside(x: NDArray[np.floating]) -> Image:
    return np.asarray(x[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN], np.float32)
