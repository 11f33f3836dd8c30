"""The transforms of F(3, 2) and F(2, 3), as straight-line vector code.

``y = A [(G w) ∘ (B x)]`` for a window x of 4 inputs: points 0, 1, -1 and infinity, so that both share B and every entry
is 0, ±1 or ±1/2, exact in binary. Input and weight gradient use the transposed matrices: the three passes are one
trilinear form.
"""

from __future__ import annotations

from typing import Any, TypeVar

from numba import types
from numba.extending import intrinsic

from fastdeconv.kernels.cpu.vectors import Vectors, call_once_compiled, index, loop, pointer, switch

Matrix = tuple[tuple[float, ...], ...]
Taps = TypeVar("Taps", int, tuple[int, int])


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix))


_B: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1))
_G2: Matrix = ((1, 0), (0.5, 0.5), (0.5, -0.5), (0, 1))
_G3: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A3: Matrix = ((1, 1, 1, 0), (0, 1, -1, 0), (0, 1, 1, 1))
_A2: Matrix = ((1, 1, 1, 0), (0, 1, -1, 1))

# Which transform `combine` does, by its place in this table; the first copies.
_MATRICES: tuple[Matrix, ...] = (
    ((1,),),
    _B, _G2, _G3, _A3, _A2,
    *(_transposed(m) for m in (_B, _G2, _G3, _A3, _A2)),
    tuple(row[:2] for row in _G3), tuple(row[:1] for row in _G3), _transposed(_G3)[:2], _transposed(_G3)[:1],
)  # fmt: skip
_TRANSPOSED = 5
# Added to a transform's number, it adds to what is there: windows of the transposed input transform overlap.
OVERLAPPING = 16

# The transform for each number of taps.
INPUT = {1: 0, 2: 1, 3: 1}
WEIGHT = {1: 0, 2: 2, 3: 3}
OUTPUT = {1: 0, 2: 4, 3: 5}
# That of weights, by the taps that a window is for and those that it meets; fewer leave the last point zero.
_FEWER = 2 * _TRANSPOSED + 1
WEIGHTS = {(taps, taps): which for taps, which in WEIGHT.items()}
WEIGHTS |= {(3, 2): _FEWER, (3, 1): _FEWER + 1, (2, 1): _FEWER + 1}


def transposed(transforms: dict[Taps, int]) -> dict[Taps, int]:
    """Return the transposed transform for each number of taps."""
    return {taps: which and which + (2 if which >= _FEWER else _TRANSPOSED) for taps, which in transforms.items()}


@intrinsic
def combine(
    typing_context: Any, which: Any,
    source: Any, source_at: Any, source_step: Any, source_next: Any,
    target: Any, target_at: Any, target_step: Any, target_next: Any, count: Any,
) -> Any:  # fmt: skip
    """Do ``target[v·target_next + i·target_step] = Σ_j matrix[i][j] · source[v·source_next + j·source_step]``.

    All elements are vectors; v runs over `count` of them, in order. What an overlapping transform finds in the target
    is added.
    """
    integer = types.int64
    signature = types.void(integer, source, integer, integer, integer, target, integer, integer, integer, integer)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        which, source, source_at, source_step, source_next, target, target_at, target_step, target_next, count = (
            arguments
        )
        source_base = pointer(context, builder, signature.args[1], source, source_at)
        target_base = pointer(context, builder, signature.args[5], target, target_at)
        values = [which, source_base, source_step, source_next, target_base, target_step, target_next, count]
        call_once_compiled(builder, "combine", signature.args[1].dtype, values, _combine)
        return context.get_dummy_value()

    return signature, generate


def _combine(vectors: Vectors, arguments: list[Any]) -> None:
    which, source, source_step, source_next, target, target_step, target_next, count = arguments
    builder = vectors.builder

    def emit(number: int) -> None:
        matrix = _MATRICES[number % OVERLAPPING]
        inputs = [builder.mul(source_step, index(j)) for j in range(len(matrix[0]))]
        outputs = [builder.mul(target_step, index(i)) for i in range(len(matrix))]

        def body(v: Any, carried: list[Any]) -> list[Any]:
            at, to = builder.mul(v, source_next), builder.mul(v, target_next)
            x = [vectors.load(source, builder.add(at, place)) for place in inputs]
            for row, place in zip(matrix, outputs):
                value = _sum(builder, vectors, row, x)
                if number >= OVERLAPPING:
                    value = builder.fadd(vectors.load(target, builder.add(to, place)), value)
                vectors.store(value, target, builder.add(to, place))
            return carried

        loop(builder, count, [], body)

    switch(builder, which, [*range(len(_MATRICES)), OVERLAPPING + _TRANSPOSED + 1], emit)


def _sum(builder: Any, vectors: Vectors, row: tuple[float, ...], x: list[Any]) -> Any:
    """Emit ``Σ row[j]·x[j]``: terms of one magnitude are added before they are scaled."""
    total = None if any(row) else vectors.zero
    for scale in sorted({abs(v) for v in row if v}):
        part = None
        for minus, j in sorted((v < 0, j) for j, v in enumerate(row) if abs(v) == scale):
            if part is None:
                assert not minus
                part = x[j]
            else:
                part = builder.fsub(part, x[j]) if minus else builder.fadd(part, x[j])
        if scale != 1:
            part = builder.fmul(part, vectors.constant(scale))
        total = part if total is None else builder.fadd(total, part)
    return total
