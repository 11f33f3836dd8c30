"""The report's pictures, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fastdeconv.bench.results import OURS, Results, Row

_AHEAD, _BEHIND, _ROOF = "#2b7bba", "#d9822b", "#555555"
_MARKERS = "os^Dv*XPh"  # of peers, in turn
_FAR = 32  # ratios beyond are drawn here


def speed_up(results: Results, dtype: str) -> bytes:
    """Draw, for each layer and pass, how many times as long as ours the best peer took, and each peer; as PNG."""
    groups = {pass_: rows for (kind, pass_), rows in results.groups().items() if kind == dtype}
    names = list(dict.fromkeys(row.layer for rows in groups.values() for row in rows))
    figure = Figure(figsize=(2 + 3.3 * len(groups), 1.8 + 0.24 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    peers = [peer for peer in results.peers if any(peer in row.times for rows in groups.values() for row in rows)]
    for panel, (pass_, rows) in zip(panels, groups.items()):
        _bars(panel, results, rows, names, peers)
        panel.set_title(pass_)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles) or 1, frameon=False)
    figure.suptitle(
        f"Peers' time over ours, {dtype}: right of 1 we are faster; bars to the best peer; {_FAR} or more at {_FAR}"
    )
    return _png(figure)


def _bars(panel: Any, results: Results, rows: list[Row], names: list[str], peers: list[str]) -> None:
    for row in rows:
        best = row.best_peer(results.peers)
        if best is not None:
            ratio = min(_FAR, row.ratio(best))
            panel.barh(names.index(row.layer), ratio - 1, left=1, color=_AHEAD if ratio >= 1 else _BEHIND, height=0.7)
    for peer, marker in zip(peers, _MARKERS):
        timed = [row for row in rows if peer in row.times]
        panel.scatter(
            [min(_FAR, row.ratio(peer)) for row in timed], [names.index(row.layer) for row in timed],
            s=14, marker=marker, facecolors="white", edgecolors="black", linewidths=0.7, zorder=3, label=peer,
        )  # fmt: skip
    panel.axvline(1, color="black", linewidth=0.8)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)


def roofline(results: Results, dtype: str) -> bytes:
    """Draw the operations a second that each layer reaches over its operations a byte, under the machine's limits."""
    groups = {
        pass_: [row for row in rows if OURS in row.times]
        for (kind, pass_), rows in results.groups().items()
        if kind == dtype
    }
    figure = Figure(figsize=(4.2 * len(groups), 4.4), layout="constrained")
    panels = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    peak, copy = results.limits.flops[dtype], results.limits.bytes
    for panel, (pass_, rows) in zip(panels, groups.items()):
        intensity = [row.flops / row.bytes for row in rows]
        ends = (min([*intensity, peak / copy]) / 2, max([*intensity, peak / copy]) * 2)
        corners = [ends[0], peak / copy, ends[1]]
        panel.plot(corners, [min(peak, copy * x) / 1e9 for x in corners], color=_ROOF)
        panel.scatter(intensity, [row.flops / row.times[OURS].median / 1e9 for row in rows], s=18, color=_AHEAD)
        for row, x in zip(rows, intensity):
            if results.limits.share(row) < 0.25:
                at = (x, row.flops / row.times[OURS].median / 1e9)
                panel.annotate(row.layer, at, (3, 3), textcoords="offset points", fontsize=6, color=_ROOF)
        panel.set(xscale="log", yscale="log", title=pass_, xlabel="operations a byte")
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].set_ylabel("GFLOP/s")
    figure.suptitle(f"Roofline, {dtype}: {peak / 1e9:.0f} GFLOP/s, {copy / 1e9:.1f} GB/s; named: below a quarter of it")
    return _png(figure)


PICTURES: dict[str, Callable[[Results, str], bytes]] = {"speed-up": speed_up, "roofline": roofline}


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
