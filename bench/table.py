"""The figures as lines of a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from fastdeconv.bench.results import OURS, Results, Row, geometric_mean
from fastdeconv.bench.timing import Times
from fastdeconv.tuning import milliseconds

LEGEND = (
    "×: the best peer's median over ours, either: over that of our better layout. roof: the least time the direct "
    "method needs on this machine, over ours."
)
_LAYER, _KERNEL, _OURS, _LEAST = 21, 23, 24, 10


def spread(times: Times) -> str:
    """Return a median with the range that three fifths of the rounds lie in."""
    return f"{milliseconds(times.median)} ({milliseconds(times.p20)}–{milliseconds(times.p80)})"


def header(results: Results) -> str:
    """Return what was measured, where and how."""
    lines = [
        about(results),
        f"Medians in milliseconds of up to {results.rounds} interleaved rounds, {results.threads} threads; "
        "ours with p20–p80. Every contender allocates its result.",
        LEGEND,
    ]
    return "\n".join(lines)


def about(results: Results) -> str:
    """Return what was measured, and where."""
    limits = results.limits
    peaks = ", ".join(f"{flops / 1e9:.0f} GFLOP/s {dtype}" for dtype, flops in limits.flops.items())
    lines = [
        *(f"{name:12}{text}" for name, text in results.machine.items()),
        f"{'versions':12}{', '.join(f'{name} {version}' for name, version in results.versions.items())}",
        f"{'limits':12}{peaks}, copy {limits.bytes / 1e9:.1f} GB/s",
        *(f"{name:11} left out: {reason}" for name, reason in results.left_out.items()),
    ]
    return "\n".join(lines)


def heading(results: Results, dtype: str, pass_: str) -> str:
    """Return the title of a pass and the names of the columns."""
    names = "".join(f"{name:>{_width(name)}}" for name in _others(results))
    ratios = f"{'×':>7}{'either':>8}{'roof':>6}"
    return f"\n{pass_}, {dtype}\n{'layer':{_LAYER}}{'kernel':{_KERNEL}}{OURS:>{_OURS}}{names}{ratios}"


def line(results: Results, row: Row) -> str:
    """Return a row."""
    start = f"{row.layer:{_LAYER}}{row.kernel:{_KERNEL}}"
    if row.error is not None:
        return f"{start} WRONG, not timed: {row.error}; {row.pass_} {row.problem}"
    others = "".join(
        f"{milliseconds(row.times[name].median) if name in row.times else '–':>{_width(name)}}"
        for name in _others(results)
    )
    best = row.best_peer(results.peers)
    ratio, either = ("–" if best is None else f"{row.ratio(best, way):.2f}" for way in (False, True))
    return f"{start}{spread(row.times[OURS]):>{_OURS}}{others}{ratio:>7}{either:>8}{results.limits.share(row):>6.0%}"


def notes(rows: Iterable[Row]) -> list[str]:
    """Return why contenders have no time, each reason with the layers it holds for."""
    layers: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row.notes.items():
            layers.setdefault((name, reason), []).append(row.layer)
    return [f"{name}: {reason} [{', '.join(dict.fromkeys(found))}]" for (name, reason), found in layers.items()]


def means(results: Results, rows: list[Row]) -> str:
    """Return how the peers compare over all rows of a pass: best peer first, then each."""
    best, either = results.ratios(rows), results.ratios(rows, either_layout=True)
    if not best:
        return ""

    def told(ratios: list[float]) -> str:
        ahead = sum(ratio >= 1 for ratio in ratios)
        return f"ahead on {ahead} of {len(ratios)}, lowest {min(ratios):.2f}"

    parts = [f"best peer {geometric_mean(best):.2f} times ours (geometric mean), {told(best)}"]
    if either != best:
        parts.append(f"{geometric_mean(either):.2f} times that of our better layout, {told(either)}")
    each = {peer: results.ratios(rows, peer) for peer in results.peers}
    parts += [f"{peer} {geometric_mean(ratios):.2f}" for peer, ratios in each.items() if ratios]
    return "; ".join(parts)


def section(title: str, rows: list[dict[str, object]]) -> str:
    """Return a section's rows in columns as wide as they need."""
    cells = section_cells(rows)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    body = ["  ".join(f"{text:<{width}}" for text, width in zip(line, widths)).rstrip() for line in cells]
    return "\n".join([f"\n{title}", *body])


def section_cells(rows: list[dict[str, object]]) -> list[list[str]]:
    """Return a section's rows as text, the names of the columns first."""
    return [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)


def _others(results: Results) -> list[str]:
    return [name for name in results.contenders if name != OURS]


def _width(name: str) -> int:
    return max(_LEAST, len(name) + 1)
