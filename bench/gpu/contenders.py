"""Who takes part on a GPU: ours in two layouts, cuDNN through PyTorch in the same, products of matrices by CuPy.

All work on the default stream of the current device, hold their operands there beforehand, in their own layout, and
allocate each result from the memory pool of their library.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

import fastdeconv as fd
from fastdeconv.bench.contenders import one_line
from fastdeconv.bench.contenders.base import Compute, Contender, UnsupportedError
from fastdeconv.bench.contenders.ours import parameters
from fastdeconv.bench.contenders.with_torch import Torch
from fastdeconv.bench.gpu.precisions import Precision
from fastdeconv.bench.operands import Array, Operands, TimedPass
from fastdeconv.cuda import runtime
from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.reference import full_shape, taps
from fastdeconv.problem import PASSES, numpy_dtype


class DeviceContender(Contender):
    """A contender on the current GPU; an instance sets its library's precision, for the whole process."""

    passes = PASSES
    surely_fast = math.inf

    @abstractmethod
    def __init__(self, precision: Precision) -> None: ...

    def wait(self) -> None:
        """Wait for the device."""
        runtime.cupy().cuda.get_current_stream().synchronize()


class Ours(DeviceContender):
    """fastdeconv, through its public calls."""

    name = "fastdeconv"
    modules = ("fastdeconv",)
    install = "fastdeconv"
    conditions = "CuPy arrays, channels first; results from CuPy's pool"
    is_peer = False
    channels_last: ClassVar[bool] = False

    def __init__(self, precision: Precision) -> None:
        self._dtype = numpy_dtype(precision.dtype)
        fd.set_float32_precision("high" if precision.tf32 else "highest")

    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that begins the pass."""
        p, keywords = operands.problem, parameters(operands.problem)
        if pass_ == "forward":
            forward = getattr(fd, f"conv_transpose{p.ndim}d")
            x, w = self._laid_out(operands.x), self._up(operands.w)
            return lambda: forward(x, w, **keywords, **self._out(p.output_shape))
        gy = self._laid_out(operands.gy)
        if pass_ == "input_grad":
            input_grad = getattr(fd.grad, f"conv_transpose{p.ndim}d_input")
            w = self._up(operands.w)
            return lambda: input_grad(p.input_shape, w, gy, **keywords, **self._out(p.input_shape))
        weight_grad = getattr(fd.grad, f"conv_transpose{p.ndim}d_weight")
        x = self._laid_out(operands.x)
        return lambda: weight_grad(x, p.weight_shape, gy, **keywords)

    def arrays(self, value: Any, operands: Operands, pass_: TimedPass) -> tuple[Array, ...]:
        """Return the result in float32."""
        return (value.astype("float32"),)

    def _up(self, array: Array) -> Any:
        return runtime.cupy().asarray(array.astype(self._dtype))

    def _laid_out(self, array: Array) -> Any:
        if not self.channels_last:
            return self._up(array)
        last = self._up(np.ascontiguousarray(np.moveaxis(array, 1, -1)))
        return last.transpose(_channels_second(array.ndim))

    def _out(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the keyword for a result in the layout of the operands, where a call would give it another."""
        if not self.channels_last:
            return {}
        n, c, *size = shape
        last = runtime.cupy().empty((n, *size, c), self._dtype)
        return {"out": last.transpose(_channels_second(len(shape)))}


class OursChannelsLast(Ours):
    """fastdeconv on activations with channels last in memory."""

    name = "fastdeconv_cl"
    conditions = "CuPy arrays, activations channels last in memory; results from CuPy's pool"
    channels_last = True


def _channels_second(ndim: int) -> tuple[int, ...]:
    return (0, ndim - 1, *range(1, ndim - 1))


class CuDnn(DeviceContender, Torch):
    """cuDNN as PyTorch calls it; gradients by the operator that autograd calls, without autograd."""

    name = "cudnn"
    conditions = "PyTorch, channels first; cudnn.benchmark on; results from PyTorch's pool"
    place: ClassVar[str] = "cuda"

    def __init__(self, precision: Precision) -> None:
        import torch

        if self.place == "cuda" and not torch.cuda.is_available():
            raise UnsupportedError(f"PyTorch {torch.__version__} finds no GPU")
        self._torch = torch
        self._dtype = getattr(torch, precision.dtype)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision.tf32

    def _tensor(self, array: Array) -> Any:
        return self._torch.from_numpy(array).to(self.place, self._dtype)

    def version(self) -> str:
        """Return the versions of PyTorch and of cuDNN."""
        return f"{self._torch.backends.cudnn.version()} in PyTorch {self._torch.__version__}"

    def arrays(self, value: Any, operands: Operands, pass_: TimedPass) -> tuple[Array, ...]:
        """Return the result in float32, as CuPy's array."""
        return (runtime.cupy().from_dlpack(value.float().contiguous()),)


class CuDnnChannelsLast(CuDnn):
    """cuDNN on tensors in PyTorch's channels_last memory format."""

    name = "cudnn_cl"
    conditions = "PyTorch, channels_last memory format; cudnn.benchmark on; results from PyTorch's pool"

    def _tensor(self, array: Array) -> Any:
        formats = {4: self._torch.channels_last, 5: self._torch.channels_last_3d}
        if array.ndim not in formats:
            raise UnsupportedError("PyTorch has no channels_last format in one dimension")
        return super()._tensor(array).contiguous(memory_format=formats[array.ndim])


class CuPyProducts(DeviceContender):
    """What CuPy offers since it has no cuDNN: for each tap a product of matrices by cuBLAS, added where it reaches."""

    name = "cupy"
    modules = ("cupy",)
    install = '"fastdeconv[cuda13]"'
    conditions = "CuPy, channels first; a product by cuBLAS for each tap"

    def __init__(self, precision: Precision) -> None:
        if precision.name != "float32":
            raise UnsupportedError("adds the taps in the arrays' own type, and its float32 is never TF32")
        self._dtype = precision.dtype

    def compute(self, operands: Operands, pass_: TimedPass) -> Compute:
        """Return a function that begins the pass."""
        cp, g = runtime.cupy(), geometry_of(operands.problem)
        x, w, gy = (cp.asarray(a) for a in (operands.x, operands.w, operands.gy))
        pixels = x.reshape(g.batch, g.groups, g.group_in, math.prod(g.input))
        weight = w.reshape(g.groups, g.group_in, g.group_out, *g.kernel)
        crop = (slice(None), slice(None), *(slice(p, p + o) for p, o in zip(g.padding, g.output)))
        places = [(tap, (slice(None), slice(None), *at)) for tap, at in taps(g)]

        def uncropped() -> Any:
            return cp.zeros(full_shape(g), self._dtype)

        def reached(full: Any, at: Any) -> Any:
            return full[at].reshape(g.batch, g.groups, g.group_out, math.prod(g.input))

        def forward() -> Any:
            full = uncropped()
            for tap, at in places:
                product = cp.matmul(weight[(..., *tap)].swapaxes(1, 2), pixels)
                full[at] += product.reshape(g.batch, g.out_channels, *g.input)
            return cp.ascontiguousarray(full[crop])

        def input_grad() -> Any:
            full = uncropped()
            full[crop] = gy.reshape(g.output_shape)
            total = cp.zeros(pixels.shape, self._dtype)
            for tap, at in places:
                total += cp.matmul(weight[(..., *tap)], reached(full, at))
            return total

        def weight_grad() -> Any:
            full = uncropped()
            full[crop] = gy.reshape(g.output_shape)
            total = cp.empty((g.groups, g.group_in, g.group_out, *g.kernel), self._dtype)
            for tap, at in places:
                total[(..., *tap)] = cp.matmul(pixels, reached(full, at).swapaxes(2, 3)).sum(0)
            return total

        functions: dict[TimedPass, Compute] = {
            "forward": forward, "input_grad": input_grad, "weight_grad": weight_grad,
        }  # fmt: skip
        return functions[pass_]

    def arrays(self, value: Any, operands: Operands, pass_: TimedPass) -> tuple[Array, ...]:
        """Return the result in float32."""
        p = operands.problem
        shape = {"forward": p.output_shape, "input_grad": p.input_shape, "weight_grad": p.weight_shape}
        return (value.reshape(shape[pass_]).astype("float32"),)


CONTENDERS: tuple[type[DeviceContender], ...] = (Ours, OursChannelsLast, CuDnn, CuDnnChannelsLast, CuPyProducts)


def start(precision: Precision) -> tuple[list[Contender], dict[str, str]]:
    """Return the contenders in a precision, and why others do not take part, by name."""
    contenders: list[Contender] = []
    left_out: dict[str, str] = {}
    for kind in CONTENDERS:
        if missing := kind.missing():
            left_out[kind.name] = f"{missing} is not installed"
            continue
        try:
            contenders.append(kind(precision))
        except Exception as error:  # whatever another library raises, the others can still be timed
            left_out[kind.name] = one_line(error)
    return contenders, left_out
