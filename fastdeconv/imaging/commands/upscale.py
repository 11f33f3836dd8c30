"""``fastdeconv upscale``: pictures two, three or four times as wide and high."""

from __future__ import annotations

import argparse

from fastdeconv.imaging.commands.common import Enhancer, add_file_arguments, work
from fastdeconv.imaging.commands.errors import UsageError

SCALES = (2, 3, 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--scale", type=int, choices=SCALES, help="times as wide and high (2, or that of --model)")
    add_file_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Enlarge the pictures and return the exit status."""
    return work(options, lambda: _load(options))


def _load(options: argparse.Namespace) -> tuple[Enhancer, int]:
    from fastdeconv.imaging.enhance import Upscaler

    if options.model is None:
        upscaler = Upscaler.pretrained(options.scale or SCALES[0])
    else:
        upscaler = Upscaler.load(options.model)
        if options.scale not in (None, upscaler.scale):
            raise UsageError(f"--scale is {options.scale}, and {options.model} enlarges {upscaler.scale} times")
    return upscaler, upscaler.scale
