"""Which implementation runs: per device and pass an ordered list, best first, the reference last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from fastdeconv.devices import number
from fastdeconv.interchanged import interchanged
from fastdeconv.kernels import reference
from fastdeconv.kernels.cpu import (
    direct_blocks,
    direct_col2im,
    direct_dot,
    direct_im2col,
    direct_im2row,
    direct_images,
    direct_joint,
    direct_linear,
    direct_local,
    direct_loops,
    direct_outer,
    direct_panels,
    direct_phases,
    direct_pointwise,
    direct_rows,
    direct_tile,
    direct_wide_stride,
    direct_windows,
)
from fastdeconv.kernels.cpu.channels_last import dense, dense_weight, depthwise, depthwise_weight
from fastdeconv.kernels.cpu.long_kernel import input_grad, weight_grad
from fastdeconv.kernels.cpu.winograd import products, weight
from fastdeconv.kernels.geometry import Axes, Bound, Geometry, Implementation, Prepared, Run
from fastdeconv.lowering import CPU, CUDA, lower, lower_prepared
from fastdeconv.problem import Pass, Problem
from fastdeconv.tuning import Conditions, Times, conditions, milliseconds, times_of
from fastdeconv.workspace import limit_for

TABLES: dict[tuple[str, Pass], tuple[Implementation, ...]] = {
    ("cpu", "forward"): (
        direct_loops.FORWARD,
        direct_pointwise.FORWARD,
        direct_linear.FORWARD,
        direct_blocks.FORWARD,
        direct_phases.FORWARD,
        direct_wide_stride.FORWARD,
        direct_joint.FORWARD,
        direct_col2im.FORWARD,
        direct_windows.FORWARD,
        direct_images.FORWARD,
        products.WINOGRAD_FORWARD,
        products.DIRECT_FORWARD,
        direct_tile.FORWARD,
        dense.FORWARD,
        depthwise.FORWARD,
        reference.FORWARD,
    ),
    ("cpu", "input_grad"): (
        direct_loops.INPUT_GRAD,
        direct_pointwise.INPUT_GRAD,
        direct_linear.INPUT_GRAD,
        direct_rows.INPUT_GRAD,
        input_grad.INPUT_GRAD,
        direct_panels.INPUT_GRAD,
        direct_images.INPUT_GRAD,
        products.WINOGRAD_INPUT_GRAD,
        products.DIRECT_INPUT_GRAD,
        direct_local.INPUT_GRAD,
        direct_tile.INPUT_GRAD,
        dense.INPUT_GRAD,
        depthwise.INPUT_GRAD,
        reference.INPUT_GRAD,
    ),
    ("cpu", "weight_grad"): (
        direct_loops.WEIGHT_GRAD,
        direct_pointwise.WEIGHT_GRAD,
        direct_linear.WEIGHT_GRAD,
        weight_grad.WEIGHT_GRAD,
        weight.WINOGRAD,
        direct_im2col.WEIGHT_GRAD,
        direct_im2row.WEIGHT_GRAD,
        direct_outer.WEIGHT_GRAD,
        direct_local.WEIGHT_GRAD,
        direct_dot.WEIGHT_GRAD,
        dense_weight.WEIGHT_GRAD,
        depthwise_weight.WEIGHT_GRAD,
        reference.WEIGHT_GRAD,
    ),
}


_DEPTHWISE: dict[Pass, Implementation] = {
    "forward": depthwise.FORWARD, "input_grad": depthwise.INPUT_GRAD, "weight_grad": depthwise_weight.WEIGHT_GRAD,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """The choice for one problem and pass, bound and ready to run.

    Attributes
    ----------
    implementation : Implementation
        The chosen one.
    declined : tuple of (name, reason)
        The better-placed ones and why each did not serve.
    run : callable
        On the CPU, takes C-contiguous vectors; see `fastdeconv.kernels.geometry.Run`. On a GPU, takes the arrays of
        the call, of any strides, NumPy's or CuPy's.
    note : str or None
        How the element type is computed, where it has no kernels of its own.
    workspace : int
        Bytes of scratch memory that a run takes, with all threads that Numba may start.
    prepare : callable or None
        In the forward pass, brings a vector of weights into the kernel's own form, and keeps it as it came if there is
        none; see `fastdeconv.kernels.geometry.Prepared`.
    tuned : str or None
        The times that `autotune` measured, if they decided.
    estimate : str or None
        What made `device` of the device "auto".
    """

    problem: Problem
    pass_: Pass
    device: str
    implementation: Implementation
    declined: tuple[tuple[str, str], ...]
    run: Run
    note: str | None
    workspace: int
    prepare: Callable[[Any], Prepared] | None
    tuned: str | None = None
    estimate: str | None = None

    def __repr__(self) -> str:
        return f"<Plan {self.pass_} {self.implementation.name} {self.problem}>"


def plan(problem: Problem, pass_: Pass, device: str = "cpu", algorithm: str | None = None) -> Plan:
    """Choose and bind the implementation for a problem, in the conditions of the moment.

    That is the one which `autotune` found fastest, or else the first in the table that neither declines nor yields.
    One that needs more scratch memory than `set_workspace_limit` allows declines too. Where only the reference is left,
    those that yielded are asked before it, the later ones first.

    Parameters
    ----------
    algorithm : str, optional
        A kernel's name or the first words of it ("direct"): only those are considered, as if nothing was tuned.

    Raises
    ------
    TypeError
        `algorithm` is not a string.
    ValueError
        No implementation has that name, or all that have it decline; the message says why.
    """
    return choose(problem, pass_, device, algorithm, conditions())


@lru_cache(maxsize=1024)
def choose(problem: Problem, pass_: Pass, device: str, algorithm: str | None, under: Conditions) -> Plan:
    """Return the plan under given conditions; see `plan`."""
    if under.batch_invariant:
        under = under._replace(batch_invariant=False)
        if problem.batch > 1 and pass_ != "weight_grad":
            return _batch_invariant(problem, pass_, device, algorithm, under)
    estimate = None
    if device == "auto":
        device, estimate = _faster(problem, pass_)
    if device != "cpu" and problem.channels_last:  # kernels there are told strides
        problem = replace(problem, channels_last=False)
    native, adapt, note = lower(problem, pass_, CPU if device == "cpu" else CUDA)
    geometry = geometry_of(native)
    most = limit_for(geometry, under.limit)
    every = table_of(device, pass_, problem.ndim, under.tf32, problem.channels_last)
    table = candidates(every, algorithm)
    last = every[-1]
    declined: dict[str, str] = {}

    def accepted(candidate: Implementation) -> Plan | None:
        run = candidate.bind(geometry)
        needed = run.workspace if isinstance(run, Bound) else 0
        if needed > most and candidate is not last:
            declined[candidate.name] = f"would need {needed} bytes of scratch memory, the limit is {most}"
            return None
        reasons = tuple((name, reason) for name, reason in declined.items() if name != candidate.name)
        if device == "cpu":
            prepare = _preparation(problem, run) if pass_ == "forward" else None
            run = adapt(run.run if isinstance(run, Bound) else run)
        else:
            run, prepare = _cuda().finish(run, problem, geometry, pass_, number(device))
        return Plan(problem, pass_, device, candidate, reasons, run, note, needed, prepare, estimate=estimate)

    costs = costs_of(table, geometry)
    if device == "cpu" and algorithm is None and under.threads and (times := times_of(problem, pass_, under.threads)):
        for candidate in sorted((i for i in table if i.name in times), key=lambda i: times[i.name]):
            if candidate.declines(geometry) is None and (chosen := accepted(candidate)) is not None:
                before = table[: table.index(candidate)]
                reasons = tuple((i.name, _why_not(i, geometry, costs, times, declined)) for i in before)
                told = ", ".join(
                    f"{name} {milliseconds(times[name])} ms" for name in sorted(times, key=times.__getitem__)
                )
                return replace(chosen, declined=reasons, tuned=told)
        declined.clear()
    resorts: list[Implementation] = []
    for candidate in table:
        if candidate is last:
            resorts.insert(0, last)
        elif (reason := candidate.declines(geometry)) is not None:
            declined[candidate.name] = reason
        elif candidate.name != algorithm and (reason := outdone(candidate, geometry, costs)) is not None:
            declined[candidate.name] = reason
            resorts.append(candidate)
        elif (chosen := accepted(candidate)) is not None:
            return chosen
    for candidate in reversed(resorts):
        if (chosen := accepted(candidate)) is not None:
            return chosen
    told = "; ".join(f"{name}: {reason}" for name, reason in declined.items())
    raise ValueError(f"algorithm {algorithm!r} cannot serve the {pass_} pass of {problem}: {told}")


def _batch_invariant(problem: Problem, pass_: Pass, device: str, algorithm: str | None, under: Conditions) -> Plan:
    """Return a plan that gives every image the bits that it gets alone: by the kernel that one image gets."""
    alone = choose(replace(problem, batch=1), pass_, device, algorithm, under)
    if alone.device != "cpu":
        return choose(problem, pass_, alone.device, alone.implementation.name, under)
    if alone.implementation.batch_invariant:
        # It may decline so many images, for want of scratch memory above all.
        with contextlib.suppress(ValueError):
            return choose(problem, pass_, device, alone.implementation.name, under)
    return replace(
        alone,
        problem=problem,
        run=_image_by_image(alone.run, problem.batch),
        prepare=alone.prepare and _prepare_image_by_image(alone.prepare, problem.batch),
    )


def _image_by_image(run: Run, batch: int) -> Run:
    def run_all(images: Any, *others: Any) -> None:
        *fixed, results = others
        for image, result in zip(images.reshape(batch, -1), results.reshape(batch, -1)):
            run(image, *fixed, result)

    return run_all


def _prepare_image_by_image(prepare: Callable[[Any], Prepared], batch: int) -> Callable[[Any], Prepared]:
    def prepare_all(w: Any) -> Prepared:
        held = prepare(w)
        return held._replace(run=_image_by_image(held.run, batch))

    return prepare_all


def _why_not(
    candidate: Implementation, geometry: Geometry, costs: dict[str, float], times: Times, declined: dict[str, str]
) -> str:
    if candidate.name in declined:
        return declined[candidate.name]
    if candidate.name in times:
        return f"took {milliseconds(times[candidate.name])} ms when autotune timed it"
    return candidate.declines(geometry) or outdone(candidate, geometry, costs) or "autotune left it out"


def costs_of(table: tuple[Implementation, ...], geometry: Geometry) -> dict[str, float]:
    """Return how long those should take that tell it, and that neither decline nor yield."""
    return {
        i.name: i.cost(geometry)
        for i in table
        if i.cost is not None and i.declines(geometry) is None and i.yields(geometry) is None
    }


def outdone(candidate: Implementation, geometry: Geometry, costs: dict[str, float]) -> str | None:
    """Return why another implementation should be faster than one that serves a problem, or None."""
    if (reason := candidate.yields(geometry)) is not None or candidate.name not in costs:
        return reason
    fastest = min(costs, key=costs.__getitem__)
    if fastest == candidate.name:
        return None
    mine, least = costs[candidate.name], costs[fastest]
    return f"should take as long as {mine:.2g} multiplications, {fastest} as {least:.2g}"


def _preparation(problem: Problem, bound: Run) -> Callable[[Any], Prepared]:
    convert, adapt = lower_prepared(problem)

    def prepare(w: Any) -> Prepared:
        native = convert(w)
        if isinstance(bound, Bound) and bound.prepare is not None:
            held = bound.prepare(native)
        else:
            held = Prepared(lambda x, bias, y: bound(x, native, bias, y), 0 if native is w else native.nbytes)
        return held._replace(run=adapt(held.run))

    return prepare


def table_of(
    device: str, pass_: Pass, ndim: int, tf32: bool = False, channels_last: bool = False
) -> tuple[Implementation, ...]:
    """Return the implementations of a pass on a device, best first, as they serve a layout of arrays."""
    if device == "cpu":
        table = TABLES["cpu", pass_]
        if not channels_last:
            return table
        return tuple(i if True in i.channels_last else interchanged(i, pass_, _DEPTHWISE[pass_]) for i in table)
    return _cuda().table(number(device), pass_, ndim, tf32)  # type: ignore[no-any-return]


def _cuda() -> Any:
    # Only now: it imports numba.cuda, which the CPU has no use for.
    from fastdeconv.cuda import plan

    return plan


def _faster(problem: Problem, pass_: Pass) -> tuple[str, str]:
    from fastdeconv.cuda.cost import faster

    return faster(problem, pass_)


def candidates(table: tuple[Implementation, ...], algorithm: str | None) -> tuple[Implementation, ...]:
    """Return the implementations that an `algorithm` allows, best first.

    Raises
    ------
    TypeError, ValueError
        Not a string, or no kernel's name.
    """
    if algorithm is None:
        return table
    if not isinstance(algorithm, str):
        raise TypeError(
            f"algorithm must be a kernel's name or None; got {algorithm!r} of type {type(algorithm).__name__}"
        )
    chosen = tuple(i for i in table if i.name == algorithm or i.name.startswith(algorithm + "_"))
    if not chosen:
        names = ", ".join(i.name for i in table)
        raise ValueError(f"algorithm must be one of {names}, or the first words of a name; got {algorithm!r}")
    return chosen


def geometry_of(problem: Problem) -> Geometry:
    """Return what kernels are told: the problem on three axes."""

    def axes(values: tuple[int, ...], fill: int) -> Axes:
        padded: Any = (fill,) * (3 - problem.ndim) + values
        return padded  # type: ignore[no-any-return]

    return Geometry(
        dtype=problem.dtype,
        batch=problem.batch,
        groups=problem.groups,
        in_channels=problem.in_channels,
        out_channels=problem.out_channels,
        input=axes(problem.input_size, 1),
        output=axes(problem.output_size, 1),
        kernel=axes(problem.kernel_size, 1),
        stride=axes(problem.stride, 1),
        padding=axes(problem.padding, 0),
        dilation=axes(problem.dilation, 1),
        channels_last=problem.channels_last,
    )
