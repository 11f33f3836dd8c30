"""``fastdeconv bench quality``: how good the networks are that come with the package, and what they cost.

Each is measured on photographs that training never saw, and on drawn planes: in all, where there is detail, by how far
it overshoots, by checkerboards, and by the time that it takes; beside what is known without learning.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastdeconv as fd
from fastdeconv.bench import machine, quality_charts
from fastdeconv.bench.quality_methods import Method, baselines
from fastdeconv.bench.results import Run
from fastdeconv.bench.timing import Times, interleaved
from fastdeconv.bench.upscaling import BODY, IMAGE, scene
from fastdeconv.bench.upscaling_peers import CONTENDERS, Ours, start
from fastdeconv.imaging import metrics, tiles
from fastdeconv.imaging.degrade import degrade
from fastdeconv.imaging.network import Description, Network, NetworkError, load
from fastdeconv.imaging.training.measures import Measures, mean, measure

Image = NDArray[np.float32]

OURS, TRUTH = "ours", "truth"
BORDER = 8  # pixels left out of restored planes; of enlarged ones as many as the scale
_MIN_SIDE = 96
_SIDE = 1024  # of the output that is timed, about
_SECONDS = 2.0  # for each contender of a row


@dataclass
class Model:
    """What was found about one network.

    Attributes
    ----------
    name : str
    task : str
        What it does.
    settings : dict from method to str
        The best of those tried, for methods that have any.
    photographs : dict from photograph to dict from method to Measures
    edges : dict from kind of edge to dict from method to Overshoot
    pattern : dict from plane to dict from method, or the truth, to float
        The checkerboard index in dB; empty where nothing is enlarged.
    bias : float
        Of the grey where it is largest, in levels of 255: how far the phases of a flat plane differ.
    seconds : dict from row to dict from contender to Times
        A megapixel of output.
    left_out : dict from contender to why
    """

    name: str
    task: str
    scale: int
    multiplications: int
    settings: dict[str, str] = field(default_factory=dict)
    photographs: dict[str, dict[str, Measures]] = field(default_factory=dict)
    edges: dict[str, dict[str, metrics.Overshoot]] = field(default_factory=dict)
    pattern: dict[str, dict[str, float]] = field(default_factory=dict)
    bias: float = 0.0
    seconds: dict[str, dict[str, Times]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """What was measured, ours last."""
        return list(next(iter(self.photographs.values())))

    def mean(self, method: str) -> Measures:
        """Return the means over photographs."""
        return mean({name: of[method] for name, of in self.photographs.items()})


@dataclass(slots=True)
class Figures(Run):
    """What a run found."""

    models: list[Model] = field(default_factory=list)


@dataclass(frozen=True)
class Results:
    """The planes of one photograph, for pictures: the truth, the input, and what each method makes of it."""

    truth: Image
    degraded: Image
    made: dict[str, Image]


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit status."""
    from tqdm import tqdm

    from fastdeconv.bench import quality_page
    from fastdeconv.bench.command import BenchError

    for path in (options.json, options.output):
        if path and not path.resolve().parent.is_dir():
            raise BenchError(f"{path}: there is no such folder")
    try:
        if options.threads is not None:
            fd.set_num_threads(options.threads)
        networks = _networks(options.models)
        truths = photographs(options.images)
    except ValueError as error:
        raise BenchError(str(error)) from error
    figures = Figures(
        command=f"fastdeconv {shlex.join(options.arguments)}",
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=machine.describe(),
        versions=machine.versions(),
        threads=fd.get_num_threads(),
    )
    pictures = {}
    for name, network in tqdm(networks.items(), disable=None, leave=False, unit="network"):
        model, results = assess(name, network, truths)
        if options.rounds != 0:
            time_it(model, network, options.rounds or 5, figures)
        figures.models.append(model)
        if options.output:
            pictures[name] = quality_page.crops(model, results)
        tqdm.write(quality_page.line(model))
    if options.json:
        figures.write(options.json)
    if options.output:
        for path in quality_page.write(figures, pictures, options.output):
            print(f"wrote {path}")
    return 0


def _networks(folder: Path | None) -> dict[str, Network]:
    """Return the networks of a folder by name: those that enlarge first."""
    from fastdeconv.imaging import shipped

    folder = folder or shipped.FOLDER
    found = {path.stem: load(path) for path in sorted(folder.glob("*.safetensors"))}
    if not found:
        raise NetworkError(f"{folder}: has no network; train one with `fastdeconv train`, or name a folder by --models")
    order = sorted(found, key=lambda name: (found[name].description.scale == 1, found[name].description.scale, name))
    return {name: found[name] for name in order}


def photographs(folder: Path | None) -> dict[str, Image]:
    """Return what is measured on by name: the pictures of a folder, or those that nothing is ever trained on.

    Raises
    ------
    ValueError
        The folder has no picture of 96 pixels a side, or does not exist.
    """
    from fastdeconv.imaging.photographs import HELD_OUT, MORE_HELD_OUT, installed
    from fastdeconv.imaging.training.images import found, read

    if folder is None:
        return installed(HELD_OUT | MORE_HELD_OUT)
    pictures = read(found([folder]), _MIN_SIDE, max_side=None, max_pixels=1 << 40, seed=0)
    if not pictures.planes:
        why = f": {pictures.skipped[0]}" if pictures.skipped else ""
        raise ValueError(f"--images {folder}: has no picture to measure on{why}")
    return {path.relative_to(folder).as_posix(): plane for path, plane in pictures.planes.items()}


def assess(name: str, network: Network, truths: Mapping[str, Image]) -> tuple[Model, dict[str, Results]]:
    """Measure a network's results, and those of the methods to compare it with; return the planes, too."""
    description = network.description
    scale = description.scale
    border = scale if scale > 1 else BORDER
    what = f"Enlarge ×{scale}" if scale > 1 else f"Undo {description.degradation or 'nothing'}"
    model = Model(name, what, scale, description.multiplications)
    pairs = {photo: _pair(truth, description, i) for i, (photo, truth) in enumerate(truths.items())}
    makers: dict[str, Callable[[Image], Image]] = {}
    for method in baselines(description):
        setting = _best(method, pairs.values(), border)
        makers[method.name] = lambda x, m=method, s=setting: stored(m.apply(x, s))  # type: ignore[misc]
        if len(method.settings) > 1:
            model.settings[method.name] = f"{method.setting} {setting:g}"
    makers[OURS] = lambda x: stored(tiles.apply(network, x))
    results = {}
    for photo, (truth, x) in pairs.items():
        made = {method: make(x) for method, make in makers.items()}
        results[photo] = Results(truth, x, made)
        model.photographs[photo] = {method: measure(truth, plane, border, scale) for method, plane in made.items()}
    model.edges = _edges(makers, description)
    if scale > 1:
        model.pattern = _patterns(makers, description, results)
        model.bias = 255 * max(
            metrics.phase_bias(grey, tiles.apply(network, _pair(grey, description, 0)[1]), scale, 8)
            for grey in quality_charts.greys()
        )
    return model, results


def stored(plane: Image) -> Image:
    """Return a plane as a file has it: clipped, in 256 levels."""
    levels: Image = np.clip(np.rint(plane * np.float32(255)), 0, 255)
    return levels / np.float32(255)


def _pair(truth: Image, description: Description, number: int) -> tuple[Image, Image]:
    scale = description.scale
    truth = truth[: truth.shape[0] // scale * scale, : truth.shape[1] // scale * scale]
    return truth, degrade(truth, scale, description.degradation, np.random.default_rng([0, number]))


def _best(method: Method, pairs: Iterable[tuple[Image, Image]], border: int) -> float:
    """Return the setting with the best PSNR on the mean of these very planes."""
    if len(method.settings) == 1:
        return method.settings[0]
    pairs = list(pairs)

    def score(setting: float) -> float:
        return sum(metrics.psnr(truth, stored(method.apply(x, setting)), border) for truth, x in pairs)

    return max(method.settings, key=score)


def _edges(
    makers: Mapping[str, Callable[[Image], Image]], description: Description
) -> dict[str, dict[str, metrics.Overshoot]]:
    """Return how far methods overshoot on drawn edges."""
    found = {}
    reach = max(4, 2 * description.scale)
    for kind, planes in quality_charts.edges().items():
        pairs = [_pair(truth, description, i) for i, truth in enumerate(planes)]
        found[kind] = {
            name: metrics.Overshoot(
                *np.mean([metrics.overshoot(truth, make(x), 16, reach) for truth, x in pairs], axis=0).tolist()
            )
            for name, make in makers.items()
        }
    return found


def _patterns(
    makers: Mapping[str, Callable[[Image], Image]], description: Description, results: Mapping[str, Results]
) -> dict[str, dict[str, float]]:
    """Return the checkerboard index of the truth and of all methods: of drawn planes, and the mean of photographs."""
    scale = description.scale
    found = {}
    for kind, truth in quality_charts.smooth(np.random.default_rng(0)).items():
        _, x = _pair(truth, description, 0)
        planes = {TRUTH: stored(truth)} | {name: make(x) for name, make in makers.items()}
        found[kind] = {name: metrics.checkerboard(plane, scale, 8) for name, plane in planes.items()}
    names = [TRUTH, *makers]
    found["photographs"] = {
        name: float(np.mean([
            metrics.checkerboard(each.truth if name == TRUTH else each.made[name], scale, scale)
            for each in results.values()
        ]))
        for name in names
    }  # fmt: skip
    return found


def time_it(model: Model, network: Network, rounds: int, figures: Figures) -> None:
    """Time a network beside the same in other libraries, and beside bicubic enlargement."""
    description = network.description
    side = _SIDE // description.scale
    rgb = scene((side, side))
    padded = np.pad(rgb[..., 1].astype(np.float32) / np.float32(255), description.radius, mode="symmetric")
    peers = [kind.name for kind in CONTENDERS if kind is not Ours]
    contenders, model.left_out = start(peers, network, figures.threads)
    figures.versions |= {contender.name: contender.version() for contender in contenders}
    rows: dict[str, dict[str, Callable[[], Any]]] = {
        BODY: {contender.name: contender.body(padded) for contender in contenders},
        IMAGE: {contender.name: contender.image(rgb) for contender in contenders},
    }
    if description.scale > 1:
        rows[IMAGE]["bicubic (Pillow)"] = _pillow(rgb, description.scale)
    megapixels = (side * description.scale) ** 2 / 1e6
    for row, calls in rows.items():
        for call in calls.values():
            call()
        times = interleaved(list(calls.values()), rounds, _SECONDS)
        model.seconds[row] = {name: _per(each, megapixels) for name, each in zip(calls, times)}


def _pillow(rgb: NDArray[np.uint8], scale: int) -> Callable[[], Any]:
    from PIL import Image as Pillow

    size = scale * rgb.shape[1], scale * rgb.shape[0]
    return lambda: np.asarray(Pillow.fromarray(rgb).resize(size, Pillow.Resampling.BICUBIC))


def _per(times: Times, megapixels: float) -> Times:
    best, p20, median, p80 = (value / megapixels for value in (times.best, times.p20, times.median, times.p80))
    return Times(best, p20, median, p80, times.rounds)
