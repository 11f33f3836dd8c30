"""Learning a task's single kernel from photographs by gradient descent, and applying it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fastdeconv.fit import FitResult, fit_kernel
from fastdeconv.functional import conv_transpose2d
from fastdeconv.imaging.tasks import KernelTask
from fastdeconv.imaging.training.crops import trimmed
from fastdeconv.losses import MSE
from fastdeconv.optim import SGD

Image = NDArray[np.float32]

CROP = 96  # side of a training crop of the truth
CROPS = 8  # from each photograph
MAX_STEPS = 500
TOLERANCE, PATIENCE = 1e-4, 50  # stop when the loss fell by no more than this share of itself in so many steps
# The inputs' covariance has a condition number of 4e3 (upscale) and 2e4 (deblur), for which this momentum was the best
# of 0.9, 0.95, 0.97, 0.98 and 0.99 at 200 to 600 steps.
MOMENTUM = 0.97


def training_pairs(task: KernelTask, truths: Iterable[Image], rng: np.random.Generator) -> tuple[Image, Image]:
    """Cut crops at random places from photographs and from what degrading makes of them.

    Each pair has the input crop's mean taken off, which leaves the kernel its response to constants to learn from the
    slow parts of the pictures, and makes descent several times faster.

    Parameters
    ----------
    task : KernelTask
    truths : iterable of ndarray, shape (H, W)
        Luminance, from 0 to 1.
    rng : numpy.random.Generator
        Chooses the places, and the noise.

    Returns
    -------
    x : ndarray of float32, shape (N, 1, h, h)
    y_true : ndarray of float32, shape (N, 1, CROP, CROP)
        What a transposed convolution of x with the task's scale as stride and its padding is to give.
    """
    inputs, targets = [], []
    side, margin = CROP // task.scale, task.margin
    for truth in truths:
        truth = trimmed(truth, task.scale)
        degraded = task.degrade(truth, rng)
        for _ in range(CROPS):
            i, j = (int(rng.integers(margin, size - side - margin + 1)) for size in degraded.shape)
            x = degraded[i - margin : i + side + margin, j - margin : j + side + margin]
            rows, columns = (slice(task.scale * k, task.scale * k + CROP) for k in (i, j))
            mean = x.mean()
            inputs.append(x - mean)
            targets.append(truth[rows, columns] - mean)
    return np.stack(inputs)[:, None], np.stack(targets)[:, None]


def learn(task: KernelTask, x: Image, y_true: Image, progress: bool | None = None) -> FitResult:
    """Learn the task's kernel by descent on the mean squared error, with Nesterov's momentum."""
    return fit_kernel(
        x,
        y_true,
        (task.kernel_size, task.kernel_size),
        stride=task.scale,
        padding=task.padding,
        optimizer=SGD(momentum=MOMENTUM, nesterov=True),
        init=task.initial_kernel(task.kernel_size)[None, None],
        max_steps=MAX_STEPS,
        tol=TOLERANCE,
        patience=PATIENCE,
        progress=progress,
    )


def least_squares(task: KernelTask, x: Image, y_true: Image) -> Image:
    """Return the kernel that minimises the mean squared error, from the normal equations: what descent tends to.

    Returns
    -------
    ndarray of float32, shape (kernel_size, kernel_size)
    """
    stride, taps = task.scale, task.taps
    gram = np.zeros((taps * taps, taps * taps))
    moments = np.zeros((taps * taps, stride * stride))
    for image, truth in zip(x[:, 0], y_true[:, 0]):
        patches = sliding_window_view(image, (taps, taps)).reshape(-1, taps * taps).astype(np.float64)
        phases = [truth[i::stride, j::stride].reshape(-1) for i in range(stride) for j in range(stride)]
        gram += patches.T @ patches
        moments += patches.T @ np.stack(phases, axis=1)
    solution = np.linalg.solve(gram, moments).reshape(taps, taps, stride, stride)
    # Tap t of a phase meets the input t pixels before: windows run the other way.
    flipped = solution[::-1, ::-1].transpose(0, 2, 1, 3)
    return flipped.reshape(task.kernel_size, task.kernel_size).astype(np.float32)


def training_loss(task: KernelTask, kernel: Image, x: Image, y_true: Image) -> float:
    """Return a kernel's mean squared error on training pairs."""
    y = conv_transpose2d(x, kernel[None, None], stride=task.scale, padding=task.padding)
    return MSE()(y, y_true)


def restore(task: KernelTask, kernel: Image, image: Image) -> Image:
    """Apply a task's kernel to a picture, mirrored at its borders, and clip the result to [0, 1].

    Parameters
    ----------
    kernel : ndarray, shape (kernel_size, kernel_size)
    image : ndarray of float32, shape (H, W)

    Returns
    -------
    ndarray of float32, shape (scale·H, scale·W)
    """
    mean = image.mean()
    padded = np.pad(image - mean, task.margin, mode="symmetric")
    result = conv_transpose2d(padded, kernel, stride=task.scale, padding=task.padding)
    return np.clip(result + mean, 0, 1, out=result)
