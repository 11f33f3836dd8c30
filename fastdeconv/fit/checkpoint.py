"""Weights and training runs in safetensors files: nothing in them runs, and they are there whole or not at all."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv import atomic, tensor_file
from fastdeconv.nn import Module
from fastdeconv.optim.checks import flag
from fastdeconv.problem import shown

Array = NDArray[Any]

# The text of a file under this name says what it is; all other texts are the user's.
_KEY = "fastdeconv"
_VERSION = 1
# Weights of a run's best state, in the file of the run.
BEST = "best."


class CheckpointError(Exception):
    """A file of weights or of a run that cannot be read, written or used; its text is one line for the user."""


class Weights(NamedTuple):
    """What `load` returns.

    Attributes
    ----------
    state : dict of str to ndarray
        For `fastdeconv.nn.Module.load_state_dict`.
    metadata : dict of str to str
        What `save` was given.
    """

    state: dict[str, Array]
    metadata: dict[str, str]


def save(
    model: Module,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model's parameters and buffers to a safetensors file, by the names of ``model.state_dict()``.

    The file is there whole or not at all. Other programs read it too: torch,
    with ``safetensors.torch.load_file``.

    Parameters
    ----------
    model : Module
    path : str or path
    metadata : mapping of str to str, optional
        Kept in the file; the name "fastdeconv" is taken.
    overwrite : bool
        Whether a file that is there already is replaced.

    Raises
    ------
    CheckpointError
        The file is there already, or cannot be written.
    TypeError, ValueError
    """
    if not isinstance(model, Module):
        raise TypeError(f"model must be a module of fastdeconv.nn; got {shown(model)}")
    texts = dict(metadata or {})
    for name, text in texts.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"metadata must map strings to strings; got {name!r}: {text!r}; json.dumps makes one")
    if _KEY in texts:
        raise ValueError(f"metadata must not use the name {_KEY!r}, which says what the file is")
    place = Path(path)
    if not flag("overwrite", overwrite) and os.path.lexists(place):
        raise CheckpointError(f"{place}: exists already; overwrite=True replaces it")
    write(place, "weights", model.state_dict(), {}, texts)


def load(path: str | os.PathLike[str]) -> Weights:
    """Read weights from a safetensors file.

    Parameters
    ----------
    path : str or path
        Of a file that `save` wrote, of the checkpoint of a run (its best weights so far are taken), or of weights
        from elsewhere, torch's for instance. bfloat16 values become float32.

    Returns
    -------
    Weights
        ``state, metadata = fit.load(path)``; then ``model.load_state_dict(state)``.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or no safetensors file.
    """
    arrays, about, texts = read(Path(path))
    if about is not None and about["kind"] == "run":
        arrays = {name.removeprefix(BEST): array for name, array in arrays.items() if name.startswith(BEST)}
    return Weights(arrays, texts)


def write(
    path: Path, kind: str, arrays: Mapping[str, Array], about: Mapping[str, Any], texts: Mapping[str, str]
) -> None:
    """Write a file of the given kind; `about` is JSON.

    Raises
    ------
    CheckpointError
        It cannot be written. A file that was there stays as it was.
    """
    host = {name: array if isinstance(array, np.ndarray) else array.get() for name, array in arrays.items()}
    content = {**about, "kind": kind, "version": _VERSION}
    content["crc32"] = _checksum(host, content)
    try:
        tensor_file.write(path, host, {**texts, _KEY: json.dumps(content)})
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a file that cannot be written."""
    reason = error.strerror or str(error)
    return CheckpointError(f"{path}: cannot be written ({reason}); free the place or choose another")


def prepare(path: Path) -> None:
    """See, before any long work, that a checkpoint can be written there.

    Raises
    ------
    CheckpointError
    """
    try:
        atomic.clear(path)
        atomic.probe(path)
    except OSError as error:
        raise unwritable(path, error) from None


def read(path: Path) -> tuple[dict[str, Array], dict[str, Any] | None, dict[str, str]]:
    """Return a file's arrays, what it says about itself (None for files from elsewhere) and its other texts.

    Raises
    ------
    CheckpointError
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder, where a file in the safetensors format is wanted")
    try:
        arrays, texts = tensor_file.read(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except tensor_file.FormatError as error:
        raise CheckpointError(f"{path}: {error}; {_REMEDY}") from None
    if _KEY not in texts:
        return arrays, None, texts
    try:
        about = json.loads(texts.pop(_KEY))
        kind, version, checksum = about["kind"], about["version"], about.pop("crc32")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CheckpointError(f"{path}: what it says about itself is damaged; {_REMEDY}") from None
    if kind not in ("run", "weights") or version != _VERSION:
        raise CheckpointError(
            f"{path}: is {kind!r} in version {version!r} of its format, and this is fastdeconv for version {_VERSION}; "
            "use the fastdeconv that wrote it"
        )
    if checksum != _checksum(arrays, about):
        raise CheckpointError(f"{path}: is damaged: its checksum is wrong; {_REMEDY}")
    return arrays, about, texts


_REMEDY = "use a copy of it, or begin anew without it"


def _checksum(arrays: Mapping[str, Array], about: Mapping[str, Any]) -> int:
    total = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        total = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), total)
        if array.size:
            total = zlib.crc32(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B"), total)
    return total
