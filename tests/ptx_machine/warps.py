"""What the threads of a warp do together: ``ldmatrix`` and ``mma``, with the fragments of the PTX ISA.

Lane l of a warp has ``g = l // 4`` and ``t = l % 4``. A register holds two elements of 16 bits, or one of 32:

- A, 16 × depth: registers 0 to 3 are of rows (g, g + 8, g, g + 8); the last two are half the depth further on.
- B, depth × 8: both registers are of column g; the second is half the depth further on.
- C, 16 × 8: rows (g, g, g + 8, g + 8), columns (2t, 2t + 1, 2t, 2t + 1).

Along the depth a register of 16-bit elements has 2t and 2t + 1, one of 32 bits has t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptx_machine.memory import WHOLE_WARP, FaultError
from ptx_machine.program import Instruction

if TYPE_CHECKING:
    from ptx_machine.machine import _Block

LANES = 32
_ROW, _COLUMN = np.arange(LANES) // 4, np.arange(LANES) % 4

# Depth, and bits of an element, by what stands after ``mma.``.
_SHAPES = {
    "sync.aligned.m16n8k16.row.col.f32.f16.f16.f32": (16, "f16"),
    "sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32": (16, "bf16"),
    "sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32": (8, "tf32"),
}
_LOADS = {"sync.aligned.m8n8.x4.shared.b16": False, "sync.aligned.m8n8.x4.trans.shared.b16": True}


def names(operand: str) -> list[str]:
    """Return the registers of a vector operand."""
    return [name.strip() for name in operand.strip("{}").split(",")]


def whole_warps(lanes: NDArray[np.int64], instruction: Instruction) -> int:
    """Return how many warps take part; refuse one of which a lane does not."""
    counts = np.bincount(lanes // LANES)
    if ((counts != 0) & (counts != LANES)).any():
        raise FaultError(f"divergent {instruction.op}: {counts[counts != 0].min()} of a warp's 32 lanes take part")
    return lanes.size // LANES


def load_matrices(block: _Block, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
    """Execute ``ldmatrix``: lane i gives the address of row ``i % 8`` of matrix ``i // 8``."""
    form = ".".join(instruction.modifiers)
    if form not in _LOADS:
        raise FaultError(f"unknown modifiers: {instruction.line!r}")
    warps = whole_warps(lanes, instruction)
    target, source = instruction.operands
    addresses = block.address(source, lanes)
    block.count_shared_load(addresses, 16, lanes)
    # Rows go to other lanes than those that give their addresses.
    data = block.shared.read(addresses, 16, np.full(lanes.size, WHOLE_WARP))
    matrices = np.ascontiguousarray(data).view(np.uint16).reshape(warps, 4, 8, 8)
    if _LOADS[form]:
        matrices = matrices.swapaxes(2, 3)
    pairs = np.ascontiguousarray(matrices).view(np.uint32)  # warp, matrix, row, pair
    for matrix, name in enumerate(names(target)):
        block.store(name, pairs[:, matrix].reshape(-1), lanes)


def _elements(registers: list[NDArray[Any]], kind: str) -> NDArray[np.float64]:
    """Return what registers hold: (register, warp, lane, element)."""
    bits = np.stack(registers).reshape(len(registers), -1, LANES, 1)
    if kind == "tf32":
        # Whether the bits that TF32 lacks are rounded or dropped is not defined.
        if (bits & np.uint32(0x1FFF)).any():
            raise FaultError("an operand of mma.tf32 that has more bits than TF32")
        return bits.view(np.float32).astype(np.float64)
    halves = np.ascontiguousarray(bits).view(np.uint16)
    if kind == "bf16":
        return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return halves.view(np.float16).astype(np.float64)


def multiply(block: _Block, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
    """Execute ``mma``: exact products, added in double precision and rounded once."""
    form = ".".join(instruction.modifiers)
    if form not in _SHAPES:
        raise FaultError(f"unknown modifiers: {instruction.line!r}")
    depth, kind = _SHAPES[form]
    warps = whole_warps(lanes, instruction)
    target, *sources = instruction.operands
    a, b, c = ([block.value(name, t, lanes) for name in names(s)] for s, t in zip(sources, ("b32", "b32", "f32")))
    if (len(a), len(b), len(c), len(names(target))) != (4, 2, 4, 4):
        raise FaultError(f"wrong number of registers: {instruction.line!r}")
    of_register = depth // 8  # elements
    along = (_COLUMN * of_register)[:, None] + np.arange(of_register)
    left, right = np.empty((warps, 16, depth)), np.empty((warps, depth, 8))
    with np.errstate(all="ignore"):
        for i, held in enumerate(_elements(a, kind)):
            left[:, (_ROW + 8 * (i % 2))[:, None], along + depth // 2 * (i // 2)] = held
        for i, held in enumerate(_elements(b, kind)):
            right[:, along + depth // 2 * i, _ROW[:, None]] = held
        product = left @ right
        for i, name in enumerate(names(target)):
            held = product[:, _ROW + 8 * (i // 2), 2 * _COLUMN + i % 2].reshape(-1)
            block.store(name, (held + c[i]).astype(np.float32), lanes)
