"""PyTorch, in its default layout and in channels_last."""

from __future__ import annotations

from typing import Any

from fastdeconv.bench.contenders.base import Compute, Contender, UnsupportedError
from fastdeconv.bench.operands import LEARNING_RATE, Array, Operands, TimedPass


class Torch(Contender):
    """PyTorch on contiguous tensors, its default; gradients by the operator that autograd calls, without autograd."""

    name = "torch"
    modules = ("torch",)
    install = "torch==2.13.0"
    conditions = "channels first; float32 matmul precision highest; torch.set_num_threads"

    def __init__(self, threads: int) -> None:
        import torch

        self._torch = torch
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")

    def _tensor(self, array: Array) -> Any:
        return self._torch.from_numpy(array)

    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that computes the pass."""
        torch, p = self._torch, operands.problem
        x, w, gy = (self._tensor(a) for a in (operands.x, operands.w, operands.gy))
        conv_transpose = getattr(torch.nn.functional, f"conv_transpose{p.ndim}d")

        def forward() -> Any:
            return conv_transpose(x, w, None, p.stride, p.padding, p.output_padding, p.groups, p.dilation)

        def backward(input_grad: bool, weight_grad: bool) -> Any:
            return torch.ops.aten.convolution_backward(
                gy, x, w, None, p.stride, p.padding, p.dilation, True, p.output_padding, p.groups,
                [input_grad, weight_grad, False],
            )  # fmt: skip

        if pass_ == "forward":
            return forward
        if pass_ == "input_grad":
            return lambda: backward(True, False)[0]
        if pass_ == "weight_grad":
            return lambda: backward(False, True)[1]

        def step() -> Any:
            y = forward()
            gx, gw, _ = backward(True, True)
            return y, gx, torch.sub(w, gw, alpha=LEARNING_RATE)

        return step

    def arrays(self, value: Any, operands: Operands, pass_: TimedPass) -> tuple[Array, ...]:
        """Return the result's memory as arrays."""
        return tuple(tensor.numpy() for tensor in (value if pass_ == "step" else (value,)))


class TorchChannelsLast(Torch):
    """PyTorch with input, weight and gradients in its channels_last memory format."""

    name = "torch_cl"
    conditions = "channels_last memory format; float32 matmul precision highest; torch.set_num_threads"

    def _tensor(self, array: Array) -> Any:
        torch = self._torch
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if array.ndim not in formats:
            raise UnsupportedError("PyTorch has no channels_last format in one dimension")
        return torch.from_numpy(array).contiguous(memory_format=formats[array.ndim])
