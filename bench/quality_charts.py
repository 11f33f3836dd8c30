"""Drawn planes for what photographs do not tell: edges of known height, and smooth parts without any texture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

SIDE = 192  # pixels; 2, 3 and 4 divide it
_HEIGHTS = ((0.3, 0.7), (0.1, 0.9))  # of edges, from dark to bright
_SAMPLES = 4  # of a pixel on each axis: edges are drawn by area


def edges() -> dict[str, list[Image]]:
    """Return planes with edges between flat parts, by kind.

    Steps run along an axis, at every place of the pixel grid that a scale of up to 4 tells apart. Discs have edges of
    every angle. Bars are as wide as photographs' fine structure: 3, 4, 6 and 8 pixels.
    """
    y, x = _grid(_SAMPLES)
    covered: dict[str, list[Image]] = {"steps": [], "discs": [], "bars": []}
    for shift in range(4):
        step = np.broadcast_to(np.arange(SIDE) >= SIDE // 2 + shift, (SIDE, SIDE)).astype(np.float32)
        covered["steps"] += [step, step.T]
    centre = SIDE / 2 + 0.3
    covered["discs"] = [_by_area((x - centre) ** 2 + (y - centre) ** 2 < radius**2) for radius in (30.0, 60.0)]
    for angle in (0, 90, 30):
        across = np.float32(np.cos(np.deg2rad(angle))) * x + np.float32(np.sin(np.deg2rad(angle))) * y
        bars = [np.abs(across - 40 * n) < width / 2 for n, width in enumerate((3, 4, 6, 8), 1)]
        covered["bars"].append(_by_area(np.any(bars, axis=0)))
    return {
        kind: [np.float32(low) + np.float32(high - low) * plane for plane in planes for low, high in _HEIGHTS]
        for kind, planes in covered.items()
    }


def smooth(rng: np.random.Generator) -> dict[str, Image]:
    """Return planes on which a checkerboard would show: noise of σ 2/255, on grey and on a ramp, and a zone plate.

    Without noise there is nothing to compare a pattern with but the steps that a ramp has in 256 levels. The zone plate
    has every frequency up to a quarter of a cycle a pixel, in every direction.
    """
    y, x = _grid(1)
    noise = (2 / 255) * rng.standard_normal((SIDE, SIDE))
    radius2 = (x - SIDE / 2) ** 2 + (y - SIDE / 2) ** 2
    # The phase's slope, 2π·f at radius r, reaches f = 1/4 at the middle of a side.
    plate = 0.5 + 0.35 * np.cos(np.pi * radius2 / (2 * SIDE))
    return {
        "noise": (0.5 + noise).astype(np.float32),
        "noise on a ramp": (0.2 + 0.6 * (x + 0.5 * y) / (1.5 * SIDE) + noise).astype(np.float32),
        "zone plate": plate.astype(np.float32),
    }


def greys() -> list[Image]:
    """Return planes of one grey each, from nearly black to nearly white."""
    return [np.full((48, 48), level / 255, np.float32) for level in range(16, 241, 16)]


def _grid(samples: int) -> tuple[Image, Image]:
    """Return the rows and columns of samples, in pixels."""
    axis = (np.arange(SIDE * samples, dtype=np.float32) + np.float32(0.5)) / np.float32(samples)
    return axis[:, None], axis[None, :]


def _by_area(inside: NDArray[np.bool_]) -> Image:
    """Return how much of each pixel is covered."""
    whole = np.broadcast_to(inside, (SIDE * _SAMPLES,) * 2)
    covered: Image = whole.reshape(SIDE, _SAMPLES, SIDE, _SAMPLES).mean((1, 3), dtype=np.float32)
    return covered
