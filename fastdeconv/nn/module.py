"""What every layer is: parameters, buffers, children, and what a forward call keeps for its backward call."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import operand
from fastdeconv.devices import resolve
from fastdeconv.nn.checks import DTYPES, check_like, contiguous
from fastdeconv.problem import shown

Array = NDArray[Any]

_state = threading.local()


class no_grad(contextlib.ContextDecorator):  # noqa: N801 - torch's name
    """A context, or a decorator, in which forward calls keep nothing and intermediate results may be overwritten.

    It holds for the thread that enters it. A `backward` after such a forward is a RuntimeError.

    Examples
    --------
    >>> import numpy as np
    >>> from fastdeconv import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    >>> with nn.no_grad():
    ...     y = model(np.zeros((1, 1, 8, 8), np.float32))
    """

    def __enter__(self) -> None:
        _state.depth = getattr(_state, "depth", 0) + 1

    def __exit__(self, *_: object) -> None:
        _state.depth -= 1


def grad_enabled() -> bool:
    """Return whether forward calls of this thread keep what backward needs."""
    return getattr(_state, "depth", 0) == 0


class Parameter:
    """An array that is learned, and its gradient.

    Parameters
    ----------
    data : ndarray
        float32 or float64, NumPy's or CuPy's. Kept as it is, not copied: optimisers change it in place.
    requires_grad : bool
        Whether `backward` computes its gradient.

    Attributes
    ----------
    data : ndarray
    grad : ndarray or None
        Of data's shape and dtype; None until a backward call has been made, and after `Module.zero_grad`.
    requires_grad : bool

    Raises
    ------
    TypeError
        Not such an array.
    """

    __slots__ = ("data", "grad", "requires_grad")

    def __init__(self, data: Array, requires_grad: bool = True) -> None:
        self.data = operand("data", data)
        if self.data.dtype.name not in DTYPES:
            raise TypeError(f"data must be {' or '.join(DTYPES)}; got {self.data.dtype}: convert it with .astype")
        self.grad: Array | None = None
        self.requires_grad = requires_grad

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the data."""
        return self.data.dtype

    def accumulate(self, gradient: Array) -> None:
        """Add a gradient to `grad`; the first is kept as it is, without a copy, if its elements lie in C order."""
        if self.grad is None:
            # What clips and adds gradients takes them as vectors.
            self.grad = contiguous(gradient)
        else:
            self.grad += gradient

    def __repr__(self) -> str:
        return f"<Parameter {self.shape} {self.dtype}>"


class Module:
    """Base class of layers and models.

    A subclass sets parameters (`Parameter`) and children (other modules) as attributes, in the order in which
    `state_dict` shall list them, and defines `forward` and `backward`. `backward` adds to each parameter's ``grad``.

    Attributes
    ----------
    training : bool
        Whether the module is being trained (`train`), or used (`eval`): BatchNorm computes otherwise then.
    needs_input_grad : bool
        Whether `backward` computes the gradient of the module's input. Set it to False on a model whose input is data:
        then `backward` returns None, and its first layer is spared the work.
    """

    training: bool = True
    needs_input_grad: bool = True
    # Names of attributes that are arrays of the state but not learned.
    _buffers: ClassVar[tuple[str, ...]] = ()
    # Whether results are arrays of their own, which the next layer may overwrite if nothing else needs them.
    _fresh: bool = False
    # Whether containers may call what lies under forward and backward: not where a class has its own of these.
    _plain: bool = True
    # Whether Sequential may run it together with its neighbour.
    _fusable: bool = False
    _kept: Any = None
    _missing = "forward has not been called"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        defined = vars(cls)
        if any(name in defined and f"_{name}" not in defined for name in ("forward", "backward")):
            cls._plain = cls._fresh = cls._fusable = False

    def __call__(self, x: Array) -> Array:
        """Return ``forward(x)``."""
        return self.forward(x)

    def forward(self, x: Array) -> Array:
        """Return the result for an input, and keep what `backward` needs unless `no_grad` holds."""
        return self._forward(x, False)

    def backward(self, grad_output: Array) -> Array | None:
        """Add the gradients of ``Σ grad_output · forward(x)`` to the parameters', for the x of the last forward call.

        Parameters
        ----------
        grad_output : ndarray
            Of the shape and dtype of what that call returned.

        Returns
        -------
        ndarray or None
            The gradient with respect to x, of x's shape; None if `needs_input_grad` is False.

        Raises
        ------
        RuntimeError
            There was no forward call, or it ran under `no_grad`, or another backward call has used what it kept.
        TypeError, ValueError
            grad_output has another dtype or shape.
        """
        return self._backward(grad_output, False)

    def _forward(self, x: Array, own: bool) -> Array:
        """Do what `forward` does; `own` tells that nobody else needs x any more, so that it may be overwritten."""
        # Not abstract: a user's class has a forward and backward of its own, or, for inference, a forward alone.
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def _backward(self, grad_output: Array, own: bool) -> Array | None:
        """Do what `backward` does; `own` is as in `_forward`."""
        raise NotImplementedError(f"{type(self).__name__} must define backward")

    def _run(self, x: Array, own: bool) -> Array:
        """Call `_forward`, or a `forward` that stands in its place."""
        return self._forward(x, own) if self._plain else self.forward(x)

    def _run_back(self, grad_output: Array, own: bool) -> Array | None:
        """Call `_backward`, or a `backward` that stands in its place."""
        return self._backward(grad_output, own) if self._plain else self.backward(grad_output)

    # -- between forward and backward ---------------------------------------------------------------------------

    def _keep(self, result: Array, *values: Any) -> None:
        """Keep values for the backward call that follows on this result, unless there will be none."""
        if grad_enabled():
            self._kept = (result.shape, result.dtype, type(result), values)
        else:
            self._kept, self._missing = None, "the last forward call ran under no_grad"

    def _take(self, grad_output: Any) -> tuple[Any, ...]:
        """Return the checked argument of `backward` and the values that were kept, and let go of these.

        Raises
        ------
        RuntimeError
            There are none.
        TypeError, ValueError
            The argument has not the result's shape, dtype and place.
        """
        name = type(self).__name__
        if self._kept is None:
            raise RuntimeError(f"{name}.backward needs a forward call before it: {self._missing}")
        shape, dtype, kind, values = self._kept
        gradient = operand("grad_output", grad_output)
        if gradient.shape != shape:
            raise ValueError(
                f"grad_output of {name} must have the shape {shape} of what forward returned; got {gradient.shape}"
            )
        check_like(self, "grad_output", gradient, dtype, kind)
        self._kept, self._missing = None, "backward has already been called after the last one"
        return contiguous(gradient), *values

    # -- parameters, buffers, children --------------------------------------------------------------------------

    def _children(self) -> Iterator[tuple[str, Module]]:
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all under it with their names, which have dots between levels."""
        yield prefix, self
        for name, child in self._children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def _named(self, find: Callable[[Module], Iterator[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
        for path, module in self.named_modules():
            for name, value in find(module):
                yield f"{path}.{name}" if path else name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield each parameter once, with its name in `state_dict`."""
        seen = set()
        for name, parameter in self._named(_own_parameters):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Yield each parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """Yield the arrays of the state that are not learned, with their names in `state_dict`."""
        yield from self._named(_own_buffers)

    def state_dict(self) -> dict[str, Array]:
        """Return parameters and buffers by torch's names: the arrays themselves, not copies."""
        state: dict[str, Array] = {}
        for path, module in self.named_modules():
            prefix = f"{path}." if path else ""
            for name, parameter in _own_parameters(module):
                state[prefix + name] = parameter.data
            for name, buffer in _own_buffers(module):
                state[prefix + name] = buffer
        return state

    def load_state_dict(self, state: Any, strict: bool = True) -> None:
        """Copy values into parameters and buffers.

        Parameters
        ----------
        state : mapping of str to array
            By the names of `state_dict`. NumPy's arrays, CuPy's, tensors of torch, or others that NumPy can read.
            Floating-point values are converted to the parameter's dtype.
        strict : bool
            Whether names that are missing from `state` or unknown here are errors.

        Raises
        ------
        TypeError
            Not a mapping.
        ValueError
            Missing or unknown names, other shapes, values that are not numbers: the message lists all of them, and
            nothing has been changed.
        """
        from fastdeconv.nn.state import load

        load(self, state, strict)

    # -- modes --------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set `training` here and in all modules below; return self."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set `training` to False here and in all modules below; return self."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Set the gradient of every parameter to None."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, where: str) -> Self:
        """Move parameters and buffers to a device, or convert them to an element type; return self.

        Parameters
        ----------
        where : str
            "cpu", "cuda", "cuda:1", …, or "float32", "float64". What a forward call kept is dropped.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            Neither a device nor an element type, or a device that is not there.
        """
        change = _conversion(where)
        for _, module in self.named_modules():
            module._kept, module._missing = None, "the module was moved or converted after it"
            for name, buffer in _own_buffers(module):
                if buffer.dtype.kind == "f":
                    setattr(module, name, change(buffer))
        for parameter in self.parameters():
            parameter.data = change(parameter.data)
            if parameter.grad is not None:
                parameter.grad = change(parameter.grad)
        return self

    def _arguments(self) -> str:
        """Return what stands between the brackets of ``repr``."""
        return ""

    def __repr__(self) -> str:
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self._children()]
        inner = "\n" + "\n".join(lines) + "\n" if lines else self._arguments()
        return f"{type(self).__name__}({inner})"


def _own_parameters(module: Module) -> Iterator[tuple[str, Parameter]]:
    for name, value in vars(module).items():
        if isinstance(value, Parameter):
            yield name, value


def _own_buffers(module: Module) -> Iterator[tuple[str, Array]]:
    for name in module._buffers:
        value = getattr(module, name)
        if value is not None:
            yield name, value


def _conversion(where: Any) -> Callable[[Array], Array]:
    if not isinstance(where, str):
        raise TypeError(f'where must be a device such as "cuda" or one of {", ".join(DTYPES)}; got {shown(where)}')
    if where in DTYPES:
        return lambda array: array.astype(where, copy=False)
    if where == "auto":
        raise ValueError('where must be "cpu", "cuda" or "cuda:N" for a module; "auto" is for single calls')
    place = resolve(where)
    if place == "cpu":
        return lambda array: array if isinstance(array, np.ndarray) else array.get()
    from fastdeconv.cuda.runtime import cupy, on
    from fastdeconv.devices import number

    def move(array: Array) -> Array:
        with on(number(place)):
            moved: Array = cupy().asarray(array)
        return moved

    return move
