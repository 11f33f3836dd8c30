"""Loading a state: every fault is found before the first value is copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import namespace, on_gpu, operand
from fastdeconv.problem import shown

if TYPE_CHECKING:
    from fastdeconv.nn.module import Module

Array = NDArray[Any]

# Faults that a message lists; a model has hundreds of names.
_MOST_LISTED = 20


def load(module: Module, state: Any, strict: bool) -> None:
    """Copy values into a module; see `Module.load_state_dict`."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, such as state_dict() returns; got {shown(state)}")
    own = module.state_dict()
    faults = []
    if strict:
        faults += [f"{name} is missing" for name in own if name not in state]
        faults += [f"{name} is unknown here" for name in state if name not in own]
    found = {}
    for name, target in own.items():
        if name not in state:
            continue
        try:
            found[name] = _fitting(state[name], target)
        except (TypeError, ValueError, RuntimeError) as error:
            faults.append(f"{name} {error}")
    if faults:
        listed = faults[:_MOST_LISTED]
        if len(faults) > len(listed):
            listed.append(f"and {len(faults) - len(listed)} more")
        raise ValueError(f"state does not fit this {type(module).__name__}: {'; '.join(listed)}")
    for name, value in found.items():
        own[name][...] = namespace(own[name]).asarray(value, dtype=own[name].dtype)


def _fitting(value: Any, target: Array) -> Array:
    """Return a value as an array of NumPy's that can be copied to the target."""
    if callable(getattr(value, "detach", None)):
        value = value.detach()  # a tensor of torch that requires a gradient does not share its memory
    device: Any = operand("value", value) if on_gpu(value) else None
    array = np.asarray(value) if device is None else device.get()
    if array.dtype.kind not in "fiu":
        raise TypeError(f"must be an array of numbers; got {shown(value)}")
    if array.dtype.kind == "f" and target.dtype.kind != "f":
        raise TypeError(f"must be of integers; got {array.dtype}")
    if array.shape != target.shape:
        raise ValueError(f"must have shape {target.shape}; got {array.shape}")
    return array
