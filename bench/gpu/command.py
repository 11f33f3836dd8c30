"""``fastdeconv bench gpu``: kernels checked on the device, then its limits, rows, and what a call costs the host."""

from __future__ import annotations

import argparse
import shlex
import time
from dataclasses import replace
from datetime import UTC, datetime

import fastdeconv as fd
from fastdeconv.bench import layers, machine, suite, table
from fastdeconv.bench.command import BenchError
from fastdeconv.bench.contenders import one_line
from fastdeconv.bench.contenders.base import Contender, UnsupportedError
from fastdeconv.bench.gpu import checks, contenders, device, limits, sections, simulator
from fastdeconv.bench.gpu.clock import EventClock
from fastdeconv.bench.gpu.precisions import PRECISIONS, Precision
from fastdeconv.bench.layers import Layer
from fastdeconv.bench.operands import Operands
from fastdeconv.bench.results import Limits, Results
from fastdeconv.cuda import plan, runtime
from fastdeconv.devices import number
from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cuda.launches import Target
from fastdeconv.precision import get_float32_precision
from fastdeconv.problem import PASSES, Pass

_LAYERS, _ROUNDS, _BUDGET = "listed", 15, 440.0
# Of the budget: the end of the checks, and of the rows.
_CHECKS, _ROWS = 0.4, 0.92
_ROW = 5.0  # seconds for the timing of a row, where there is no budget


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit status: 1 if a result was wrong."""
    try:
        chosen = layers.select(options.layers or _LAYERS)
    except ValueError as error:
        raise BenchError(str(error)) from error
    passes: list[Pass] = options.passes or list(PASSES)
    if not set(passes) <= set(PASSES):
        raise BenchError(f"--pass must be of {', '.join(PASSES)} on a GPU; got {', '.join(passes)}")
    precisions = [PRECISIONS[name] for name in options.precisions]
    if options.dry_run:
        return _rehearse(chosen, passes, precisions)
    if reason := runtime.unusable() or device.uncompilable():
        raise BenchError(f"python -m bench gpu needs a GPU: {reason}. --dry-run runs without")
    if options.json and not options.json.resolve().parent.is_dir():
        raise BenchError(f"--json {options.json}: there is no such folder")
    before = get_float32_precision()
    try:
        return _Run(options, chosen, passes, precisions).all()
    finally:
        fd.set_float32_precision(before)


def _rehearse(chosen: list[Layer], passes: list[Pass], precisions: list[Precision]) -> int:
    """Run the kernels in the simulator, and say what a device would measure."""
    print("Kernels in Numba's simulator, exact on small integers:", flush=True)
    try:
        status = simulator.run()
    except TimeoutError as error:
        raise BenchError(str(error)) from error
    print(
        f"\nOn a GPU, {len(chosen) * len(passes) * len(precisions)} rows follow, for {', '.join(passes)} in "
        f"{', '.join(precision.name for precision in precisions)}, of these layers:"
    )
    print("\n".join(f"  {layer.name:21}{layer.problem}" for layer in chosen))
    print("with these contenders, as far as they are installed:")
    print("\n".join(f"  {kind.name:21}{kind.conditions}" for kind in contenders.CONTENDERS))
    print("No time was measured, and none is predicted." if status == 0 else "Not every kernel is right: see above.")
    return status


class _Run:
    """One run on the current device, stage by stage."""

    def __init__(
        self, options: argparse.Namespace, chosen: list[Layer], passes: list[Pass], precisions: list[Precision]
    ) -> None:
        self._json = options.json
        self._layers, self._passes, self._precisions = chosen, passes, precisions
        self._start = time.perf_counter()
        self._budget = _BUDGET if options.budget is None else options.budget or float("inf")
        self._place = runtime.place()
        self._index = number(self._place)
        self._clock = EventClock()
        self._tallies = checks.tallies(passes)
        self._failed = False  # of a section
        self._results = Results(
            command=f"fastdeconv {shlex.join(options.arguments)}",
            date=datetime.now(UTC).isoformat(timespec="minutes"),
            machine=device.describe(self._index) | machine.describe(),
            versions=machine.versions() | device.versions(),
            threads=fd.get_num_threads(),
            rounds=options.rounds or _ROUNDS,
            contenders={},
            peers=[],
            left_out={},
            limits=Limits({}, 0.0),
        )

    def all(self) -> int:
        """Run all stages and return the exit status."""
        try:
            self._check()
            self._measure_limits()
            self._rows()
            self._sections()
        except checks.DeviceLostError as error:
            print(f"{error}; no more is measured")
        finally:
            self._results.sections[sections.CHECKS] = [tally.row() for tally in self._tallies.values()]
            if self._json:
                self._results.write(self._json)
        return int(self._failed or self._wrong() or any(row.error or row.disagrees for row in self._results.rows))

    def _wrong(self) -> bool:
        return any(tally.wrong for tally in self._tallies.values())

    def _end(self, share: float) -> float:
        return self._start + share * self._budget

    def _target(self) -> Target:
        return runtime.target(self._index)

    def _check(self) -> None:
        held, refused = device.dtypes()
        self._results.left_out |= refused
        print(f"Kernels on {self._results.machine['gpu']}, exact on small integers and bounded on floats:", flush=True)
        try:
            device.check_bias(held, self._tallies, self._end(_CHECKS))
            planned = checks.planned(self._target(), held)
            checks.run(planned, device.executor(self._index), self._tallies, self._end(_CHECKS))
        finally:
            print("\n".join(map(str, self._tallies.values())), flush=True)

    def _measure_limits(self) -> None:
        flops: dict[str, float] = {}
        for precision in list(self._precisions):
            try:
                if precision.dtype in self._results.left_out:
                    raise UnsupportedError(self._results.left_out[precision.dtype])
                flops[precision.name] = limits.flops_per_second(precision, self._clock)
            except UnsupportedError as error:
                self._results.left_out[precision.name] = str(error)
                self._precisions.remove(precision)
        self._results.limits = Limits(flops, limits.bytes_per_second(self._clock))

    def _rows(self) -> None:
        self._todo = len(self._precisions) * len(self._passes) * len(self._layers)
        for at, precision in enumerate(self._precisions):
            started, left_out = contenders.start(precision)
            self._join(started, left_out, precision)
            if at == 0:
                print(f"\n{table.about(self._results)}\n{_METHOD.format(rounds=self._results.rounds)}")
            drawn: dict[str, Operands] = {}
            for pass_ in self._passes:
                print(table.heading(self._results, precision.name, pass_))
                for layer in self._layers:
                    self._add_row(layer, pass_, precision, drawn, started)
                rows = self._results.groups().get((precision.name, pass_), [])
                for text in filter(None, (table.means(self._results, rows), *table.notes(rows))):
                    print(text)
        if self._results.not_run:
            print(f"\nnot run, as {self._budget:.0f} s are over (--budget): {', '.join(self._results.not_run)}")

    def _add_row(
        self, layer: Layer, pass_: Pass, precision: Precision, drawn: dict[str, Operands], started: list[Contender]
    ) -> None:
        """Check and time one row, print it, and add it to the results; or say why not."""
        left = self._end(_ROWS) - time.perf_counter()
        seconds = min(_ROW, left / self._todo / 2)  # half goes into operands, compilation and checks
        self._todo -= 1
        name = f"{precision.name} {pass_} {layer.name}"
        layer = layer._replace(problem=replace(layer.problem, dtype=precision.dtype))
        if left <= 0:
            self._results.not_run.append(name)
            return
        if reason := self._unserved(layer, pass_, precision):
            self._results.left_out[name] = reason
            print(f"{layer.name:21}{reason}")
            return
        if layer.name not in drawn:
            drawn[layer.name] = Operands(layer.problem)
        row = suite.new_row(layer, pass_, self._place)
        row.dtype = precision.name
        self._results.rows.append(row)
        tally = self._tallies[pass_, row.kernel]
        if tally.wrong or not tally.right:
            row.error = f"{row.kernel} failed its checks" if tally.wrong else f"no check of {row.kernel} was run"
        else:
            try:
                suite.measure(
                    row, drawn[layer.name], started, self._results.rounds, seconds, self._clock, precision.accuracy
                )
            except Exception as error:  # out of memory, or what no check met: other rows may still run
                row.error = f"{type(error).__name__}: {one_line(error)}"
                device.must_be_there()
        print(table.line(self._results, row), flush=True)

    def _join(self, started: list[Contender], left_out: dict[str, str], precision: Precision) -> None:
        """Add contenders of a precision to the results."""
        for contender in started:
            self._results.contenders.setdefault(contender.name, contender.conditions)
            self._results.versions.setdefault(contender.name, contender.version())
            if contender.is_peer and contender.name not in self._results.peers:
                self._results.peers.append(contender.name)
        for name, reason in left_out.items():
            partly = name in self._results.contenders
            self._results.left_out.setdefault(f"{name} {precision.name}" if partly else name, reason)

    def _unserved(self, layer: Layer, pass_: Pass, precision: Precision) -> str | None:
        """Return why no kernel serves a layer, or None."""
        target = self._target()._replace(tf32=precision.tf32)
        reasons = [each.declines(geometry_of(layer.problem), target) for each in plan.TABLES[pass_]]
        return None if None in reasons else f"no kernel: {reasons[-1]}"

    def _sections(self) -> None:
        for section in sections.SECTIONS:
            if section.timed and (self._wrong() or time.perf_counter() > self._end(1)):
                continue
            try:
                rows = section.run(self._results, self._layers)
            except Exception as error:  # what was measured before is not lost
                self._failed = True
                rows = [{"error": f"{type(error).__name__}: {one_line(error)}"}]
            if rows:
                self._results.sections[section.name] = rows
                print(table.section(section.title, rows), flush=True)


_METHOD = f"""\
Medians in milliseconds by CUDA events of up to {{rounds}} interleaved rounds; ours with p20–p80.
Calls follow each other without waiting; every contender allocates its result from its library's pool.
{table.LEGEND}"""
