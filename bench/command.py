"""``fastdeconv bench``: options, the run, and the report on its figures.

``python -m bench`` is ``fastdeconv bench --full``.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import fastdeconv as fd
from fastdeconv.bench.operands import TIMED, TimedPass
from fastdeconv.problem import PASSES

DTYPES = ("float32", "float64")
# Of `bench.training`, which needs PyTorch.
MODELS = ("fsrcnn", "dcgan", "tiny")

# What an option is where it is not given: the quick run fits into a coffee break, the full one into an evening.
_QUICK: dict[str, Any] = {"layers": "quick", "passes": list(PASSES), "rounds": 7, "budget": 90.0, "sections": []}
_FULL: dict[str, Any] = {"layers": "all", "passes": list(TIMED), "rounds": 15, "budget": 0.0, "sections": ["all"]}
_ROW = 20.0  # seconds for the timing of a row, where there is no budget


class BenchError(Exception):
    """What went wrong, in one line for the user."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run, and the commands ``report`` and ``cuda-code``."""
    from fastdeconv.bench.contenders import PEERS
    from fastdeconv.bench.sections import SECTIONS

    peers = [peer.name for peer in PEERS]
    parser.add_argument("--full", action="store_true", help="everything the suite has, without a limit on time")
    parser.add_argument(
        "--layers", metavar="NAMES",
        help="with commas: all, listed, quick, 1d, 2d, 3d, unseen, unseen:SEED, names, descriptors (quick)",
    )  # fmt: skip
    parser.add_argument(
        "--pass", dest="passes", type=several(TIMED), metavar="PASSES", help=f"with commas: {', '.join(TIMED)}"
    )
    parser.add_argument(
        "--dtype", dest="dtypes", type=several(DTYPES), default=[], metavar="TYPES", help="float32,float64"
    )
    parser.add_argument("--batch", type=_batches, default=[], metavar="SIZES", help="instead of those of the layers")
    parser.add_argument(
        "--peers", type=several(("all", "none", *peers)), default=["all"], metavar="NAMES",
        help=f"all, none, or with commas: {', '.join(peers)} (all that are installed)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=at_least(1), metavar="N", help="measurements of each contender (7)")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="of every contender (Numba's)")
    parser.add_argument("--budget", type=_seconds, metavar="SECONDS", help="start no row after; 0 is without end (90)")
    parser.add_argument(
        "--sections", type=several(("all", "none", *SECTIONS)), metavar="NAMES",
        help=f"with commas, after the rows: {', '.join(SECTIONS)} (none)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    commands = parser.add_subparsers(dest="action", metavar="{report,cuda-code,gpu,training,upscaling,quality,choices}")
    report = commands.add_parser("report", help="a page with pictures from the figures of a run")
    report.add_argument("figures", type=Path, metavar="FILE", help="what --json wrote")
    report.add_argument(
        "-o", "--output", type=Path, default=Path("benchmarks.md"), metavar="PAGE", help="(%(default)s)"
    )
    code = commands.add_parser("cuda-code", help="a page on device kernels as machine code; needs no GPU")
    code.add_argument("-o", "--output", type=Path, default=Path("cuda.md"), metavar="PAGE", help="(%(default)s)")
    _add_gpu(commands)
    training = commands.add_parser(
        "training",
        argument_default=argparse.SUPPRESS,
        help="training steps of whole models beside PyTorch: time by layer, of the step, memory",
    )
    training.add_argument("--models", type=several(MODELS), default=list(MODELS[:2]), metavar="NAMES",
                          help=f"with commas: {', '.join(MODELS)} ({', '.join(MODELS[:2])})")  # fmt: skip
    _add_measuring(training, 1, "measurements of each contender (15)")
    _add_upscaling(commands)
    _add_quality(commands)
    _add_choices(commands)


def _add_gpu(commands: Any) -> None:
    from fastdeconv.bench.gpu.precisions import PRECISIONS

    gpu = commands.add_parser(
        "gpu",
        argument_default=argparse.SUPPRESS,  # what the options above were told, they keep
        help="check every device kernel on a GPU, then time them beside cuDNN, in under eight minutes",
        description="Checks every kernel on the current GPU, measures the limits of the device, and times layers "
        "beside cuDNN (through PyTorch, where that is installed with CUDA).",
    )
    gpu.add_argument(
        "--dry-run", action="store_true", default=False, help="no GPU: run the kernels in Numba's simulator"
    )
    gpu.add_argument("--layers", metavar="NAMES", help="as without gpu (listed)")
    gpu.add_argument(
        "--pass", dest="passes", type=several(PASSES), metavar="PASSES", help=f"with commas: {', '.join(PASSES)}"
    )
    gpu.add_argument(
        "--precision", dest="precisions", type=several(tuple(PRECISIONS)), default=list(PRECISIONS), metavar="NAMES",
        help=f"with commas: {', '.join(PRECISIONS)} (all)",
    )  # fmt: skip
    gpu.add_argument("--rounds", type=at_least(1), metavar="N", help="measurements of each contender (15)")
    gpu.add_argument("--budget", type=_seconds, metavar="SECONDS", help="for everything; 0 is without end (440)")
    gpu.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")


def _add_measuring(command: argparse.ArgumentParser, rounds: int, help_of_rounds: str) -> None:
    """Add what all commands take that measure contenders and make a page; there may be so few rounds."""
    command.add_argument("--rounds", type=at_least(rounds), metavar="N", help=help_of_rounds)
    command.add_argument("--threads", type=at_least(1), metavar="N", help="of every contender (Numba's)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    command.add_argument("-o", "--output", type=Path, default=None, metavar="PAGE", help="write a page, as Markdown")


def _add_upscaling(commands: Any) -> None:
    peers = ("torch", "torch_cl", "onnxruntime")
    upscaling = commands.add_parser(
        "upscaling",
        argument_default=argparse.SUPPRESS,  # what the options above were told, they keep
        help="how long it takes to enlarge an image, beside PyTorch and ONNX Runtime",
        description="Times a network on a plane and on the way from an image to the enlarged one, here and with the "
        "same weights in other libraries, and our way stage by stage.",
    )
    upscaling.add_argument(
        "--model", type=Path, default=None, metavar="FILE", help="a network (one of the default sizes, untrained)"
    )
    upscaling.add_argument("--scale", type=int, choices=(2, 3, 4), default=2, help="of the network without --model (2)")
    upscaling.add_argument("--size", type=_size, default=(1080, 1920), metavar="WxH", help="of the input (1920x1080)")
    upscaling.add_argument(
        "--peers", type=several(("all", "none", *peers)), metavar="NAMES",
        help=f"all, none, or with commas: {', '.join(peers)} (all that are installed)",
    )  # fmt: skip
    _add_measuring(upscaling, 1, "measurements of each contender (9)")


def _add_quality(commands: Any) -> None:
    quality = commands.add_parser(
        "quality",
        argument_default=argparse.SUPPRESS,  # what the options above were told, they keep
        help="how good the networks are that come with the package: PSNR, detail, overshoot, checkerboards, time",
        description="Measures networks on photographs that training never sees, and on drawn planes, beside bicubic "
        "enlargement or the filters of scikit-image at their best settings.",
    )
    quality.add_argument("--models", type=Path, default=None, metavar="DIR", help="with networks (the package's)")
    quality.add_argument("--images", type=Path, default=None, metavar="FOLDER", help="your own pictures to measure on")
    _add_measuring(quality, 0, "of the timing; 0 leaves it out (5)")


def _add_choices(commands: Any) -> None:
    choices = commands.add_parser(
        "choices",
        argument_default=argparse.SUPPRESS,  # what the options above were told, they keep
        help="how far the choice of kernels is from the best, on random problems",
        description="Times every kernel that serves random problems, and compares the chosen one with the fastest.",
    )
    choices.add_argument("--pass", dest="passes", type=several(PASSES), default=list(PASSES), metavar="PASSES",
                         help=f"with commas: {', '.join(PASSES)} (all)")  # fmt: skip
    choices.add_argument("--seconds", type=_seconds, default=120.0, metavar="S", help="for each pass (120)")
    choices.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of the problems (0)")
    choices.add_argument("--least", type=float, default=1e7, metavar="FLOPS", help="operations of a problem (1e7)")
    choices.add_argument("--channels-last", action="store_true", default=False, help="arrays with channels last")
    choices.add_argument("--fit", action="store_true", default=False, help="print weights fitted to the times")


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit status: 1 if a result was wrong."""
    if options.action == "report":
        return _report(options)
    if options.action == "cuda-code":
        return _cuda_code(options)
    if options.action == "gpu":
        from fastdeconv.bench.gpu import command as gpu

        return gpu.run(options)
    if options.action == "training":
        return _training(options)
    if options.action == "upscaling":
        from fastdeconv.bench import upscaling

        return upscaling.run(options)
    if options.action == "quality":
        from fastdeconv.bench import quality

        return quality.run(options)
    if options.action == "choices":
        from fastdeconv.bench import choices

        return choices.run(options)
    for name, value in (_FULL if options.full else _QUICK).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return _measure(options)


def _report(options: argparse.Namespace) -> int:
    from fastdeconv.bench.report import write
    from fastdeconv.bench.results import Results

    try:
        results = Results.read(options.figures)
    except ValueError as error:
        raise BenchError(str(error)) from error
    for path in write(results, options.output):
        print(f"wrote {path}")
    return 0


def _cuda_code(options: argparse.Namespace) -> int:
    from fastdeconv.bench.cuda_code import toolchain

    try:
        for tool in toolchain.TOOLS:
            toolchain.find(tool)
        from tqdm import tqdm

        from fastdeconv.bench.cuda_code import cases, measure, page  # need what comes with the tools

        total = sum(len(cases.entries(capability)) for capability in measure.ARCHITECTURES)
        bar = tqdm(measure.measure_all(), total=total, disable=None, leave=False, unit="kernel")
        found = {(key, capability): code for key, capability, code in bar}
    except toolchain.ToolError as error:
        raise BenchError(str(error)) from error
    options.output.write_text(page.render(found), encoding="utf-8")
    print(f"wrote {options.output}")
    return int(any(code.usage.spills or code.usage.stack for code in found.values()))


def _training(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("torch") is None:
        raise BenchError("bench training needs torch: pip install torch")
    from fastdeconv.bench import machine, training, training_page

    threads, rounds = getattr(options, "threads", None) or fd.get_num_threads(), options.rounds or _FULL["rounds"]
    try:
        fd.set_num_threads(threads)
        models = [training.measure(training.MODELS[name], threads, rounds) for name in options.models]
    except ValueError as error:
        raise BenchError(str(error)) from error
    report = training_page.Report(
        f"fastdeconv {shlex.join(options.arguments)}", datetime.now(UTC).isoformat(timespec="minutes"),
        machine.describe(), machine.versions() | {"torch": metadata.version("torch")}, threads, rounds, models,
    )  # fmt: skip
    print("\n".join(map(training_page.lines, models)))
    if options.json:
        report.write(options.json)
    if getattr(options, "output", None):
        options.output.write_text(report.page(), encoding="utf-8")
        print(f"wrote {options.output}")
    return 0


def _measure(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fastdeconv.bench import layers, suite, table
    from fastdeconv.bench.sections import SECTIONS

    start = time.perf_counter()
    try:
        chosen = layers.variants(layers.select(options.layers), options.dtypes, options.batch)
        if options.threads is not None:
            fd.set_num_threads(options.threads)
    except ValueError as error:
        raise BenchError(str(error)) from error
    if options.json and not options.json.resolve().parent.is_dir():
        raise BenchError(f"--json {options.json}: there is no such folder")
    dtypes = list(dict.fromkeys(layer.problem.dtype for layer in chosen))
    if not set(dtypes) <= set(DTYPES):
        raise BenchError(f"layers must be of {' or '.join(DTYPES)}; got {', '.join(dtypes)}")
    results, contenders = _start(options, dtypes)
    print(table.header(results), flush=True)
    todo: list[tuple[str, TimedPass, Any]] = [
        (dtype, pass_, layer)
        for dtype in dtypes
        for pass_ in options.passes
        for layer in chosen
        if layer.problem.dtype == dtype
    ]
    bar = tqdm(todo, disable=None, leave=False, unit="row")
    for number, (dtype, pass_, layer) in enumerate(bar):
        bar.set_description(f"{pass_} {layer.name}")
        left = options.budget - (time.perf_counter() - start)
        if options.budget and left <= 0:
            results.not_run.append(f"{dtype} {pass_} {layer.name}")
            continue
        seconds = min(_ROW, left / (len(todo) - number) / 2) if options.budget else _ROW  # half goes into checks
        first = (dtype, pass_) not in results.groups()
        results.rows.append(suite.run_row(layer, pass_, contenders, options.rounds, seconds))
        if first:
            tqdm.write(table.heading(results, dtype, pass_))
        tqdm.write(table.line(results, results.rows[-1]))
        sys.stdout.flush()
        rows = results.groups()[dtype, pass_]
        if number + 1 == len(todo) or todo[number + 1][:2] != (dtype, pass_):
            tqdm.write("\n".join(filter(None, (table.means(results, rows), *table.notes(rows)))))
    if results.not_run:
        print(f"\nnot run, as {options.budget:.0f} s are over (--budget): {', '.join(results.not_run)}")
    names = [contender.name for contender in contenders]
    for name in _all(options.sections, tuple(SECTIONS)):
        rows_of_section = SECTIONS[name].run(chosen, names, results.threads, options.rounds)
        results.sections[name] = rows_of_section
        print(table.section(SECTIONS[name].title, rows_of_section), flush=True)
    if options.json:
        results.write(options.json)
    return int(any(row.error or row.disagrees for row in results.rows))


def _start(options: argparse.Namespace, dtypes: list[str]) -> tuple[Any, list[Any]]:
    """Return the results of a run without rows yet, and the contenders, started."""
    from fastdeconv.bench import contenders, machine, peak
    from fastdeconv.bench.results import Limits, Results

    threads = fd.get_num_threads()
    # Before the peers are there, whose threads might disturb it.
    limits = Limits({dtype: peak.flops_per_second(dtype) for dtype in dtypes}, peak.bytes_per_second())
    names = _all(options.peers, tuple(peer.name for peer in contenders.PEERS))
    started, left_out = contenders.start(names, threads)
    results = Results(
        command=f"fastdeconv {shlex.join(options.arguments)}",
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=machine.describe(),
        versions=machine.versions() | {contender.name: contender.version() for contender in started},
        threads=threads,
        rounds=options.rounds,
        contenders={contender.name: contender.conditions for contender in started},
        peers=[contender.name for contender in started if contender.is_peer],
        left_out=left_out | {peer.name: "not asked for" for peer in contenders.PEERS if peer.name not in names},
        limits=limits,
    )
    return results, started


def _all(names: list[str], known: tuple[str, ...]) -> list[str]:
    """Return what a list with ``all`` or ``none`` in it means."""
    return list(known) if "all" in names else [name for name in known if name in names]


def several(known: tuple[str, ...]) -> Any:
    """Return a reader of a list with commas for argparse."""

    def names(text: str) -> list[str]:
        parts = [part.strip() for part in text.split(",")]
        for part in parts:
            if part not in known:
                raise argparse.ArgumentTypeError(f"{part!r} is not one of {', '.join(known)}")
        return list(dict.fromkeys(parts))

    return names


def at_least(least: int) -> Any:
    """Return a reader of a whole number for argparse."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}; got {text!r}")
        return int(text)

    return number


def _batches(text: str) -> list[int]:
    return [at_least(1)(part.strip()) for part in text.split(",")]


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 16):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT in pixels, 16 at least; got {text!r}")
    return int(height), int(width)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds of at least 0; got {text!r}")
    return value
