"""The progress bars of `fit` and `fit_kernel`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[int, str], None]


@contextmanager
def progress_bar(wanted: bool | None, name: str, total: int | None, start: int = 0) -> Iterator[Show | None]:
    """Yield ``show(step, text)``, which moves the bar there and writes a text behind it; None if there is no bar.

    Parameters
    ----------
    wanted : bool, optional
        None shows a bar only if stderr is a terminal and tqdm is installed.
    name : str
        Of the function that takes the time.
    total : int, optional
        Steps in all, if that is known.
    start : int
        Steps taken before.

    Raises
    ------
    ImportError
        A bar is wanted and tqdm is not installed.
    """
    if wanted is None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        wanted = terminal and importlib.util.find_spec("tqdm") is not None
    if not wanted:
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install tqdm, or use progress=False") from None
    with tqdm(total=total, initial=start, desc=name, unit="step") as bar:

        def show(step: int, text: str) -> None:
            bar.set_postfix_str(text, refresh=False)
            bar.update(step - bar.n)

        yield show
