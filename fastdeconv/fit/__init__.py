"""Learning by gradient descent: a model (`fit`), or one kernel of a transposed convolution (`fit_kernel`)."""

from fastdeconv.fit.checkpoint import CheckpointError, Weights, load, save
from fastdeconv.fit.history import History, Row
from fastdeconv.fit.kernel import fit_kernel
from fastdeconv.fit.kernel_result import FitResult, FitState
from fastdeconv.fit.plan import TrainingState
from fastdeconv.fit.training import fit

__all__ = [
    "CheckpointError",
    "FitResult",
    "FitState",
    "History",
    "Row",
    "TrainingState",
    "Weights",
    "fit",
    "fit_kernel",
    "load",
    "save",
]
