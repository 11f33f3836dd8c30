"""Where the batches of a run come from: arrays, an iterable of batches, or a function of the step.

Every batch of a run can be told from the seed and its number, which is what makes a run resumable at any of them.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv import memory
from fastdeconv.arrays import operand
from fastdeconv.devices import number, place_of
from fastdeconv.fit.checks import check_finite
from fastdeconv.problem import shown

Array = NDArray[Any]
Pair = tuple[Array, Array]
_WANTED = (
    "a pair of arrays (x, y_true), an iterable of such pairs as batches, or a callable(step, rng) that returns a pair"
)


class Source(ABC):
    """Batches in an order that the seed decides.

    Attributes
    ----------
    steps : int, optional
        Batches a pass; None where they are not known or there is no end.
    endless : bool
        Whether there is one pass without an end.
    """

    steps: int | None = None
    endless = False

    def __init__(self, name: str, like: Array) -> None:
        self.name = name
        self._dtype, self._place = like.dtype, place_of(like)

    @abstractmethod
    def batches(self, epoch: int, position: int) -> Iterator[tuple[Array, Array, bool]]:
        """Yield x, y_true and whether they are the last of the pass, from the batch number `position` on."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Return what must not change between the parts of a resumed run."""

    def checked(self, batch: Any, at: str) -> Pair:
        """Return a batch as arrays of the model's place.

        Raises
        ------
        TypeError, ValueError
            They are no pair of arrays of the model's dtype with one number of items.
        """
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TypeError(f"{at} must be a pair (x, y_true); got {shown(batch)}")
        x, y_true = (self._array(f"{name} of {at}", value) for name, value in zip(("x", "y_true"), batch))
        if len(x) != len(y_true) or not len(x):
            raise ValueError(
                f"x and y_true of {at} must have as many items along their first axis, at least one; got shapes "
                f"{x.shape} and {y_true.shape}"
            )
        return self.placed(x), self.placed(y_true)

    def _array(self, name: str, value: Any) -> Array:
        array = operand(name, value)
        if array.dtype != self._dtype:
            raise TypeError(
                f"{name} must have the model's dtype {self._dtype}; got {array.dtype}: convert it with .astype, or the "
                "model with .to"
            )
        if not array.ndim:
            raise ValueError(f"{name} must have its items along its first axis; got an array without axes")
        if not isinstance(array, np.ndarray) and place_of(array) != self._place:
            raise ValueError(
                f"{name} is on {place_of(array)} and the model on {self._place}: move the model with "
                f'.to("{place_of(array)}")'
            )
        return array

    def placed(self, array: Array) -> Array:
        """Return a batch where the model is."""
        if self._place == "cpu" or not isinstance(array, np.ndarray):
            return array
        from fastdeconv.cuda.runtime import cupy, on

        with on(number(self._place)):
            copy: Array = cupy().asarray(array)
        return copy


class Arrays(Source):
    """Batches of arrays, drawn in an order that seed and pass decide."""

    def __init__(self, name: str, data: Any, like: Array, batch_size: int, seed: int | None) -> None:
        super().__init__(name, like)
        self.x, self.y_true = (self._array(f"{part} of {name}", a) for part, a in zip(("x", "y_true"), data))
        for part, array in (("x", self.x), ("y_true", self.y_true)):
            if not array.size:
                raise ValueError(f"{part} of {name} must hold at least one item; got shape {array.shape}")
        if len(self.x) != len(self.y_true):
            raise ValueError(
                f"x and y_true of {name} must have as many items along their first axis; got shapes {self.x.shape} and "
                f"{self.y_true.shape}"
            )
        check_finite(f"x of {name}", self.x)
        check_finite(f"y_true of {name}", self.y_true)
        self.batch_size, self.seed = batch_size, seed
        self.steps = math.ceil(len(self.x) / batch_size)

    def batches(self, epoch: int, position: int) -> Iterator[tuple[Array, Array, bool]]:
        """See `Source.batches`."""
        n, size = len(self.x), self.batch_size
        order = None
        if self.seed is not None:
            order = np.random.default_rng((self.seed, epoch)).permutation(n)
        orders = [order if order is None else self._beside(order, a) for a in (self.x, self.y_true)]
        for lo in range(position * size, n, size):
            chosen = slice(lo, lo + size)
            x, y_true = (self.placed(_taken(a, o, chosen)) for a, o in zip((self.x, self.y_true), orders))
            yield x, y_true, lo + size >= n

    def _beside(self, order: Array, array: Array) -> Array:
        return order if isinstance(array, np.ndarray) else self.placed(order)

    def facts(self) -> dict[str, str]:
        """See `Source.facts`."""
        return {self.name: shapes(self.x, self.y_true), f"batch_size of {self.name}": str(self.batch_size)}


def _taken(array: Array, order: Array | None, chosen: slice) -> Array:
    if order is None:
        return array[chosen]
    rows = order[chosen]
    if not isinstance(array, np.ndarray):
        return array.take(rows, axis=0)
    # "clip" looks at no index, and so needs no buffer of its own.
    out = memory.empty((len(rows), *array.shape[1:]), array.dtype)
    return np.take(array, rows, axis=0, out=out, mode="clip")


class Batches(Source):
    """Batches that an iterable gives, once a pass."""

    def __init__(self, name: str, data: Iterable[Any], like: Array) -> None:
        super().__init__(name, like)
        self.data = data
        try:
            self.steps = len(data)  # type: ignore[arg-type]
        except TypeError:
            self.steps = None
        if self.steps == 0:
            raise ValueError(f"{name} must hold at least one batch; got none")

    def batches(self, epoch: int, position: int) -> Iterator[tuple[Array, Array, bool]]:
        """See `Source.batches`."""
        renew = getattr(self.data, "set_epoch", None)
        if callable(renew):
            renew(epoch)
        number, held = 0, None
        for number, batch in enumerate(self.data, start=1):
            if number <= position:
                continue
            if held is not None:
                yield *held, False
            held = self.checked(batch, f"batch {number} of {self.name}")
        if held is not None:
            yield *held, True
        elif not number and epoch:
            raise ValueError(
                f"{self.name} must give batches in every pass; got none in pass {epoch + 1}. An iterator lasts for one "
                "pass: give a list, an object with __iter__, or a callable(step, rng)"
            )
        else:
            raise ValueError(
                f"{self.name} must give more than {position} batches a pass, where the run goes on; got {number}"
            )

    def facts(self) -> dict[str, str]:
        """See `Source.facts`."""
        return {self.name: f"{'an unknown number of' if self.steps is None else self.steps} batches"}


class Calls(Source):
    """Batches that a function makes of the step and a generator of that step's own."""

    endless = True

    def __init__(self, name: str, data: Callable[..., Any], like: Array, seed: int) -> None:
        super().__init__(name, like)
        self.data, self.seed = data, seed

    def batches(self, epoch: int, position: int) -> Iterator[tuple[Array, Array, bool]]:
        """See `Source.batches`."""
        for step in itertools.count(position):
            yield *self.batch(step), False

    def batch(self, step: int) -> Pair:
        """Return the batch of a step."""
        made = self.data(step, np.random.default_rng((self.seed, step)))
        return self.checked(made, f"{self.name}({step}, rng)")

    def facts(self) -> dict[str, str]:
        """See `Source.facts`."""
        return {self.name: "a callable"}


def shapes(x: Array, y_true: Array) -> str:
    """Return what a batch is like."""
    return f"x {x.dtype} {x.shape}, y_true {y_true.shape}"


def training(data: Any, like: Array, batch_size: int, shuffle: bool, seed: int) -> Source:
    """Return the batches to learn from; `like` is a parameter of the model.

    Raises
    ------
    TypeError, ValueError
    """
    if _is_pair(data):
        return Arrays("data", data, like, batch_size, seed if shuffle else None)
    if callable(data):
        return Calls("data", data, like, seed)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | np.ndarray):
        return Batches("data", data, like)
    raise TypeError(f"data must be {_WANTED}; got {shown(data)}")


def validating(data: Any, like: Array, batch_size: int) -> Source:
    """Return the batches to judge by.

    Raises
    ------
    TypeError, ValueError
    """
    if _is_pair(data):
        return Arrays("validation", data, like, batch_size, None)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | np.ndarray) and not isinstance(data, Iterator):
        return Batches("validation", data, like)
    raise TypeError(
        "validation must be a pair of arrays (x, y_true) or an iterable of such pairs that can be gone through again; "
        f"got {shown(data)}"
    )


def _is_pair(data: Any) -> bool:
    """Tell a pair of arrays from two batches, which are pairs themselves."""
    return isinstance(data, tuple | list) and len(data) == 2 and not any(isinstance(a, tuple | list) for a in data)
