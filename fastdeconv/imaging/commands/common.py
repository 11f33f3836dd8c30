"""What ``upscale`` and ``restore`` have in common: their options on files, and the run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from fastdeconv.imaging.commands.errors import UsageError
from fastdeconv.imaging.errors import FileError

# Of `fastdeconv.imaging.picture.FORMATS`, which is not imported for a list of options: it needs Pillow.
FORMATS = ("png", "jpeg", "tiff", "webp", "bmp")
Pixels = NDArray[Any]


class Enhancer(Protocol):
    """What makes a picture better: `fastdeconv.imaging.enhance.Upscaler`, for one."""

    def transform(
        self, image: Pixels, *, channel_axis: int | None = None, tile: Any = "auto", device: str | None = None
    ) -> Pixels:
        """Return the better picture."""
        ...


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options on what is read, what is written, and how."""
    parser.add_argument("inputs", nargs="+", metavar="IN", help="pictures, folders, patterns, or - for standard input")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT",
        help="a file, whose ending chooses the format; a folder; or - for standard output",
    )  # fmt: skip
    parser.add_argument("-r", "--recursive", action="store_true", help="enter folders in folders")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--format", type=_format, metavar="NAME", help=f"{', '.join(FORMATS)} (that of the input)")
    parser.add_argument(
        "--quality", type=_between(1, 100), default=95, metavar="N", help="of JPEG and WebP, 1 to 100 (%(default)s)"
    )
    parser.add_argument("--lossless", action="store_true", help="write WebP without loss")
    parser.add_argument(
        "--max-pixels", type=_between(1, 2**40), metavar="N", help="most pixels of a picture or result (178,956,970)"
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="a model of your own, from fastdeconv train")
    parser.add_argument(
        "--tile", type=_tile, default="auto", metavar="N",
        help="side of the regions computed one after the other, in pixels; auto is what fits in memory (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:N, or auto: what an estimate says is faster (%(default)s)",
        default="cpu",
    )  # fmt: skip
    parser.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, help="show a bar (if standard error is a terminal)"
    )


def _format(text: str) -> str:
    name = {"jpg": "jpeg", "tif": "tiff"}.get(text.lower(), text.lower())
    if name not in FORMATS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(FORMATS)}; got {text!r}")
    return name


def _between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.replace("_", "").replace(",", "")
        if not digits.isdecimal() or not low <= int(digits) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}; got {text!r}")
        return int(digits)

    return parse


def _tile(text: str) -> int | str:
    return text if text == "auto" else _between(1, 2**20)(text)


def work(options: argparse.Namespace, load: Callable[[], tuple[Enhancer, int]]) -> int:
    """Carry out a command and return its exit status: 0, or 1 if something failed.

    Parameters
    ----------
    options : argparse.Namespace
        With those of `add_file_arguments`.
    load : callable
        Returns the enhancer and how many times wider and higher it makes a picture; called when it is clear that
        there is work, and where it can go.

    Raises
    ------
    UsageError
        The arguments do not fit together.
    fastdeconv.imaging.errors.FileError
        The output cannot be written to, the model cannot be read, or there is no such device.
    """
    from fastdeconv.imaging.commands import inputs, pipeline
    from fastdeconv.imaging.commands.report import Report
    from fastdeconv.imaging.picture import MAX_PIXELS, Encoding
    from fastdeconv.imaging.picture.reading import allowing

    _check_device(options.device)
    to_stdout = options.output == inputs.STANDARD
    found = inputs.find(options.inputs, options.recursive, None if to_stdout else Path(options.output))
    if to_stdout and sys.stdout.isatty():
        raise UsageError("-o - writes a picture to standard output, which is a terminal: send it to a file or a pipe")
    output = inputs.decide(options.output, found, options.format, options.overwrite) if found.jobs else None
    with Report(len(found.jobs), options.progress, quiet_output=to_stdout) as report:
        for line in found.failures:
            report.finish(failed=line, of_total=False)
        for line, count in found.skipped:
            report.finish(skipped=line, count=count, of_total=False)
        if output is not None:
            enhancer, scale = _loaded(load)
            max_pixels = options.max_pixels or MAX_PIXELS
            encoding = Encoding(options.quality, options.lossless)
            settings = pipeline.Settings(
                partial(_enhanced, enhancer, options.tile, options.device), scale, max_pixels, encoding
            )
            with allowing(max_pixels):
                pipeline.run(found.jobs, output, settings, report)
    return report.summary()


def _check_device(name: str) -> None:
    from fastdeconv.devices import resolve

    try:
        resolve(name)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from error
    except RuntimeError as error:
        raise FileError(str(error)) from error


def _loaded(load: Callable[[], tuple[Enhancer, int]]) -> tuple[Enhancer, int]:
    try:
        return load()
    except (ValueError, RuntimeError) as error:  # a file that holds no such model
        raise FileError(str(error)) from error


def _enhanced(enhancer: Enhancer, tile: int | str, device: str, pixels: Pixels, tell: Callable[[str], None]) -> Pixels:
    """Return the better pixels of a page, and tell what was chosen for it, if something was."""
    result = enhancer.transform(pixels, channel_axis=None if pixels.ndim == 2 else 2, tile=tile, device=device)
    choice = getattr(enhancer, "choice", "")
    if choice:
        tell(choice)
    return result
