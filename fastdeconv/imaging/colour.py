"""Luminance: the one plane that is enlarged and restored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def luminance(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the luma of ITU-R BT.601, in studio range, as super-resolution is measured on; grey stays as it is.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, 3)
        Grey, or red, green and blue, from 0 to 1.

    Returns
    -------
    ndarray, shape (H, W)
        ``(16 + 65.481 R + 128.553 G + 24.966 B) / 255`` for colour: MATLAB's rgb2ycbcr.
    """
    if image.ndim == 2:
        return image
    weights = np.array([65.481, 128.553, 24.966], image.dtype) / np.float32(255)
    return image @ weights + np.float32(16 / 255)
