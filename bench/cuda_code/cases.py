"""The kernels that calls can launch on a device, by small problems that launch them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cuda import (
    bias_grad,
    depthwise,
    depthwise_weight,
    few_outputs,
    gather_gemm,
    per_output,
    plain_gemm,
    tensor_gemm,
    tensor_weight_gemm,
    updates,
    weight_gemm,
)
from fastdeconv.kernels.cuda.launches import SMALL, DeviceImplementation, Launch, Layout, Steps, Strides, Target, never
from fastdeconv.kernels.geometry import Geometry
from fastdeconv.problem import Pass, Problem

DTYPES = ("float32", "float64", "float16", "bfloat16")


class Case(NamedTuple):
    """A problem that launches one variant of a family's kernels.

    Attributes
    ----------
    variant : str
        What tells it from the family's others; no comma, with which the page joins those of one kernel.
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
HALVES = ("float32", "float16", "bfloat16")
DCGAN_1 = "mb64ic100ih1iw1oc512kh4kw4"
DEPTHWISE = "g128mb4ic128ih56iw56oc128oh112ow112kh3kw3sh2sw2ph1pw1"
# As if the gradient of the bias was a pass: it reads what the input gradient reads first.
_BIAS_GRAD = DeviceImplementation("bias_grad", "", never, lambda g, at, target: bias_grad.steps(g, at.first, target))


def _update(name: str) -> Case:
    """Return an update rule as if it was a pass, of which it reads nothing but the element type."""
    implementation = DeviceImplementation(
        name, "", never, lambda g, at, target: Steps((updates.launch(name, g.dtype, 1 << 20),), {}, {})
    )
    return Case(implementation, "input_grad", "update", "mb2ic16ih8iw8oc16kh3kw3ph1pw1", dtypes=("float32", "float64"))


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
    *(
        Case(tensor_gemm.FORWARD, "forward", tile, sizes, 2, dtypes=HALVES)
        for tile, sizes in (
            ("128 × 128", "mb2ic16ih128iw128oc128kh3kw3ph1pw1"),
            ("64 × 64", "mb2ic16ih8iw8oc64kh3kw3ph1pw1"),
            ("128 × 32", "mb2ic16ih8iw8oc16kh3kw3ph1pw1"),
        )
    ),
    Case(tensor_gemm.INPUT_GRAD, "input_grad", "64 × 64 by rows", DCGAN_1, 2, dtypes=FEW),
    *(
        Case(tensor_weight_gemm.WEIGHT_GRAD, "weight_grad", tile, sizes, 2, dtypes=HALVES)
        for tile, sizes in (
            ("128 × 128", "mb2ic128ih8iw8oc128kh3kw3ph1pw1"), ("64 × 64", "mb2ic16ih8iw8oc16kh3kw3ph1pw1"),
        )
    ),
    *(
        Case(plain_gemm.FORWARD, "forward", what, sizes, plain_gemm.DEPTH, dtypes=FEW)
        for what, sizes in (
            ("one pixel", DCGAN_1),
            ("k2 s2", "mb1ic128ih200iw200oc64kh2kw2sh2sw2"),
            ("k2 s2 of few pixels", "mb1ic1024ih28iw28oc512kh2kw2sh2sw2"),
            ("k3 s4", "mb1ic7ih63iw98oc194kh3kw3sh4sw4"),
            ("k3 s4 cropped", "mb10ic9id13ih7iw19oc78kd2kh2kw3sd4sh4sw4pd1pw1"),
            ("few columns", "mb2ic100ih1iw1oc512kh4kw4"),
        )
    ),
    *(
        Case(few_outputs.FORWARD, "forward", what, sizes, dtypes=FEW)
        for what, sizes in (
            ("k3 s1", "mb1ic1ih5iw5oc1kh3kw3ph1pw1"),
            ("k4 s2 of 3 channels", "mb64ic64ih32iw32oc3kh4kw4sh2sw2ph1pw1"),
            ("k9 s2", "mb1ic56ih540iw960oc1oh1080ow1920kh9kw9sh2sw2ph4pw4"),
            ("k9 s3", "mb1ic56ih85iw85oc1kh9kw9sh3sw3ph4pw4"),
            ("k16 s8", "g21mb1ic21ih64iw64oc21kh16kw16sh8sw8ph4pw4"),
            ("k3 s2", DEPTHWISE),
            ("k3 s4", "g7mb1ic224ih83iw45oc7oh332ow179kh6kw3sh4sw4ph1pw0"),
        )
    ),
    Case(depthwise.FORWARD, "forward", "forward", DEPTHWISE, dtypes=FEW),
    *(
        Case(depthwise.INPUT_GRAD, "input_grad", f"input gradient {what}", sizes, dtypes=FEW)
        for what, sizes in (
            ("s2", DEPTHWISE), ("s8", "g21mb1ic21ih64iw64oc21kh16kw16sh8sw8ph4pw4"),
            ("s256", "g1026mb1ic1026iw224oc1026kw1024sw256"),
        )
    ),
    Case(depthwise_weight.WEIGHT_GRAD, "weight_grad", "weight gradient", DEPTHWISE, dtypes=FEW),
    Case(per_output.FORWARD, "forward", "forward", "mb2ic16ih8iw8oc16kh3kw3ph1pw1", dtypes=FEW),
    Case(per_output.INPUT_GRAD, "input_grad", "input gradient", "mb2ic16ih8iw8oc16kh3kw3ph1pw1", dtypes=FEW),
    Case(per_output.WEIGHT_GRAD, "weight_grad", "weight gradient", "mb2ic16ih8iw8oc16kh3kw3ph1pw1", dtypes=FEW),
    Case(_BIAS_GRAD, "input_grad", "sums", "mb2ic16ih64iw64oc16kh3kw3ph1pw1", dtypes=FEW),
    *map(_update, updates.RULES),
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
    target = Target(capability, 108, tf32=True)
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
