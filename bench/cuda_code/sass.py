"""Machine code as `nvdisasm` prints it: instructions, the loops among them, and the one that does the arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from fastdeconv.bench.cuda_code.flow import natural_loops

# Products that are added to sums. Others (IMAD, HFMA2) compute places and move constants.
PRODUCTS = {"FFMA", "FFMA2", "DFMA", "HMMA", "DMMA"}
SHARED_LOADS, GLOBAL_LOADS = {"LDS", "LDSM"}, {"LDG", "LDGSTS"}

_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LABEL = re.compile(r"([.$\w]+):\s*$")
_TARGET = re.compile(r"`\((\.L[\w.]*)\)")
_WIDTH = re.compile(r"\.(?:[US]?(8|16)|(64|128|256))(?=\.|$)")


class Instruction(NamedTuple):
    """One instruction: ``@guard op.modifiers operands``."""

    guard: str | None
    name: str  # with its modifiers
    operands: str

    @property
    def op(self) -> str:
        """The name without modifiers."""
        return self.name.partition(".")[0]

    @property
    def width(self) -> int:
        """Bits that a thread loads or stores."""
        if self.op == "LDSM":  # one, two or four matrices of 8 × 8 elements of 16 bits, among 32 threads
            matrices = self.name.rpartition(".")[2]
            return 32 * int(matrices) if matrices.isdecimal() else 32
        found = _WIDTH.search(self.name)
        return int(found[1] or found[2]) if found else 32

    @property
    def jump(self) -> str | None:
        """The label that may come next; calls of functions come back."""
        found = _TARGET.search(self.operands) if self.op in ("BRA", "CALL") else None
        return found[1] if found else None

    @property
    def falls_through(self) -> bool:
        """Whether the next instruction may follow."""
        if self.guard or self.op not in ("BRA", "BRX", "EXIT", "RET"):
            return True
        return self.op == "BRA" and "," in self.operands  # under a condition that is an operand


class HotLoop(NamedTuple):
    """What the loop with the arithmetic is made of.

    Attributes
    ----------
    share : float
        Products among the instructions of the innermost loop.
    step : float, optional
        Products among the instructions from barrier to barrier, all branches counted as taken; None if there is no
        barrier, or unknown how often the loop runs between two.
    shared_loads, global_loads : tuple of int
        Widths in bits: in the innermost loop; in that from barrier to barrier, if there is one.
    """

    share: float
    step: float | None
    shared_loads: tuple[int, ...]
    global_loads: tuple[int, ...]


def parse(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """Return the instructions, and for each label the index of the one that follows."""
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif found := _INSTRUCTION.match(line):
            code.append(Instruction(*found.groups()))
    return code, labels


def loops(code: list[Instruction], labels: dict[str, int]) -> list[frozenset[int]]:
    """Return the natural loops, each as indices of instructions."""
    jumps = {i: labels[op.jump] for i, op in enumerate(code) if op.jump in labels}
    ends = {i + 1 for i, op in enumerate(code) if i in jumps or not op.falls_through}
    starts = sorted(({0} | ends | set(jumps.values())) - {len(code)})
    number = {start: block for block, start in enumerate(starts)}
    blocks = [range(start, end) for start, end in zip(starts, [*starts[1:], len(code)])]
    after: list[list[int]] = [[] for _ in blocks]
    for following, block in zip(after, blocks):
        last = block[-1]
        if last in jumps:
            following.append(number[jumps[last]])
        if code[last].falls_through and block.stop in number:
            following.append(number[block.stop])
    return [frozenset(i for block in loop for i in blocks[block]) for loop in natural_loops(after)]


def hot_loop(text: str, depth: int = 0) -> HotLoop | None:
    """Return what the loop with the most products is made of, or None if there are no products in loops.

    Parameters
    ----------
    depth : int
        How often each sum is added to between two barriers. A loop that was not unrolled so far runs several times
        between them: as often as the sums that it has need.
    """
    code, labels = parse(text)
    found = [loop for loop in loops(code, labels) if _count(code, loop, PRODUCTS)]
    innermost = [loop for loop in found if not any(other < loop for other in found)]
    if not innermost:
        return None
    inner = max(innermost, key=lambda loop: (_count(code, loop, PRODUCTS), -len(loop)))
    around = [loop for loop in found if loop >= inner and _count(code, loop, {"BAR"})]
    outer = min(around, key=len) if around else inner
    return HotLoop(
        _count(code, inner, PRODUCTS) / len(inner),
        _step(code, inner, outer, depth) if around else None,
        _widths(code, inner, SHARED_LOADS),
        _widths(code, outer, GLOBAL_LOADS),
    )


def _step(code: list[Instruction], inner: frozenset[int], outer: frozenset[int], depth: int) -> float | None:
    products = [code[i] for i in sorted(inner) if code[i].op in PRODUCTS]
    if inner == outer:
        return len(products) / len(outer)
    runs, rest = divmod(depth * _sums(products), len(products))
    if not runs or rest:
        return None
    others = outer - inner
    return (runs * len(products) + _count(code, others, PRODUCTS)) / (runs * len(inner) + len(others))


def _sums(products: list[Instruction]) -> int:
    """Return how many sums there are: products that add to what no product before them has written."""
    written: set[str] = set()
    count = 0
    for product in products:
        to, *_, addend = (part.strip().partition(".")[0] for part in product.operands.split(","))
        count += addend not in written
        written.add(to)
    return count


def _count(code: list[Instruction], where: Iterable[int], ops: set[str]) -> int:
    return sum(code[i].op in ops for i in where)


def _widths(code: list[Instruction], where: Iterable[int], ops: set[str]) -> tuple[int, ...]:
    return tuple(sorted({code[i].width for i in where if code[i].op in ops}, reverse=True))
