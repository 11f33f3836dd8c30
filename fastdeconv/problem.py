"""One transposed convolution as integers: the only place where shapes and parameters are validated."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

Pass = Literal["forward", "input_grad", "weight_grad"]
PASSES: tuple[Pass, ...] = get_args(Pass)

IntOrTuple = int | Sequence[int]

AXIS_NAMES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}

# Element types that a call may have, by NumPy name (bfloat16 by that of ml_dtypes). Everything else is refused.
DTYPES = (
    "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip

# Bytes of an element.
ITEMSIZE = {name: 2 if name == "bfloat16" else np.dtype(name).itemsize for name in DTYPES}

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
    channels_last : bool
        Whether input and output lie in memory with their channels side by side, (N, …, C), as no axis of them tells:
        shapes are the same. The weight's order never changes.

    Attributes
    ----------
    output_size : tuple of int
        Spatial size of the output: ``(i - 1)·s - 2·p + d·(k - 1) + output_padding + 1`` on each axis.
    output_shape : tuple of int
        Shape of the output: ``(N, C_out, *output_size)``, or ``(C_out, *output_size)`` unbatched.

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
    channels_last: bool = False
    # Kept, not recomputed: every call asks for them.
    output_size: tuple[int, ...] = field(init=False, repr=False, compare=False)
    output_shape: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._normalise()
        for name, low in (("input_size", 1), ("kernel_size", 1), ("stride", 1), ("dilation", 1), ("padding", 0)):
            value = getattr(self, name)
            if min(value) < low:
                raise ValueError(f"{name} must be at least {low} on every axis; got {value}")
        if self.groups < 1:
            raise ValueError(f"groups must be at least 1; got {self.groups}")
        if self.batch < 0:
            raise ValueError(f"batch must not be negative; got {self.batch}")
        if not self.batched and self.batch != 1:
            raise ValueError(f"batch must be 1 in an unbatched problem; got {self.batch}")
        for name in ("in_channels", "out_channels"):
            value = getattr(self, name)
            if value < 1 or value % self.groups:
                raise ValueError(f"{name} must be a positive multiple of groups = {self.groups}; got {value}")
        self._check_output()

    def _normalise(self) -> None:
        """Turn every field into plain ints, tuples of them, str and bool."""
        for name in ("batch", "in_channels", "out_channels", "groups"):
            object.__setattr__(self, name, as_int(name, getattr(self, name)))
        ndim = 0
        for name in ("input_size", "kernel_size", "stride", "padding", "output_padding", "dilation"):
            given = getattr(self, name)
            value = as_shape(name, given)
            ndim = ndim or len(value)
            if len(value) != ndim or ndim not in AXIS_NAMES:
                wanted = f"one value for each of the {ndim}" if ndim in AXIS_NAMES else "1, 2 or 3"
                raise ValueError(f"{name} must have {wanted} axes; got {shown(given)}")
            object.__setattr__(self, name, value)
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise TypeError(f"dtype must be the name of one of {', '.join(DTYPES)}; got {shown(self.dtype)}")
        for name in ("batched", "channels_last"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False; got {shown(getattr(self, name))}")

    def _check_output(self) -> None:
        for op, s, d in zip(self.output_padding, self.stride, self.dilation):
            if not 0 <= op < max(s, d):
                raise ValueError(
                    f"output_padding must be from 0 to max(stride, dilation) - 1 on every axis; got "
                    f"{self.output_padding} with stride {self.stride} and dilation {self.dilation}"
                )
        size = tuple(
            (i - 1) * s - 2 * p + d * (k - 1) + op + 1
            for i, k, s, p, op, d in zip(
                self.input_size, self.kernel_size, self.stride, self.padding, self.output_padding, self.dilation
            )
        )
        if min(size) < 1:
            raise ValueError(
                f"padding must leave some output; got {self.padding}: input size {self.input_size}, "
                f"kernel size {self.kernel_size}, stride {self.stride} and dilation {self.dilation} give output size "
                f"{size}; reduce padding or enlarge the kernel"
            )
        object.__setattr__(self, "output_size", size)
        object.__setattr__(self, "output_shape", self._activation_shape(self.out_channels, size))
        for name in ("input", "weight", "output"):
            shape = getattr(self, f"{name}_shape")
            if math.prod(shape) * 16 >= _LIMIT:
                raise ValueError(f"{name} of shape {shape} is too large for 64-bit indexing; reduce its sizes")

    # -- shapes ---------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of spatial axes: 1, 2 or 3."""
        return len(self.input_size)

    def _activation_shape(self, channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
        return (self.batch, channels, *size) if self.batched else (channels, *size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input: ``(N, C_in, *size)``, or ``(C_in, *size)`` unbatched."""
        return self._activation_shape(self.in_channels, self.input_size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight: ``(C_in, C_out / groups, *kernel_size)``."""
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    # -- counts ---------------------------------------------------------------------------------

    @property
    def flops(self) -> int:
        """Additions and multiplications that reach the output, two a product; the same for every pass."""
        products = math.prod(
            _pairs(p + o - 1, i, k, s, d) - _pairs(p - 1, i, k, s, d)
            for p, o, i, k, s, d in zip(
                self.padding, self.output_size, self.input_size, self.kernel_size, self.stride, self.dilation
            )
        )
        return 2 * self.batch * self.in_channels * (self.out_channels // self.groups) * products

    @property
    def bytes(self) -> int:
        """Bytes of input, weight and output, each moved once; the same for every pass."""
        shapes = (self.input_shape, self.weight_shape, self.output_shape)
        return sum(math.prod(shape) for shape in shapes) * ITEMSIZE[self.dtype]

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, flops a byte."""
        return self.flops / self.bytes

    def accumulation_length(self, pass_: Pass) -> int:
        """Return the largest number of products that one element of the pass's result sums, had padding cut none."""
        if pass_ == "weight_grad":
            return max(1, self.batch) * math.prod(self.input_size)
        if pass_ == "input_grad":
            return self.out_channels // self.groups * math.prod(self.kernel_size)
        taps = math.prod(
            min(-(-i // (d // math.gcd(s, d))), -(-k // (s // math.gcd(s, d))))
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
        channels_last: bool = False,
    ) -> Problem:
        """Build the problem of a call from array shapes and the call's own arguments.

        Raises
        ------
        TypeError, ValueError
            As the class does; messages name the call's arguments.
        """
        axes = ", ".join(AXIS_NAMES[ndim])
        if len(input_shape) not in (ndim + 1, ndim + 2):
            raise ValueError(
                f"input must have {ndim + 1} axes (C_in, {axes}) or {ndim + 2} (with a batch axis first); "
                f"got shape {tuple(input_shape)}"
            )
        if len(weight_shape) != ndim + 2:
            raise ValueError(
                f"weight must have {ndim + 2} axes (C_in, C_out / groups, {axes}); got shape {tuple(weight_shape)}"
            )
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
        groups = as_int("groups", groups)
        if groups < 1 or channels % groups:
            raise ValueError(f"groups must be at least 1 and divide C_in = {channels}; got {groups}")
        kernel = tuple(weight_shape[2:])
        stride = as_axes("stride", stride, ndim, low=1)
        padding = as_axes("padding", padding, ndim)
        dilation = as_axes("dilation", dilation, ndim, low=1)
        extra = as_axes("output_padding", output_padding, ndim)
        if output_size is not None:
            items = _items(output_size)
            if items is not None and len(items) == len(
                input_shape
            ):  # batch and channels first, as torch's layer takes it
                output_size = as_shape("output_size", output_size)[-ndim:]
            extra = output_padding_for(output_size, size, kernel, stride, padding, dilation, given=extra)
        return cls(
            batch=input_shape[0] if batched else 1,
            in_channels=channels,
            out_channels=weight_shape[1] * groups,
            input_size=size,
            kernel_size=kernel,
            stride=stride,
            padding=padding,
            output_padding=extra,
            dilation=dilation,
            groups=groups,
            dtype=dtype,
            batched=batched,
            channels_last=channels_last,
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

    `given` is an output_padding that came with it.

    Raises
    ------
    ValueError
        No legal output_padding gives it (the message shows the range), or `given` contradicts it.
    """
    ndim = len(input_size)
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


def _pairs(limit: int, positions: int, taps: int, stride: int, dilation: int) -> int:
    """Count the pairs of an input position i and a tap k with ``stride·i + dilation·k <= limit``."""
    if limit < 0:
        return 0
    end = min(taps, limit // dilation + 1)  # the taps that some position reaches
    full = min(end, max(0, (limit - stride * (positions - 1)) // dilation + 1))  # those that all positions reach
    rest = end - full
    last = limit - dilation * (end - 1)
    return full * positions + rest + (_floor_sum(rest, stride, dilation, last) if rest else 0)


def _floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Return ``Σ (a·j + b) // m`` over ``j = 0 … n - 1``, in the steps of Euclid's algorithm."""
    total = 0
    while n:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        n, b, m, a = *divmod(a % m * n + b % m, m), a % m, m
    return total


def shown(value: Any) -> str:
    """Return a value as an error message shows it: short, and whatever it is."""
    try:
        text = repr(value)
    except Exception:  # a huge int, or a broken __repr__
        text = "a value that cannot be printed"
    text = " ".join(text.split())
    text = text if len(text) <= 200 else text[:197] + "..."
    return text if isinstance(value, int | tuple | str) else f"{text} of type {type(value).__name__}"


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return an element type by its name.

    Raises
    ------
    TypeError
        It is bfloat16, and ml_dtypes, which defines it for NumPy, is not installed.
    """
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError("dtype bfloat16 needs the package ml_dtypes, which is not installed") from None
        name = ml_dtypes.bfloat16
    return np.dtype(name)


def as_int(name: str, value: Any) -> int:
    """Return `value` as an int if it is one (NumPy integers too; not bool, not float).

    Raises
    ------
    TypeError
        Not an int.
    ValueError
        Too large to index with.
    """
    return _as_int(name, value, "an int", value)


def _as_int(name: str, value: Any, wanted: str, given: Any) -> int:
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be {wanted}; got {shown(given)}")
    if abs(number) >= _LIMIT:
        raise ValueError(f"{name} must be less than 2**62; got {shown(given)}")
    return number


def as_axes(name: str, value: Any, ndim: int, low: int = 0) -> tuple[int, ...]:
    """Return an int-or-tuple argument as one int an axis.

    Raises
    ------
    TypeError
        Not an int and not a tuple or list of ints.
    ValueError
        Neither one value nor one for each axis, or a value below `low`.
    """
    wanted = f"an int or a tuple of {ndim} ints" if ndim > 1 else "an int or a tuple of one"
    items = _items(value)
    if items is None:
        values = (_as_int(name, value, wanted, value),) * ndim
    else:
        values = tuple(_as_int(name, v, wanted, value) for v in items)
        if len(values) not in (1, ndim):
            raise ValueError(f"{name} must be {wanted}; got {shown(value)}")
        values = values if len(values) == ndim else values * ndim
    if min(values) < low:
        raise ValueError(f"{name} must be at least {low} on every axis; got {shown(value)}")
    return values


def as_shape(name: str, value: Any) -> tuple[int, ...]:
    """Return an argument that is a tuple, list or array of ints as a tuple.

    Raises
    ------
    TypeError
        Not a sequence of ints.
    ValueError
        A negative or too large size.
    """
    items = _items(value)
    if items is None:
        raise TypeError(f"{name} must be a tuple of ints; got {shown(value)}")
    values = tuple(_as_int(name, v, "a tuple of ints", value) for v in items)
    if any(v < 0 for v in values):
        raise ValueError(f"{name} must have no negative value; got {shown(value)}")
    return values


def _items(value: Any) -> Sequence[Any] | None:
    if isinstance(value, tuple | list):
        return value
    if isinstance(value, np.ndarray):
        # tolist keeps what is not an int recognisable: floats stay floats and objects stay objects
        return value.tolist() if value.ndim else [value[()]]
    return None
