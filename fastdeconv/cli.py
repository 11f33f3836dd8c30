"""The ``fastdeconv`` command."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import fastdeconv as fd
from fastdeconv.bench.command import add_arguments
from fastdeconv.imaging.commands import restore, train, upscale
from fastdeconv.imaging.commands.errors import UsageError
from fastdeconv.problem import PASSES

# The extras that a command needs, and their packages that nothing works without, by the name they are imported under.
_IMAGES = {"images": {"PIL", "matplotlib", "skimage", "tqdm", "safetensors", "tifffile"}}
_EXTRAS = {
    "demo": _IMAGES,
    "train": _IMAGES,
    "upscale": _IMAGES,
    "restore": _IMAGES,
    "bench": {"bench": {"matplotlib", "tqdm"}, **_IMAGES},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for a failure told in one line, 2 for bad usage.

    ``bench`` and ``autotune`` also return 1 where a result was wrong.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process if not given.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Signs such as × and letters in file names must not stop a run where the terminal cannot show them.
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    options, unknown = parser.parse_known_args(arguments)
    options.arguments = list(arguments)
    if options.command in ("explain", "autotune"):
        # A descriptor begins with flags of its own; what they may be is for its parser to say.
        options.descriptor = " ".join([*unknown, options.descriptor])
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        status: int = options.run(options) or 0
        sys.stdout.flush()
    except _CommandError as error:
        return _fail(str(error))
    except UsageError as error:
        return _fail(str(error), status=2)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        for extra, packages in _EXTRAS.get(options.command, {}).items():
            if missing in packages:
                return _fail(f'{options.command} needs {missing}: pip install "fastdeconv[{extra}]"')
        raise
    except BrokenPipeError:
        # Whoever read our output has left; without this the interpreter complains when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    return status


class _CommandError(Exception):
    """What went wrong, in one line for the user."""


def _fail(message: str, status: int = 1) -> int:
    print(f"fastdeconv: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastdeconv", description="Transposed convolution and what is learned with it by gradient descent."
    )
    parser.add_argument("--version", action="version", version=f"fastdeconv {fd.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="enlarge and restore photographs, and learn to, in under a minute",
        description="Enlarges and restores photographs with the networks that come along, learns one kernel that "
        "enlarges and one that undoes a blur, measures all on photographs that training never saw, and writes a "
        "picture, the scores and the kernels.",
    )
    demo.add_argument("--image", type=Path, metavar="FILE", help="a picture of your own to measure and show as well")
    demo.add_argument(
        "--output", type=Path, default=Path("fastdeconv-demo"), metavar="DIR", help="folder to write to (%(default)s)"
    )
    demo.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote there")
    demo.add_argument("--seed", type=_seed, default=0, help="of the training crops and the noise (%(default)s)")
    demo.set_defaults(run=_demo)

    enlarge = commands.add_parser(
        "upscale",
        help="enlarge pictures two, three or four times",
        description="Enlarges pictures with a small network that comes along, or with one of your own.",
    )
    upscale.add_arguments(enlarge)
    enlarge.set_defaults(run=partial(_on_pictures, upscale.run))

    mend = commands.add_parser(
        "restore",
        help="free pictures of blur, noise and JPEG's blocks",
        description="Restores pictures with a small network that comes along, or with one of your own.",
    )
    restore.add_arguments(mend)
    mend.set_defaults(run=partial(_on_pictures, restore.run))

    info = commands.add_parser("info", help="what fastdeconv found on this machine")
    info.add_argument("--warm", action="store_true", help="compile every kernel now, into the cache on disk")
    info.set_defaults(run=_info)

    explain = commands.add_parser("explain", help="which implementation runs for a problem, and why")
    explain.add_argument(
        "descriptor",
        metavar="DESCRIPTOR",
        help="for instance mb8ic256ih16iw12oc256oh32ow24kh4kw4sh2sw2ph1pw1, after --dt=f64 or --unbatched if need be",
    )
    explain.add_argument("--pass", dest="pass_", choices=PASSES, help="one pass only")
    explain.add_argument("--algorithm", metavar="NAME", help="a kernel's name or the first words of it")
    explain.set_defaults(run=_explain)

    autotune = commands.add_parser(
        "autotune",
        help="time every implementation for a problem, and use the fastest from then on",
        description="Checks and times every implementation that serves the problem on this machine, with the number of "
        "threads that NUMBA_NUM_THREADS sets. The times are kept beside the compiled kernels, and decide from then on.",
    )
    autotune.add_argument("descriptor", metavar="DESCRIPTOR", help="as of explain")
    autotune.add_argument("--pass", dest="pass_", choices=PASSES, help="one pass only")
    autotune.add_argument("--rounds", type=int, default=9, metavar="N", help="measurements of each (%(default)s)")
    autotune.set_defaults(run=_autotune)

    training = commands.add_parser(
        "train",
        help="train a network that enlarges or restores pictures",
        description="Trains a network from pictures, which it learns to bring back after they were reduced or spoiled, "
        "or from pairs of your own. Writes the model, for upscale and restore, and a report.",
    )
    train.add_arguments(training)
    training.set_defaults(run=_train)

    bench = commands.add_parser(
        "bench",
        help="time fastdeconv against its peers on this machine",
        description="Checks every contender's results, then times all side by side on layers of known networks. Peers "
        "that are not installed are left out.",
    )
    add_arguments(bench)
    bench.set_defaults(run=_bench)
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0; got {text!r}")
    return int(text)


def _demo(options: argparse.Namespace) -> None:
    # Matplotlib logs a warning where it has no home to keep its fonts in, and makes do.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from fastdeconv.imaging import demo
    from fastdeconv.imaging.files import FileError
    from fastdeconv.imaging.network import NetworkError

    try:
        demo.run(options.output, image=options.image, overwrite=options.overwrite, seed=options.seed)
    except (FileError, NetworkError) as error:
        raise _CommandError(str(error)) from error


def _on_pictures(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    from fastdeconv.imaging.errors import FileError

    try:
        return run(options)
    except FileError as error:
        raise _CommandError(str(error)) from error


def _info(options: argparse.Namespace) -> None:
    from fastdeconv.info import report

    print(report(options.warm))


def _explain(options: argparse.Namespace) -> None:
    try:
        print(fd.explain(options.descriptor, pass_=options.pass_, algorithm=options.algorithm))
    except (TypeError, ValueError) as error:
        raise _CommandError(str(error)) from error


def _autotune(options: argparse.Namespace) -> int:
    try:
        result = fd.autotune(options.descriptor, pass_=options.pass_, rounds=options.rounds)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _CommandError(str(error)) from error
    print(result)
    return 1 if result.wrong else 0


def _train(options: argparse.Namespace) -> None:
    from fastdeconv.fit import CheckpointError
    from fastdeconv.imaging.files import FileError
    from fastdeconv.imaging.network import NetworkError
    from fastdeconv.imaging.training.images import TrainingError

    try:
        train.run(options)
    except (FileError, TrainingError, NetworkError, CheckpointError) as error:
        raise _CommandError(str(error)) from error


def _bench(options: argparse.Namespace) -> int:
    from fastdeconv.bench import command

    try:
        return command.run(options)
    except command.BenchError as error:
        raise _CommandError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
