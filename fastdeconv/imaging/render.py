"""Pages through a network, a region at a time, with what belongs to images: colours, alpha, element types."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.colour import STUDIO_BLACK, STUDIO_RANGE, STUDIO_WEIGHTS
from fastdeconv.imaging.inference import Body, applied, body
from fastdeconv.imaging.network import Network
from fastdeconv.imaging.pixels import Page, Region
from fastdeconv.imaging.resize import REACH, enlarge_inside
from fastdeconv.imaging.stored import Pages, luma
from fastdeconv.imaging.tiles import Tile, enlarged, regions
from fastdeconv.kernels.cpu.chain import Chain, Layer

Array = NDArray[Any]
Image = NDArray[np.float32]

# Alpha below which a pixel shows nothing, so that its colour cannot be told from what it shows.
_INVISIBLE = 1e-4
# Alpha above which there is no more, to rounding.
_OPAQUE = 1 - 1e-6


def rendered(
    pages: Pages, network: Network, tile: Tile = "auto", device: str | None = None, limits: bool = True
) -> Array:
    """Return what becomes of an image; `device` computes what the network adds, the CPU the rest.

    `limits` is that of `inference.body`.
    """
    scale = network.description.scale
    adding = body(network, device, pages.size, limits)
    result = pages.enlarged(scale)
    for source, target in zip(pages, result):
        translucent = pages.colours < pages.channels and not _opaque(source)
        for region in regions(source.shape[1], source.shape[2], scale, tile):
            if translucent:
                _render_translucent(source, target, region, adding, pages.colours)
            else:
                _render(source, target, region, adding, pages.colours)
    return result.array


def gain(colours: int) -> float:
    """Return what each channel gets of a change of luminance."""
    return 1.0 if colours == 1 else 1 / STUDIO_RANGE


def _render(source: Page, target: Page, region: Region, adding: Body, colours: int) -> None:
    to, scale = region.scaled(adding.scale), adding.scale
    extra = adding.add(luma(source, region.grown(adding.radius), colours))
    for channel in range(colours):
        target.store(to, channel, enlarged(source, region, channel, scale), extra, gain(colours))
    if colours < source.shape[0]:  # opaque all over
        target.store(to, colours, np.ones(to.shape, np.float32))


def _opaque(page: Page) -> bool:
    channels, height, width = page.shape
    rows = max(1, (1 << 22) // width)
    return all(
        page.load(Region(top, min(height, top + rows), 0, width), channels - 1).min() > _OPAQUE
        for top in range(0, height, rows)
    )


def _render_translucent(source: Page, target: Page, region: Region, adding: Body, colours: int) -> None:
    """Do what `_render` does where alpha matters.

    Transparent pixels hold any colours, black more often than not. So colours are enlarged times alpha, and divided by
    the enlarged alpha. The network, which is not linear, sees transparent pixels as the visible ones around them.
    """
    to, scale = region.scaled(adding.scale), adding.scale
    alpha = enlarged(source, region, colours, scale)
    extra = adding.add(_filled_luma(source, region.grown(adding.radius), adding.radius, colours))
    visible = alpha > _INVISIBLE
    for channel in range(colours):
        plane = enlarged(source, region, channel, scale)
        if scale > 1:
            near = region.grown(REACH)
            weighed = enlarge_inside(source.load(near, channel) * source.load(near, colours), scale)
            np.divide(weighed, alpha, out=plane, where=visible)
        target.store(to, channel, plane, extra, gain(colours))
    target.store(to, colours, alpha.clip(0, 1))


def _filled_luma(source: Page, region: Region, radius: int, colours: int) -> Image:
    """Return the luminance of a region, where transparent pixels have a mean of the visible ones around, most of near.

    Those count that a visible pixel's network sees, and as enlarged pixels are visible a little beyond, those too.
    """
    reach = radius + REACH
    wide = region.grown(reach)
    plane, alpha = luma(source, wide, colours), source.load(wide, colours)
    weight = applied(_means(reach), alpha)
    grey = 0.5 if colours == 1 else STUDIO_BLACK + sum(STUDIO_WEIGHTS) / 2  # where none is visible
    mean = np.full_like(weight, grey)
    np.divide(applied(_means(reach), plane * alpha), weight, out=mean, where=weight > 0)
    inside = np.s_[reach:-reach, reach:-reach]
    filled: Image = np.where(alpha[inside] > 0, plane[inside], mean)
    return filled


@cache
def _means(reach: int) -> Chain:
    """Return the weighted mean of a square around each pixel as a kernel."""
    row = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (reach / 3)) ** 2)
    kernel = (np.outer(row, row) / row.sum() ** 2).astype(np.float32)
    return Chain([Layer(kernel[None, None], np.zeros(1, np.float32), np.ones(1, np.float32))], 1)
