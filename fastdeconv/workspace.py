"""How much scratch memory a kernel may take."""

from __future__ import annotations

import operator

import numpy as np

from fastdeconv.kernels.geometry import Geometry
from fastdeconv.problem import ITEMSIZE, shown

# Of the initial limit: times the bytes of input, weight and output, and bytes in any case.
_TIMES, _LEAST = 2, 64 << 20
_limit: int | None = None


def set_workspace_limit(limit: int | None) -> None:
    """Set how many bytes of scratch memory a kernel may take beside its input, weight and output.

    A kernel that would need more declines, so that another one is chosen; `fastdeconv.explain` tells both numbers.
    Plain loops take none, and where their sums would be too long, the reference remains whatever it takes: every call
    works under every limit, if more slowly. Any other kernel that is asked for by its name and would need more is
    refused.

    Parameters
    ----------
    limit : int or None
        Bytes, 0 or more. None, the initial value, is twice the bytes of input, weight and output, and at least 64 MiB.

    Raises
    ------
    TypeError
        Neither an int nor None.
    ValueError
        Negative.

    Notes
    -----
    The limit is that of one call. It counts padded copies, packed or transformed weights, and the buffers of all
    threads that Numba may start (NUMBA_NUM_THREADS). It does not count the copies around a kernel: of arguments that
    are not contiguous, or have channels last where the kernel takes them first, and of those whose element type is
    computed in another one. Between calls, each Python thread keeps those of its buffers that have at most 64 MiB.
    """
    global _limit
    if limit is not None:
        wanted = "limit must be a number of bytes, an int of at least 0, or None"
        if isinstance(limit, bool | np.bool_):
            raise TypeError(f"{wanted}; got {shown(limit)}")
        try:
            limit = operator.index(limit)
        except TypeError:
            raise TypeError(f"{wanted}; got {shown(limit)}") from None
        if limit < 0:
            raise ValueError(f"{wanted}; got {shown(limit)}")
    _limit = limit


def get_workspace_limit() -> int | None:
    """Return the limit in bytes, or None if it is the initial one, which depends on the problem."""
    return _limit


def limit_for(geometry: Geometry, limit: int | None) -> int:
    """Return the limit of a call in bytes."""
    if limit is not None:
        return limit
    return max(_TIMES * geometry.elements * ITEMSIZE[geometry.dtype], _LEAST)
