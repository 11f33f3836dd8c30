"""Channels rearranged to pixels."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastdeconv.arrays import new, operand
from fastdeconv.nn.module import Module
from fastdeconv.problem import as_int

Array = NDArray[Any]


class PixelShuffle(Module):
    """(…, C·r², H, W) to (…, C, H·r, W·r): every r² channels become an image r times as large.

    Parameters
    ----------
    upscale_factor : int
        r, at least 1.

    References
    ----------
    Shi et al., Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural
    network, CVPR 2016.
    """

    _fresh = True

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = as_int("upscale_factor", upscale_factor)
        if self.upscale_factor < 1:
            raise ValueError(f"upscale_factor must be at least 1; got {upscale_factor}")

    def _forward(self, x: Array, own: bool) -> Array:
        r, array = self.upscale_factor, operand("x", x)
        if array.ndim < 3 or array.shape[-3] % (r * r):
            raise ValueError(
                f"x of PixelShuffle must have shape (…, C, H, W) with a multiple of {r * r} channels; got {array.shape}"
            )
        *lead, channels, height, width = array.shape
        y = new((*lead, channels // (r * r), height * r, width * r), array)
        apart, together = self._views(array.shape, array, y)
        together[...] = apart
        self._keep(y, array.shape)
        return y

    def _backward(self, grad_output: Array, own: bool) -> Array | None:
        gy, shape = self._take(grad_output)
        if not self.needs_input_grad:
            return None
        gx = new(shape, gy)
        apart, together = self._views(shape, gx, gy)
        apart[...] = together
        return gx

    def _views(self, shape: tuple[int, ...], apart: Array, together: Array) -> tuple[Array, Array]:
        """Return both arrays with axes (images, channel, row, row of r, column, column of r)."""
        r = self.upscale_factor
        *_, channels, height, width = shape
        deep = apart.reshape(-1, channels // (r * r), r, r, height, width).transpose(0, 1, 4, 2, 5, 3)
        return deep, together.reshape(-1, channels // (r * r), height, r, width, r)

    def _arguments(self) -> str:
        return f"upscale_factor={self.upscale_factor}"
