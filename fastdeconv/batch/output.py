"""Results into one array: the caller's, or a file that is there when it is complete, and not before."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.batch.errors import ItemError
from fastdeconv.batch.progress import StartBar
from fastdeconv.batch.schedule import Outcome
from fastdeconv.problem import shown

Array = NDArray[Any]


class Output:
    """Takes a result for each item.

    Parameters
    ----------
    out : ndarray, str or path
        An array, or the path of a file.
    source : ndarray or iterable
    count : int or None
        Items of the source, if that is known.

    Raises
    ------
    TypeError, ValueError
        `out` cannot take them.
    """

    def __init__(self, out: Any, source: Any, count: int | None) -> None:
        self._array: Array | None = None
        self._path: Path | None = None
        self._count = count
        if isinstance(out, str | os.PathLike):
            self._path = path = Path(out)
            if path.suffix != ".npy":
                raise ValueError(f"out must be an array or the path of an .npy file; got {shown(str(out))}")
            if not path.parent.is_dir():
                raise ValueError(f"out must be in a folder that exists; got {shown(str(out))}")
            if count is None:
                raise ValueError(
                    "out as a path needs a source that has a length; pass an array or a list, or an array as out"
                )
            # The file is of the folder of the final one, so that it can replace that in one step.
            self._part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part.npy")
            return
        if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
            raise TypeError(f"out must be a NumPy array without a mask, or a path; got {shown(out)}")
        if not out.flags.writeable:
            raise ValueError("out must be writeable; got a read-only array")
        if out.ndim == 0 or (count is not None and len(out) != count):
            items = "item" if count is None else f"of the {count} items"
            raise ValueError(f"out must have a row for each {items} of source; got shape {out.shape}")
        if isinstance(source, np.ndarray) and np.may_share_memory(out, source):
            raise ValueError("out must not overlap source; pass an array of its own")
        self._array = out

    def fill(self, outcomes: Callable[[], Generator[Outcome, None, None]], errors: str, start_bar: StartBar) -> Array:
        """Put all results in their rows, and return the array.

        Raises
        ------
        ItemError
            The first one, if `errors` is "raise".
        ExceptionGroup
            Of every `ItemError`, when all else is done, if `errors` is "collect".
        """
        failed: list[ItemError] = []
        missing: list[int] = []
        done = 0
        try:
            with start_bar() as advance, closing(outcomes()) as delivered:
                for outcome in delivered:
                    if isinstance(outcome, ItemError):
                        if errors == "raise":
                            raise outcome
                        if errors == "collect":
                            failed.append(outcome)
                        missing.append(outcome.index)
                        number = 1
                    else:
                        number = len(outcome.results)
                        self._put(outcome.first, outcome.results)
                    done += number
                    advance(number)
            array = self._complete(done, missing)
        except BaseException:
            self._array = None
            if self._path is not None:
                self._part.unlink(missing_ok=True)
            raise
        if failed:
            raise ExceptionGroup(f"{len(failed)} of {done} items failed", failed)
        return array

    def _put(self, first: int, results: Array) -> None:
        if self._array is None:
            self._array = self._create(results)
        array = self._array
        end = first + len(results)
        if end > len(array):
            raise ValueError(f"out must have a row for each item; it has {len(array)}, and source gave more items")
        if results.shape[1:] != array.shape[1:]:
            raise ValueError(
                f"out has rows of shape {array.shape[1:]}; the result of item {first} is of shape {results.shape[1:]}"
            )
        if results.dtype != array.dtype:
            raise TypeError(f"out is of dtype {array.dtype}; the result of item {first} is of {results.dtype}")
        array[first:end] = results

    def _create(self, results: Array) -> Array:
        """Return a new file's array, with room on the disk for all of it: running out later would kill the process."""
        assert self._count is not None
        shape = (self._count, *results.shape[1:])
        array = np.lib.format.open_memmap(self._part, mode="w+", dtype=results.dtype, shape=shape)
        with self._part.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, self._part.stat().st_size)
        return array

    def _complete(self, done: int, missing: list[int]) -> Array:
        array = self._array
        if self._path is not None and array is None:
            raise ValueError(f"out needs at least one result, for its shape; {done} items gave none")
        assert array is not None
        if done != len(array):
            raise ValueError(f"out must have a row for each item; it has {len(array)}, and source gave {done} items")
        array[missing] = np.nan if array.dtype.kind in "fc" else 0
        if isinstance(array, np.memmap):
            array.flush()
        if self._path is None:
            return array
        os.replace(self._part, self._path)
        complete: Array = np.load(self._path, mmap_mode="r+")
        return complete
