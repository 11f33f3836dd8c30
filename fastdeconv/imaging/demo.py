"""The demo: learn to enlarge and to deblur on some photographs, and measure on others, in under a minute."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.colour import luminance
from fastdeconv.imaging.figure import Panel, Row, busiest, draw
from fastdeconv.imaging.files import check_output, read_image, write_file
from fastdeconv.imaging.learning import learn, least_squares, restore, training_loss, training_pairs, trimmed
from fastdeconv.imaging.metrics import psnr, ssim
from fastdeconv.imaging.photographs import HELD_OUT, TRAINING, photograph
from fastdeconv.imaging.report import Score, Scores, as_csv, mean_scores, table
from fastdeconv.imaging.tasks import TASKS, Task

Image = NDArray[np.float32]

PICTURE, SCORES, KERNEL = "demo.png", "scores.csv", "{}_kernel.npy"
FILES = (PICTURE, SCORES, *(KERNEL.format(name) for name in TASKS))
LEARNED, LIMIT = "learned", "least squares"
SHOWN = "astronaut"
CROP = 80  # side of the crops shown, in pixels of the truth
MIN_SIDE, MAX_SIDE = 96, 1536  # of the user's picture; of a larger one the middle is used


@dataclass(frozen=True)
class Outcome:
    """What one task came to: all methods' scores, and the row to draw, which has the kernel."""

    scores: Scores
    row: Row


def run(output: Path, *, image: Path | None = None, overwrite: bool = False, seed: int = 0) -> None:
    """Learn, measure, print the tables and write `FILES`.

    Parameters
    ----------
    output : Path
        Folder for the files.
    image : Path, optional
        A picture of the user's, measured and shown too: its middle, if a side is longer than `MAX_SIDE`.
    overwrite : bool
        Whether the files may be replaced.
    seed : int
        For the places of training crops and the noise.

    Raises
    ------
    fastdeconv.imaging.files.FileError
        The picture cannot be read or the folder cannot be written to; found out before the long work.
    """
    start = time.perf_counter()
    tests = {name: photograph(file) for name, file in HELD_OUT.items()}
    shown = SHOWN
    if image is not None:
        shown = "yours: " + "".join(c if c.isprintable() else "?" for c in image.name)
        tests[shown] = _middle(luminance(read_image(image, min_side=MIN_SIDE)))
    check_output(output, FILES, overwrite)
    training = {name: photograph(file) for name, file in TRAINING.items()}
    sizes = (f"{name} ({truth.shape[1]}×{truth.shape[0]})" for name, truth in tests.items())
    print(f"Learning from {', '.join(training)}.\nMeasuring on {', '.join(sizes)}.", flush=True)
    outcomes = {}
    for i, (name, task) in enumerate(TASKS.items()):
        rng = np.random.default_rng([seed, i])
        outcomes[name] = _carry_out(task, training, tests, shown, rng)
    write_file(output / PICTURE, draw([o.row for o in outcomes.values()]), overwrite)
    write_file(output / SCORES, as_csv({name: o.scores for name, o in outcomes.items()}).encode(), overwrite)
    for name, outcome in outcomes.items():
        write_file(output / KERNEL.format(name), _npy(outcome.row.kernel), overwrite)
    seconds = time.perf_counter() - start
    print(f"\nWrote {', '.join(FILES)} to {output.resolve()} after {seconds:.0f} s in all.")


def _middle(image: Image) -> Image:
    rows, columns = (slice((n - min(n, MAX_SIDE)) // 2, (n + min(n, MAX_SIDE)) // 2) for n in image.shape)
    return image[rows, columns]


def _carry_out(
    task: Task, training: Mapping[str, Image], tests: Mapping[str, Image], shown: str, rng: np.random.Generator
) -> Outcome:
    x, y_true = training_pairs(task, training.values(), rng)
    side, count = y_true.shape[-1], len(y_true)
    print(
        f"\n{task.title}: kernel of {task.kernel_size}×{task.kernel_size}, from {count} crops of {side}×{side}",
        flush=True,
    )
    fit = learn(task, x, y_true)
    print(f"Descent took {fit.seconds:.1f} s and {fit.message}.")
    print(f"Mean squared error {fit.history[0]:.3e} → {fit.loss:.3e}\n", flush=True)
    limit = least_squares(task, x, y_true)
    kernels = {LEARNED: fit.kernel[0, 0], LIMIT: limit}
    scores: dict[str, dict[str, Score]] = {}
    for name, truth in tests.items():
        truth = trimmed(truth, task.stride)
        degraded = task.degrade(truth, rng)
        images = {method: make(degraded) for method, make in task.methods.items()}
        images |= {method: restore(task, kernel, degraded) for method, kernel in kernels.items()}
        scores[name] = {m: Score(psnr(truth, i, task.border), ssim(truth, i, task.border)) for m, i in images.items()}
        if name == shown:
            panels = _panels(task, truth, degraded, images, scores[name])
    _print_scores(task, scores)
    row = Row(f"{task.title}: {shown}", panels, fit.kernel[0, 0], fit.history, training_loss(task, limit, x, y_true))
    return Outcome(scores, row)


def _npy(array: Image) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def _print_scores(task: Task, scores: Scores) -> None:
    methods = (*task.methods, LEARNED)
    print(table(scores, HELD_OUT, methods))
    mean = mean_scores(scores, HELD_OUT)
    gap = mean[LIMIT].psnr - mean[LEARNED].psnr
    print(f"Least squares on the same crops: {mean[LIMIT].psnr:.2f} dB, {gap:+.3f} dB from the learned kernel.")
    if task.note:
        print(task.note)


def _panels(
    task: Task, truth: Image, degraded: Image, images: Mapping[str, Image], scores: Mapping[str, Score]
) -> tuple[Panel, ...]:
    """Return the busiest square of the truth as each method gives it."""
    stride = task.stride
    i, j = (stride * (start // stride) for start in busiest(truth, CROP))
    small = degraded[i // stride : (i + CROP) // stride, j // stride : (j + CROP) // stride]
    panels = [Panel("input", f"{degraded.shape[1]}×{degraded.shape[0]} pixels", small)]
    square = np.s_[i : i + CROP, j : j + CROP]
    for method in (*task.methods, LEARNED):
        score = scores[method]
        caption = f"{score.psnr:.2f} dB · SSIM {score.ssim:.3f}"
        if images[method] is degraded:
            panels[0] = Panel(f"input: {method}", caption, small)
        else:
            panels.append(Panel(method, caption, images[method][square]))
    panels.append(Panel("truth", f"{truth.shape[1]}×{truth.shape[0]} pixels", truth[square]))
    return tuple(panels)
