"""What threads hand to each other: pages on their way, and how much of them may wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fastdeconv.imaging.commands.inputs import Job
from fastdeconv.imaging.picture import Page

IN_FLIGHT = 64_000_000  # pixels that each stage may hold for the next
_LEAST = 1_000_000  # what a small one counts as: many of them bring nothing


class Stopped(BaseException):
    """The run has ended early, in another thread; no error handler on the way is to swallow it."""


class Work:
    """A job on its way."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.error = ""
        self.skipped = ""
        self.notes: list[str] = []
        self.target: Path | None = None
        self.key = ""
        self.pages = 1

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done for it."""
        return bool(self.error or self.skipped)

    def fail(self, text: str) -> None:
        """Keep the first thing that went wrong."""
        self.error = self.error or text

    def note(self, text: str) -> None:
        """Keep a line to tell when it is done, once."""
        if text and text not in self.notes:
            self.notes.append(text)


class Item(NamedTuple):
    """A page on its way to the next stage and the pixels that were reserved for it; no page is the end of its job."""

    work: Work
    page: Page | None
    pixels: int


class Channel:
    """Hands items to the next thread, and holds back who makes more of them than `IN_FLIGHT` pixels."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._held = 0
        self._ended = False
        self._stopped = False

    def reserve(self, pixels: int) -> int:
        """Wait until there is room for so many pixels; return what is to be released when they are done with."""
        pixels = max(pixels, _LEAST)
        with self._changed:
            self._wait(lambda: not self._held or self._held + pixels <= IN_FLIGHT)
            self._held += pixels
        return pixels

    def release(self, pixels: int) -> None:
        """Give room back."""
        with self._changed:
            self._held -= pixels
            self._changed.notify_all()

    def put(self, item: Item) -> None:
        """Hand over a page that room was reserved for, or an end."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> Item | None:
        """Return the next item, when there is one; None after the last."""
        with self._changed:
            self._wait(lambda: bool(self._items) or self._ended)
            return self._items.popleft() if self._items else None

    def end(self) -> None:
        """Tell that no more items come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """End every wait, now and later, by `Stopped`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def check(self) -> None:
        """Raise `Stopped` after `stop`."""
        if self._stopped:
            raise Stopped

    def _wait(self, ready: Callable[[], bool]) -> None:
        # With a limit, since some systems deliver Ctrl-C only between waits.
        while not self._stopped and not ready():
            self._changed.wait(0.5)
        self.check()


class Stoppable:
    """A file whose writing ends when the run is stopped, in the middle of a picture."""

    def __init__(self, file: BinaryIO, channel: Channel) -> None:
        self._file = file
        self._channel = channel
        self.seek, self.tell, self.flush = file.seek, file.tell, file.flush

    def write(self, data: Any) -> int:
        """Write, or raise `Stopped`."""
        self._channel.check()
        return self._file.write(data)
