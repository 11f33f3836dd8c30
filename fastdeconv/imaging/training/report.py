"""The report of a training run: one page with its pictures inside, or the pictures alone as PNG."""

from __future__ import annotations

import base64
import html
import io
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.fit import History
from fastdeconv.imaging.figure import busiest
from fastdeconv.imaging.training.measures import Measures, mean
from fastdeconv.imaging.training.trainer import Trained

Image = NDArray[np.float32]
Table = Mapping[str, tuple[Measures, Measures]]  # by picture: of the baseline, and of the network

CROP = 96  # side of the crops shown, in pixels of the truth
SHOWN = 4  # pictures of which a crop is shown

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } tr.mean { font-weight: bold } img { max-width: 100% }
dt { float: left; clear: left; width: 11rem; color: #666 } dd { margin-left: 11rem }
"""


def page(trained: Trained, table: Table, baseline: str, facts: Mapping[str, str], skipped: list[str]) -> bytes:
    """Return the report as HTML that needs no other file.

    Parameters
    ----------
    table : mapping from name to (Measures, Measures)
    baseline : str
        The name of what the network is compared with.
    facts : mapping of str to str
        What was done with which settings.
    skipped : list of str
        A line for each file that could not be used.
    """
    description = trained.network.description
    what = f"{description.scale}× enlargement" if description.scale > 1 else "restoration"
    title = f"Training of {what}"
    parts = [
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>',
        f"<h1>{title}</h1>",
        "<dl>" + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items()) + "</dl>",
        "<h2>On pictures that it did not learn from</h2>",
        _table(table, baseline),
        "<h2>Details of them</h2>",
        _embedded(crops(trained, table, baseline), "crops of pictures, before and after"),
        "<h2>How it learned</h2>",
        _embedded(curves(trained.history), "loss, PSNR and learning rate over the steps"),
    ]
    if skipped:
        parts.append("<h2>Files left out</h2><ul>" + "".join(f"<li>{html.escape(s)}</li>" for s in skipped) + "</ul>")
    return "\n".join([*parts, "</html>\n"]).encode()


def picture(trained: Trained, table: Table, baseline: str) -> bytes:
    """Return the crops and, below them, the curves as one PNG."""
    from PIL import Image as Pillow

    parts = [Pillow.open(io.BytesIO(png)) for png in (crops(trained, table, baseline), curves(trained.history))]
    sheet = Pillow.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def text_table(table: Table, baseline: str) -> str:
    """Return the table for a terminal."""
    rows = [*table.items(), ("mean", _means(table))]
    width = max(len(name) for name, _ in [*rows, ("picture", None)])
    head = f"{'picture':<{width}}{baseline:>10}{'network':>10}{'gain':>8}{'SSIM':>16}{'detail':>9}{'overshoot':>18}"
    lines = [head]
    for name, (before, after) in rows:
        lines.append(
            f"{name:<{width}}{before.psnr:10.2f}{after.psnr:10.2f}{after.psnr - before.psnr:+8.2f}"
            f"{before.ssim:8.4f}{after.ssim:8.4f}{after.detail_psnr - before.detail_psnr:+9.2f}"
            f"{before.overshoot:9.3f}{after.overshoot:9.3f}"
        )
    return "\n".join(lines)


def _means(table: Table) -> tuple[Measures, Measures]:
    return mean({n: m[0] for n, m in table.items()}), mean({n: m[1] for n, m in table.items()})


def _table(table: Table, baseline: str) -> str:
    columns = {
        "PSNR in dB": ("psnr", ".2f"),
        "SSIM": ("ssim", ".4f"),
        "PSNR of the steepest tenth": ("detail_psnr", ".2f"),
        "overshoot in % of edges": ("overshoot", ".3f"),
        "checkerboard in dB": ("checkerboard", ".1f"),
    }
    first = next(iter(table.values()))[1]
    if math.isnan(first.checkerboard):
        del columns["checkerboard in dB"]
    head = "".join(f'<th colspan="2">{title}</th>' for title in columns)
    methods = "".join(f"<th>{html.escape(baseline)}</th><th>network</th>" for _ in columns)
    lines = [f"<table><tr><th></th>{head}<th>gain</th></tr><tr><th></th>{methods}<th>dB</th></tr>"]
    for name, pair in [*table.items(), ("mean", _means(table))]:
        cells = "".join(f"<td>{format(getattr(m, key), form)}</td>" for key, form in columns.values() for m in pair)
        kind = ' class="mean"' if name == "mean" else ""
        lines.append(f"<tr{kind}><td>{html.escape(name)}</td>{cells}<td>{pair[1].psnr - pair[0].psnr:+.2f}</td></tr>")
    return "".join([*lines, "</table>"])


def crops(trained: Trained, table: Table, baseline: str) -> bytes:
    """Return as PNG the busiest square of some pictures: the input, the baseline, the network's result, the truth."""
    from matplotlib.figure import Figure

    scale = trained.network.description.scale
    shown = list(trained.results.items())[:SHOWN]
    titles = ["input", baseline, "network", "truth"] if scale > 1 else ["input", "network", "truth"]
    figure = Figure(figsize=(2.6 * len(titles), 2.95 * len(shown)), dpi=100, layout="constrained")
    for (name, (x, before, after, truth)), axes in zip(shown, figure.subplots(len(shown), len(titles), squeeze=False)):
        side = min(CROP, *truth.shape)
        i, j = (scale * (start // scale) for start in busiest(truth, side))
        square = np.s_[i : i + side, j : j + side]
        small = x[i // scale : (i + side) // scale, j // scale : (j + side) // scale]
        planes = [small, *([before[square]] if scale > 1 else []), after[square], truth[square]]
        scores = {baseline: table[name][0].psnr, "network": table[name][1].psnr}
        if scale == 1:
            scores["input"] = table[name][0].psnr
        for title, plane, ax in zip(titles, planes, axes):
            ax.imshow(plane, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_title(title, fontsize=9)
            caption = f"{scores[title]:.2f} dB" if title in scores else name if title == "truth" else ""
            ax.set_xlabel(caption, fontsize=8, parse_math=False)
            ax.set_xticks([])
            ax.set_yticks([])
    return _png(figure)


def curves(history: History) -> bytes:
    """Return the curves of a run as PNG."""
    return _png(history.plot())


def _png(figure: Any) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A file's name may have letters that the font lacks.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _embedded(png: bytes, what: str) -> str:
    return f'<img alt="{what}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
