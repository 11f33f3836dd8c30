"""Convolution layers: the transposed ones, and plain ones, which are their adjoints and run on the same kernels.

The weight of a plain convolution, (C_out, C_in / groups, …), is as it lies that of the transposed convolution from
C_out to C_in channels. So its forward pass is that layer's input gradient, its input gradient that layer's forward
pass, and its weight gradient that layer's, with the two activations swapped. Results of a convolution with stride do
not tell how large its input was: the output_padding of the transposed layer says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastdeconv import functional, grad
from fastdeconv.arrays import new
from fastdeconv.devices import place_of
from fastdeconv.nn import elementwise, init
from fastdeconv.nn.checks import channel_counts, checked_input, contiguous, float_name, generator
from fastdeconv.nn.elementwise import Extent
from fastdeconv.nn.module import Module, Parameter
from fastdeconv.problem import AXIS_NAMES, IntOrTuple, as_axes, output_padding_for, shown

Array = NDArray[Any]
Shape = tuple[int, ...]

_CONV_TRANSPOSE = {
    1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d,
}  # fmt: skip


class _Convolution(Module, ABC):
    """What both kinds share: arguments, parameters, the bias."""

    _fresh = _fusable = True
    _ndim: ClassVar[int]
    _parameter_names: ClassVar[tuple[str, ...]]

    def _set_up(
        self,
        channels: tuple[Any, Any],
        weight_channels: tuple[Any, Any],
        kernel_size: Any,
        stride: Any,
        dilation: Any,
        groups: Any,
        bias: Any,
        padding_mode: Any,
        dtype: Any,
        rng: Any,
    ) -> None:
        """Validate arguments, and make weight and bias; `weight_channels` are those of its first and second axis."""
        ndim = self._ndim
        self.in_channels, self.out_channels = channels
        self.groups = groups
        self.kernel_size = as_axes("kernel_size", kernel_size, ndim, low=1)
        self.stride = as_axes("stride", stride, ndim, low=1)
        self.dilation = as_axes("dilation", dilation, ndim, low=1)
        if padding_mode != "zeros":
            raise ValueError(f'padding_mode must be "zeros"; got {shown(padding_mode)}')
        if not isinstance(bias, bool | np.bool_):
            raise TypeError(f"bias must be True or False; got {shown(bias)}")
        first, second = weight_channels
        kind = np.dtype(float_name(dtype))
        random = generator(rng)
        weight = np.empty((first, second // groups, *self.kernel_size), kind)
        init.kaiming_uniform(weight, random)
        self.weight = Parameter(weight)
        self.bias: Parameter | None = None
        if bias:
            self.bias = Parameter(init.bias_uniform(np.empty(self.out_channels, kind), weight, random))

    def _checked(self, x: Any) -> Array:
        """Return the input, if it has the layer's dtype, channels and number of axes."""
        array = checked_input(self, x, self.weight.data)
        ndim = self._ndim
        if array.ndim not in (ndim + 1, ndim + 2) or array.shape[-ndim - 1] != self.in_channels:
            axes = ", ".join(axis[0].upper() for axis in AXIS_NAMES[ndim])
            raise ValueError(
                f"x of {type(self).__name__} must have shape (N, {self.in_channels}, {axes}) or "
                f"({self.in_channels}, {axes}); got {array.shape}"
            )
        return contiguous(array)

    def _extent(self, y: Array) -> Extent:
        """Return the extent of a result, batched or not."""
        return Extent.of(y.shape if y.ndim == self._ndim + 2 else (1, *y.shape), self.out_channels)

    def _forward(self, x: Array, own: bool) -> Array:
        y = self._linear(x)
        if self.bias is not None:
            affine = elementwise.plain(y)._replace(shift=self.bias.data)
            elementwise.activate(elementwise.identity(y), y, self._extent(y), affine, y)
        return y

    def _backward(self, grad_output: Array, own: bool) -> Array | None:
        return self._gradient(grad_output, None)

    @abstractmethod
    def _linear(self, x: Array) -> Array:
        """Return the result without the bias."""

    def _gradient(self, grad_output: Array, bias_grad: Array | None) -> Array | None:
        """Add to the parameters' gradients, and return the input's; the bias's may be known already."""
        gy, x = self._take(grad_output)
        if self.bias is not None and self.bias.requires_grad:
            if bias_grad is None:
                bias_grad = elementwise.channel_sums(gy, self._extent(gy))
            self.bias.accumulate(bias_grad)
        if self.weight.requires_grad:
            self.weight.accumulate(self._weight_grad(x, gy))
        return self._input_grad(x.shape, gy) if self.needs_input_grad else None

    @abstractmethod
    def _weight_grad(self, x: Array, gy: Array) -> Array:
        """Return the gradient of the weight."""

    @abstractmethod
    def _input_grad(self, x_shape: Shape, gy: Array) -> Array:
        """Return the gradient of an input of some shape."""

    def _arguments(self) -> str:
        shown_ = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        defaults: dict[str, Any] = {"groups": 1, "padding": 0, "output_padding": 0, "stride": 1, "dilation": 1}
        for name in self._parameter_names:
            value = getattr(self, name)
            if value not in (defaults[name], (defaults[name],) * self._ndim):
                shown_.append(f"{name}={value!r}")
        if self.bias is None:
            shown_.append("bias=False")
        return ", ".join(shown_)


class _Conv(_Convolution):
    """A convolution of 1, 2 or 3 dimensions."""

    _parameter_names = ("stride", "padding", "dilation", "groups")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: IntOrTuple | str = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: str | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        channels = channel_counts(in_channels, out_channels, groups)
        self._set_up(
            channels, channels[::-1], kernel_size, stride, dilation, groups, bias, padding_mode, dtype, rng
        )  # fmt: skip
        self.padding: Shape | str
        # Zeros to add after the input on each axis: half a row cannot be padded on either side.
        self._extra = (0,) * self._ndim
        if isinstance(padding, str):
            self.padding = padding
            self._before, self._extra = self._named_padding(padding)
        else:
            self.padding = self._before = as_axes("padding", padding, self._ndim)

    def _named_padding(self, padding: str) -> tuple[Shape, Shape]:
        if padding not in ("same", "valid"):
            raise ValueError(f'padding must be ints, "same" or "valid"; got {padding!r}')
        if padding == "valid":
            return (0,) * self._ndim, (0,) * self._ndim
        if any(s > 1 for s in self.stride):
            raise ValueError(f'padding="same" needs stride 1; got {self.stride}')
        both = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation)]
        return tuple(total // 2 for total in both), tuple(total % 2 for total in both)

    def _linear(self, x: Array) -> Array:
        array = self._checked(x)
        ndim = self._ndim
        if any(self._extra):
            array = _grown(array, self._extra)
        size = array.shape[-ndim:]
        reach = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation)]
        room = [i + 2 * p - r for i, p, r in zip(size, self._before, reach)]
        if min(room) < 1:
            least = tuple(max(1, r + 1 - 2 * p) for r, p in zip(reach, self._before))
            raise ValueError(
                f"x of {type(self).__name__} must have a spatial size of at least {least} with kernel_size "
                f"{self.kernel_size}, dilation {self.dilation} and padding {self._before}; got {size}"
            )
        y_shape = (*array.shape[: -ndim - 1], self.out_channels, *((r - 1) // s + 1 for r, s in zip(room, self.stride)))
        parameters = self._transposed(size, y_shape[-ndim:])
        y = grad.input_grad(ndim, y_shape, self.weight.data, array, parameters, None, place_of(array), None)
        self._keep(y, array)
        return y

    def _transposed(self, size: Shape, y_size: Shape) -> grad.Parameters:
        """Return the parameters of the transposed convolution that makes `size` of `y_size`."""
        extra = output_padding_for(size, y_size, self.kernel_size, self.stride, self._before, self.dilation)
        return self.stride, self._before, extra, self.groups, self.dilation

    def _weight_grad(self, x: Array, gy: Array) -> Array:
        ndim = self._ndim
        parameters = self._transposed(x.shape[-ndim:], gy.shape[-ndim:])
        return grad.weight_grad(ndim, gy, self.weight.shape, x, parameters, None, place_of(x), None)

    def _input_grad(self, x_shape: Shape, gy: Array) -> Array:
        ndim = self._ndim
        stride, padding, extra, groups, dilation = self._transposed(x_shape[-ndim:], gy.shape[-ndim:])
        gx = _CONV_TRANSPOSE[ndim](
            gy, self.weight.data, None, stride, padding, extra, groups, dilation, device=place_of(gy)
        )
        if any(self._extra):
            gx = gx[_first([n - e for n, e in zip(x_shape[-ndim:], self._extra)])]
        return gx


class _ConvTranspose(_Convolution):
    """A transposed convolution of 1, 2 or 3 dimensions."""

    _parameter_names = ("stride", "padding", "output_padding", "dilation", "groups")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrTuple = 1,
        padding_mode: str = "zeros",
        *,
        dtype: str | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        channels = channel_counts(in_channels, out_channels, groups)
        self._set_up(
            channels, channels, kernel_size, stride, dilation, groups, bias, padding_mode, dtype, rng
        )  # fmt: skip
        self.padding = as_axes("padding", padding, self._ndim)
        self.output_padding = as_axes("output_padding", output_padding, self._ndim)
        for extra, s, d in zip(self.output_padding, self.stride, self.dilation):
            if extra >= max(s, d):
                raise ValueError(
                    f"output_padding must be below max(stride, dilation) on every axis; got {self.output_padding} "
                    f"with stride {self.stride} and dilation {self.dilation}"
                )

    def forward(self, x: Array, output_size: IntOrTuple | None = None) -> Array:
        """Return the result for an input.

        Parameters
        ----------
        x : ndarray, shape (N, C_in, …) or (C_in, …)
        output_size : int or tuple of int, optional
            Spatial size of the result; chooses output_padding.

        Raises
        ------
        TypeError, ValueError
            x has another dtype, channel count or number of axes; output_size cannot be had.
        """
        return self._transposed(x, output_size, None if self.bias is None else self.bias.data)

    def _forward(self, x: Array, own: bool) -> Array:
        return self.forward(x)

    def _linear(self, x: Array) -> Array:
        return self._transposed(x, None, None)

    def _transposed(self, x: Array, output_size: Any, bias: Array | None) -> Array:
        array = self._checked(x)
        y = _CONV_TRANSPOSE[self._ndim](
            array, self.weight.data, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation,
            output_size=output_size, device=place_of(array),
        )  # fmt: skip
        self._keep(y, array)
        return y

    def _parameters_for(self, x_shape: Shape, gy: Array) -> grad.Parameters:
        ndim = self._ndim
        extra = output_padding_for(
            gy.shape[-ndim:], x_shape[-ndim:], self.kernel_size, self.stride, self.padding, self.dilation
        )
        return self.stride, self.padding, extra, self.groups, self.dilation

    def _weight_grad(self, x: Array, gy: Array) -> Array:
        parameters = self._parameters_for(x.shape, gy)
        return grad.weight_grad(self._ndim, x, self.weight.shape, gy, parameters, None, place_of(x), None)

    def _input_grad(self, x_shape: Shape, gy: Array) -> Array:
        parameters = self._parameters_for(x_shape, gy)
        return grad.input_grad(self._ndim, x_shape, self.weight.data, gy, parameters, None, place_of(gy), None)


def _grown(x: Array, extra: Shape) -> Array:
    """Return an array with so many zeros more at the end of each spatial axis."""
    size = tuple(n + e for n, e in zip(x.shape[-len(extra) :], extra))
    grown = new((*x.shape[: -len(extra)], *size), x)
    grown[...] = 0
    grown[_first(x.shape[-len(extra) :])] = x
    return grown


def _first(size: Sequence[int]) -> Any:
    """Return an index of the first elements of each spatial axis."""
    return (..., *(slice(0, n) for n in size))


class Conv1d(_Conv):
    """Convolution of signals; see `Conv2d`."""

    _ndim = 1


class Conv2d(_Conv):
    """Convolution of images, as ``torch.nn.Conv2d`` defines it.

    Parameters
    ----------
    in_channels, out_channels : int
        Multiples of groups.
    kernel_size, stride, dilation : int or tuple of int
    padding : int, tuple of int, "same" or "valid"
        Zeros on both sides of the input. "same" keeps its size, for stride 1 only; "valid" is 0.
    groups : int
    bias : bool
        Whether one value for each output channel is added and learned.
    padding_mode : {"zeros"}
    dtype : {"float32", "float64"}, optional
        Of the parameters and of what the layer takes and returns; None is float32.
    rng : numpy.random.Generator or int, optional
        What the parameters are drawn with; an int is a seed. None draws others each time.

    Attributes
    ----------
    weight : Parameter, shape (out_channels, in_channels / groups, …)
    bias : Parameter, shape (out_channels,), or None

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.

    Notes
    -----
    It takes arrays of shape (N, C_in, H, W) or (C_in, H, W), NumPy's or, after ``to("cuda")``, CuPy's. The result's
    size on each axis is ``(i + 2·padding - dilation·(k - 1) - 1) // stride + 1``.
    """

    _ndim = 2


class Conv3d(_Conv):
    """Convolution of volumes; see `Conv2d`."""

    _ndim = 3


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of signals; see `ConvTranspose2d`."""

    _ndim = 1


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of images, as ``torch.nn.ConvTranspose2d`` defines it.

    Parameters
    ----------
    in_channels, out_channels : int
        Multiples of groups.
    kernel_size, stride, padding, output_padding, groups, dilation
        As in `fastdeconv.conv_transpose2d`.
    bias, padding_mode, dtype, rng
        As in `Conv2d`.

    Attributes
    ----------
    weight : Parameter, shape (in_channels, out_channels / groups, …)
    bias : Parameter, shape (out_channels,), or None

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    """

    _ndim = 2


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of volumes; see `ConvTranspose2d`."""

    _ndim = 3
