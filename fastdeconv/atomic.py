"""Files that are there whole or not at all, whatever ends the process while they are written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file through a temporary one beside it, which takes its place once it is on the disk.

    A link is followed. A file that was there stays as it was until then, and where the writing fails.

    Parameters
    ----------
    parts : iterable of bytes or contiguous memoryview
        What the file holds, in order.

    Raises
    ------
    OSError
        No room, no permission, no such folder.
    """
    path = Path(os.path.realpath(path))
    temporary = _temporary(path, os.getpid())
    with replacing(path, temporary) as file:
        for part in parts:
            file.write(part)
        file.flush()
        # Without this, a power cut after the renaming may leave an empty file under the name.
        os.fsync(file.fileno())
    _keep_name(path.parent)


@contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Give a temporary file to write, which takes a file's place when the block ends, and is gone if the block fails.

    Raises
    ------
    OSError
    """
    try:
        # What a killed process of the same number has left must not be in the way, nor a link be followed.
        temporary.unlink(missing_ok=True)
        with temporary.open("xb+") as file:
            yield file
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def probe(path: Path) -> None:
    """See that a file could be written.

    Raises
    ------
    OSError
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    temporary = _temporary(path, os.getpid())
    try:
        temporary.touch()
    finally:
        temporary.unlink(missing_ok=True)


def clear(path: Path) -> None:
    """Remove what processes that were killed while they wrote a file have left beside it.

    Raises
    ------
    OSError
        No permission.
    """
    path = Path(os.path.realpath(path))
    start = _temporary(path, "")
    for left in path.parent.glob(f"{_escaped(start.name)}*"):
        owner = left.name.removeprefix(start.name)
        if owner.isdecimal() and not _alive(int(owner)):
            left.unlink(missing_ok=True)


def _temporary(path: Path, owner: int | str) -> Path:
    return path.with_name(f".{path.name}.partial-{owner}")


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _keep_name(folder: Path) -> None:
    """Bring the renaming itself to the disk, where folders can be synchronised."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
