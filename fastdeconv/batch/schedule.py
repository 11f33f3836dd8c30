"""Batches through lanes, and their results in order; those that fail in smaller parts.

An error refers to the frames of all functions that it came through, and lives as long as its receiver likes. So a batch
that is done with lets go of its arrays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fastdeconv.batch.budget import Budget
from fastdeconv.batch.errors import ItemError, ResultError, without_locals
from fastdeconv.batch.lanes import Lane
from fastdeconv.batch.reading import Batch, Reader, SourceFailed, read

Array = NDArray[Any]


class Results(NamedTuple):
    """Results of neighbours.

    Attributes
    ----------
    first : int
        Index of the first item.
    results : ndarray, shape (n, …)
    """

    first: int
    results: Array


Outcome = Results | ItemError


def run(source: Iterable[Any], lanes: Sequence[Lane], budget: Budget, threaded: bool) -> Generator[Outcome, None, None]:
    """Yield the results, or the error, of every item in order.

    Batches are started as they are read, as many as the lanes take, and finished in order. A batch is held until the
    generator is asked for the next one.

    Raises
    ------
    ResultError
        The function does not return a result for each item.
    BaseException
        What the source raised.
    """
    depth = sum(lane.depth for lane in lanes)
    under_way: deque[Batch] = deque()
    reader = Reader(read(source, lanes, budget), budget, threaded)
    try:
        failed: SourceFailed | None = None
        while True:
            # After one that failed to start no other does, so that there is memory to try it again.
            while failed is None and len(under_way) < depth and not (under_way and under_way[-1].error):
                entry = reader.get(wait=not under_way)
                if entry is None:
                    break
                if isinstance(entry, SourceFailed):
                    failed = entry
                else:
                    under_way.append(entry)
                    _start(entry)
            if under_way:
                yield from _finish(under_way.popleft(), budget)
            elif failed is not None:
                if failed.index is not None:
                    failed.error.add_note(f"raised by the source of fastdeconv.batch.map, for item {failed.index}")
                raise failed.error
            elif reader.ended:
                return
    finally:
        try:
            reader.close()
        finally:
            for lane in lanes:
                lane.close()
            for batch in under_way:
                batch.let_go()


def _start(batch: Batch) -> None:
    if batch.error is None and batch.stack is not None:
        try:
            batch.flight = batch.lane.start(batch.stack)
        except ResultError:
            raise
        except Exception as error:
            batch.error = without_locals(error)


def _collect(batch: Batch, budget: Budget) -> None:
    """Wait for the results of a batch that was started."""
    if batch.error is None and batch.stack is not None and batch.results is None:
        try:
            results = batch.lane.finish(batch.flight)
            budget.learn(batch.kind, batch.stack[0].nbytes, results[0].nbytes)
            batch.results = results
        except Exception as error:
            batch.error = without_locals(error)
        batch.flight = None


def _finish(batch: Batch, budget: Budget) -> Generator[Outcome, None, None]:
    """Yield what becomes of a batch, and let it go."""
    if batch.stack is None or batch.share is None:
        assert batch.error is not None
        yield ItemError(batch.first, batch.error)
        return
    kind = batch.kind
    try:
        _collect(batch, budget)
        if batch.error is None:
            assert batch.results is not None
            yield Results(batch.first, batch.results)
        elif len(batch.stack) == 1 and not batch.lane.is_out_of_memory(batch.error):
            yield ItemError(batch.first, batch.error)
        else:
            yield from _in_parts(batch, budget)
    finally:
        budget.forget(kind)
        budget.give_back(batch.share)
        batch.let_go()


def _in_parts(batch: Batch, budget: Budget) -> Generator[Outcome, None, None]:
    """Try the items of a batch that failed in halves, if memory was short, and otherwise one by one."""
    parts = deque(_parts(batch, budget))
    try:
        while parts:
            part = parts.popleft()
            assert part.stack is not None
            count = len(part.stack)
            _start(part)
            _collect(part, budget)
            if part.error is not None and count > 1:
                parts.extendleft(reversed(_parts(part, budget)))
            results = part.results
            part.let_go()
            if results is not None:
                yield Results(part.first, results)
            elif part.error is not None and count == 1:
                yield ItemError(part.first, part.error)
    finally:
        for part in parts:
            part.let_go()


def _parts(batch: Batch, budget: Budget) -> list[Batch]:
    assert batch.stack is not None
    assert batch.error is not None
    count, size = len(batch.stack), 1
    if batch.lane.is_out_of_memory(batch.error):
        size = -(-count // 2)
        budget.lower(batch.kind, size)
    stacks = {begin: batch.stack[begin : begin + size] for begin in range(0, count, size)}
    return [Batch(batch.first + begin, stack, None, batch.lane) for begin, stack in stacks.items()]
