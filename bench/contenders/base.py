"""What every contender is: a class that turns operands into a function without arguments."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from fastdeconv.bench.operands import TIMED, Array, Operands, TimedPass

Compute = Callable[[], Any]


class UnsupportedError(Exception):
    """What a contender cannot do, in a sentence."""


class Contender(ABC):
    """Computes passes with one library.

    An instance imports its library and sets its threads, for the whole process. Operands are brought into the
    library's own layout before time is taken; the result is allocated within it.

    Parameters
    ----------
    threads : int
        How many the library may use.

    Attributes
    ----------
    name : str
        Of rows, options and reports.
    modules : tuple of str
        What is imported; the first tells the version.
    install : str
        The arguments of ``pip install``.
    conditions : str
        Layout, precision and threads, as the report states them.
    passes : tuple of str
        Those that the library has.
    is_peer : bool
        Whether it is another library than ours.
    surely_fast : float
        Flops of layers that are not worth a trial on a piece of them.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    install: ClassVar[str]
    conditions: ClassVar[str]
    passes: ClassVar[tuple[TimedPass, ...]] = TIMED
    is_peer: ClassVar[bool] = True
    surely_fast: ClassVar[float] = 50e6

    @abstractmethod
    def __init__(self, threads: int) -> None: ...

    @classmethod
    def missing(cls) -> str | None:
        """Return the first module that is not installed."""
        return next((name for name in cls.modules if importlib.util.find_spec(name) is None), None)

    def version(self) -> str:
        """Return the version that is measured."""
        return str(importlib.import_module(self.modules[0]).__version__)

    @abstractmethod
    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that computes the pass, and waits for the result unless `wait` does.

        Raises
        ------
        UnsupportedError
            The library cannot do this.
        """

    def wait(self) -> None:
        """Wait for what calls have begun: for nothing, where they wait themselves."""
        return

    @abstractmethod
    def arrays(self, value: Any, operands: Operands, pass_: TimedPass) -> tuple[Array, ...]:
        """Return what the function returned as arrays in fastdeconv's layout.

        One of them, or for a step three: output, input gradient, new weight.
        """
