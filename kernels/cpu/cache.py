"""Compiled kernels on disk: one file for each kernel, signature and kind of CPU.

Numba's own cache knows only the file a function stands in, so an edit to another file that it calls returns the old
answer; a truncated file raises; nowhere to write raises; and two processes that start cold may swap each other's
entries in the shared index. Here the directory is named after the content of all kernel sources and the versions
under them, every file is named after what it holds and carries its checksum, and whatever cannot be read or written
means one more compilation, never an error.

The files are unpickled, so a directory that other users can write to is not used. A relative NUMBA_CACHE_DIR counts
from the current directory of the first call.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import platform
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import compiler, config
from numba.core.caching import _Cache
from numba.core.serialize import dumps

from fastdeconv.kernels.cpu import host

_SOURCES = Path(__file__).resolve().parents[1]
_DIGEST = 32  # bytes of SHA-256


@cache
def directory() -> tuple[Path | None, str]:
    """Return where compiled kernels are kept, or None, and a sentence about it."""
    root = _root()
    if root is None:
        return None, "no cache: no home directory and NUMBA_CACHE_DIR is not set"
    path = root / _version()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        for folder in (root, path):  # not by `parents`, which leaves the mode of all but the last to the umask
            folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        if not path.is_dir():
            return None, f"no cache: cannot write to {root} ({error.strerror})"
    for folder in (root, path):
        if not _private(folder):
            return None, f"no cache: other users can write to {folder}"
    return path, f"compiled kernels are kept in {path}"


def existing() -> Path | None:
    """Return that directory if it exists and is private; makes none."""
    root = _root()
    if root is None:
        return None
    path = root / _version()
    return path if _private(root) and _private(path) else None


def _root() -> Path | None:
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR, "fastdeconv").absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "") or os.path.expanduser("~/.cache")
    return Path(base) / "fastdeconv" if os.path.isabs(base) else None


@cache
def _version() -> str:
    """Name the content of every kernel source and what compiles it."""
    digest = hashlib.sha256()
    for path in sorted(_SOURCES.rglob("*.py")):
        digest.update(path.relative_to(_SOURCES).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    versions = (numba.__version__, llvmlite.__version__, np.__version__, platform.python_version(), host.VECTOR_BITS)
    digest.update(repr(versions).encode())
    return digest.hexdigest()[:16]


def _private(folder: Path) -> bool:
    try:
        status = folder.stat()
    except OSError:
        return False
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest(path: Path, payload: bytes) -> bytes:
    """Return the checksum of a file, its name included: under another one it would be run with other arguments."""
    return hashlib.sha256(path.name.encode() + payload).digest()


class DiskCache(_Cache):
    """What a Numba dispatcher asks for compiled code, for one function."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def cache_path(self) -> str:
        """The directory, or an empty string."""
        return str(directory()[0] or "")

    def enable(self) -> None:
        """Do nothing: the directory decides."""

    def disable(self) -> None:
        """Do nothing: the directory decides."""

    def flush(self) -> None:
        """Do nothing: files of other versions are never read."""

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        folder = directory()[0]
        if folder is None:
            return None
        key = hashlib.sha256(repr((signature, codegen.magic_tuple())).encode()).hexdigest()[:16]
        return folder / f"{self._name}-{key}.bin"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function, or None if it is not there, damaged or unreadable."""
        target_context.refresh()
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            data = path.read_bytes()
            if _digest(path, data[_DIGEST:]) != data[:_DIGEST]:
                return None
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(data[_DIGEST:]))
        except Exception:  # whatever a foreign file makes of unpickling, compiling again is right
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the compiled function in one step, or not at all."""
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:
            return
        payload = dumps(data._reduce())
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        except OSError:
            return
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_digest(path, payload) + payload)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
