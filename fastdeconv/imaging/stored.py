"""Images as arrays hold them: which axis has the channels, which are pages, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.colour import STUDIO_BLACK, STUDIO_WEIGHTS
from fastdeconv.imaging.pixels import DTYPES, Page, Region
from fastdeconv.problem import as_int

Array = NDArray[Any]
Image = NDArray[np.float32]

# Elements of an array that are looked at together.
_PART = 1 << 22


@dataclass(frozen=True)
class Pages:
    """An image that was found to be one.

    Attributes
    ----------
    array : ndarray
        Contiguous.
    channel_axis : int or None
        Not negative.
    """

    array: Array
    channel_axis: int | None

    @property
    def channels(self) -> int:
        """1 to 4."""
        return 1 if self.channel_axis is None else int(self.array.shape[self.channel_axis])

    @property
    def colours(self) -> int:
        """Channels without alpha: 1 or 3."""
        return self.channels - (self.channels % 2 == 0)

    @property
    def _rows_and_columns(self) -> list[int]:
        return [axis for axis in range(self.array.ndim) if axis != self.channel_axis][-2:]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a page."""
        height, width = (self.array.shape[axis] for axis in self._rows_and_columns)
        return height, width

    def __iter__(self) -> Iterator[Page]:
        view = (
            self.array[..., None, :, :] if self.channel_axis is None else np.moveaxis(self.array, self.channel_axis, -3)
        )
        for index in np.ndindex(view.shape[:-3]):
            yield Page.of(self.array, view[index])

    def enlarged(self, scale: int) -> Pages:
        """Return uninitialised pages of so many times the size."""
        shape = list(self.array.shape)
        for axis in self._rows_and_columns:
            shape[axis] *= scale
        return Pages(np.empty(shape, self.array.dtype), self.channel_axis)


def as_pages(image: Any, channel_axis: int | None) -> Pages:
    """Return an image that is fit to be enlarged or restored.

    Raises
    ------
    TypeError, ValueError
        It is no array of such numbers, has another number of axes or channels, an empty axis, a NaN or infinity, or
        alpha beyond 0 and 1.
    """
    if not isinstance(image, np.ndarray) or isinstance(image, np.ma.MaskedArray):
        kind = type(image).__name__
        raise TypeError(f"image must be a NumPy array without a mask; got {kind}: convert it with numpy.asarray")
    if image.dtype.newbyteorder("=").name not in DTYPES:
        raise TypeError(f"image must be of {', '.join(DTYPES)}; got {image.dtype}: convert it with .astype")
    axis = None if channel_axis is None else as_int("channel_axis", channel_axis)
    needed = 2 if axis is None else 3
    if image.ndim < needed:
        raise ValueError(f"image must have at least {needed} axes{_with_channels(axis)}; got shape {image.shape}")
    if axis is not None:
        if not -image.ndim <= axis < image.ndim:
            raise ValueError(f"channel_axis must be an axis of the image of shape {image.shape}; got {axis}")
        axis %= image.ndim
        if not 1 <= image.shape[axis] <= 4:
            raise ValueError(
                "image must have 1 to 4 channels (grey, grey and alpha, RGB, RGB and alpha); "
                f"got {image.shape[axis]} on axis {axis} of shape {image.shape}"
            )
    elif image.ndim > 2 and image.shape[-1] <= 4:
        raise ValueError(f"image of shape {image.shape} seems to have channels on its last axis: pass channel_axis=-1")
    if not image.size:
        raise ValueError(f"image must have no empty axis; got shape {image.shape}")
    pages = Pages(np.ascontiguousarray(image, image.dtype.newbyteorder("=")), axis)
    if image.dtype.kind == "f":
        _check_values(pages)
    return pages


def _with_channels(axis: int | None) -> str:
    return "" if axis is None else ", with that of the channels"


def _check_values(pages: Pages) -> None:
    values = pages.array.reshape(-1)
    for start in range(0, values.size, _PART):
        if not np.isfinite(values[start : start + _PART]).all():
            raise ValueError("image must be finite; it has NaN or infinite values: numpy.nan_to_num replaces them")
    if pages.colours < pages.channels:
        assert pages.channel_axis is not None
        alpha = pages.array.take(pages.channels - 1, axis=pages.channel_axis)
        if alpha.min() < 0 or alpha.max() > 1:
            raise ValueError(f"image must have alpha from 0 to 1; got {alpha.min():g} to {alpha.max():g}")


def luma(page: Page, region: Region, colours: int) -> Image:
    """Return luminance over a region: grey as it is, of colours the luma of ITU-R BT.601 in studio range."""
    if colours == 1:
        return page.load(region)
    return page.load(region, 0, STUDIO_WEIGHTS, STUDIO_BLACK)


def luminances(image: Any, channel_axis: int | None) -> Iterator[Image]:
    """Yield the luminance of each page of an image; what is transparent counts as any other.

    Raises
    ------
    TypeError, ValueError
        As of `as_pages`.
    """
    pages = as_pages(image, channel_axis)
    for page in pages:
        yield luma(page, Region(0, page.shape[1], 0, page.shape[2]), pages.colours)
