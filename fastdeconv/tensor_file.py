"""Files of named arrays and texts in the safetensors format: nothing in them runs, and they are whole or not there.

The format is written and read by its own package, safetensors, which the extras ``train`` and ``images`` install.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import atomic

Array = NDArray[Any]

# Element types by the format's names. What NumPy has no type for, bfloat16, is widened.
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "BF16": "<u2",
}  # fmt: skip
_WRITTEN = tuple(np.dtype(dtype) for name, dtype in _DTYPES.items() if name != "BF16")


class FormatError(Exception):
    """A file that is no safetensors file, or a damaged one; its text says why."""


def write(path: Path, arrays: Mapping[str, Array], texts: Mapping[str, str]) -> None:
    """Write arrays and texts to a file, whole or not at all.

    Raises
    ------
    TypeError
        An array has an element type that the format lacks.
    OSError
        The file cannot be written.
    ModuleNotFoundError
        safetensors is not installed.
    """
    atomic.write(path, [content(arrays, texts)])


def content(arrays: Mapping[str, Array], texts: Mapping[str, str]) -> bytes:
    """Return what `write` writes."""
    _package()
    from safetensors.numpy import save

    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in _WRITTEN:
            raise TypeError(f"{name} must have one of the dtypes {', '.join(map(str, _WRITTEN))}; got {array.dtype}")
    # Unlike ascontiguousarray, this leaves an array without axes as it is.
    packed = {name: np.asarray(array, array.dtype.newbyteorder("<"), "C") for name, array in arrays.items()}
    return save(packed, dict(texts))


def read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the texts of a file; bfloat16 becomes float32, which holds all its values.

    Raises
    ------
    FormatError
        No safetensors file, or a damaged one.
    OSError
        The file cannot be read.
    ModuleNotFoundError
        safetensors is not installed.
    """
    _package()
    from safetensors import SafetensorError, deserialize, safe_open

    raw = path.read_bytes()
    if not raw:
        raise FormatError("it is empty")
    try:
        entries = deserialize(raw)
        with safe_open(path, "np") as file:
            texts = dict(file.metadata() or {})
    except SafetensorError as error:
        raise FormatError(f"it is damaged or cut off, or no safetensors file ({error})") from None
    return {name: _array(name, entry) for name, entry in entries}, texts


def _package() -> None:
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'files of weights and runs need safetensors: pip install "fastdeconv[train]"', name=error.name
        ) from None


def _array(name: str, entry: Mapping[str, Any]) -> Array:
    kind = entry["dtype"]
    if kind not in _DTYPES:
        raise FormatError(f"{name} has elements of type {kind}, which NumPy lacks")
    array = np.frombuffer(bytearray(entry["data"]), _DTYPES[kind]).reshape(entry["shape"])
    if kind == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
