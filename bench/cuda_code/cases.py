"""The kernels that calls can launch on a device, by small problems that launch them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cuda import gather_gemm, weight_gemm
from fastdeconv.kernels.cuda.launches import SMALL, DeviceImplementation, Launch, Layout, Strides, Target
from fastdeconv.kernels.geometry import Geometry
from fastdeconv.problem import Pass, Problem

DTYPES = ("float32", "float64", "float16", "bfloat16")


class Case(NamedTuple):
    """A problem that launches one variant of a family's kernels.

    Attributes
    ----------
    variant : str
        What tells it from the family's others.
    descriptor : str
        The problem, of two images or more.
    depth : int
        How often a sum is added to between two barriers, where there are barriers.
    channels_last : bool
        Of the layout, whose arrays are aligned then.
    dtypes : tuple of str
        Element types, those that the family serves.
    wide : bool
        Whether to show the kernel for arrays that need places of 64 bits, too.
    """

    implementation: DeviceImplementation
    pass_: Pass
    variant: str
    descriptor: str
    depth: int = 0
    channels_last: bool = False
    dtypes: tuple[str, ...] = DTYPES
    wide: bool = False


FEW = ("float32",)  # of the types, for all but one variant of the largest tile


def _gather(rows: int, channels: int, what: str, channels_last: bool = False, dtypes: tuple[str, ...] = FEW) -> Case:
    """Return a forward pass, whose products have so many rows."""
    sizes = f"mb2ic{channels}ih8iw8oc{rows}kh3kw3ph1pw1"
    depth = gather_gemm.tile_for(rows, "float32").depth
    wide = dtypes == DTYPES and not channels_last
    return Case(gather_gemm.FORWARD, "forward", f"{what} · {rows} rows", sizes, depth, channels_last, dtypes, wide)


def _weight(rows: int, channels: int, what: str, channels_last: bool = False, dtypes: tuple[str, ...] = FEW) -> Case:
    """Return a weight gradient, whose products have so many rows."""
    sizes = f"mb2ic{rows}ih8iw8oc{channels}kh3kw3ph1pw1"
    depth = weight_gemm.tile_for(rows, "float32").depth
    wide = dtypes == DTYPES and not channels_last
    return Case(
        weight_gemm.WEIGHT_GRAD, "weight_grad", f"{what} · {rows} rows", sizes, depth, channels_last, dtypes, wide
    )


# A new variant of a kernel is a line here: a test finds kernels that the suite's layers launch and that have none.
CASES = (
    _gather(128, 16, "planes", dtypes=DTYPES),
    *(_gather(rows, 16, "planes") for rows in (64, 32, 16)),
    *(_gather(rows, 21, "odd planes") for rows in (128, 64, 32, 16)),
    *(_gather(rows, 3, "few channels") for rows in (128, 64, 32, 16)),
    _gather(128, 16, "channels last", True, DTYPES),
    *(_gather(rows, 16, "channels last", True) for rows in (64, 32, 16)),
    _gather(128, 21, "odd channels last", True),
    _weight(128, 16, "planes", dtypes=DTYPES),
    *(_weight(rows, 16, "planes") for rows in (64, 32)),
    _weight(128, 16, "channels last", True, DTYPES),
    *(_weight(rows, 16, "channels last", True) for rows in (64, 32)),
    _weight(128, 21, "odd channels last", True),
)


class Key(NamedTuple):
    """What tells a kernel from all others; `places` is their bits in arrays, or "–" where one kernel serves all."""

    kernel: str
    variant: str
    dtype: str
    places: str


class Entry(NamedTuple):
    """A kernel, and the `Case.depth` of its family."""

    launch: Launch
    depth: int


@cache
def entries(capability: tuple[int, int]) -> dict[Key, Entry]:
    """Return the kernels that an architecture gets, each once."""
    target = Target(capability, 100, tf32=True)
    seen = set()
    found = {}
    for case in CASES:
        for dtype in case.dtypes:
            geometry = geometry_of(Problem.parse(case.descriptor))._replace(dtype=dtype)
            if case.implementation.declines(geometry, target) is not None:
                continue
            for places, launch in _launches(case, geometry, target):
                if (launch.kernel, launch.types) not in seen:
                    seen.add((launch.kernel, launch.types))
                    found[Key(_name(launch), case.variant, dtype, places)] = Entry(launch, case.depth)
    return found


def layout(geometry: Geometry, pass_: Pass, batch_step: int = 0, channels_last: bool = False) -> Layout:
    """Return where the arrays of a pass lie: without gaps, or with images so many elements apart."""
    x, y = (_strides(shape, batch_step, channels_last) for shape in (geometry.input_shape, geometry.output_shape))
    first, second = (y, x) if pass_ == "input_grad" else (x, y)
    return Layout(first, second, bias=pass_ == "forward", aligned=True)


def _strides(shape: tuple[int, ...], batch_step: int, channels_last: bool) -> Strides:
    order = (0, 2, 3, 4, 1) if channels_last else range(5)
    strides = [0] * 5
    step = 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return (batch_step or strides[0], *strides[1:])


def _launches(case: Case, geometry: Geometry, target: Target) -> Iterator[tuple[str, Launch]]:
    """Yield launches with the bits of their places, which need 64 where the images are far enough apart."""
    narrow, wide = (
        case.implementation.steps(geometry, layout(geometry, case.pass_, step, case.channels_last), target).launches
        for step in (0, SMALL)
    )
    shared = {launch.kernel for launch in narrow} & {launch.kernel for launch in wide}
    for bits, launches in (("32", narrow), ("64", wide)):
        for launch in launches:
            if bits == "32" or case.wide:
                yield "–" if launch.kernel in shared else bits, launch


def _name(launch: Launch) -> str:
    family, name = launch.kernel.__module__.rpartition(".")[2], launch.kernel.__name__
    return name if name == family else f"{family}.{name}"
