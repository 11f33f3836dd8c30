"""What goes wrong with an item, and with a function."""

from __future__ import annotations

import traceback
from typing import TypeVar

Error = TypeVar("Error", bound=BaseException)


class ItemError(RuntimeError):
    """An item has no result.

    Attributes
    ----------
    index : int
        Of the item in the source, from 0.
    error : Exception
        Why.
    """

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(index, error)
        self.index = index
        self.error = error
        self.__cause__ = error

    def __str__(self) -> str:
        what = "does not fit, alone in a batch" if isinstance(self.error, MemoryError) else "failed"
        return f"item {self.index} {what}: {type(self.error).__name__}: {self.error}"


class ResultError(TypeError):
    """What the function returned is no stack of results, whatever the items are."""


def without_locals(error: Error) -> Error:
    """Let go of the arrays that functions on an error's way had: the memory is needed, and errors may be collected."""
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__
    return error
