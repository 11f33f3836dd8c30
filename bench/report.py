"""The page of figures, generated from a run's JSON file: Markdown, and the pictures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fastdeconv.bench.contenders import PEERS
from fastdeconv.bench.markdown import table
from fastdeconv.bench.plots import PICTURES
from fastdeconv.bench.results import OURS, Results, Row
from fastdeconv.bench.sections import SECTIONS
from fastdeconv.bench.table import means, notes, section_cells, spread
from fastdeconv.tuning import milliseconds

_IMAGES = "images"


class _Kind(NamedTuple):
    """What a page says of runs of one kind."""

    page: str
    peers: tuple[str, ...]
    titles: dict[str, str]  # of sections
    method: str


def _kind(results: Results) -> _Kind:
    if "gpu" not in results.machine:
        titles = {name: section.title for name, section in SECTIONS.items()}
        return _Kind("benchmarks.md", tuple(peer.name for peer in PEERS), titles, _METHOD)
    from fastdeconv.bench.gpu import contenders, sections
    from fastdeconv.bench.gpu.method import METHOD

    peers = tuple(kind.name for kind in contenders.CONTENDERS if kind.is_peer)
    return _Kind("benchmarks-gpu.md", peers, sections.TITLES, METHOD)


def write(results: Results, output: Path) -> list[Path]:
    """Write the page and its pictures (into ``images`` beside it) and return the files."""
    folder = output.parent / _IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, list[Path]] = {}
    for dtype in dict.fromkeys(row.dtype for row in results.rows):
        pictures[dtype] = []
        for name, draw in PICTURES.items():
            path = folder / f"{output.stem}-{name}-{dtype}.png"
            path.write_bytes(draw(results, dtype))
            pictures[dtype].append(path)
    output.write_text(page(results, pictures), encoding="utf-8")
    return [output, *(path for paths in pictures.values() for path in paths)]


def page(results: Results, pictures: dict[str, list[Path]] | None = None) -> str:
    """Return the page as Markdown."""
    kind = _kind(results)
    parts = [_head(results, kind), kind.method.format(threads=results.threads, rounds=results.rounds)]
    shown: set[str] = set()
    for (dtype, pass_), rows in results.groups().items():
        if dtype not in shown:
            shown.add(dtype)
            parts.append(f"## {dtype}")
            parts += [f"![{path.stem}]({_IMAGES}/{path.name})" for path in (pictures or {}).get(dtype, [])]
        parts.append(f"### {pass_}, {dtype}")
        parts.append(_rows(results, rows))
        if summary := means(results, rows):
            parts.append(f"{summary[0].upper()}{summary[1:]}.")
        if reasons := notes(rows):
            parts.append("\n".join(f"- {reason}" for reason in reasons))
    for name, section_rows in results.sections.items():
        if section_rows:
            head, *body = section_cells(section_rows)
            parts += [f"## {kind.titles[name]}", table(head, body)]
    parts += ["## Layers", _layers(results)]
    return "\n\n".join(parts) + "\n"


def _head(results: Results, kind: _Kind) -> str:
    lines = [
        "# Benchmarks",
        "",
        f"Generated from the figures of one run, {results.date}. Do not edit: run it again.",
        "",
    ]
    absent = [name for name in kind.peers if name not in results.peers]
    if absent:
        reasons = "; ".join(f"{name} ({results.left_out.get(name, 'unknown to that run')})" for name in absent)
        lines += [
            f"**Incomplete: peers are missing, so these figures are not for publication.** Missing: {reasons}.",
            "",
        ]
    if results.not_run:
        lines += [f"**Incomplete: rows that the budget left no time for:** {', '.join(results.not_run)}.", ""]
    lines += ["```sh", results.command, f"fastdeconv bench report results.json -o docs/{kind.page}", "```", ""]
    peaks = ", ".join(f"{flops / 1e9:.0f} GFLOP/s in {dtype}" for dtype, flops in results.limits.flops.items())
    about = results.machine | {
        "limits": f"{peaks}; copy {results.limits.bytes / 1e9:.1f} GB/s, both measured in the run"
    }
    lines.append(table(["machine", ""], [[name, text] for name, text in about.items()]))
    lines.append("")
    conditions = {name: (results.versions.get(name, ""), text) for name, text in results.contenders.items()}
    lines.append(table(["contender", "version", "conditions"], [[n, *c] for n, c in conditions.items()]))
    others = {name: version for name, version in results.versions.items() if name not in results.contenders}
    lines += ["", f"With {', '.join(f'{name} {version}' for name, version in others.items())}."]
    return "\n".join(lines)


_METHOD = """\
## How it was measured

- All in one process with {threads} threads each, one after the other in each of up to {rounds} rounds; slow calls get
  fewer.
- Before each measurement the process waits until it uses no processor time, so that no library's spinning threads
  disturb the next; calls that do not count then wake the library's own.
- Times are medians in milliseconds; ours with the 20th and 80th percentile. The JSON file has all of them.
- Every contender has its operands in its own layout beforehand, and allocates its result in every call.
- Nothing is timed before its result is right: ours by the definition in float64 on drawn elements and all corners,
  within 16·eps·Σ|products|; peers' on every element against ours.
- **×** is the best peer's median over ours with channels first: above 1 we are faster. **either** is that over our
  median with channels first or last, whichever is lower, as it is the better layout of peers, too. **roof** is the
  least time of the direct method on this machine, max(operations / peak, bytes / copy speed), over our median with
  channels first. Layers that fit into a cache, and kernels that need fewer multiplications, may pass 100 %.
- A step is the forward pass, both gradients and w − α·∂w.
- A peer whose call would take more than a few seconds, judged by a piece of the layer, is left out with a line."""


def _rows(results: Results, rows: list[Row]) -> str:
    others = [name for name in results.contenders if name != OURS]
    body = []
    for row in rows:
        if row.error is not None:
            body.append([row.layer, row.kernel, f"wrong: {row.error}", *("" for _ in others), "", "", ""])
            continue
        best = row.best_peer(results.peers)
        cells = [row.layer, row.kernel, spread(row.times[OURS])]
        cells += [milliseconds(row.times[name].median) if name in row.times else "–" for name in others]
        cells += ["–" if best is None else f"{row.ratio(best, way):.2f}" for way in (False, True)]
        cells.append(f"{results.limits.share(row):.0%}")
        body.append(cells)
    return table(["layer", "kernel", OURS, *others, "×", "either", "roof"], body)


def _layers(results: Results) -> str:
    rows = {row.layer: row for row in reversed(results.rows)}
    return table(
        ["layer", "from", "problem"],
        [[row.layer, row.source, f"`{row.problem}`"] for row in reversed(list(rows.values()))],
    )
