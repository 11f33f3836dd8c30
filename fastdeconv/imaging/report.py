"""Scores of methods on photographs, as a table to read and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """PSNR in dB and SSIM of one picture by one method."""

    psnr: float
    ssim: float


Scores = Mapping[str, Mapping[str, Score]]  # by photograph, then by method


def mean_scores(scores: Scores, names: Iterable[str]) -> dict[str, Score]:
    """Return each method's mean over the photographs named."""
    rows = [scores[name] for name in names]
    return {
        method: Score(
            float(np.mean([row[method].psnr for row in rows])), float(np.mean([row[method].ssim for row in rows]))
        )
        for method in rows[0]
    }


def table(scores: Scores, names: Iterable[str], methods: tuple[str, ...]) -> str:
    """Return a table of the photographs named with their mean, then of any others.

    Parameters
    ----------
    methods : tuple of str
        The columns; the gain is the last method's PSNR less the first's.
    """
    names = tuple(names)
    rows = {name: scores[name] for name in names} | {"mean": mean_scores(scores, names)}
    rows |= {name: row for name, row in scores.items() if name not in names}
    label = max(map(len, (*rows, "photograph")))
    head = f"{'PSNR in dB':<{label}}" + "".join(f"{m:>9}" for m in methods) + f"{'gain':>8}"
    lines = [head + f"{'SSIM:':>8}" + "".join(f"{m:>9}" for m in methods)]
    for name, row in rows.items():
        gain = row[methods[-1]].psnr - row[methods[0]].psnr
        line = f"{name:<{label}}" + "".join(f"{row[m].psnr:9.2f}" for m in methods) + f"{gain:+8.2f}"
        lines.append(line + " " * 8 + "".join(f"{row[m].ssim:9.4f}" for m in methods))
    return "\n".join(lines)


def as_csv(scores: Mapping[str, Scores]) -> str:
    """Return the scores of all tasks as CSV: task, photograph, method, psnr, ssim."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("task", "photograph", "method", "psnr", "ssim"))
    for task, of_task in scores.items():
        for photograph, of_photograph in of_task.items():
            for method, score in of_photograph.items():
                writer.writerow((task, photograph, method, f"{score.psnr:.4f}", f"{score.ssim:.6f}"))
    return text.getvalue()
