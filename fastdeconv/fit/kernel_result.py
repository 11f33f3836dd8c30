"""What `fit_kernel` returns, and what it gives to a callback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Entries of an array that the result's repr prints in full.
_SHOWN = 50


class FitResult(dict[str, Any]):
    """What `fit_kernel` returns; each entry is also an attribute, as in ``scipy.optimize.OptimizeResult``.

    Attributes
    ----------
    kernel : ndarray, shape (C_in, C_out / groups, …)
        Of the lowest loss seen; of shape `kernel_size` where x and y_true are bare.
    bias : ndarray, shape (C_out,), or None
    loss : float
        Of `kernel` and `bias`, on all of x, penalties included: the smallest of `history`.
    history : ndarray
        The loss before each step and after the last one; with batches, before each pass over x and after the last step.
    converged : bool
        Whether the run stopped because nothing was left to gain, by `tol`.
    message : str
        Why the run stopped.
    n_iter : int
        Steps taken.
    seconds : float
    learning_rate : float
        Before the schedule; of interest where `fit_kernel` chose it.
    output_padding : tuple of int
        That gives y_true's size.
    """

    kernel: Array
    bias: Array | None
    loss: float
    history: NDArray[np.float64]
    converged: bool
    message: str
    n_iter: int
    seconds: float
    learning_rate: float
    output_padding: tuple[int, ...]

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"FitResult has no {name!r}; it has {', '.join(self)}") from None

    __setattr__ = dict.__setitem__
    __delattr__ = dict.__delitem__

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:>{width}}: {_brief(value, width + 2)}" for name, value in self.items())


def _brief(value: Any, indent: int) -> str:
    if isinstance(value, np.ndarray):
        ends = f"{value[0]:.6g} … {value[-1]:.6g}, " if value.ndim == 1 and value.size > 3 else ""
        if value.size <= _SHOWN:
            return np.array2string(value, precision=5, prefix=" " * indent)
        return f"{ends}array of shape {value.shape}, {value.dtype}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class FitState:
    """What a callback is given.

    Attributes
    ----------
    step : int
        Steps taken so far.
    loss : float
        Of `kernel` and `bias`, on all of x, penalties included.
    kernel, bias
        As in `FitResult`, read-only, and overwritten by the next step: copy what is to stay.
    learning_rate : float
        Of the next step.
    seconds : float
        Since the start.
    """

    step: int
    loss: float
    kernel: Array
    bias: Array | None
    learning_rate: float
    seconds: float
