"""Luminance: the one plane that is enlarged and restored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Of red, green and blue in luma, and of black, in units of the full scale: MATLAB's rgb2ycbcr.
STUDIO_WEIGHTS = (65.481 / 255, 128.553 / 255, 24.966 / 255)
STUDIO_BLACK = 16 / 255
# By how much luma differs between black and white.
STUDIO_RANGE = 219 / 255


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
    return image @ np.array(STUDIO_WEIGHTS, image.dtype) + np.float32(STUDIO_BLACK)
