"""Gradients kept within bounds before a step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.arrays import dtype_name, namespace
from fastdeconv.kernels.cpu import norms
from fastdeconv.optim.checks import flat, number
from fastdeconv.optim.fused import launcher

Array = NDArray[Any]


def clip_grad_norm(gradients: Iterable[Array], max_norm: float) -> float:
    """Scale gradients in place so that their norm, as one vector, is at most `max_norm`.

    Parameters
    ----------
    gradients : iterable of ndarray
        C-contiguous, float32 or float64, of NumPy or CuPy.
    max_norm : float
        Not negative.

    Returns
    -------
    float
        The norm before, summed in double precision in an order that does not depend on the number of threads. Where it
        is NaN or infinite, look at it: gradients are then scaled by NaN or 0, as torch does.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.

    References
    ----------
    Pascanu et al., On the difficulty of training recurrent neural networks, 2013; ``torch.nn.utils.clip_grad_norm_``.
    """
    number("max_norm", max_norm)
    vectors = [flat(f"gradients[{i}]", each) for i, each in enumerate(gradients)]
    norm = math.sqrt(float(sum(map(_square, vectors))))
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1:
        for each in vectors:
            launcher("scaled", each)((each,), (scale,))
    return norm


def clip_grad_value(gradients: Iterable[Array], limit: float) -> None:
    """Bring each element of gradients, in place, within ``±limit``; NaN stays.

    Parameters
    ----------
    gradients : iterable of ndarray
        C-contiguous, float32 or float64, of NumPy or CuPy.
    limit : float
        Not negative.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.

    References
    ----------
    ``torch.nn.utils.clip_grad_value_``.
    """
    number("limit", limit)
    for i, each in enumerate(gradients):
        vector = flat(f"gradients[{i}]", each)
        namespace(vector).clip(vector, -limit, limit, out=vector)


def _square(vector: Array) -> Any:
    """Return the sum of squares, as a number or, so that nothing waits for a device, as its array of one."""
    if isinstance(vector, np.ndarray):
        return norms.sum_of_squares(vector, dtype_name("gradients", vector.dtype))
    xp = namespace(vector)
    return xp.square(vector.astype(np.float64)).sum()
