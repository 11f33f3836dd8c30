"""A network trained on planes in memory, without files or a report: what `Upscaler.fit` and `Restorer.fit` do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastdeconv import fit
from fastdeconv.devices import resolve
from fastdeconv.imaging.network import Description, Network
from fastdeconv.imaging.training.crops import Crops, spoiled
from fastdeconv.imaging.training.settings import Recipe
from fastdeconv.imaging.training.trainer import rule
from fastdeconv.problem import as_int


def learned(
    description: Description, planes: Sequence[NDArray[np.float32]], *, steps: int, seed: int, progress: bool | None,
    device: str = "cpu",
) -> Network:  # fmt: skip
    """Train a network.

    Parameters
    ----------
    planes : sequence of ndarray of float32, shape (H, W)
        Luminance from 0 to 1, as it should come out.
    device : str
        Where it learns, "cpu", "cuda" or "cuda:N"; the network that is returned is on the CPU.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        The message names the argument, what came and what would do; or what the device lacks.
    """
    if as_int("steps", steps) < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    recipe = Recipe()
    # Crops lie all inside.
    side = description.scale * (recipe.crop + 2 * description.radius)
    large = [np.clip(plane, 0, 1) for plane in planes if min(plane.shape) >= side]
    if not large:
        shapes = ", ".join(f"{height}×{width}" for height, width in (plane.shape for plane in planes))
        raise ValueError(f"images must have at least one of {side}×{side} pixels or more; got {shapes or 'none'}")
    network = Network(description, seed=seed).to(training_place(device))
    pairs = spoiled(large, description, seed, side)
    fit.fit(
        network.body,
        Crops(pairs, description, recipe.crop, recipe.batch),
        **rule(recipe, steps),
        max_steps=steps,
        seed=seed,
        progress=progress,
    )
    return network.to("cpu")


def training_place(device: str) -> str:
    """Return where a network is trained: "cpu" or "cuda:N".

    Raises
    ------
    TypeError, ValueError, RuntimeError
        `device` is no place for a network, or not there.
    """
    place = resolve(device)
    if place == "auto":
        raise ValueError('device must be "cpu", "cuda" or "cuda:N" to train on; got "auto", which is for single calls')
    return place
