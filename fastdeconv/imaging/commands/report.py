"""What a command tells while it runs and when it has ended."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Self


class Report:
    """Counts what was done, skipped and failed, with a line for what was not done, and a progress bar.

    Safe to call from several threads.

    Parameters
    ----------
    total : int
        Pictures to come.
    bar : bool or None
        Whether to show a bar on standard error; None is where that is a terminal.
    quiet_output : bool
        Whether standard output is for the picture, so that the summary must go elsewhere.
    """

    def __init__(self, total: int, bar: bool | None, quiet_output: bool = False) -> None:
        self.done = self.skipped = self.failed = 0
        self._start = time.perf_counter()
        self._lock = threading.Lock()
        self._summary = sys.stderr if quiet_output else sys.stdout
        self._bar: Any = None
        if sys.stderr.isatty() if bar is None else bar:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="picture", file=sys.stderr, dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def line(self, text: str) -> None:
        """Print a line on standard error."""
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            print(f"fastdeconv: {text}", file=sys.stderr, flush=True)
            if self._bar is not None:
                self._bar.refresh()

    def finish(
        self, done: bool = False, skipped: str = "", failed: str = "", count: int = 1, of_total: bool = True
    ) -> None:
        """Count a picture, or several; why it was skipped or what failed is a line.

        Parameters
        ----------
        of_total : bool
            Whether the bar waits for it.
        """
        text = failed or skipped
        if text:
            self.line(text)
        with self._lock:
            self.done += count * done
            self.skipped += count * bool(skipped)
            self.failed += count * bool(failed)
            if self._bar is not None and of_total:
                self._bar.update()

    def summary(self) -> int:
        """Print the counts and return the exit status: 1 if anything failed."""
        seconds = time.perf_counter() - self._start
        text = f"{self.done} done, {self.skipped} skipped, {self.failed} failed in {seconds:.1f} s"
        print(text, file=self._summary, flush=True)
        return 1 if self.failed else 0
