"""The demo's picture: crops side by side, the loss as it fell, and the learned kernels. Drawn without a display."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Panel:
    """One crop and what is written under it."""

    title: str
    caption: str
    image: Image


@dataclass(frozen=True)
class Learned:
    """A learned kernel, and the loss at each step with the least-squares limit."""

    kernel: Image
    history: NDArray[np.float64]
    limit: float


@dataclass(frozen=True)
class Row:
    """One task: its crops, and what was learned for it, if something was."""

    title: str
    panels: tuple[Panel, ...]
    learned: Learned | None = None


def busiest(image: Image, side: int) -> tuple[int, int]:
    """Return the first row and column of the square with the most detail: the greatest sum of differences."""
    detail = np.abs(np.diff(image, axis=0, append=image[-1:])) + np.abs(np.diff(image, axis=1, append=image[:, -1:]))
    total = np.pad(detail.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    i, j = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(i), int(j)


def draw(rows: list[Row]) -> bytes:
    """Return the picture as PNG: the tasks one below the other, and beside each other where they are short."""
    columns = max(map(_columns, rows))
    bands = _bands(rows, columns)
    figure = Figure(figsize=(2.15 * columns, 2.75 * len(bands)), dpi=100, layout="constrained")
    for band, part in zip(bands, figure.subfigures(len(bands), 1, squeeze=False)[:, 0]):
        widths = [_columns(row) for row in band]
        if sum(widths) < columns:
            widths.append(columns - sum(widths))
        for row, place in zip(band, part.subfigures(1, len(widths), squeeze=False, width_ratios=widths)[0]):
            _draw_row(place, row)
    return _png(figure)


def sheet(title: str, rows: Sequence[tuple[Panel, ...]]) -> bytes:
    """Return crops side by side as PNG, in rows of as many each."""
    columns = len(rows[0])
    figure = Figure(figsize=(2.6 * columns, 2.95 * len(rows) + 0.3), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left", parse_math=False)
    for row, axes in zip(rows, figure.subplots(len(rows), columns, squeeze=False)):
        for panel, ax in zip(row, axes):
            _show(ax, panel)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    with warnings.catch_warnings():
        # A file's name may have letters that the font lacks.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _columns(row: Row) -> int:
    return len(row.panels) + (0 if row.learned is None else 2)


def _bands(rows: list[Row], columns: int) -> list[list[Row]]:
    """Return the rows in order, as many in each band as it has columns for."""
    bands: list[list[Row]] = [[]]
    for row in rows:
        if sum(map(_columns, [*bands[-1], row])) > columns:
            bands.append([])
        bands[-1].append(row)
    return bands


def _draw_row(place: SubFigure, row: Row) -> None:
    place.suptitle(row.title, fontsize=10, fontweight="bold", x=0.01, ha="left", parse_math=False)
    widths = [1] * len(row.panels) + ([] if row.learned is None else [1, 1.15])
    axes = place.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for panel, ax in zip(row.panels, axes):
        _show(ax, panel)
    if row.learned is not None:
        _draw_kernel(axes[-2], row.learned.kernel)
        _draw_loss(axes[-1], row.learned)


def _show(ax: Axes, panel: Panel) -> None:
    ax.imshow(panel.image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _label(ax, panel.title, panel.caption)


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


def _draw_loss(ax: Axes, learned: Learned) -> None:
    ax.semilogy(learned.history, label="gradient descent", linewidth=1.2)
    ax.axhline(learned.limit, color="black", linestyle=":", linewidth=1, label="least squares")
    ax.set_title("training loss", fontsize=9)
    ax.set_xlabel("step", fontsize=8)
    ax.tick_params(labelsize=7, which="both")
    ax.legend(fontsize=7, frameon=False)
