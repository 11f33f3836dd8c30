"""One weight for many calls: packed or transformed once, arguments validated once for each input shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace, new, operand, result, returned, same_dtype
from fastdeconv.calls import check_bias, into, plan_call, vector, with_channels
from fastdeconv.devices import resolve
from fastdeconv.dispatch import Plan, candidates, table_of
from fastdeconv.kernels.geometry import Run
from fastdeconv.layouts import channels_last, new_channels_last, to_vector
from fastdeconv.problem import IntOrTuple, Problem, as_axes
from fastdeconv.tuning import batch_invariance, conditions

Array = NDArray[Any]

# Input shapes whose packed weights are held at a time.
MOST_SHAPES = 4


class _Ready:
    """What serves one input shape: the function, the output's shape, and when it was last used."""

    __slots__ = ("channels_last", "name", "nbytes", "run", "used", "vectors", "y_shape")

    def __init__(self, plan: Plan, weight: Array, y_shape: tuple[int, ...]) -> None:
        assert plan.prepare is not None
        held = plan.prepare(weight)
        self.run: Run = held.run
        self.vectors = plan.device == "cpu"
        self.channels_last = plan.problem.channels_last
        self.nbytes = held.nbytes
        self.name = plan.implementation.name
        self.y_shape = y_shape
        self.used = 0


class PreparedConvTranspose:
    """A transposed convolution with its weight: what `prepare` returns.

    Attributes
    ----------
    ndim : int
        Spatial axes: 1, 2 or 3.
    nbytes : int
        Bytes that it holds now: a copy of weight and bias, and packed weights for recently used input shapes.
    """

    def __init__(
        self,
        weight: Array,
        bias: Array | None,
        parameters: tuple[Any, Any, Any, Any, Any],
        device: str | None,
        algorithm: str | None,
    ) -> None:
        w = operand("weight", weight)
        if not 1 <= w.ndim <= 5:
            raise ValueError(
                f"weight must have 3 to 5 axes (C_in, C_out / groups, …), or 1 or 2 as a bare kernel; "
                f"got shape {w.shape}"
            )
        self.ndim = w.ndim - 2 if w.ndim > 2 else w.ndim
        self._bare = w.ndim == self.ndim
        self._dtype = same_dtype(weight=w)
        self._native = w.dtype
        # A copy, whatever the caller does to his array, and read-only where that can be, as it is handed to kernels.
        self._weight = namespace(w).array(w, order="C")
        if isinstance(self._weight, np.ndarray):
            self._weight.flags.writeable = False
        self._full_shape = (1, 1, *w.shape) if self._bare else w.shape
        # Arrays on a GPU are computed there; where those of NumPy are is settled now, but for "auto".
        self._device = resolve(device, w)
        self._algorithm = algorithm
        if self._device != "auto":
            candidates(table_of(self._device, "forward", self.ndim), algorithm)
        problem = _smallest(self._full_shape, self.ndim, self._dtype, parameters)
        self._parameters = (
            problem.stride, problem.padding, problem.output_padding, problem.groups, problem.dilation,
        )  # fmt: skip
        b = check_bias(bias, problem.out_channels, w)
        self._bias = None if b is None else b.copy()
        # Replaced as a whole, never changed: threads, signal handlers and forked children meet in it without a lock.
        # Two that see a new shape at once both prepare for it, and one of their results stays.
        self._ready: dict[Any, _Ready] = {}
        self._clock = itertools.count(1)

    def __call__(self, input: Array, out: Array | None = None, output_size: IntOrTuple | None = None) -> Array:
        """Compute the transposed convolution of an input, to the bit as `conv_transpose2d` does.

        Parameters
        ----------
        input : ndarray, shape (N, C_in, …) or (C_in, …)
            Of the weight's dtype; bare (…) if the weight is.
        out : ndarray, optional
            Takes the result: of its shape and dtype, not overlapping the input.
        output_size : int or tuple of int, optional
            Spatial size of the output; chooses output_padding.

        Returns
        -------
        ndarray, shape (N, C_out, …), (C_out, …) or (…)

        Raises
        ------
        TypeError, ValueError
            As `conv_transpose2d` does.
        """
        x = operand("input", input)
        if x.dtype != self._native or type(x) is not type(self._weight):
            same_dtype(input=x, weight=self._weight)
        last = channels_last(self.ndim, x, out)
        ready = self._ready.get((x.shape, last, conditions())) if output_size is None else None
        if ready is None:
            ready = self._prepared(x.shape, last, output_size)
        ready.used = next(self._clock)
        y_shape = ready.y_shape
        if out is not None:
            y = result(out, y_shape, self._dtype, input=x)
        else:
            y = new_channels_last(self.ndim, y_shape, x) if last else new(y_shape, x)
        if y.size and ready.vectors and ready.channels_last:
            ready.run(vector(x, self.ndim, True), self._bias, vector(y, self.ndim, True))
        elif y.size and ready.vectors:
            into(ready.run, y, to_vector(x), self._bias)
        elif y.size:
            ready.run(x, self._bias, y)
        if out is not None:
            return out
        return y if x is input else returned(y, input)

    def moved(self, put: Callable[[Array], Any]) -> PreparedConvTranspose:
        """Return the same for arrays of a device, to which `put` copies."""
        bias = None if self._bias is None else put(self._bias)
        return PreparedConvTranspose(put(self._weight), bias, self._parameters, None, self._algorithm)

    def of_stacks(self) -> Callable[[Array], Array]:
        """Return the function of stacked inputs whose result is, to the bit, that of each of them, stacked."""
        with_channels = self
        if self._bare:
            _, arguments = self.__reduce__()
            with_channels = PreparedConvTranspose(self._weight.reshape(self._full_shape), *arguments[1:])

        def of_stack(stack: Array) -> Array:
            if stack.ndim == self.ndim + 3:  # batches, each a call of its own
                with batch_invariance(False):
                    results = [self(batch)[np.newaxis] for batch in stack]
                return results[0] if len(results) == 1 else np.concatenate(results)
            if self._bare and stack.ndim == self.ndim + 1:
                return with_channels(stack[:, np.newaxis])[:, 0]
            return self(stack)

        return of_stack

    def _prepared(self, x_shape: tuple[int, ...], last: bool, output_size: Any) -> _Ready:
        full_shape, _, bare = with_channels(self.ndim, x_shape, self._weight.shape)
        # A bare input or weight whose partner is not bare has the wrong number of axes, and is told so.
        w_shape = self._full_shape if bare else self._weight.shape
        under = conditions()
        plan = plan_call(
            "forward", self.ndim, full_shape, w_shape, self._dtype, *self._parameters, output_size,
            self._device, self._algorithm, last,
        )  # fmt: skip
        y_shape = plan.problem.output_shape[1:] if bare else plan.problem.output_shape
        key = (x_shape, last, under) if output_size is None else (x_shape, last, under, plan.problem.output_size)
        held = self._ready
        ready = held.get(key)
        if ready is None:
            ready = _Ready(plan, self._weight.reshape(-1), y_shape)
            recent = sorted(held.items(), key=lambda item: -item[1].used)
            self._ready = dict([(key, ready), *recent[: MOST_SHAPES - 1]])
        return ready

    @property
    def nbytes(self) -> int:
        """Bytes that it holds now."""
        bias = 0 if self._bias is None else self._bias.nbytes
        return int(self._weight.nbytes) + bias + sum(ready.nbytes for ready in self._ready.values())

    def __repr__(self) -> str:
        names = ("stride", "padding", "output_padding", "groups", "dilation")
        shown = ", ".join(f"{name} {value}" for name, value in zip(names, self._parameters))
        ready = ", ".join(
            f"{key[0]}{' with channels last' * each.channels_last} by {each.name} ({each.nbytes:,} bytes)"
            for key, each in self._ready.items()
        )
        return (
            f"<PreparedConvTranspose {self.ndim}-D, weight {self._weight.shape} {self._dtype}, "
            f"{'no bias' if self._bias is None else 'bias'}, {shown}; {self.nbytes:,} bytes; "
            f"ready for input {ready or 'of no shape yet'}>"
        )

    def __reduce__(self) -> Any:
        """Pickle and copy as what it was made of."""
        return type(self), (self._weight, self._bias, self._parameters, self._device, self._algorithm)


def _smallest(weight_shape: tuple[int, ...], ndim: int, dtype: str, parameters: tuple[Any, ...]) -> Problem:
    """Validate what can be without an input, by the problem of the smallest input that has an output."""
    _, padding, output_padding, groups, dilation = parameters
    stride = as_axes("stride", parameters[0], ndim, low=1)
    padding, dilation = as_axes("padding", padding, ndim), as_axes("dilation", dilation, ndim, low=1)
    size = (
        1 + max(0, -(-(2 * p - d * (k - 1)) // s)) for p, d, k, s in zip(padding, dilation, weight_shape[2:], stride)
    )
    return Problem.from_shapes(
        (1, weight_shape[0], *size), weight_shape, ndim=ndim, dtype=dtype,
        stride=stride, padding=padding, output_padding=output_padding, groups=groups, dilation=dilation,
    )  # fmt: skip


def prepare(
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    device: str | None = None,
    algorithm: str | None = None,
) -> PreparedConvTranspose:
    """Prepare a weight for many calls of the transposed convolution: ``prepared(input, out=None, output_size=None)``.

    The kernel's own form of the weight, packed or transformed, is made at the first call for an input shape and used by
    all later ones; their arguments are not validated again. Results are those of `conv_transpose1d`, `conv_transpose2d`
    or `conv_transpose3d` with the same arguments, to the last bit.

    Parameters
    ----------
    weight : ndarray, shape (C_in, C_out / groups, …)
        Of 3, 4 or 5 axes for signals, images or volumes; or a bare kernel of 1 or 2 axes, for bare signals or images.
        A copy is kept: what happens to the array later does not matter.
    bias : ndarray, shape (C_out,), optional
        Of weight's dtype; copied too.
    stride, padding, output_padding, groups, dilation
        As in the call.
    device : {"cpu", "cuda", "cuda:N", "auto"}, optional
        As in the call; a weight on a GPU is for inputs there.
    algorithm : str, optional
        As in the call.

    Returns
    -------
    PreparedConvTranspose
        Call it, from any number of threads. It holds packed weights for up to four input shapes, those used last;
        ``nbytes`` and ``repr`` tell how much.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.

    Examples
    --------
    >>> import numpy as np
    >>> import fastdeconv as fd
    >>> upscale = fd.prepare(np.ones((2, 2)) / 4, stride=2)
    >>> upscale(np.array([[4.0, 8.0]]))
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]])
    """
    parameters = (stride, padding, output_padding, groups, dilation)
    return PreparedConvTranspose(weight, bias, parameters, device, algorithm)
