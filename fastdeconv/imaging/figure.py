"""The demo's picture: crops side by side, the loss as it fell, and the learned kernels. Drawn without a display."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Panel:
    """One crop and what is written under it."""

    title: str
    caption: str
    image: Image


@dataclass(frozen=True)
class Row:
    """One task: its crops, its learned kernel, and the loss at each step with the least-squares limit."""

    title: str
    panels: tuple[Panel, ...]
    kernel: Image
    history: NDArray[np.float64]
    limit: float


def busiest(image: Image, side: int) -> tuple[int, int]:
    """Return the first row and column of the square with the most detail: the greatest sum of differences."""
    detail = np.abs(np.diff(image, axis=0, append=image[-1:])) + np.abs(np.diff(image, axis=1, append=image[:, -1:]))
    total = np.pad(detail.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    i, j = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(i), int(j)


def draw(rows: list[Row]) -> bytes:
    """Return the picture as PNG: a row for each task."""
    columns = max(len(row.panels) for row in rows) + 2
    figure = Figure(figsize=(2.15 * columns, 2.75 * len(rows)), dpi=100, layout="constrained")
    bands = figure.subfigures(len(rows), 1, squeeze=False)
    for row, band in zip(rows, bands[:, 0]):
        band.suptitle(row.title, fontsize=10, fontweight="bold", x=0.01, ha="left", parse_math=False)
        axes = band.subplots(1, columns, width_ratios=[1] * (columns - 1) + [1.15])
        for panel, ax in zip(row.panels, axes):
            ax.imshow(panel.image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            _label(ax, panel.title, panel.caption)
        _draw_kernel(axes[-2], row.kernel)
        _draw_loss(axes[-1], row)
    png = io.BytesIO()
    with warnings.catch_warnings():
        # A file's name may have letters that the font lacks.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _label(ax: Axes, title: str, caption: str) -> None:
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(caption, fontsize=8)
    ax.set_xticks([])
    ax.set_yticks([])


def _draw_kernel(ax: Axes, kernel: Image) -> None:
    # A small exponent shows the faint outer taps beside the strong middle.
    shown = np.sign(kernel) * np.sqrt(np.abs(kernel) / np.abs(kernel).max())
    ax.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    _label(ax, "learned kernel", f"{kernel.shape[0]}×{kernel.shape[1]} taps, root scale")


def _draw_loss(ax: Axes, row: Row) -> None:
    ax.semilogy(row.history, label="gradient descent", linewidth=1.2)
    ax.axhline(row.limit, color="black", linestyle=":", linewidth=1, label="least squares")
    ax.set_title("training loss", fontsize=9)
    ax.set_xlabel("step", fontsize=8)
    ax.tick_params(labelsize=7, which="both")
    ax.legend(fontsize=7, frameon=False)
