"""Who takes part: fastdeconv and its peers, each as functions that compute one pass and allocate the result."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastdeconv as fd
from fastdeconv.problem import Pass, Problem

Array = NDArray[Any]
Compute = Callable[[], Any]


class Operands:
    """Random input, weight and output gradient of one problem."""

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)

        def normal(shape: tuple[int, ...]) -> Array:
            return rng.standard_normal(shape).astype(problem.dtype)

        self.problem = problem
        self.x = normal(problem.input_shape)
        self.w = normal(problem.weight_shape)
        self.gy = normal(problem.output_shape)


class Fastdeconv:
    """fastdeconv, through its public calls."""

    name = "fastdeconv"

    def version(self) -> str:
        """Return the version that is measured."""
        return fd.__version__

    def compute(self, operands: Operands, pass_: Pass) -> Compute:
        """Return a function without arguments that computes the pass."""
        p, x, w, gy = operands.problem, operands.x, operands.w, operands.gy
        parameters: dict[str, Any] = {
            "stride": p.stride, "padding": p.padding, "output_padding": p.output_padding,
            "groups": p.groups, "dilation": p.dilation,
        }  # fmt: skip
        if pass_ == "forward":
            forward = getattr(fd, f"conv_transpose{p.ndim}d")
            return lambda: forward(x, w, **parameters)
        if pass_ == "input_grad":
            input_grad = getattr(fd.grad, f"conv_transpose{p.ndim}d_input")
            return lambda: input_grad(x.shape, w, gy, **parameters)
        weight_grad = getattr(fd.grad, f"conv_transpose{p.ndim}d_weight")
        return lambda: weight_grad(x, w.shape, gy, **parameters)

    def result(self, value: Any) -> Array:
        """Return what `compute` returned as an array."""
        array: Array = value
        return array


class Torch:
    """PyTorch on contiguous (NCHW) tensors, its default; gradients by the operator that autograd calls."""

    name = "torch"

    def __init__(self, threads: int) -> None:
        import torch

        self._torch = torch
        torch.set_num_threads(threads)

    def version(self) -> str:
        """Return the version that is measured."""
        return importlib.metadata.version("torch")

    def compute(self, operands: Operands, pass_: Pass) -> Compute:
        """Return a function without arguments that computes the pass."""
        torch, p = self._torch, operands.problem
        x, w, gy = (torch.from_numpy(a) for a in (operands.x, operands.w, operands.gy))
        if pass_ == "forward":
            forward = getattr(torch.nn.functional, f"conv_transpose{p.ndim}d")
            arguments = (p.stride, p.padding, p.output_padding, p.groups, p.dilation)

            def compute() -> Any:
                with torch.no_grad():
                    return forward(x, w, None, *arguments)

            return compute
        mask = [pass_ == "input_grad", pass_ == "weight_grad", False]
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(
            gy, x, w, None, p.stride, p.padding, p.dilation, True, p.output_padding, p.groups, mask
        )[mask.index(True)]  # fmt: skip

    def result(self, value: Any) -> Array:
        """Return what `compute` returned as an array."""
        array: Array = value.numpy()
        return array
