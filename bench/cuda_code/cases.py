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
        The problem, of two images or more; it stands for every element type that the family serves.
    depth : int
        How often a sum is added to between two barriers, where there are barriers.
    """

    implementation: DeviceImplementation
    pass_: Pass
    variant: str
    descriptor: str
    depth: int = 0


# A new variant of a kernel is a line here: a test finds kernels that the suite's layers launch and that have none.
CASES = (
    *(
        Case(
            gather_gemm.FORWARD, "forward", f"{tile.rows} × {tile.columns}",
            f"mb2ic16ih8iw8oc{tile.rows}kh3kw3ph1pw1", gather_gemm.DEPTH,
        )
        for tile in gather_gemm.TILES
    ),
    Case(
        weight_gemm.WEIGHT_GRAD, "weight_grad", f"{weight_gemm.ROWS} × {weight_gemm.COLUMNS}",
        "mb2ic16ih8iw8oc16kh3kw3ph1pw1", weight_gemm.DEPTH,
    ),
)  # fmt: skip


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
        for dtype in DTYPES:
            geometry = geometry_of(Problem.parse(case.descriptor))._replace(dtype=dtype)
            if case.implementation.declines(geometry, target) is not None:
                continue
            for places, launch in _launches(case, geometry, target):
                if (launch.kernel, launch.types) not in seen:
                    seen.add((launch.kernel, launch.types))
                    found[Key(_name(launch), case.variant, dtype, places)] = Entry(launch, case.depth)
    return found


def layout(geometry: Geometry, pass_: Pass, batch_step: int = 0) -> Layout:
    """Return where the arrays of a pass lie: without gaps, or with images so many elements apart."""
    x, y = (_strides(shape, batch_step) for shape in (geometry.input_shape, geometry.output_shape))
    return Layout(y, x) if pass_ == "input_grad" else Layout(x, y, bias=pass_ == "forward")


def _strides(shape: tuple[int, ...], batch_step: int) -> Strides:
    steps = [1]
    for size in reversed(shape[1:]):
        steps.append(steps[-1] * size)
    return (batch_step or steps[-1], *reversed(steps[:-1]))


def _launches(case: Case, geometry: Geometry, target: Target) -> Iterator[tuple[str, Launch]]:
    """Yield launches with the bits of their places, which need 64 where the images are far enough apart."""
    narrow, wide = (
        case.implementation.steps(geometry, layout(geometry, case.pass_, step), target).launches for step in (0, SMALL)
    )
    shared = {launch.kernel for launch in narrow} & {launch.kernel for launch in wide}
    for bits, launches in (("32", narrow), ("64", wide)):
        for launch in launches:
            yield "–" if launch.kernel in shared else bits, launch


def _name(launch: Launch) -> str:
    family, name = launch.kernel.__module__.rpartition(".")[2], launch.kernel.__name__
    return name if name == family else f"{family}.{name}"
