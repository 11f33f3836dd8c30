"""``fastdeconv bench upscaling``: how long it takes to enlarge an image, here and with the same weights elsewhere.

Three rows are measured: the network alone, on a plane of luminance that has its margin; the whole way from an array of
uint8 with red, green and blue to the enlarged one; and a command from file to file, in a process of its own. Then our
way from array to array, stage by stage.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastdeconv as fd
from fastdeconv.bench import machine
from fastdeconv.bench.markdown import table
from fastdeconv.bench.results import Run
from fastdeconv.bench.timing import Times, interleaved
from fastdeconv.bench.upscaling_peers import CONTENDERS, Contender, Ours, start

Array = NDArray[Any]
Planes = NDArray[np.float32]

SECONDS = 60.0  # at most, for each contender of a row
BODY, IMAGE, COMMAND = "network alone", "image", "command"
# Results agree up to this: planes of full scale 1, and levels of 255.
_PLANE, _LEVELS = 1e-4, 2
_CONDITIONS = (
    "Contenders in turn, each round; medians, with 20 % and 80 % in brackets. A command starts a process, reads a PNG "
    "file and writes one, all with Pillow and the same compression; our kernels are compiled beforehand."
)
# Pixels of the input at a border, which libraries mirror, repeat or leave out.
_BORDER = 4


@dataclass
class Figures(Run):
    """What a run found.

    Attributes
    ----------
    rows : dict from row to dict from contender to Times
    stages : dict from stage to Times
        Of our way for an image.
    """

    size: tuple[int, int]
    network: str
    conditions: dict[str, str]
    left_out: dict[str, str]
    rows: dict[str, dict[str, Times]] = field(default_factory=dict)
    stages: dict[str, Times] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit status: 1 if a result was wrong."""
    from fastdeconv.bench.command import BenchError
    from fastdeconv.imaging import network as networks

    for path in (options.json, options.output):
        if path and not path.resolve().parent.is_dir():
            raise BenchError(f"{path}: there is no such folder")
    try:
        if options.threads is not None:
            fd.set_num_threads(options.threads)
        network = networks.load(options.model) if options.model else _any_network(options.scale)
    except ValueError as error:
        raise BenchError(str(error)) from error
    if network.description.scale == 1:
        raise BenchError(f"--model {options.model}: holds a network that restores")
    figures = measure(options, network)
    text = page(figures)
    print(text, flush=True)
    if options.json:
        figures.write(options.json)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return int(bool(figures.wrong))


def _any_network(scale: int) -> Any:
    from fastdeconv.imaging.network import Description, Network

    network = Network(Description(scale))
    # Without this it would hardly add anything, and a wrong result could pass for a right one.
    for parameter in network.body[-1].parameters():
        parameter.data[...] *= 5
    return network


def measure(options: argparse.Namespace, network: Any) -> Figures:
    """Check all contenders against ours, then time them in turn."""
    from fastdeconv.imaging.render import rendered
    from fastdeconv.imaging.stored import as_pages

    threads = fd.get_num_threads()
    peers = [kind.name for kind in CONTENDERS if kind is not Ours]
    names = peers if "all" in options.peers else options.peers
    contenders, left_out = start(names, network, threads)
    description = network.description
    figures = Figures(
        command=f"fastdeconv {shlex.join(options.arguments)}",
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=machine.describe(),
        versions=machine.versions() | {contender.name: contender.version() for contender in contenders},
        threads=threads,
        size=options.size,
        network=f"scale {description.scale}, {description.features}, {description.shrunk}, {description.maps}; "
        f"{description.multiplications:,} multiplications a pixel of the input",
        conditions={contender.name: contender.conditions for contender in contenders},
        left_out=left_out,
    )
    rgb = scene(options.size)
    padded = np.pad(rgb[..., 1].astype(np.float32) / np.float32(255), description.radius, mode="symmetric")
    rounds = options.rounds or 9
    with tempfile.TemporaryDirectory() as folder:
        rows: dict[str, Sequence[Callable[[], Array | Path]]] = {
            BODY: [contender.body(padded) for contender in contenders],
            IMAGE: [contender.image(rgb) for contender in contenders],
            COMMAND: _commands(contenders, network, rgb, Path(folder), threads),
        }
        expected = {limits: rendered(as_pages(rgb, -1), network, limits=limits) for limits in (False, True)}
        for row, calls in rows.items():
            results = [_pixels(call()) for call in calls]
            right = [results[0] if row == BODY else _pixels(expected[contender.limits]) for contender in contenders]
            figures.wrong += _disagreements(row, contenders, results, right, description.scale)
            times = interleaved(calls, rounds, SECONDS)
            figures.rows[row] = {contender.name: each for contender, each in zip(contenders, times)}
    figures.stages = _stages(network, rgb, rounds)
    return figures


def _commands(
    contenders: list[Contender], network: Any, rgb: NDArray[np.uint8], folder: Path, threads: int
) -> list[Callable[[], Path]]:
    """Return for each contender a function that runs its command on a PNG file and returns where the result is."""
    from PIL import Image

    from fastdeconv.imaging.network import save

    model, source = folder / "model.safetensors", folder / "source.png"
    save(network, model)
    Image.fromarray(rgb).save(source)
    environment = os.environ | {"NUMBA_NUM_THREADS": str(threads)}

    def command(contender: Contender) -> Callable[[], Path]:
        target = folder / f"{contender.name}.png"
        arguments = contender.command(model, source, target)

        def run() -> Path:
            done = subprocess.run(
                arguments, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{contender.name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
            return target

        return run

    return [command(contender) for contender in contenders]


def _pixels(result: Array | Path) -> Planes:
    if isinstance(result, Path):
        from PIL import Image

        with Image.open(result) as picture:
            result = np.asarray(picture)
    return result.astype(np.float32)


def scene(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image with smooth parts, edges and texture: what is in it does not change the time it takes.

    It keeps off black and white, where libraries that round between steps would clip.
    """
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.sin(x * y / 4000) + np.sin((x + 2 * y) / 37) + ((x // 64 + y // 64) % 2)
    image = np.stack([waves, np.roll(waves, 5, axis=0), np.sin(x / 50) + waves / 2], axis=-1)
    low, high = image.min(), image.max()
    levels: NDArray[np.uint8] = (48 + (image - low) / (high - low) * 160).astype(np.uint8)
    return levels


def _disagreements(
    row: str, contenders: list[Contender], results: list[Planes], expected: list[Planes], scale: int
) -> list[str]:
    """Return a line for each contender whose result is not what ours should be."""
    border = scale * _BORDER
    inside = np.s_[border:-border, border:-border]
    limit = _PLANE if row == BODY else _LEVELS
    lines = []
    for contender, result, right in zip(contenders, results, expected):
        difference = float(np.abs(result[inside] - right[inside]).max())
        if not difference <= limit:
            lines.append(f"{row}: {contender.name} differs from ours by {difference:.3g}, more than {limit:g}")
    return lines


def _stages(network: Any, rgb: NDArray[np.uint8], rounds: int) -> dict[str, Times]:
    """Time the stages of `imaging.render` on an opaque image of three colours."""
    from fastdeconv.bench.timing import summary
    from fastdeconv.imaging.inference import applied, body_chain
    from fastdeconv.imaging.limits import limit
    from fastdeconv.imaging.render import gain
    from fastdeconv.imaging.stored import as_pages, luma
    from fastdeconv.imaging.tiles import enlarged, regions

    taken: dict[str, list[float]] = defaultdict(list)
    scale = network.description.scale
    for number in range(rounds + 1):
        spent: dict[str, float] = defaultdict(float)
        clock = time.perf_counter()

        def lap(stage: str, spent: dict[str, float] = spent) -> None:
            nonlocal clock
            now = time.perf_counter()
            spent[stage] += now - clock
            clock = now

        pages = as_pages(rgb, -1)
        chain = body_chain(network)
        result = pages.enlarged(scale)
        (source,), (target,) = pages, result
        lap("prepare")
        for region in regions(rgb.shape[0], rgb.shape[1], scale, "auto"):
            plane = luma(source, region.grown(chain.margin // 2), 3)
            lap("luminance")
            added = applied(chain, plane)
            lap("network")
            limit(added, plane, chain.margin // 2, scale)
            lap("limits")
            for channel in range(3):
                large = enlarged(source, region, channel, scale)
                lap("bicubic colours")
                target.store(region.scaled(scale), channel, large, added, gain(3))
                lap("sum and rounding")
        if number:  # the first round touches memory for the first time
            for stage, seconds in spent.items():
                taken[stage].append(seconds)
    return {stage: summary(seconds) for stage, seconds in taken.items()}


def page(figures: Figures) -> str:
    """Return the page as Markdown."""
    height, width = figures.size
    lines = [
        "# Enlarging an image",
        "",
        f"`{figures.command}`, {figures.date}. Input {width}×{height}, network of {figures.network}. "
        f"{figures.threads} threads. {_CONDITIONS}",
        "",
        table(["", ""], [[name, value] for name, value in (figures.machine | figures.versions).items()]),
    ]
    for row, times in figures.rows.items():
        ours = times[Ours.name].median
        body = [
            [name, _spread(each), f"{each.median / ours:.2f}", figures.conditions[name]] for name, each in times.items()
        ]
        lines += ["", f"## {row[0].upper()}{row[1:]}", "", table(["", "ms", "times ours", ""], body)]
    total = sum(each.median for each in figures.stages.values())
    body = [[stage, _spread(each), f"{100 * each.median / total:.0f} %"] for stage, each in figures.stages.items()]
    lines += ["", "## Our way, stage by stage", "", table(["", "ms", "share"], body)]
    lines += ["", *(f"- {name}: {why}" for name, why in figures.left_out.items())]
    lines += [f"- **wrong**: {line}" for line in figures.wrong]
    return "\n".join(lines).rstrip() + "\n"


def _spread(times: Times) -> str:
    return f"{1e3 * times.median:.1f} ({1e3 * times.p20:.1f} to {1e3 * times.p80:.1f})"
