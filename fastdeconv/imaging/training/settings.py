"""What a training run is told: kept beside its checkpoint, so that the run can be resumed with nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastdeconv.imaging.files import FileError, write_file
from fastdeconv.imaging.network import Degradation, Description
from fastdeconv.imaging.training.images import TrainingError

Shape = tuple[int, int, int, int, int]  # features, shrunk, maps, feature_size, taps


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are what did best in the runs of docs/decisions.

    Attributes
    ----------
    features, shrunk, maps, feature_size, taps : int
        As of `Description`.
    crop : int
        Side of what the network makes of a crop, in pixels of the input.
    batch : int
        Crops a step.
    learning_rate : float
        Of Adam, after the warm-up; it falls along a cosine to nothing.
    warmup : int
        Steps over which the rate rises.
    decay : float
        Of the moving average of the weights.
    """

    features: int = Description.features
    shrunk: int = Description.shrunk
    maps: int = Description.maps
    feature_size: int = Description.feature_size
    taps: int = Description.taps
    crop: int = 32
    batch: int = 8
    learning_rate: float = 2e-3
    warmup: int = 200
    decay: float = 0.999


@dataclass(frozen=True)
class Settings:
    """What a run of ``fastdeconv train`` is to do.

    Attributes
    ----------
    scale : int
        2, 3 or 4 to enlarge, 1 to restore; for pairs None until they are read.
    degradation : Degradation, optional
        What pictures are spoiled with beside the reduction.
    images : tuple of str
        Files and folders to learn from; none with `bundled` False where pairs are given.
    bundled : bool
        Whether to learn from the photographs of installed packages, too.
    inputs, targets : str, optional
        Folders of the user's pairs.
    validate : tuple of str
        Files and folders to measure on.
    max_side : int
        To which larger pictures are reduced.
    steps : int, optional
        None until they are known from `minutes`.
    minutes : float, optional
    seed : int
    recipe : Recipe
    arguments : tuple of str
        The words of the command, by which the run can be repeated.
    """

    scale: int | None
    degradation: Degradation | None = None
    images: tuple[str, ...] = ()
    bundled: bool = True
    inputs: str | None = None
    targets: str | None = None
    validate: tuple[str, ...] = ()
    max_side: int = 1400
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
    arguments: tuple[str, ...] = ()

    def description(self, scale: int) -> Description:
        """Return the network that the settings ask for."""
        r = self.recipe
        return Description(
            scale, r.features, r.shrunk, r.maps, r.feature_size, taps=r.taps, degradation=self.degradation
        )


@dataclass(frozen=True)
class Place:
    """The files of a run.

    Attributes
    ----------
    model, report : Path
        What is left in the end.
    """

    model: Path
    report: Path

    @property
    def checkpoint(self) -> Path:
        """The file with the state of a run that is not finished."""
        return self.model.with_suffix(".checkpoint")

    @property
    def settings(self) -> Path:
        """The file with its settings."""
        return self.model.with_suffix(".settings.json")


def keep(settings: Settings, data: str, path: Path) -> None:
    """Write the settings and what the data is like to a file.

    Raises
    ------
    fastdeconv.imaging.files.FileError
    """
    write_file(path, json.dumps({"settings": asdict(settings), "data": data}, indent=1).encode(), overwrite=True)


def kept(path: Path) -> tuple[Settings, str]:
    """Return what `keep` wrote.

    Raises
    ------
    TrainingError
        The file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
        return _settings(content["settings"]), str(content["data"])
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file, so there is no run to resume; leave --resume out") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrainingError(f"{path}: cannot be read as a run's settings ({error}); --overwrite begins anew") from error


def _settings(values: dict[str, Any]) -> Settings:
    values["recipe"] = Recipe(**values["recipe"])
    if values["degradation"] is not None:
        values["degradation"] = Degradation(**values["degradation"])
    for name in ("images", "validate", "arguments"):
        values[name] = tuple(values.get(name, ()))
    return Settings(**values)


def remove(place: Place) -> None:
    """Remove what only an unfinished run needs.

    Raises
    ------
    fastdeconv.imaging.files.FileError
    """
    for path in (place.checkpoint, place.settings):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"{path}: cannot be removed ({error.strerror or error})") from error
