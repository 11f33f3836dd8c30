"""The demo: what the networks that come along make of photographs, and what a kernel learns in seconds, measured."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.colour import luminance
from fastdeconv.imaging.enhance import Restorer, Upscaler
from fastdeconv.imaging.figure import Learned, Panel, Row, busiest, draw
from fastdeconv.imaging.files import check_output, read_image, write_file
from fastdeconv.imaging.learning import learn, least_squares, restore, training_loss, training_pairs
from fastdeconv.imaging.metrics import psnr, ssim
from fastdeconv.imaging.photographs import HELD_OUT, TRAINING, photograph
from fastdeconv.imaging.report import Score, Scores, as_csv, mean_scores, table
from fastdeconv.imaging.tasks import KERNEL_TASKS, TASKS, KernelTask, Task
from fastdeconv.imaging.training.crops import trimmed

Image = NDArray[np.float32]

PICTURE, SCORES = "demo.png", "scores.csv"
KERNELS = {name: f"{name}_kernel.npy" for name in KERNEL_TASKS}
FILES = (PICTURE, SCORES, *KERNELS.values())
KERNEL, NETWORK, LIMIT = "kernel", "network", "least squares"
SHOWN = "astronaut"
CROP = 80  # side of the crops shown, in pixels of the truth
MIN_SIDE, MAX_SIDE = 96, 1536  # of the user's picture; of a larger one the middle is used


@dataclass(frozen=True)
class Outcome:
    """What one task came to: all methods' scores, and the row to draw."""

    scores: Scores
    row: Row


def run(output: Path, *, image: Path | None = None, overwrite: bool = False, seed: int = 0) -> None:
    """Enlarge, restore, learn, measure, print the tables and write `FILES`.

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
    fastdeconv.imaging.network.NetworkError
        The installation lacks one of the networks; found out before the long work.
    """
    start = time.perf_counter()
    tests = {name: photograph(file) for name, file in HELD_OUT.items()}
    shown = SHOWN
    if image is not None:
        shown = "yours: " + "".join(c if c.isprintable() else "?" for c in image.name)
        tests[shown] = _middle(luminance(read_image(image, min_side=MIN_SIDE)))
    check_output(output, FILES, overwrite)
    networks = {name: task.pretrained() for name, task in TASKS.items()}
    training = {name: photograph(file) for name, file in TRAINING.items()}
    sizes = (f"{name} ({truth.shape[1]}×{truth.shape[0]})" for name, truth in tests.items())
    print(
        f"The networks come along, trained; the kernels learn now, from {', '.join(training)}.\n"
        f"Measuring on {', '.join(sizes)}, which neither has seen.",
        flush=True,
    )
    outcomes = {}
    for i, (name, task) in enumerate(TASKS.items()):
        rng = np.random.default_rng([seed, i])
        outcomes[name] = _carry_out(task, networks[name], training, tests, shown, rng)
    write_file(output / PICTURE, draw([o.row for o in outcomes.values()]), overwrite)
    write_file(output / SCORES, as_csv({name: o.scores for name, o in outcomes.items()}).encode(), overwrite)
    for name, outcome in outcomes.items():
        if outcome.row.learned is not None:
            write_file(output / KERNELS[name], _npy(outcome.row.learned.kernel), overwrite)
    seconds = time.perf_counter() - start
    print(f"\nWrote {', '.join(FILES)} to {output.resolve()} after {seconds:.0f} s in all.")


def _middle(image: Image) -> Image:
    rows, columns = (slice((n - min(n, MAX_SIDE)) // 2, (n + min(n, MAX_SIDE)) // 2) for n in image.shape)
    return image[rows, columns]


def _carry_out(
    task: Task,
    network: Upscaler | Restorer,
    training: Mapping[str, Image],
    tests: Mapping[str, Image],
    shown: str,
    rng: np.random.Generator,
) -> Outcome:
    print(f"\n{task.title}", flush=True)
    methods = dict(task.methods)
    learned = None
    if isinstance(task, KernelTask):
        learned, limit = _learned(task, training, rng)
        for name, kernel in ((LIMIT, limit), (KERNEL, learned.kernel)):
            methods[name] = partial(restore, task, kernel)
    # What overshoots black and white a little, a file would not keep.
    methods[NETWORK] = lambda degraded: np.clip(network.transform(degraded), 0, 1)
    scores: dict[str, dict[str, Score]] = {}
    for name, truth in tests.items():
        truth = trimmed(truth, task.scale)
        degraded = task.degrade(truth, rng)
        images = {method: make(degraded) for method, make in methods.items()}
        scores[name] = {m: Score(psnr(truth, i, task.border), ssim(truth, i, task.border)) for m, i in images.items()}
        if name == shown:
            panels = _panels(task, truth, degraded, images, scores[name])
    _print_scores(task, scores)
    return Outcome(scores, Row(f"{task.title}: {shown}", panels, learned))


def _learned(task: KernelTask, training: Mapping[str, Image], rng: np.random.Generator) -> tuple[Learned, Image]:
    """Return the kernel that descent finds, and the one of least squares."""
    x, y_true = training_pairs(task, training.values(), rng)
    side, count = y_true.shape[-1], len(y_true)
    print(f"A kernel of {task.kernel_size}×{task.kernel_size} learns from {count} crops of {side}×{side}.", flush=True)
    fit = learn(task, x, y_true)
    print(f"Descent took {fit.seconds:.1f} s and {fit.message}.")
    print(f"Mean squared error {fit.history[0]:.3e} → {fit.loss:.3e}", flush=True)
    limit = least_squares(task, x, y_true)
    return Learned(fit.kernel[0, 0], fit.history, training_loss(task, limit, x, y_true)), limit


def _npy(array: Image) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def _shown(scores: Mapping[str, Score]) -> tuple[str, ...]:
    """Return the methods to show: least squares is a yardstick for descent."""
    return tuple(method for method in scores if method != LIMIT)


def _print_scores(task: Task, scores: Scores) -> None:
    mean = mean_scores(scores, HELD_OUT)
    print(f"\n{table(scores, HELD_OUT, _shown(mean))}")
    if LIMIT in mean:
        gap = mean[LIMIT].psnr - mean[KERNEL].psnr
        print(f"Least squares on the same crops: {mean[LIMIT].psnr:.2f} dB, {gap:+.3f} dB from the learned kernel.")
    if task.note:
        print(task.note)


def _panels(
    task: Task, truth: Image, degraded: Image, images: Mapping[str, Image], scores: Mapping[str, Score]
) -> tuple[Panel, ...]:
    """Return the busiest square of the truth as each method gives it."""
    scale = task.scale
    i, j = (scale * (start // scale) for start in busiest(truth, CROP))
    small = degraded[i // scale : (i + CROP) // scale, j // scale : (j + CROP) // scale]
    panels = [Panel("input", f"{degraded.shape[1]}×{degraded.shape[0]} pixels", small)]
    square = np.s_[i : i + CROP, j : j + CROP]
    for method in _shown(scores):
        score = scores[method]
        caption = f"{score.psnr:.2f} dB · SSIM {score.ssim:.3f}"
        if images[method] is degraded:
            panels[0] = Panel(f"input: {method}", caption, small)
        else:
            panels.append(Panel(method, caption, images[method][square]))
    panels.append(Panel("truth", f"{truth.shape[1]}×{truth.shape[0]} pixels", truth[square]))
    return tuple(panels)
