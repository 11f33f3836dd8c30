"""A network is trained: the data of settings, the descent, and how good the result is."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import fit
from fastdeconv.imaging import photographs
from fastdeconv.imaging.degrade import degrade
from fastdeconv.imaging.network import Description, Network
from fastdeconv.imaging.resize import resize
from fastdeconv.imaging.tiles import apply
from fastdeconv.imaging.training.crops import Crops, Pair, pair, spoiled, trimmed
from fastdeconv.imaging.training.images import TrainingError, found, read, read_pairs
from fastdeconv.imaging.training.settings import Recipe, Settings
from fastdeconv.optim import EMA, Adam, Cosine

Image = NDArray[np.float32]

# Of the user's pictures one in so many is measured on, and not learned from; never more than MOST_HELD_OUT.
HELD_OUT_EVERY = 8
MOST_HELD_OUT = 12
# Pixels of all the user's pictures together; of each there are several versions then, as `crops.MAX_PIXELS` allow.
MOST_PIXELS = 40_000_000
# Pixels of the largest picture that is measured on while training; larger ones are measured by their middle.
MEASURED_SIDE = 768


@dataclass
class Data:
    """What is learned from and measured on.

    Attributes
    ----------
    description : Description
    pairs : list of Pair
    tests : dict from name to (input, truth)
    about : str
        What is learned from, in a line; it differs where the data differ.
    skipped : list of str
        A line for each file that could not be used.
    """

    description: Description
    pairs: list[Pair]
    tests: dict[str, tuple[Image, Image]]
    about: str
    skipped: list[str] = field(default_factory=list)

    @property
    def border(self) -> int:
        """Pixels on each side that measuring leaves out."""
        return self.description.scale if self.description.scale > 1 else 8


def gather(settings: Settings) -> Data:
    """Read and prepare the data that settings ask for.

    Raises
    ------
    TrainingError
        There are no pictures, or too few or too small ones.
    """
    if settings.inputs is not None and settings.targets is not None:
        return _own_pairs(settings, Path(settings.inputs), Path(settings.targets))
    if settings.scale is None:
        raise TrainingError("a scale is needed where no pairs are given")
    description = settings.description(settings.scale)
    min_side = _min_side(description, settings.recipe) * description.scale
    given = read(found(map(Path, settings.images)), min_side, settings.max_side, MOST_PIXELS, settings.seed)
    skipped = given.skipped
    training = _named(given.planes)
    if not settings.bundled:
        _some(training, "nothing to learn from", skipped, min_side)
    tests: dict[str, Image] = {}
    if settings.validate:
        chosen = read(found(map(Path, settings.validate)), min_side, settings.max_side, MOST_PIXELS, settings.seed)
        skipped += chosen.skipped
        tests = _named(chosen.planes)
        _some(tests, "--validate", chosen.skipped, min_side)
    elif settings.bundled:
        tests = photographs.installed(photographs.HELD_OUT | photographs.MORE_HELD_OUT)
    else:
        training, tests = _split(training, settings.seed)
    if settings.bundled:
        training |= photographs.installed(photographs.TRAINING | photographs.MORE_TRAINING)
    pairs = spoiled(list(training.values()), description, settings.seed, min_side)
    rng = np.random.default_rng([settings.seed, 2])
    measured = {}
    for name, plane in tests.items():
        truth = trimmed(_middle(plane), description.scale)
        measured[name] = degrade(truth, description.scale, description.degradation, rng), truth
    return Data(description, pairs, measured, _about(training, pairs), skipped)


def _own_pairs(settings: Settings, inputs: Path, targets: Path) -> Data:
    given = read_pairs(inputs, targets, _min_side(settings.description(1), settings.recipe), MOST_PIXELS, settings.seed)
    _some(given.pairs, f"the pairs of {inputs} and {targets}", given.skipped, 0)
    description = settings.description(given.scale)
    training, tests = _split(given.pairs, settings.seed)
    pairs = [pair(x, truth) for x, truth in training.values()]
    return Data(description, pairs, tests, _about({n: x for n, (x, _) in training.items()}, pairs), given.skipped)


def _named(planes: Mapping[Path, Image]) -> dict[str, Image]:
    """Return planes by the names of their files, with the folder where names repeat."""
    times = Counter(path.name for path in planes)
    return {path.name if times[path.name] == 1 else str(path): plane for path, plane in planes.items()}


def _min_side(description: Description, recipe: Recipe) -> int:
    return recipe.crop + 2 * description.radius


def _some(found: Mapping[str, Any], what: str, skipped: list[str], min_side: int) -> None:
    if found:
        return
    reason = f"; the first of {len(skipped)} files left out: {skipped[0]}" if skipped else ""
    size = f", of at least {min_side}×{min_side} pixels" if min_side else ""
    raise TrainingError(f"{what}: no picture in a format that Pillow reads{size}{reason}")


def _split(pictures: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the pictures to learn from and those to measure on, drawn by the seed."""
    if len(pictures) < 2:
        raise TrainingError(
            f"at least 2 pictures are needed, one to learn from and one to measure on; got {len(pictures)}: add "
            "pictures, or name others to measure on with --validate"
        )
    names = sorted(pictures)
    count = min(max(1, len(names) // HELD_OUT_EVERY), MOST_HELD_OUT)
    chosen = {names[i] for i in np.random.default_rng([seed, 3]).permutation(len(names))[:count]}
    return {n: pictures[n] for n in names if n not in chosen}, {n: pictures[n] for n in names if n in chosen}


def _middle(plane: Image) -> Image:
    rows, columns = (slice((n - min(n, MEASURED_SIDE)) // 2, (n + min(n, MEASURED_SIDE)) // 2) for n in plane.shape)
    return plane[rows, columns]


def _about(training: Mapping[str, Image], pairs: list[Pair]) -> str:
    checksum = 0
    for name, plane in training.items():
        checksum = zlib.crc32(np.ascontiguousarray(plane).data.cast("B"), zlib.crc32(name.encode(), checksum))
    pixels = sum(p.residual.size for p in pairs) / 1e6
    return f"{len(training)} pictures in {len(pairs)} versions, {pixels:.1f} megapixels, checksum {checksum:08x}"


@dataclass
class Trained:
    """A network, how training went, and how good the network is on what it was measured on.

    Attributes
    ----------
    history : fit.History
    results : dict from name to (input, baseline, result, truth)
        The baseline is bicubic enlargement, or the input itself at scale 1.
    """

    network: Network
    history: fit.History
    results: dict[str, tuple[Image, Image, Image, Image]]


def train(
    settings: Settings, data: Data, checkpoint: Path, *, resume: bool, progress: bool | None, device: str = "cpu"
) -> Trained:
    """Train the network that settings describe, with checkpoints from which the same run can go on."""
    assert settings.steps is not None
    network = Network(data.description, seed=settings.seed).to(device)
    crop = settings.recipe.crop
    history = fit.fit(
        network.body,
        Crops(data.pairs, data.description, crop, settings.recipe.batch),
        **rule(settings.recipe, settings.steps),
        max_steps=settings.steps,
        seed=settings.seed,
        validation=_validation(data),
        validate_every=min(settings.steps, max(100, min(1000, settings.steps // 40))),
        metric="psnr",
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_seconds=30,
        resume=resume,
    )
    network.to("cpu")
    return Trained(network, history, {name: _result(network, *test) for name, test in data.tests.items()})


def rule(recipe: Recipe, steps: int) -> dict[str, Any]:
    """Return the arguments of `fit.fit` that a recipe stands for."""
    return {
        "loss": "mse",
        "optimizer": Adam(learning_rate=recipe.learning_rate, betas=(0.9, 0.99)),
        "schedule": Cosine(steps, warmup=min(recipe.warmup, steps // 10)),
        "ema": EMA(recipe.decay, warmup=True),
    }


def steps_in(minutes: float, settings: Settings, data: Data, device: str = "cpu") -> int:
    """Return how many steps this machine takes in a time, by taking some."""
    body = Network(data.description, seed=settings.seed).to(device).body
    crops = Crops(data.pairs, data.description, settings.recipe.crop, settings.recipe.batch)
    seconds = np.inf
    for count in (3, 10, 10):  # the first compile, and the least disturbed of the others counts
        start = time.perf_counter()
        fit.fit(body, crops, **rule(settings.recipe, 100), max_steps=count, seed=settings.seed, progress=False)
        seconds = min(seconds, (time.perf_counter() - start) / count)
    return max(1, round(60 * minutes / seconds))


def _validation(data: Data) -> list[tuple[Image, Image]]:
    """Return each test's input with what the network sees around it, and the residual, inside the border."""
    batches = []
    scale, radius = data.description.scale, data.description.radius
    shaved = -(-data.border // scale)  # pixels of the input
    for x, truth in data.tests.values():
        p = pair(x, truth)
        padded = np.pad(p.input, radius, mode="symmetric")[shaved:-shaved, shaved:-shaved]
        out = scale * shaved
        batches.append((padded[None, None], p.residual[out:-out, out:-out][None, None]))
    return batches


def _result(network: Network, x: Image, truth: Image) -> tuple[Image, Image, Image, Image]:
    baseline = x if x.shape == truth.shape else resize(x, truth.shape)
    return x, np.clip(baseline, 0, 1), np.clip(apply(network, x), 0, 1), truth


def with_steps(settings: Settings, data: Data, device: str = "cpu") -> Settings:
    """Return settings that say how many steps are taken and at which scale."""
    steps = settings.steps or steps_in(settings.minutes or 0, settings, data, device)
    return replace(settings, steps=steps, scale=data.description.scale)
