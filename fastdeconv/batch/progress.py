"""A bar over the items, when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], object]  # by so many items
StartBar = Callable[[], AbstractContextManager[Advance]]


@contextmanager
def silent() -> Iterator[Advance]:
    """Show nothing."""
    yield lambda items: None


def bar(total: int | None) -> StartBar:
    """Return what shows a bar, of `total` items if that is known.

    Raises
    ------
    ImportError
        tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install tqdm, or use progress=False") from None

    @contextmanager
    def start() -> Iterator[Advance]:
        with tqdm(total=total, desc="batch.map", unit="item") as shown:
            yield shown.update

    return start
