"""The networks that come with the package, and which of them fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging import estimate
from fastdeconv.imaging.network import Degradation, Network, NetworkError, describe, load
from fastdeconv.optim import number
from fastdeconv.problem import as_int

FOLDER = Path(__file__).parent / "models"
AUTO = "auto"

# What differences from a network's degradation count: a pixel of blur as much as noise of so many levels of 255, or
# JPEG quality so much higher or lower.
_LEVELS, _QUALITIES = 8.0, 40.0
# What it counts if a picture has blocks and a network knows none, or the other way round.
_OTHER_KIND = 2.0
# Beyond this, a network does more harm than good to what was estimated.
_FITS = 1.0


class Shipped(NamedTuple):
    """A network of the package."""

    name: str
    network: Network


class Choice(NamedTuple):
    """What is taken, and a sentence that says why; no network where there is nothing to undo."""

    network: Network | None
    reason: str


def _networks() -> list[Path]:
    """Return the files, in the order of their names."""
    return sorted(FOLDER.glob("*.safetensors"))


@cache
def upscaling(scale: int) -> Network:
    """Return the network for a scale.

    Raises
    ------
    NetworkError
        There is none.
    """
    for path in _networks():
        if describe(path)[0].scale == scale:
            return load(path)
    raise NetworkError(
        f"this installation has no network for scale {scale} in {FOLDER}: train one with `fastdeconv train --task "
        f"upscale --scale {scale}`, or load your own"
    )


@cache
def restoring() -> tuple[Shipped, ...]:
    """Return the networks that restore; there is one at least.

    Raises
    ------
    NetworkError
        There is none.
    """
    found = tuple(Shipped(path.name, load(path)) for path in _networks() if describe(path)[0].scale == 1)
    if not found:
        raise NetworkError(
            f"this installation has no network that restores in {FOLDER}: train one with `fastdeconv train --task "
            "restore`, or load your own"
        )
    return found


@dataclass(frozen=True)
class Wanted:
    """What is to be undone: values, ``"auto"`` or None; see `Restorer.pretrained`."""

    blur: Any
    noise: Any
    jpeg: Any
    estimates: str = ""

    def __post_init__(self) -> None:
        for name in ("blur", "noise", "jpeg"):
            value = getattr(self, name)
            if value is None or (isinstance(value, str) and value == AUTO):
                continue
            if isinstance(value, str):
                raise ValueError(f'{name} must be a number, "auto" or None; got {value!r}')
            if name == "jpeg":
                if not 1 <= as_int(name, value) <= 100:
                    raise ValueError(f"jpeg must be a quality from 1 to 100; got {value}")
            elif number(name, value) > (1.0 if name == "noise" else math.inf):
                raise ValueError(f"noise must be a share of the full scale, 2/255 for instance; got {value}")

    @property
    def is_estimated(self) -> bool:
        """Whether something is to be estimated from the image."""
        return AUTO in (self.blur, self.noise, self.jpeg)

    def estimated(self, plane: NDArray[np.float32]) -> Wanted:
        """Return the same with estimates from a plane of luminance in place of "auto"."""
        found, said = self, []
        if self.jpeg == AUTO:
            blocks = estimate.blockiness(plane)
            shows = blocks > estimate.BLOCKS_SHOW
            found = replace(found, jpeg=estimate.USUAL_QUALITY if shows else None)
            said.append(f"blocks {'show' if shows else 'do not show'} (contrast {blocks:.2f})")
        if self.blur == AUTO:
            blur = estimate.blur(plane)
            found = replace(found, blur=blur if blur > estimate.SHARP else None)
            said.append(f"blur of σ {blur:.1f} px{'' if found.blur else ', which is sharp'}")
        if self.noise == AUTO:
            noise = estimate.noise(plane)
            # Little noise matters where sharpening a blurred picture would amplify it.
            found = replace(found, noise=noise if noise > estimate.CLEAN or found.blur else None)
            said.append(f"noise of σ {255 * noise:.1f}/255{'' if found.noise else ', which is clean'}")
        return replace(found, estimates=", ".join(said))

    def closest(self, candidates: Sequence[Shipped]) -> Choice:
        """Return the network whose degradation comes closest."""
        asked = Degradation(
            (self.blur or 0.0,) * 2, (self.noise or 0.0,) * 2, None if self.jpeg is None else (self.jpeg, self.jpeg)
        )
        why = f"estimated: {self.estimates}; " if self.estimates else ""
        if not (self.blur or self.noise or self.jpeg):
            return Choice(None, f"{why}nothing to undo")
        distances = [_distance(asked, each.network.description.degradation) for each in candidates]
        distance = min(distances)
        name, network = candidates[distances.index(distance)]
        undoes = f"{name} undoes {network.description.degradation or 'nothing'}"
        if self.estimates and distance > _FITS:
            return Choice(None, f"{why}no network fits; {undoes}")
        return Choice(network, f"{why}{undoes}{f', the closest to {asked}' if distance else ''}")


def _distance(asked: Degradation, has: Degradation | None) -> float:
    has = has or Degradation()
    total = _outside(asked.blur[0], *has.blur) + _outside(asked.noise[0], *has.noise) * 255 / _LEVELS
    if (asked.jpeg is None) != (has.jpeg is None):
        return total + _OTHER_KIND
    if asked.jpeg is not None and has.jpeg is not None:
        total += _outside(asked.jpeg[0], *has.jpeg) / _QUALITIES
    return total


def _outside(value: float, low: float, high: float) -> float:
    """Return how far a value lies beyond a range; degradations too weak for a rounding error are within."""
    distance = max(low - value, value - high, 0.0)
    return distance if distance > 1e-6 else 0.0
