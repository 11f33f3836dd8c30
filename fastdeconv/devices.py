"""Which device serves a call."""

from __future__ import annotations

from typing import Any

from fastdeconv.problem import shown

_DEVICES = ("auto", "cpu", "cuda")
_default = "auto"


def set_device(device: str) -> None:
    """Set the device of calls that name none: "auto" (the initial value) or "cpu".

    "auto" means the device where the arrays are; NumPy arrays are on the CPU.

    Raises
    ------
    TypeError
        Not a string.
    ValueError
        Not a known device.
    RuntimeError
        "cuda": this release has CPU kernels only.
    """
    global _default
    resolve(device)
    _default = device


def get_device() -> str:
    """Return the device of calls that name none."""
    return _default


def resolve(device: Any) -> str:
    """Return the device that runs a call on NumPy arrays; None is the default."""
    if device is None:
        return "cpu"
    if not isinstance(device, str):
        raise TypeError(f'device must be "auto", "cpu" or "cuda"; got {shown(device)}')
    if device not in _DEVICES:
        raise ValueError(f'device must be "auto", "cpu" or "cuda"; got {shown(device)}')
    if device == "cuda":
        raise RuntimeError('device "cuda" is not available: this release has CPU kernels only; use "cpu" or "auto"')
    return "cpu"
