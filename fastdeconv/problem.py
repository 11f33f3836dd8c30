"""One transposed convolution as integers: the only place where shapes and parameters are validated."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

Pass = Literal["forward", "input_grad", "weight_grad"]
PASSES: tuple[Pass, ...] = get_args(Pass)

IntOrTuple = int | Sequence[int]

AXIS_NAMES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}

# Element types that a call may have, by NumPy name. Everything else is refused.
DTYPES = frozenset(
    ["float16", "float32", "float64", "complex64", "complex128", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)

# Sizes are handed to kernels as 64-bit integers; products of them must fit too.
_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Problem:
    """One transposed convolution: sizes, parameters and element type, validated once.

    An instance is legal by construction, hashable, and the key of every cached plan. Axes are in
    array order: depth, height, width (3-D); height, width (2-D); width (1-D).

    Parameters
    ----------
    batch : int
        Number of images; 0 is legal. 1 if `batched` is false.
    in_channels, out_channels : int
        Channels of the input and of the output, over all groups.
    input_size, kernel_size : tuple of int
        Spatial sizes.
    stride, padding, output_padding, dilation : tuple of int
        Per axis, with the meaning they have in ``torch.nn.functional.conv_transpose2d``.
    groups : int
    dtype : str
        NumPy name of the element type of input, weight and output.
    batched : bool
        Whether the input has a batch axis.

    Raises
    ------
    TypeError
        An argument has the wrong type.
    ValueError
        An argument has an impossible value. The message names it and says what is possible.
    """

    batch: int
    in_channels: int
    out_channels: int
    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    dtype: str = "float32"
    batched: bool = True

    def __post_init__(self) -> None:
        d = len(self.input_size)
        if d not in AXIS_NAMES:
            raise ValueError(f"input_size must have 1, 2 or 3 axes; got {self.input_size}")
        for name in ("kernel_size", "stride", "padding", "output_padding", "dilation"):
            value = getattr(self, name)
            if len(value) != d:
                raise ValueError(f"{name} must have one value for each of the {d} axes; got {value}")
        if self.dtype not in DTYPES:
            raise TypeError(f"dtype {self.dtype} is not supported; use one of {', '.join(sorted(DTYPES))}")
        if self.groups < 1:
            raise ValueError(f"groups must be at least 1; got {self.groups}")
        if self.batch < 0:
            raise ValueError(f"batch must not be negative; got {self.batch}")
        if not self.batched and self.batch != 1:
            raise ValueError(f"an unbatched problem has batch 1; got {self.batch}")
        for name in ("in_channels", "out_channels"):
            value = getattr(self, name)
            if value < 1 or value % self.groups:
                raise ValueError(f"{name} must be a positive multiple of groups={self.groups}; got {value}")
        self._check_axes()

    def _check_axes(self) -> None:
        for name, low in (("input_size", 1), ("kernel_size", 1), ("stride", 1), ("dilation", 1), ("padding", 0)):
            value = getattr(self, name)
            if min(value) < low:
                raise ValueError(f"{name} must be at least {low} on every axis; got {value}")
            if max(value) >= _LIMIT:
                raise ValueError(f"{name} is too large for 64-bit indexing; got {value}")
        for op, s, d in zip(self.output_padding, self.stride, self.dilation):
            if not 0 <= op < max(s, d):
                raise ValueError(
                    f"output_padding must be from 0 to max(stride, dilation) - 1 on every axis; got "
                    f"{self.output_padding} with stride {self.stride} and dilation {self.dilation}"
                )
        if min(self.output_size) < 1:
            raise ValueError(
                f"padding {self.padding} leaves no output: input size {self.input_size}, kernel_size {self.kernel_size}, "
                f"stride {self.stride} and dilation {self.dilation} give output size {self.output_size}; "
                "reduce padding or enlarge the kernel"
            )
        largest = max(math.prod(shape) for shape in (self.input_shape, self.weight_shape, self.output_shape))
        if largest * 16 >= _LIMIT:
            raise ValueError(f"output of shape {self.output_shape} is too large for 64-bit indexing")

    # -- shapes ---------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of spatial axes: 1, 2 or 3."""
        return len(self.input_size)

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output: ``(i - 1)·s - 2·p + d·(k - 1) + output_padding + 1`` on each axis."""
        return tuple(
            (i - 1) * s - 2 * p + d * (k - 1) + op + 1
            for i, k, s, p, op, d in zip(
                self.input_size, self.kernel_size, self.stride, self.padding, self.output_padding, self.dilation
            )
        )

    def _activation_shape(self, channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (self.batch, channels, *size) if self.batched else (channels, *size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input: ``(N, C_in, *size)``, or ``(C_in, *size)`` unbatched."""
        return self._activation_shape(self.in_channels, self.input_size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output: ``(N, C_out, *size)``, or ``(C_out, *size)`` unbatched."""
        return self._activation_shape(self.out_channels, self.output_size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight: ``(C_in, C_out / groups, *kernel_size)``."""
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    # -- counts ---------------------------------------------------------------------------------

    @property
    def flops(self) -> int:
        """Additions and multiplications that reach the output, two a product; the same for every pass."""
        per_axis = math.prod(
            sum(_hits(self, axis, k) for k in range(self.kernel_size[axis])) for axis in range(self.ndim)
        )
        return 2 * self.batch * self.in_channels * (self.out_channels // self.groups) * per_axis

    @property
    def bytes(self) -> int:
        """Bytes of input, weight and output, each moved once; the same for every pass."""
        shapes = (self.input_shape, self.weight_shape, self.output_shape)
        return sum(math.prod(shape) for shape in shapes) * np.dtype(self.dtype).itemsize

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, flops a byte."""
        return self.flops / self.bytes

    def accumulation_length(self, pass_: Pass) -> int:
        """Return the largest number of products that one element of the pass's result sums."""
        if pass_ == "weight_grad":
            return max(1, self.batch) * math.prod(self.input_size)
        if pass_ == "input_grad":
            return self.out_channels // self.groups * math.prod(self.kernel_size)
        taps = math.prod(
            min(i, -(-k // (s // math.gcd(s, d))))
            for i, k, s, d in zip(self.input_size, self.kernel_size, self.stride, self.dilation)
        )
        return self.in_channels // self.groups * taps

    # -- construction ---------------------------------------------------------------------------

    @classmethod
    def from_shapes(
        cls,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        *,
        ndim: int,
        dtype: str = "float32",
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        dilation: IntOrTuple = 1,
        output_size: IntOrTuple | None = None,
    ) -> Problem:
        """Build the problem of a call from array shapes and the call's own arguments.

        Raises
        ------
        TypeError, ValueError
            As the class does; messages name the call's arguments.
        """
        axes = AXIS_NAMES[ndim]
        if len(input_shape) not in (ndim + 1, ndim + 2):
            raise ValueError(
                f"input must have {ndim + 1} axes (C_in, {', '.join(axes)}) or {ndim + 2} (with a batch axis first); "
                f"got shape {tuple(input_shape)}"
            )
        if len(weight_shape) != ndim + 2:
            raise ValueError(
                f"weight must have {ndim + 2} axes (C_in, C_out / groups, {', '.join(axes)}); got shape {tuple(weight_shape)}"
            )
        groups = as_int("groups", groups)
        if groups < 1:
            raise ValueError(f"groups must be at least 1; got {groups}")
        batched = len(input_shape) == ndim + 2
        channels, size = input_shape[-ndim - 1], tuple(input_shape[-ndim:])
        if weight_shape[0] != channels:
            raise ValueError(
                f"weight must have C_in = {channels} on its first axis, as input of shape {tuple(input_shape)} has; "
                f"got shape {tuple(weight_shape)}"
            )
        if min(weight_shape) < 1:
            raise ValueError(f"weight must have no axis of size 0; got shape {tuple(weight_shape)}")
        if min(size) < 1:
            raise ValueError(f"input must have no spatial axis of size 0; got shape {tuple(input_shape)}")
        if channels % groups:
            raise ValueError(f"groups must divide C_in = {channels}; got groups = {groups}")
        kernel = tuple(weight_shape[2:])
        stride_, padding_, dilation_ = (
            as_axes("stride", stride, ndim, low=1),
            as_axes("padding", padding, ndim),
            as_axes("dilation", dilation, ndim, low=1),
        )
        extra = as_axes("output_padding", output_padding, ndim)
        if output_size is not None:
            extra = output_padding_for(output_size, size, kernel, stride_, padding_, dilation_, given=extra)
        return cls(
            batch=input_shape[0] if batched else 1,
            in_channels=channels,
            out_channels=weight_shape[1] * groups,
            input_size=size,
            kernel_size=kernel,
            stride=stride_,
            padding=padding_,
            output_padding=extra,
            dilation=dilation_,
            groups=groups,
            dtype=dtype,
            batched=batched,
        )

    def __str__(self) -> str:
        from fastdeconv.descriptor import format_descriptor

        return format_descriptor(self)

    @classmethod
    def parse(cls, text: str) -> Problem:
        """Read a descriptor, as `str` of a problem prints it. See `fastdeconv.descriptor`."""
        from fastdeconv.descriptor import parse_descriptor

        return parse_descriptor(text)


def output_padding_for(
    output_size: IntOrTuple,
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    given: tuple[int, ...] = (),
) -> tuple[int, ...]:
    """Return the output_padding that gives `output_size`, as ``torch.nn.ConvTranspose2d`` chooses it.

    The size may be preceded by batch and channels. `given` is an output_padding that came with it.

    Raises
    ------
    ValueError
        No legal output_padding gives it (the message shows the range), or `given` contradicts it.
    """
    ndim = len(input_size)
    if isinstance(output_size, tuple | list | np.ndarray) and len(output_size) in (ndim + 1, ndim + 2):
        output_size = tuple(output_size)[-ndim:]
    wanted = as_axes("output_size", output_size, ndim)
    low = tuple(
        (i - 1) * s - 2 * p + d * (k - 1) + 1
        for i, k, s, p, d in zip(input_size, kernel_size, stride, padding, dilation)
    )
    high = tuple(b + max(s, d) - 1 for b, s, d in zip(low, stride, dilation))
    if not all(b <= o <= h for b, o, h in zip(low, wanted, high)):
        raise ValueError(f"output_size must be from {low} to {high} for these arguments; got {wanted}")
    extra = tuple(o - b for o, b in zip(wanted, low))
    if any(given) and given != extra:
        raise ValueError(
            f"output_size {wanted} asks for output_padding {extra}, but output_padding is {given}; give one"
        )
    return extra


def _hits(problem: Problem, axis: int, k: int) -> int:
    """Count the input positions whose product with tap `k` falls inside the output, on one axis."""
    s, p, d = problem.stride[axis], problem.padding[axis], problem.dilation[axis]
    first = -(-max(0, p - d * k) // s)
    last = min(problem.input_size[axis] - 1, (problem.output_size[axis] - 1 + p - d * k) // s)
    return max(0, last - first + 1)


def as_int(name: str, value: Any) -> int:
    """Return `value` as an int if it is one (NumPy integers too; not bool, not float).

    Raises
    ------
    TypeError
    """
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an int; got {value!r} of type {type(value).__name__}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int; got {value!r} of type {type(value).__name__}") from None


def as_axes(name: str, value: Any, ndim: int, low: int = 0) -> tuple[int, ...]:
    """Return an int-or-tuple argument as one int an axis.

    Raises
    ------
    TypeError
        Not an int and not a tuple or list of ints.
    ValueError
        Neither one value nor one for each axis, or a value below `low`.
    """
    values = _per_axis(name, value, ndim)
    if min(values) < low:
        raise ValueError(f"{name} must be at least {low} on every axis; got {value!r}")
    return values


def _per_axis(name: str, value: Any, ndim: int) -> tuple[int, ...]:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iu" or value.ndim > 1:
            raise TypeError(
                f"{name} must be an int or a tuple of {ndim} ints; got an array of {value.dtype}, shape {value.shape}"
            )
        value = value.tolist()
    if isinstance(value, tuple | list):
        if len(value) not in (1, ndim):
            raise ValueError(f"{name} must be an int or a tuple of {ndim} ints; got {value!r}")
        return tuple(as_int(name, v) for v in value) * (ndim // len(value) if len(value) == 1 else 1)
    try:
        return (as_int(name, value),) * ndim
    except TypeError:
        raise TypeError(
            f"{name} must be an int or a tuple of {ndim} ints; got {value!r} of type {type(value).__name__}"
        ) from None
