"""Transposed convolution and its gradients as hand-written Numba kernels, for NumPy and CuPy arrays.

"Deconvolution" here means transposed convolution, and what is learned with it by gradient descent.
"""

from fastdeconv import batch, fit, grad, losses, nn, optim
from fastdeconv.autotune import AutotuneResult, autotune
from fastdeconv.devices import get_device, set_device
from fastdeconv.explain import Explanation, explain
from fastdeconv.fit import FitResult, fit_kernel
from fastdeconv.functional import (
    conv_transpose1d,
    conv_transpose1d_vjp,
    conv_transpose2d,
    conv_transpose2d_vjp,
    conv_transpose3d,
    conv_transpose3d_vjp,
)
from fastdeconv.kernels.cpu.threads import get_num_threads, set_num_threads
from fastdeconv.precision import get_float32_precision, set_float32_precision
from fastdeconv.prepare import PreparedConvTranspose, prepare
from fastdeconv.problem import Problem
from fastdeconv.workspace import get_workspace_limit, set_workspace_limit

__version__ = "0.1.0"

__all__ = [
    "AutotuneResult",
    "Explanation",
    "FitResult",
    "PreparedConvTranspose",
    "Problem",
    "autotune",
    "batch",
    "conv_transpose1d",
    "conv_transpose1d_vjp",
    "conv_transpose2d",
    "conv_transpose2d_vjp",
    "conv_transpose3d",
    "conv_transpose3d_vjp",
    "explain",
    "fit",
    "fit_kernel",
    "get_device",
    "get_float32_precision",
    "get_num_threads",
    "get_workspace_limit",
    "grad",
    "losses",
    "nn",
    "optim",
    "prepare",
    "set_device",
    "set_float32_precision",
    "set_num_threads",
    "set_workspace_limit",
]
