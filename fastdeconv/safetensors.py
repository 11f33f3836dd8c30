"""Files in the safetensors format: named arrays and texts, with nothing in them that runs.

Eight bytes with the header's length, the header as JSON (each array's element type, shape and place; texts under
``__metadata__``), then the arrays one after the other, little-endian. NumPy is all that is needed.

References
----------
The format's description in https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import atomic

Array = NDArray[Any]

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "BF16": "<u2",
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items() if name != "BF16"}
_LONGEST = 100_000_000  # bytes of a header, by the format's description


class FormatError(Exception):
    """A file that is no safetensors file, or a damaged one; its text says why."""


def write(path: Path, arrays: Mapping[str, Array], texts: Mapping[str, str]) -> None:
    """Write arrays and texts to a file, whole or not at all; the same content gives the same bytes.

    Raises
    ------
    TypeError
        An array has an element type that the format lacks.
    OSError
        The file cannot be written.
    """
    # Wide elements first, so that each array lies on a multiple of its element's size.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(texts.items()))} if texts else {}
    place, parts = 0, []
    for name in order:
        array = arrays[name]
        little = array.dtype.newbyteorder("<")
        if little not in _NAMES:
            raise TypeError(f"{name} must have one of the dtypes {', '.join(map(str, _NAMES))}; got {array.dtype}")
        part = np.ascontiguousarray(array, little)
        header[name] = {
            "dtype": _NAMES[little],
            "shape": list(array.shape),
            "data_offsets": [place, place + part.nbytes],
        }
        place += part.nbytes
        if part.nbytes:
            parts.append(part.data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    atomic.write(path, [len(text).to_bytes(8, "little"), text, *parts])


def read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the texts of a file; bfloat16 becomes float32, which holds all its values.

    Raises
    ------
    FormatError
        No safetensors file, or a damaged one.
    OSError
        The file cannot be read.
    """
    content = np.fromfile(path, np.uint8)
    if content.size < 8:
        raise FormatError(f"it has {content.size} bytes, too few for a header" if content.size else "it is empty")
    length = int.from_bytes(content[:8].tobytes(), "little")
    if length > min(_LONGEST, content.size - 8):
        raise FormatError("it is cut off within its header, or no safetensors file")
    try:
        header = json.loads(content[8 : 8 + length].tobytes())
        texts = header.pop("__metadata__", {})
        entries = {name: _entry(entry) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError("its header is damaged, or it is no safetensors file") from None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise FormatError("its texts are damaged")
    data = content[8 + length :]
    _check_places(entries, data.size)
    arrays = {}
    for name, (kind, shape, begin, end) in entries.items():
        # A copy where another writer's header leaves the array between two addresses of its type.
        array = np.require(data[begin:end].view(_DTYPES[kind]), requirements="A").reshape(shape)
        if kind == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = array if sys.byteorder == "little" else array.astype(array.dtype.newbyteorder("="))
    return arrays, texts


_Entry = tuple[str, tuple[int, ...], int, int]


def _entry(entry: dict[str, Any]) -> _Entry:
    kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if kind not in _DTYPES:
        raise FormatError(f"it holds elements of type {kind!r}, which NumPy lacks")
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError
    if end - begin != math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize:
        raise ValueError
    return kind, shape, begin, end


def _check_places(entries: Mapping[str, _Entry], size: int) -> None:
    """See that the arrays fill the file, one after the other."""
    place = 0
    for _, _, begin, end in sorted(entries.values(), key=lambda entry: entry[2:]):
        if begin != place:
            raise FormatError("its header is damaged: its arrays overlap or leave gaps")
        place = end
    if place > size:
        raise FormatError(f"it is cut off: {place - size} bytes are missing")
    if place < size:
        raise FormatError(f"it has {size - place} bytes too many at its end")
