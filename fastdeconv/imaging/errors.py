"""What goes wrong with files, told in one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class FileError(Exception):
    """A file that cannot be read or written; its text is one line for the user."""


class TargetExists(FileError):  # noqa: N818 - as FileExistsError is named by what is the case
    """A file that is there already, and is not to be replaced."""


def printable(text: object) -> str:
    """Return a text without what a terminal would take for commands or new lines, nor letters that are none."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def reason(error: BaseException) -> str:
    """Return what an exception says, on one line of bearable length."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(text.split()))[:200] or type(error).__name__


@contextmanager
def writing(name: object) -> Iterator[None]:
    """Tell what goes wrong while a file is written as a FileError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        text = f"the disk is full: {reason(error)}" if full else reason(error)
        raise FileError(f"{printable(name)}: cannot be written ({text})") from error
