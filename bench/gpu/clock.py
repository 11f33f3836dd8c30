"""Time by the device's own clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdeconv.cuda import runtime


class EventClock:
    """Times calls by CUDA events on the current stream, which all contenders use.

    Calls follow each other without waiting, as in a caller's loop: where their work on the device is shorter than the
    host needs to launch it, the host's time is what is measured.
    """

    def __init__(self) -> None:
        self._cuda = runtime.cupy().cuda
        self._start, self._end = self._cuda.Event(), self._cuda.Event()

    def __call__(self, call: Callable[[], Any], repeats: int) -> float:
        """Return the seconds from before the first to after the last of so many calls."""
        self._start.record()
        for _ in range(repeats):
            call()
        self._end.record()
        self._end.synchronize()
        return 1e-3 * float(self._cuda.get_elapsed_time(self._start, self._end))
