"""Where compiled kernels are kept on disk, and files that carry their checksum.

The directory is named after the content of all kernel sources and the versions under them, every file is named after
what it holds, and whatever cannot be read or written means one more compilation, never an error.

The files are executed, so a directory that other users can write to is not used. A relative NUMBA_CACHE_DIR counts from
the current directory of the first call.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core import config

from fastdeconv.kernels.cpu import host

_SOURCES = Path(__file__).resolve().parent
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


def read(path: Path) -> bytes | None:
    """Return what a file holds, or None if it is not there, damaged or unreadable."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data[_DIGEST:] if _digest(path, data[_DIGEST:]) == data[:_DIGEST] else None


def write(path: Path, payload: bytes) -> None:
    """Write a file in one step, or not at all."""
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


def _digest(path: Path, payload: bytes) -> bytes:
    """Return the checksum of a file, its name included: under another one it would be run with other arguments."""
    return hashlib.sha256(path.name.encode() + payload).digest()
