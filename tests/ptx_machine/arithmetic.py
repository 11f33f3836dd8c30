"""What instructions compute: integers that wrap around, floats rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptx_machine.memory import FaultError
from ptx_machine.program import BITS, Instruction

if TYPE_CHECKING:
    from ptx_machine.machine import _Block

DTYPES: dict[str, Any] = {
    "pred": np.bool_, "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16,
    "s16": np.int16, "f16": np.float16, "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64,
}  # fmt: skip
Values = NDArray[Any]

# What rounding and caching modifiers say holds here anyway, or changes no value.
_ROUNDING = {"rn", "rni", "rzi", "rmi", "rpi"}


def _wide(a: Values, b: Values) -> Values:
    twice = {2: "4", 4: "8"}[a.dtype.itemsize]
    kind = a.dtype.kind + twice
    result: Values = a.astype(kind) * b.astype(kind)
    return result


def _high(a: Values, b: Values) -> Values:
    bits = 8 * a.dtype.itemsize
    return np.array([(int(x) * int(y)) >> bits for x, y in zip(a, b)]).astype(a.dtype)


def _quotient(a: Values, b: Values) -> Values:
    if a.dtype.kind == "f":
        result: Values = a / b
        return result
    if (b == 0).any():
        raise FaultError("a division of integers by zero")
    if a.dtype.kind == "u":
        return a // b
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


def _remainder(a: Values, b: Values) -> Values:
    return a - _quotient(a, b) * b


def _fused(a: Values, b: Values, c: Values) -> Values:
    # Exact products: the sum is rounded to more bits than the result has, then to these.
    wide = {2: np.float64, 4: np.float64, 8: np.longdouble}[a.dtype.itemsize]
    return (a.astype(wide) * b.astype(wide) + c.astype(wide)).astype(a.dtype)


def _shift_left(a: Values, by: Values) -> Values:
    bits = 8 * a.dtype.itemsize
    amount = np.minimum(by, bits - 1).astype(a.dtype)
    return np.where(by >= bits, a.dtype.type(0), a << amount)


def _shift_right(a: Values, by: Values) -> Values:
    bits = 8 * a.dtype.itemsize
    amount = np.minimum(by, bits - 1).astype(a.dtype)
    shifted = a >> amount
    return shifted if a.dtype.kind == "i" else np.where(by >= bits, a.dtype.type(0), shifted)


def _funnel(low: Values, high: Values, by: Values, left: bool) -> Values:
    amount = (by % 32).astype(np.uint64)
    both = (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)
    moved = both << amount >> np.uint64(32) if left else both >> amount
    return (moved & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def _insert(a: Values, b: Values, start: Values, length: Values) -> Values:
    """Return b with the first bits of a in place of its own."""
    kind, bits = a.dtype, 8 * a.dtype.itemsize
    inserted = [
        (int(old) & ~(mask := ((1 << int(n)) - 1) << int(at)) | int(new) << int(at) & mask) & ((1 << bits) - 1)
        for new, old, at, n in zip(a, b, start, length)
    ]
    return np.array(inserted, kind)


OPERATIONS: dict[str, Callable[..., Values]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "mad": lambda a, b, c: a * b + c,
    "fma": _fused,
    "div": _quotient,
    "rem": _remainder,
    "min": np.minimum,
    "max": np.maximum,
    "neg": lambda a: -a,
    "abs": np.abs,
    "not": lambda a: ~a,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": _shift_left,
    "shr": _shift_right,
    "shf": _funnel,
    "bfi": _insert,
    "sqrt": np.sqrt,
    "selp": lambda a, b, p: np.where(p, a, b),
    "cvt": lambda a: a,
}


def compute(block: _Block, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
    """Execute an instruction that makes one value of others."""
    op, modifiers = instruction.op, instruction.modifiers
    target, *sources = instruction.operands
    kind = instruction.type
    if op == "cvt":
        _convert(block, instruction, lanes)
        return
    if op in ("shl", "shr"):
        a, by = block.value(sources[0], kind, lanes), block.value(sources[1], "u32", lanes)
        block.store(target, OPERATIONS[op](a, by), lanes)
        return
    if op == "shf":
        low, high, by = (block.value(s, "u32", lanes) for s in sources)
        block.store(target, _funnel(low, high, by, "l" in modifiers), lanes)
        return
    if op == "bfi":
        a, b = (block.value(s, kind, lanes) for s in sources[:2])
        block.store(target, _insert(a, b, *(block.value(s, "u32", lanes) for s in sources[2:])), lanes)
        return
    if op == "selp":
        a, b = (block.value(s, kind, lanes) for s in sources[:2])
        block.store(target, np.where(block.value(sources[2], "pred", lanes), a, b), lanes)
        return
    values = [block.value(s, kind, lanes) for s in sources]
    if "wide" in modifiers:
        product = _wide(values[0], values[1])
        if op == "mad":
            wide = f"{kind[0]}{2 * BITS[kind]}"
            product = product + block.value(sources[2], wide, lanes)
        block.store(target, product, lanes)
        return
    if "hi" in modifiers and op == "mul":
        block.store(target, _high(*values), lanes)
        return
    result = OPERATIONS[op](*values)
    block.store(target, result.astype(DTYPES[kind], copy=False), lanes)


def _shortened(value: Values, dropped: int, mode: str) -> Values:
    """Return the bits of floats rounded to so many fewer, ties to even or away from zero."""
    bits = value.view(np.uint32)
    below = np.uint32((1 << dropped) - 1)
    half = np.uint32(1 << (dropped - 1))
    even = half - np.uint32(1) + (bits >> np.uint32(dropped) & np.uint32(1))
    rounded = bits + (half if mode == "rna" else even)
    quiet = np.uint32(1 << 22)
    result: Values = np.where(np.isnan(value), bits | quiet, np.where(np.isinf(value), bits, rounded)) & ~below
    return result


def _convert(block: _Block, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
    target, source = instruction.operands
    if instruction.modifiers == ("rn", "bf16", "f32"):
        bits = _shortened(block.value(source, "f32", lanes), 16, "rn")
        block.store(target, (bits >> np.uint32(16)).astype(np.uint16), lanes)
        return
    if instruction.modifiers == ("rna", "tf32", "f32"):
        block.store(target, _shortened(block.value(source, "f32", lanes), 13, "rna"), lanes)
        return
    kinds = [m for m in instruction.modifiers if m in BITS]
    unknown = set(instruction.modifiers) - _ROUNDING - set(BITS)
    if unknown or len(kinds) != 2:
        raise FaultError(f"unknown modifiers {sorted(unknown)}: {instruction.line!r}")
    to, of = kinds
    value = block.value(source, of, lanes)
    kind = np.dtype(DTYPES[to])
    if value.dtype.kind == "f" and kind.kind in "iu":
        modes = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}
        mode = next((m for m in instruction.modifiers if m in modes), None)
        if mode is None:
            raise FaultError(f"a conversion to integers that names no rounding: {instruction.line!r}")
        value = modes[mode](value)
    block.store(target, value.astype(kind), lanes)


_COMPARISONS: dict[str, Callable[[Values, Values], Values]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "equ": lambda a, b: ~((a < b) | (a > b)), "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b), "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}  # fmt: skip


def compare(block: _Block, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
    """Execute ``setp``: one or two predicates, perhaps combined with a third."""
    comparison, *others = (m for m in instruction.modifiers if m not in BITS and m != "ftz")
    *targets, a, b = instruction.operands[:-1] if others else instruction.operands
    values = (block.value(source, instruction.type, lanes) for source in (a, b))
    holds = _COMPARISONS[comparison](*values)
    if others:
        last = instruction.operands[-1]
        third = block.value(last.removeprefix("!"), "pred", lanes) != last.startswith("!")
        combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[others[0]]
        block.store(targets[0], combine(holds, third), lanes)
        if len(targets) > 1:
            block.store(targets[1], combine(~holds, third), lanes)
        return
    block.store(targets[0], holds, lanes)
