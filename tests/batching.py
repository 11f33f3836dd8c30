"""Items that tell their index, functions of them, and what their results must be."""

import threading

import numpy as np
from fake_device import FakeArray

ITEM = np.dtype("float32").itemsize * 6  # bytes of the items of `numbered`


def numbered(count, shape=(2, 3)):
    """Items that tell their index."""
    return [np.full(shape, i, np.float32) for i in range(count)]


def tripled(x):
    return x.apply(lambda a: 3 * a) if isinstance(x, FakeArray) else 3 * x


def picky(x):
    """Triple, but fail on multiples of seven."""

    def function(a):
        if np.any((a % 7 == 0) & (a > 0)):
            raise ValueError("a multiple of seven")
        return 3 * a

    return x.apply(function) if isinstance(x, FakeArray) else function(x)


def reading_threads():
    return [t for t in threading.enumerate() if t.name == "fastdeconv.batch"]


def check(results, indices=None):
    """Compare results of `tripled` on `numbered` items."""
    indices = range(len(results)) if indices is None else indices
    assert [float(r.flat[0]) for r in results] == [3.0 * i for i in indices]
    assert all((r == r.flat[0]).all() for r in results)
