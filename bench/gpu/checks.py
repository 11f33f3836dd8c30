"""The gate of ``bench gpu``: every kernel of the device tables against plain NumPy, before anything is timed.

Small integers, thinned so that every partial sum is exact in float32, must agree to the last bit; random floats within
16·eps·Σ|products| of sums in float32, and the rounding of factors and result that their type has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastdeconv.bench.contenders import one_line
from fastdeconv.bench.gate import Accuracy
from fastdeconv.bench.gpu.precisions import PRECISIONS
from fastdeconv.bench.operands import Array
from fastdeconv.cuda import plan
from fastdeconv.cuda.run import NAMES, activations
from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels import reference
from fastdeconv.kernels.cuda.launches import DeviceImplementation, Target
from fastdeconv.kernels.geometry import Geometry
from fastdeconv.lowering import CUDA
from fastdeconv.problem import PASSES, Pass, Problem, numpy_dtype

# Small ones first. No size is a multiple of a tile, save where the name says so.
CASES = {
    name.strip(): Problem.parse(text.strip())
    for name, text in (line.split("|") for line in """\
two_phases       | mb2ic3ih2iw3oc5oh3ow6kh2kw3sh1sw2ph0pw1
each_axis        | g2mb2ic4ih3iw4oc6oh3ow8kh3kw2sh1sw2ph1pw0
depthwise        | g3mb1ic3ih3iw4oc3oh6ow8kh3kw3sh2sw2ph1pw1
stride_is_kernel | mb1ic3ih3iw4oc5kh2kw2sh2sw2
kernel_1         | mb2ic3ih3iw5oc2kh1kw1
one_pixel        | mb1ic1ih1iw1oc1kh1kw1
dilated          | mb1ic2ih4iw3oc3kh3kw3sh2sw2ph2pw2dh2dw2
to_one_channel   | mb1ic5ih3iw4oc1kh3kw3ph1pw1
1d               | mb2ic2iw7oc3kw4sw2pw1
3d               | mb1ic2id2ih3iw2oc3kd2kh3kw2sd2sh1sw2
short_kernel     | mb1ic2ih3iw4oc3oh9ow11kh2kw1sh3sw3
cut_by_padding   | mb1ic2ih4iw5oc3kh3kw3ph2pw2
long_kernel      | g3mb1ic3iw5oc3kw64sw16pw4
tile_edges       | mb2ic17ih7iw13oc35kh3kw3ph1pw1
k4_stride_2      | mb3ic33ih5iw7oc65kh4kw4sh2sw2ph1pw1
image_output     | mb2ic35ih9iw17oc3oh18ow34kh3kw3sh2sw2ph1pw1
wide_groups      | g2mb1ic66ih5iw6oc34kh3kw3sh2sw2ph1pw1
many_images      | mb67ic5ih3iw3oc7kh3kw3sh2sw2
plain_product    | mb2ic67ih9iw7oc41kh1kw1
pixel_to_kernel  | mb9ic37ih1iw1oc21kh4kw4
depthwise_wide   | g35mb2ic35ih17iw13oc35kh5kw5sh2sw2ph2pw2
multiplier       | g9mb1ic9ih8iw7oc27kh3kw3sh2sw2
vnet             | mb1ic9id3ih5iw4oc7kd4kh4kw4sd2sh2sw2pd1ph1pw1
whole_tiles      | mb1ic64ih8iw16oc128kh3kw3ph1pw1
long_sum         | mb1ic601ih3iw5oc9kh3kw3sh2sw2ph1pw1
many_pixels      | mb2ic3ih61iw67oc5kh3kw3sh2sw2ph1pw1
""".splitlines())
}  # fmt: skip

_REFERENCES = {
    "forward": reference.FORWARD, "input_grad": reference.INPUT_GRAD, "weight_grad": reference.WEIGHT_GRAD,
}  # fmt: skip
_SHOWN = 5  # wrong results of one kernel
_LARGEST = 4  # of the integers


class Memory(NamedTuple):
    """How the arrays of a check lie."""

    channels_last: bool  # of activations
    offset: int  # elements before each array: vector accesses may not take it to be aligned

    def __str__(self) -> str:
        return f"channels {'last' if self.channels_last else 'first'}{', unaligned' if self.offset else ''}"


ALIGNED = (Memory(False, 0), Memory(True, 0))
MEMORY = (*ALIGNED, Memory(False, 1), Memory(True, 1))


class Check(NamedTuple):
    """One case for one implementation."""

    implementation: DeviceImplementation
    pass_: Pass
    case: str
    problem: Problem
    memory: Memory
    target: Target

    @property
    def geometry(self) -> Geometry:
        """What the implementation is told."""
        return geometry_of(self.problem)

    @property
    def exactness(self) -> Accuracy:
        """What floats are held to."""
        return exactness("tf32" if self.target.tf32 else self.problem.dtype)

    def __str__(self) -> str:
        return f"{self.pass_} {self.implementation.name} {self.case}, {self.memory}: {self.problem}"


# Runs a check's implementation on its inputs, by the names of launches, and returns the result with channels first.
Execute = Callable[[Check, dict[str, Array | None]], Array]


def exactness(precision: str) -> Accuracy:
    """Return what floats of a precision, or of another type, are held to."""
    return PRECISIONS[precision].accuracy if precision in PRECISIONS else Accuracy.of("float64")


class DeviceLostError(Exception):
    """An error after which the device computes nothing more for this process."""


@dataclass(slots=True)
class Tally:
    """What became of the checks of one implementation in one pass."""

    pass_: str
    name: str
    note: str | None = None  # why it has none
    right: int = 0
    dtypes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left: int = 0  # for which there was no time

    def add(self, look: Callable[[], str | None], dtype: str, words: str, end: float) -> None:
        """Count a check, before the time `end`: `look` returns what is wrong or None, and `words` say what it was.

        Raises
        ------
        DeviceLostError
        """
        if time.perf_counter() > end:
            self.left += 1
            return
        try:
            wrong = look()
        except DeviceLostError as error:
            self.wrong.append(f"{error}; {words}")
            raise
        except Exception as error:  # of the compiler, the driver, or the simulator: the next kernel may still run
            wrong = f"{type(error).__name__}: {one_line(error)}"
        if wrong is not None:
            self.wrong.append(f"{wrong}; {words}")
            return
        self.right += 1
        if dtype not in self.dtypes:
            self.dtypes.append(dtype)

    def row(self) -> dict[str, Any]:
        """Return it as a row of a section."""
        return {
            "pass": self.pass_, "kernel": self.name, "right": self.right, "types": ", ".join(self.dtypes),
            "left": self.left, "wrong": "; ".join(self.wrong),
        }  # fmt: skip

    def __str__(self) -> str:
        start = f"{self.pass_:12}{self.name:20}"
        if self.note:
            return start + self.note
        if self.wrong:
            several = f"{start}WRONG in {len(self.wrong)} of {len(self.wrong) + self.right} checks"
            return "\n  ".join([several, *self.wrong[:_SHOWN]])
        late = f"; no time for {self.left} more" if self.left else ""
        return f"{start}{self.right} checks right, {', '.join(self.dtypes)}{late}"


Tallies = dict[tuple[str, str], Tally]  # by pass and name


def tallies(passes: Sequence[Pass] = PASSES, simulated: bool = False) -> Tallies:
    """Return an empty tally for every entry of the device tables, with a note on those that cannot be simulated."""
    found: Tallies = {}
    for pass_ in passes:
        for each in plan.TABLES[pass_]:
            absent = simulated and getattr(each, "inline_ptx", False)
            note = "not simulated: its kernels hold inline PTX" if absent else None
            found[pass_, each.name] = Tally(pass_, each.name, note)
    return found


def planned(
    target: Target, dtypes: Sequence[str] = CUDA, most: int | None = None, memory: Sequence[Memory] = MEMORY
) -> Iterator[Check]:
    """Yield checks of every entry of the device tables: each case and type that it serves, in memory of each kind.

    Parameters
    ----------
    target : Target
        Implementations that need TF32 are told that they may use it.
    dtypes : sequence of str
    most : int, optional
        Flops of the largest case.
    memory : sequence of Memory
    """
    for case, problem in CASES.items():
        if most is not None and problem.flops > most:
            continue
        for dtype in dtypes:
            typed = replace(problem, dtype=dtype)
            for pass_ in PASSES:
                for each in plan.TABLES[pass_]:
                    serving = _serving(each, geometry_of(typed), target)
                    if serving is not None:
                        for lies in memory:
                            yield Check(each, pass_, case, typed, lies, serving)


def _serving(implementation: DeviceImplementation, g: Geometry, target: Target) -> Target | None:
    """Return the target with which an implementation serves a problem, exact products before TF32; or None."""
    for each in (target, target._replace(tf32=True)):
        if implementation.declines(g, each) is None:
            return each
    return None


def run(checks: Iterable[Check], execute: Execute, found: Tallies, end: float, floats: bool = True) -> None:
    """Run checks until the time `end` of `time.perf_counter` and add them to tallies.

    Parameters
    ----------
    found : dict
        What `tallies` returned; checks of which there is none are passed over.
    floats : bool
        Whether there are random floats after the integers.

    Raises
    ------
    DeviceLostError
        The tallies have what was found until then.
    """
    for check in checks:
        tally = found.get((check.pass_, check.implementation.name))
        if tally is None or tally.note:
            continue
        tally.add(partial(_wrong, check, execute, floats), check.problem.dtype, str(check), end)


def _wrong(check: Check, execute: Execute, floats: bool) -> str | None:
    """Return what is wrong with a check's result, or None."""
    g, pass_ = check.geometry, check.pass_
    first, second = activations(g, pass_)
    shapes = {
        "source": first, "x": first, "gy": second, "weight": g.weight_shape,
        "bias": None if check.memory.channels_last else (g.out_channels,),  # in one of the layouts
    }  # fmt: skip
    return compare(
        {name: shapes[name] for name in NAMES[pass_][:-1]},
        check.problem.dtype,
        lambda inputs: execute(check, inputs),
        lambda inputs: _reference(g, pass_, inputs),
        check.problem.accumulation_length(pass_),
        check.exactness if floats else None,
    )


def compare(
    shapes: dict[str, tuple[int, ...] | None],
    dtype: str,
    run: Callable[[dict[str, Array | None]], Array],
    reference: Callable[[dict[str, Any]], Array],
    length: int,
    accuracy: Accuracy | None,
) -> str | None:
    """Compare results with a reference in float64, on small integers and then on floats; return what is wrong, or None.

    Parameters
    ----------
    shapes : dict
        Of the arrays that are drawn; None stays None. The first is thinned for long sums.
    run, reference : callable
        From arrays, in `dtype` and in float64, to the result.
    length : int
        Products of an element.
    accuracy : Accuracy or None
        What floats are held to; None is without them.
    """
    kind, rng = numpy_dtype(dtype), np.random.default_rng(0)

    def drawn(draw: Callable[[tuple[int, ...]], Any]) -> dict[str, Any]:
        return {name: None if shape is None else draw(shape).astype(kind) for name, shape in shapes.items()}

    def wide(inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: a if a is None else a.astype(np.float64) for name, a in inputs.items()}

    inputs = drawn(lambda shape: rng.integers(-_LARGEST, _LARGEST + 1, shape))
    first = next(iter(inputs))
    density = (2**24 if kind.itemsize > 2 else 2**15) / (2 * _LARGEST**2 * length)
    inputs[first] *= (rng.random(inputs[first].shape) < density).astype(kind)
    want = reference(wide(inputs)).astype(kind)
    wrong = _outside(run(inputs), want, np.zeros(want.shape), "must be")
    if wrong or accuracy is None or dtype == "int64":
        return wrong
    inputs = drawn(rng.standard_normal)
    want = reference(wide(inputs))
    products = reference({name: a if a is None else abs(a) for name, a in wide(inputs).items()})
    allowed = accuracy.products * products + accuracy.result * abs(want)
    return _outside(run(inputs), want, allowed, "of floats is about")


def result_shape(check: Check) -> tuple[int, ...]:
    """Return the shape of a check's result: with five axes, channels first."""
    g = check.geometry
    return g.weight_shape if check.pass_ == "weight_grad" else activations(g, check.pass_)[1]


def _reference(g: Geometry, pass_: Pass, inputs: dict[str, Any]) -> Array:
    """Compute a pass by the reference for CPUs, in float64."""
    out = np.full(g.weight_shape if pass_ == "weight_grad" else activations(g, pass_)[1], np.nan)
    run = _REFERENCES[pass_].bind(g._replace(dtype="float64"))
    run(*(a if a is None else a.reshape(-1) for a in inputs.values()), out.reshape(-1))
    return out


def _outside(got: Array, want: Array, allowed: Array, words: str) -> str | None:
    """Return the first element that is further from what it must be than allowed, or None."""
    ours, theirs = got.astype(np.float64), want.astype(np.float64)
    wrong = ~(abs(ours - theirs) <= allowed)  # also true for NaN
    if not wrong.any():
        return None
    place = tuple(int(at[0]) for at in np.nonzero(wrong))
    at = ", ".join(map(str, place))
    return f"{wrong.sum()} of {wrong.size} wrong: [{at}] {words} {theirs[place]:.9g}, got {ours[place]:.9g}"


def poisoned(check: Check) -> Array:
    """Return an array for a check's result that shows what was never written: NaN, or -1 in integers."""
    dtype, shape = numpy_dtype(check.problem.dtype), result_shape(check)
    return np.full((*shape, dtype.itemsize), 255, np.uint8).view(dtype).reshape(shape)


def channels_last(name: str, array: Array, check: Check) -> bool:
    """Tell whether an array of a check is to lie in memory with channels last: activations are."""
    return check.memory.channels_last and array.ndim == 5 and name not in _weights(check.pass_)


def _weights(pass_: Pass) -> tuple[str, ...]:
    return ("out",) if pass_ == "weight_grad" else ("weight",)
