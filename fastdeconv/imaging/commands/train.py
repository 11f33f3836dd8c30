"""``fastdeconv train``: options, the run, and what is left of it."""

from __future__ import annotations

import argparse
import logging
import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdeconv.imaging.training.settings import Place, Settings
    from fastdeconv.imaging.training.trainer import Data, Trained

DEFAULT_MINUTES = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run."""
    data = parser.add_argument_group("what to learn from")
    data.add_argument(
        "images", nargs="*", metavar="IMAGES",
        help="pictures, and folders of them; without any, the photographs inside scikit-image and other packages",
    )  # fmt: skip
    data.add_argument("--bundled", action="store_true", help="those photographs as well as IMAGES")
    data.add_argument("--inputs", metavar="DIR", help="pairs of your own: what the network is given, with --targets")
    data.add_argument(
        "--targets", metavar="DIR", help="and what it is to make of it: the same names, 1 to 4 times as large"
    )
    data.add_argument(
        "--validate", nargs="+", default=[], metavar="IMAGES",
        help="pictures and folders to measure on (some of IMAGES, which are not learned from then)",
    )  # fmt: skip
    data.add_argument(
        "--max-side", type=_whole(64), default=None, metavar="PIXELS",
        help="reduce larger pictures to this, which takes away noise and traces of compression (1400)",
    )  # fmt: skip
    task = parser.add_argument_group("what to learn")
    task.add_argument("--task", choices=("upscale", "restore"), default="upscale", help="(%(default)s)")
    task.add_argument("--scale", type=int, choices=(2, 3, 4), help="to upscale by (2)")
    task.add_argument("--blur", type=_range(float), metavar="SIGMA", help="of a Gaussian, in pixels; or LOW:HIGH")
    task.add_argument("--noise", type=_range(float), metavar="SIGMA", help="in levels of 255; or LOW:HIGH")
    task.add_argument("--jpeg", type=_range(int), metavar="QUALITY", help="1 to 100; or LOW:HIGH")
    how = parser.add_argument_group("how")
    length = how.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=_positive, help=f"about how long ({DEFAULT_MINUTES:g})")
    length.add_argument(
        "--steps", type=_whole(1), metavar="N", help="how long; unlike --minutes the same on any machine"
    )
    how.add_argument("--seed", type=_whole(0), default=0, help="(%(default)s)")
    how.add_argument(
        "--channels", type=_channels, metavar="FEATURES,SHRUNK,MAPS",
        help="size of the network: channels at its ends and in between, and how many layers are in between",
    )  # fmt: skip
    how.add_argument("--taps", type=_whole(1), metavar="N", help="odd: pixels that each pixel is finally made of")
    how.add_argument("--crop", type=_whole(4), metavar="PIXELS", help="of the input, that are learned from at once")
    how.add_argument("--batch", type=_whole(1), metavar="N", help="crops a step")
    how.add_argument("--learning-rate", type=_positive, metavar="RATE", help="of Adam, at its highest")
    how.add_argument("--device", metavar="NAME", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    files = parser.add_argument_group("files")
    files.add_argument(
        "-o", "--output", type=Path, default=Path("model.safetensors"), metavar="FILE", help="(%(default)s)"
    )
    files.add_argument(
        "--report", type=Path, metavar="FILE", help="a page (.html) or picture (.png); beside the model if not given"
    )
    files.add_argument("--resume", action="store_true", help="go on with the run that -o names, with its settings")
    files.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run")
    files.add_argument("--quiet", action="store_true", help="no progress bar")


def _whole(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}; got {text!r}")
        return int(text)

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0; got {text!r}")
    return value


def _range(kind: type[float] | type[int]) -> Callable[[str], tuple[float, float]]:
    def parse(text: str) -> tuple[float, float]:
        try:
            low, high = (kind(part) for part in (text.split(":") if ":" in text else (text, text)))
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, or two as LOW:HIGH; got {text!r}") from None
        return low, high

    return parse


def _channels(text: str) -> tuple[int, ...]:
    values = text.split(",")
    if len(values) != 3 or not all(value.isdecimal() for value in values):
        raise argparse.ArgumentTypeError(f"must be three whole numbers, such as 56,12,4; got {text!r}")
    return tuple(map(int, values))


def run(options: argparse.Namespace) -> None:
    """Train, and write the model and the report.

    Raises
    ------
    fastdeconv.imaging.files.FileError, TrainingError, NetworkError, CheckpointError
        What went wrong, in one line for the user.
    KeyboardInterrupt
    """
    # Matplotlib logs a warning where it has no home to keep its fonts in, and makes do.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from fastdeconv.imaging.training import settings as kept
    from fastdeconv.imaging.training.images import TrainingError
    from fastdeconv.imaging.training.settings import Place
    from fastdeconv.imaging.training.trainer import gather, train, with_steps

    place = Place(options.output, options.report or options.output.with_suffix(".html"))
    _check_places(place, options.overwrite, options.resume)
    device = _place(options.device)
    about = None
    if options.resume:
        settings, about = kept.kept(place.settings)
    else:
        settings = _settings(options)
    data = gather(settings)
    for line in data.skipped:
        print(f"left out: {line}")
    print(f"Learning from {data.about}.\nMeasuring on {', '.join(data.tests)}.", flush=True)
    if about is not None and about != data.about:
        raise TrainingError(f"the pictures have changed since the run began: it learned from {about}")
    settings = with_steps(settings, data, device)
    if not options.resume:
        kept.remove(place)
        kept.keep(settings, data.about, place.settings)
    print(f"{_network(settings, data)}, {settings.steps} steps of {settings.recipe.batch} crops.", flush=True)
    try:
        trained = train(
            settings, data, place.checkpoint, resume=options.resume, progress=False if options.quiet else None,
            device=device,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"\nStopped. To go on: fastdeconv train --resume -o {shlex.quote(str(place.model))}", flush=True)
        raise
    _leave(settings, data, trained, place, options)
    kept.remove(place)


def _check_places(place: Place, overwrite: bool, resume: bool) -> None:
    from fastdeconv.imaging.files import FileError, check_output

    if place.report.suffix.lower() not in (".html", ".png"):
        raise FileError(f"{place.report}: --report must end in .html or .png")
    check_output(place.model.parent, [place.model.name], overwrite)
    check_output(place.report.parent, [place.report.name], overwrite)
    if place.checkpoint.exists() and not (resume or overwrite):
        raise FileError(
            f"{place.checkpoint}: an earlier run was not finished; --resume goes on, --overwrite begins anew"
        )
    if resume and not place.checkpoint.exists() and not place.settings.exists():
        raise FileError(f"{place.checkpoint}: no such file, so there is no run to resume; leave --resume out")


def _place(name: str) -> str:
    from fastdeconv.imaging.training.images import TrainingError
    from fastdeconv.imaging.training.learn import training_place

    try:
        return training_place(name)
    except (ValueError, RuntimeError) as error:
        raise TrainingError(f"--{error}") from error


def _settings(options: argparse.Namespace) -> Settings:
    from fastdeconv.imaging.network import Degradation
    from fastdeconv.imaging.training.images import TrainingError
    from fastdeconv.imaging.training.settings import Recipe, Settings

    if (options.inputs is None) != (options.targets is None):
        raise TrainingError("--inputs and --targets belong together: give both, or neither")
    pairs = options.inputs is not None
    spoiling = {name: getattr(options, name) for name in ("blur", "noise", "jpeg") if getattr(options, name)}
    given = {
        "IMAGES": options.images,
        "--bundled": options.bundled,
        "--validate": options.validate,
        "--max-side": options.max_side,
        "--scale": options.scale,
    }
    given |= {f"--{name}": True for name in spoiling}
    if pairs and any(given.values()):
        names = ", ".join(name for name, value in given.items() if value)
        raise TrainingError(f"pairs of your own decide what is learned: leave {names} out")
    if options.task == "restore" and options.scale:
        raise TrainingError("--scale is for --task upscale")
    if options.task == "restore" and not pairs and not spoiling:
        raise TrainingError("--task restore needs what is to be undone: --blur, --noise or --jpeg")
    try:
        if "noise" in spoiling:
            spoiling["noise"] = tuple(value / 255 for value in spoiling["noise"])
        degradation = Degradation(**spoiling) if spoiling else None
    except (TypeError, ValueError) as error:
        raise TrainingError(str(error)) from error
    recipe = Recipe()
    if options.channels:
        recipe = replace(recipe, **dict(zip(("features", "shrunk", "maps"), options.channels)))
    for name in ("taps", "crop", "batch", "learning_rate"):
        if getattr(options, name) is not None:
            recipe = replace(recipe, **{name: getattr(options, name)})
    settings = Settings(
        scale=None if pairs else 1 if options.task == "restore" else options.scale or 2,
        degradation=degradation,
        images=tuple(options.images),
        bundled=options.bundled or not (options.images or pairs),
        inputs=options.inputs,
        targets=options.targets,
        validate=tuple(options.validate),
        max_side=options.max_side or Settings.max_side,
        steps=options.steps,
        minutes=None if options.steps else options.minutes or DEFAULT_MINUTES,
        seed=options.seed,
        recipe=recipe,
        arguments=tuple(options.arguments),
    )
    try:
        settings.description(settings.scale or 1)
    except (TypeError, ValueError) as error:
        raise TrainingError(str(error)) from error
    return settings


def _network(settings: Settings, data: Data) -> str:
    d = data.description
    undone = f", to undo {d.degradation}" if d.degradation else ""
    return (
        f"Network of scale {d.scale} with {d.features}, {d.shrunk} channels and {d.maps} maps, "
        f"{d.multiplications:,} multiplications a pixel{undone}"
    )


def _leave(settings: Settings, data: Data, trained: Trained, place: Place, options: argparse.Namespace) -> None:
    """Print the scores, and write the model and the report."""
    from fastdeconv.imaging import network
    from fastdeconv.imaging.files import write_file
    from fastdeconv.imaging.training import report
    from fastdeconv.imaging.training.measures import measure

    scale = data.description.scale
    baseline = "bicubic" if scale > 1 else "input"
    table = {
        name: (measure(truth, before, data.border, scale), measure(truth, after, data.border, scale))
        for name, (_, before, after, truth) in trained.results.items()
    }
    print(f"{trained.history.message}\n\n{report.text_table(table, baseline)}\n")
    facts = {
        "network": _network(settings, data),
        "learned from": data.about,
        "measured on": ", ".join(data.tests),
        "steps": f"{settings.steps} of {settings.recipe.batch} crops, seed {settings.seed}",
        "command": f"fastdeconv {shlex.join(_reproducing(settings))}",
        "time": f"{trained.history.seconds[-1] / 60:.1f} minutes",
    }
    trained.network.notes |= {key: facts[key] for key in ("command", "learned from", "steps")}
    content = network.to_bytes(trained.network)
    if place.report.suffix.lower() == ".png":
        picture = report.picture(trained, table, baseline)
    else:
        picture = report.page(trained, table, baseline, facts, data.skipped)
    write_file(place.model, content, options.overwrite)
    write_file(place.report, picture, options.overwrite)
    print(f"Wrote {place.model} ({len(content) / 1024:.0f} KiB) and {place.report}.")


def _reproducing(settings: Settings) -> list[str]:
    """Return the arguments that give the same model on any machine, with files and folders by their names."""
    words, kept = iter(settings.arguments), []
    for word in words:
        if word in ("--minutes", "--device"):
            next(words)
        elif not word.startswith(("--minutes=", "--device=")) and word not in ("--resume", "--overwrite", "--quiet"):
            kept.append(Path(word).name or word)
    return kept if settings.minutes is None else [*kept, "--steps", str(settings.steps)]
