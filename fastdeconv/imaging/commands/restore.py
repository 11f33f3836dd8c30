"""``fastdeconv restore``: pictures freed of blur, noise and the blocks of JPEG."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from fastdeconv.imaging.commands.common import Enhancer, add_file_arguments, work
from fastdeconv.imaging.commands.errors import UsageError

NAMES = ("blur", "noise", "jpeg")
AUTO, NONE = "auto", "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--blur", type=_value(0, 20), metavar="SIGMA",
        help="of the Gaussian that blurred, in pixels; auto, estimated from each picture; or none (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--noise", type=_value(0, 255), metavar="SIGMA", help="standard deviation in levels of 255; auto or none (auto)"
    )
    parser.add_argument(
        "--jpeg", type=_value(1, 100), metavar="QUALITY", help="that it was saved with, 1 to 100; auto or none (auto)"
    )
    add_file_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Restore the pictures and return the exit status."""
    given = [name for name in NAMES if getattr(options, name) is not None]
    if options.model is not None and given:
        raise UsageError(f"--{given[0]} chooses among the models that come along; --model names another")
    return work(options, lambda: _load(options))


def _value(low: float, high: float) -> Callable[[str], float | str]:
    def parse(text: str) -> float | str:
        if text in (AUTO, NONE):
            return text
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a number from {low} to {high}, {AUTO} or {NONE}; got {text!r}")
        return value

    return parse


def _load(options: argparse.Namespace) -> tuple[Enhancer, int]:
    from fastdeconv.imaging.enhance import Restorer

    if options.model is not None:
        return Restorer.load(options.model), 1
    blur, noise, jpeg = (_wanted(getattr(options, name)) for name in NAMES)
    if isinstance(noise, float):
        noise /= 255  # a share of the full scale
    return Restorer.pretrained(blur, noise, round(jpeg) if isinstance(jpeg, float) else jpeg), 1


def _wanted(value: float | str | None) -> Any:
    """Return what `Restorer.pretrained` takes for a value of the command line; not given is estimated."""
    if value is None:
        return AUTO
    return None if value == NONE else value
