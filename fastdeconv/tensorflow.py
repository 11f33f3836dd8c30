"""Transposed convolution of NumPy arrays with the signature and the semantics of ``tf.nn``. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace, new, operand, returned, same_dtype
from fastdeconv.functional import conv_transpose2d
from fastdeconv.problem import as_int

Array = NDArray[Any]
_FORMATS = ("NHWC", "NCHW")


def conv2d_transpose(
    input: Array,
    filters: Array,
    output_shape: Sequence[int] | Array,
    strides: int | Sequence[int],
    padding: str | Sequence[Sequence[int]] = "SAME",
    data_format: str = "NHWC",
    dilations: int | Sequence[int] | None = None,
    name: str | None = None,
    *,
    device: str | None = None,
    algorithm: str | None = None,
) -> Array:
    """Transposed convolution as ``tf.nn.conv2d_transpose`` defines it: the gradient of ``tf.nn.conv2d``.

    The result is the gradient with respect to its input of a convolution whose output has input's shape and whose
    input has `output_shape`, with that convolution's own, possibly asymmetric, padding.

    Parameters
    ----------
    input : ndarray, shape (N, H, W, C_in), or (N, C_in, H, W) for "NCHW"
        Float, complex or integer. With bare `filters` also a bare (H, W) image: one image with one channel.
    filters : ndarray, shape (kH, kW, C_out / groups, C_in)
        Of input's dtype. `output_shape` tells the number of groups.
    output_shape : sequence of 4 ints in the order of `data_format`, or of 2 ints, height and width
        Several sizes can belong to one input, see Notes. The batch may be -1: as many as input has. For a bare
        image only (height, width).
    strides, dilations : int, or sequence of 1, 2 or 4 ints
        One value, one for each spatial axis, or one for each axis of `data_format`, with 1 for batch and channels.
    padding : "SAME", "VALID", or 4 pairs (before, after) in the order of `data_format`
        The padding of the forward convolution, with (0, 0) for batch and channels.
    data_format : {"NHWC", "NCHW"}
        Images in "NHWC" are computed as they lie, or transposed where that is faster; filters are transposed, at about
        the speed of any copy.
    name : str, optional
        Has no effect; part of TensorFlow's signature.
    device, algorithm
        As in `fastdeconv.conv_transpose2d`.

    Returns
    -------
    ndarray, shape output_shape
        In the order of `data_format`, C-contiguous, of input's dtype.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.

    Notes
    -----
    With input size i, stride s and ``k = dilation·(kernel size - 1) + 1`` on an axis, legal output sizes o and the
    padding of the forward convolution are

    - "SAME": ``ceil(o/s) = i``; in all ``max((i - 1)·s + k - o, 0)``, the smaller half before.
    - "VALID": ``ceil((o - k + 1)/s) = i``; none.
    - explicit (b, a): ``floor((o + b + a - k)/s) + 1 = i``.

    References
    ----------
    https://www.tensorflow.org/api_docs/python/tf/nn/conv2d_transpose and
    https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2.
    """
    x, f = operand("input", input), operand("filters", filters)
    same_dtype(input=x, filters=f)
    if not isinstance(data_format, str) or data_format not in _FORMATS:
        raise ValueError(f'data_format must be "NHWC" or "NCHW"; got {data_format!r}')
    bare = x.ndim == f.ndim == 2
    if not bare:
        _check_operands(x, f, data_format)
    channels_last = data_format == "NHWC" and not bare
    x = x[None, None] if bare else x.transpose(0, 3, 1, 2) if channels_last else x
    w = f[None, None] if bare else f.transpose(3, 2, 0, 1)
    stride = _spatial("strides", strides, data_format)
    dilation = (1, 1) if dilations is None else _spatial("dilations", dilations, data_format)
    extents = tuple(d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:]))
    groups, size = _read_output_shape(output_shape, x.shape, w.shape, data_format, bare)
    rows, columns = _windows(size, x.shape[2:], extents, stride, padding, data_format)
    out = None
    if channels_last and rows.whole and columns.whole:
        out = new((x.shape[0], *size, groups * w.shape[1]), x).transpose(0, 3, 1, 2)
    y = conv_transpose2d(
        x,
        w,
        stride=stride,
        padding=(rows.padding, columns.padding),
        output_padding=(rows.output_padding, columns.output_padding),
        groups=groups,
        dilation=dilation,
        out=out,
        device=device,
        algorithm=algorithm,
    )
    y = y[:, :, rows.crop, columns.crop]
    y = y[0, 0] if bare else y.transpose(0, 2, 3, 1) if channels_last else y
    return returned(namespace(y).ascontiguousarray(y), input)  # type: ignore[no-any-return]


class _Window(NamedTuple):
    """How one axis is computed: symmetric padding and output_padding, and the part of that which is the result."""

    padding: int
    output_padding: int
    crop: slice
    whole: bool  # nothing is cropped


def _windows(
    size: tuple[int, ...],
    input_size: tuple[int, ...],
    extents: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Any,
    data_format: str,
) -> list[_Window]:
    explicit = _read_padding(padding, data_format)
    same = isinstance(padding, str) and padding == "SAME"
    least = [(i - 1) * s + k for i, s, k in zip(input_size, stride, extents)]
    if same:
        low = [(i - 1) * s + 1 for i, s in zip(input_size, stride)]
    else:
        low = [n - sum(pair) for n, pair in zip(least, explicit)]
    high = [n + s - 1 for n, s in zip(low, stride)]
    if min(high) < 1:
        raise ValueError(f"padding must leave some output; got {padding!r}, with which the size is at most {high}")
    low = [max(n, 1) for n in low]
    if not all(a <= n <= b for a, n, b in zip(low, size, high)):
        raise ValueError(
            f"output_shape must have height and width from ({low[0]}, {low[1]}) to ({high[0]}, {high[1]}) for input of "
            f"height and width {input_size} with padding {padding!r}; got {size}"
        )
    if same:
        total = [max(n - o, 0) for n, o in zip(least, size)]
        explicit = tuple((t // 2, t - t // 2) for t in total)
    return [_window(o, n, before, s) for o, n, (before, _), s in zip(size, least, explicit, stride)]


def _window(size: int, least: int, before: int, stride: int) -> _Window:
    # Symmetric padding gives `least - 2·padding + output_padding`; what lies beyond on either side is cropped.
    output_padding = size - (least - 2 * before)
    front = max(0, output_padding - (stride - 1))
    whole = front == 0 <= output_padding
    return _Window(before - front, max(0, output_padding - front), slice(front, front + size), whole)


def _check_operands(x: Array, f: Array, data_format: str) -> None:
    axes = ", ".join({"N": "N", "H": "height", "W": "width", "C": "C_in"}[a] for a in data_format)
    if x.ndim != 4:
        raise ValueError(
            f"input must have 4 axes ({axes}), or 2 (height, width) with filters of 2 axes; got shape {x.shape} with "
            f"filters of shape {f.shape}"
        )
    if f.ndim != 4:
        raise ValueError(f"filters must have 4 axes (height, width, C_out / groups, C_in); got shape {f.shape}")
    channels = x.shape[data_format.index("C")]
    if f.shape[3] != channels:
        raise ValueError(
            f"filters must have C_in = {channels} on its last axis, as {data_format} input of shape {x.shape} has; got "
            f"shape {f.shape}"
        )


def _read_output_shape(
    output_shape: Any, x_shape: tuple[int, ...], w_shape: tuple[int, ...], data_format: str, bare: bool
) -> tuple[int, tuple[int, ...]]:
    """Return the number of groups and the spatial size."""
    if 0 in w_shape:
        raise ValueError(f"filters must have no axis of size 0; got (C_in, C_out / groups, height, width) {w_shape}")
    if 0 in x_shape[1:]:
        raise ValueError(f"input must have no axis of size 0 but the batch; got (N, C_in, H, W) {x_shape}")
    values = _ints("output_shape", output_shape)
    wanted = "(height, width)" if bare else f"4 values in {data_format} order, or (height, width)"
    if len(values) == 2:
        return 1, values
    if bare or len(values) != 4:
        raise ValueError(f"output_shape must be {wanted}; got {values}")
    named = dict(zip(data_format, values))
    if named["N"] not in (-1, x_shape[0]):
        raise ValueError(f"output_shape must have input's batch {x_shape[0]}, or -1, on its first axis; got {values}")
    groups, rest = divmod(named["C"], w_shape[1])
    if rest or groups < 1 or x_shape[1] % groups:
        raise ValueError(
            f"output_shape must have {w_shape[1]} channels, as filters has, or that times a number of groups that "
            f"divides C_in = {x_shape[1]}; got {named['C']} in {values}"
        )
    return groups, (named["H"], named["W"])


def _read_padding(padding: Any, data_format: str) -> tuple[tuple[int, int], ...]:
    """Return the pairs of the spatial axes; zeros for "SAME" and "VALID"."""
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f'padding must be "SAME", "VALID" or 4 pairs (before, after); got {padding!r}')
        return (0, 0), (0, 0)
    if not isinstance(padding, tuple | list | np.ndarray):
        raise TypeError(
            f'padding must be "SAME", "VALID" or 4 pairs (before, after); got {padding!r} of type '
            f"{type(padding).__name__}"
        )
    if len(padding) != 4:
        raise ValueError(f"padding must have 4 pairs (before, after), in {data_format} order; got {padding!r}")
    pairs: dict[str, tuple[int, int]] = {}
    for axis, pair in zip(data_format, padding):
        values = _ints("padding", pair)
        if len(values) != 2 or min(values) < 0:
            raise ValueError(f"padding must have two values of at least 0 in each pair; got {pair!r} in {padding!r}")
        pairs[axis] = (values[0], values[1])
    if pairs["N"] != (0, 0) or pairs["C"] != (0, 0):
        raise ValueError(f"padding must be (0, 0) for batch and channels, in {data_format} order; got {padding!r}")
    return pairs["H"], pairs["W"]


def _spatial(name: str, value: Any, data_format: str) -> tuple[int, ...]:
    """Return strides or dilations as TensorFlow reads them: 1, 2 or 4 values."""
    values = _ints(name, value if isinstance(value, tuple | list | np.ndarray) else [value])
    if len(values) not in (1, 2, 4):
        raise ValueError(f"{name} must be an int or have 1, 2 or 4 values; got {value!r}")
    if min(values) < 1:
        raise ValueError(f"{name} must be at least 1 on every axis; got {value!r}")
    if len(values) == 4:
        named = dict(zip(data_format, values))
        if named["N"] != 1 or named["C"] != 1:
            raise ValueError(f"{name} must be 1 for batch and channels, in {data_format} order; got {value!r}")
        return named["H"], named["W"]
    return values * (2 // len(values))


def _ints(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = list(value)
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be a sequence of ints; got {value!r} of type {type(value).__name__}")
    return tuple(as_int(name, v) for v in value)
