"""Which implementation runs: per device and pass an ordered list, best first, the reference last."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastdeconv.kernels import reference
from fastdeconv.kernels.cpu import (
    direct_dot,
    direct_long_kernel,
    direct_loops,
    direct_phases,
    direct_tile,
    direct_wide_stride,
)
from fastdeconv.kernels.cpu.winograd import products, weight
from fastdeconv.kernels.geometry import Axes, Geometry, Implementation, Run
from fastdeconv.lowering import lower
from fastdeconv.problem import Pass, Problem

TABLES: dict[tuple[str, Pass], tuple[Implementation, ...]] = {
    ("cpu", "forward"): (
        direct_loops.FORWARD,
        direct_phases.FORWARD,
        direct_wide_stride.FORWARD,
        products.WINOGRAD_FORWARD,
        products.DIRECT_FORWARD,
        direct_tile.FORWARD,
        reference.FORWARD,
    ),
    ("cpu", "input_grad"): (
        direct_loops.INPUT_GRAD,
        direct_long_kernel.INPUT_GRAD,
        products.WINOGRAD_INPUT_GRAD,
        products.DIRECT_INPUT_GRAD,
        direct_tile.INPUT_GRAD,
        reference.INPUT_GRAD,
    ),
    ("cpu", "weight_grad"): (
        direct_loops.WEIGHT_GRAD,
        direct_long_kernel.WEIGHT_GRAD,
        weight.WINOGRAD,
        weight.DIRECT,
        direct_dot.WEIGHT_GRAD,
        reference.WEIGHT_GRAD,
    ),
}


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
        Takes C-contiguous vectors; see `fastdeconv.kernels.geometry.Run`.
    note : str or None
        How the element type is computed, where it has no kernels of its own.
    """

    problem: Problem
    pass_: Pass
    device: str
    implementation: Implementation
    declined: tuple[tuple[str, str], ...]
    run: Run
    note: str | None

    def __repr__(self) -> str:
        return f"<Plan {self.pass_} {self.implementation.name} {self.problem}>"


@lru_cache(maxsize=1024)
def plan(problem: Problem, pass_: Pass, device: str = "cpu", algorithm: str | None = None) -> Plan:
    """Choose and bind the implementation for a problem: the first in the table that neither declines nor yields.

    Parameters
    ----------
    algorithm : str, optional
        A kernel's name or the first words of it ("direct"): only those are considered.

    Raises
    ------
    TypeError
        `algorithm` is not a string.
    ValueError
        No implementation has that name, or all that have it decline; the message says why.
    """
    native, adapt, note = lower(problem, pass_)
    geometry = geometry_of(native)
    declined: list[tuple[str, str]] = []
    for candidate in _candidates(device, pass_, algorithm):
        reason = candidate.declines(geometry)
        if reason is None and candidate.name != algorithm:
            reason = candidate.yields(geometry)
        if reason is None:
            run = adapt(candidate.bind(geometry))
            return Plan(problem, pass_, device, candidate, tuple(declined), run, note)
        declined.append((candidate.name, reason))
    reasons = "; ".join(f"{name}: {reason}" for name, reason in declined)
    raise ValueError(f"algorithm {algorithm!r} cannot serve the {pass_} pass of {problem}: {reasons}")


def _candidates(device: str, pass_: Pass, algorithm: str | None) -> tuple[Implementation, ...]:
    table = TABLES[device, pass_]
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
    )
