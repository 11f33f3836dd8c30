"""What `autotune` measured, in memory and in a file, and what else decides between implementations.

The file is JSON, in the folder of compiled kernels: so it is private as that is, and of one content of the kernels, one
version of what compiles them and one vector width. An entry is of one problem, pass, number of threads and kind of CPU.

The file is read once, when the first plan is made. Whatever is wrong with it costs one warning, never a call.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastdeconv import precision
from fastdeconv.kernels import cache
from fastdeconv.kernels.cpu import host, threads
from fastdeconv.problem import PASSES, Pass, Problem
from fastdeconv.workspace import get_workspace_limit

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

FILE = "autotune.json"
FORMAT = 1
# Entries that a file keeps: the last ones.
_MOST = 10_000
# How long a process waits for another one that writes, in seconds.
_PATIENCE = 2.0


class Key(NamedTuple):
    """What an entry holds for."""

    problem: str
    pass_: str
    threads: int
    cpu: str


class Conditions(NamedTuple):
    """What decides beside a call's arguments; plans are cached by it."""

    limit: int | None  # of scratch memory
    generation: int  # of what is tuned
    threads: int  # 0 if nothing is tuned
    tf32: bool  # on GPUs
    batch_invariant: bool = False  # images of a batch get the bits that they get alone


Times = Mapping[str, float]  # seconds, by implementation
_table: dict[Key, Times] | None = None  # None before the file is read
_generation = 0
_warned = False
_untuned = Conditions(None, 0, 0, False)


class _Mode(threading.local):
    batch_invariant = False


_mode = _Mode()


def conditions() -> Conditions:
    """Return the conditions of this moment, in this thread."""
    global _untuned
    limit, tf32 = get_workspace_limit(), precision.allows_tf32
    batch_invariant = _mode.batch_invariant
    if _load() if _table is None else _table:
        return Conditions(limit, _generation, threads.expected(), tf32, batch_invariant)
    # Made once: every call asks.
    found = _untuned
    if limit != found.limit or tf32 != found.tf32 or batch_invariant != found.batch_invariant:
        _untuned = found = Conditions(limit, 0, 0, tf32, batch_invariant)
    return found


@contextlib.contextmanager
def batch_invariance(wanted: bool = True) -> Iterator[None]:
    """Have this thread's calls give each image of a batch the bits that it would get alone, or no longer."""
    before, _mode.batch_invariant = _mode.batch_invariant, wanted
    try:
        yield
    finally:
        _mode.batch_invariant = before


def times_of(problem: Problem, pass_: Pass, count: int) -> Times | None:
    """Return the times measured for a problem with so many threads on such a CPU."""
    return _table.get(Key(str(problem), pass_, count, host.NAME)) if _table else None


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds, three digits of it."""
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def number_of_entries() -> int:
    """Return for how many problems, passes and numbers of threads there are times for this CPU."""
    table = _load() if _table is None else _table
    return sum(key.cpu == host.NAME for key in table)


def remember(measured: Mapping[Key, Times]) -> tuple[Path | None, str]:
    """Use measured times from now on, in this process and, through the file, in later ones.

    Returns
    -------
    path : Path or None
        The file, if it could be written.
    sentence : str
        About it.
    """
    global _table, _generation
    _table = {**(_load() if _table is None else _table), **measured}
    _generation += 1
    folder, sentence = cache.directory()
    if folder is None:
        _warn(f"what autotune measured is kept in this process only: {sentence}")
        return None, f"kept in this process only: {sentence}"
    path = folder / FILE
    try:
        with _alone(folder):
            entries = {**_read(path), **measured}
            _write(path, dict(list(entries.items())[-_MOST:]))
    except OSError as error:
        reason = f"cannot write {path} ({error.strerror})"
        _warn(f"what autotune measured is kept in this process only: {reason}")
        return None, f"kept in this process only: {reason}"
    return path, f"kept in {path}"


def _load() -> dict[Key, Times]:
    global _table, _generation
    folder = cache.existing()
    table = {} if folder is None else _read(folder / FILE)
    _table = table
    _generation += 1
    return table


def _read(path: Path) -> dict[Key, Times]:
    """Return the entries of a file; none, and a warning, if it cannot be read or is not what it should be."""
    try:
        return parse(path.read_bytes(), path.parent.name)
    except FileNotFoundError:
        return {}
    except OSError as error:
        _warn(f"{path} is ignored: {error.strerror}")
    except (ValueError, RecursionError) as error:
        _warn(f"{path} is ignored: {error}; the next autotune replaces it")
    return {}


def _warn(message: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"fastdeconv: {message}", RuntimeWarning, stacklevel=2)


def parse(data: bytes, kernels: str) -> dict[Key, Times]:
    """Read the content of a file.

    Parameters
    ----------
    kernels : str
        The version of kernels, and of what compiles them, that the file must be of.

    Raises
    ------
    ValueError
        The message says what is wrong.
    """
    try:
        content = json.loads(data)
    except ValueError as error:
        raise ValueError("it is damaged, no JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}")
    if content.get("kernels") != kernels:
        raise ValueError("it is of other kernels")
    entries = content.get("entries")
    if not isinstance(entries, list):
        raise ValueError("it has no list of entries")
    return dict(_entry(entry) for entry in entries)


def _entry(entry: Any) -> tuple[Key, Times]:
    wanted = {"problem": str, "pass": str, "threads": int, "cpu": str, "seconds": dict}
    if not isinstance(entry, dict) or any(type(entry.get(name)) is not kind for name, kind in wanted.items()):
        raise ValueError("an entry lacks something")
    times = entry["seconds"]
    if entry["pass"] not in PASSES or not times:
        raise ValueError("an entry has an unknown pass, or no times")
    if not all(isinstance(t, float | int) and math.isfinite(t) and t > 0 for t in times.values()):
        raise ValueError("an entry has an impossible time")
    return Key(entry["problem"], entry["pass"], entry["threads"], entry["cpu"]), times


def _write(path: Path, entries: Mapping[Key, Times]) -> None:
    """Replace the file in one step.

    Raises
    ------
    OSError
    """
    listing = [
        {"problem": key.problem, "pass": key.pass_, "threads": key.threads, "cpu": key.cpu, "seconds": dict(times)}
        for key, times in entries.items()
    ]
    lines = ",\n".join(json.dumps(entry) for entry in listing)
    head = json.dumps({"format": FORMAT, "kernels": path.parent.name})
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f'{head[:-1]}, "entries": [\n{lines}\n]}}\n')
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from writing between our reading and writing, where that is possible."""
    if fcntl is None:
        yield
        return
    try:
        lock = os.open(folder / "autotune.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
            else:
                break
        yield
    finally:
        os.close(lock)
