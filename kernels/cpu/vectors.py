"""Vector instructions as LLVM IR: what LLVM's own vectoriser does not emit by itself.

It stops at 256 bits on CPUs with 512, keeps no two-dimensional tile of accumulators in registers, and copies short
rows one element at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastdeconv.kernels.cpu.host import HAS_FMA, VECTOR_BITS

INDEX = ir.IntType(64)
LINE = 64  # bytes of a cache line


def index(value: int) -> Any:
    """Return a constant index."""
    return ir.Constant(INDEX, value)


def least(builder: Any, a: Any, b: Any) -> Any:
    """Return the smaller of two indices."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Return the address of an array's element."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


class Vectors:
    """Vectors of one element type, in one function under construction; they fill one of `part` parts of a register."""

    def __init__(self, builder: Any, element: types.Float, part: int = 1) -> None:
        self.builder = builder
        self.element = ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()
        self.bytes = element.bitwidth // 8
        self.lanes = VECTOR_BITS // element.bitwidth // part
        self.type = ir.VectorType(self.element, self.lanes)
        self.zero = ir.Constant(self.type, None)

    def _address(self, base: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(base, [offset]), self.type.as_pointer())

    def load(self, base: Any, offset: Any) -> Any:
        """Read a vector."""
        return self.builder.load(self._address(base, offset), align=self.bytes)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        """Write a vector."""
        self.builder.store(value, self._address(base, offset), align=self.bytes)

    def prefetch(self, base: Any, offset: Any, write: bool = False, level: int = 1) -> None:
        """Ask a cache for a line that will be read or written soon; an address outside the array does no harm."""
        b, flag = self.builder, ir.IntType(32)
        address = b.bitcast(b.gep(base, [offset]), ir.IntType(8).as_pointer())
        function_type = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        function = cgutils.get_or_insert_function(b.module, function_type, "llvm.prefetch.p0")
        b.call(function, [address, ir.Constant(flag, int(write)), ir.Constant(flag, 4 - level), ir.Constant(flag, 1)])

    def _masked(self, kind: str, result: Any, *operands: Any) -> Any:
        name = f"llvm.masked.{kind}.v{self.lanes}f{8 * self.bytes}.p0"
        function_type = ir.FunctionType(result, [operand.type for operand in operands])
        function = cgutils.get_or_insert_function(self.builder.module, function_type, name)
        return self.builder.call(function, operands)

    def load_first(self, count: Any, base: Any, offset: Any) -> Any:
        """Read the first `count` lanes; the others are zero and their memory is not touched."""
        align = ir.Constant(ir.IntType(32), self.bytes)
        address = self._address(base, self._touched(count, offset))
        return self._masked("load", self.type, address, align, self.first(count), self.zero)

    def gather(self, base: Any, step: Any) -> Any:
        """Read elements that lie `step` apart; there should not be more lanes than addresses fit a register."""
        b = self.builder
        numbers = ir.VectorType(INDEX, self.lanes)
        lanes = ir.Constant(numbers, [i * self.bytes for i in range(self.lanes)])
        places = b.add(self.splat(b.ptrtoint(base, INDEX), numbers), b.mul(lanes, self.splat(step, numbers)))
        pointers = b.inttoptr(places, ir.VectorType(self.element.as_pointer(), self.lanes))
        name = f"llvm.masked.gather.v{self.lanes}f{8 * self.bytes}.v{self.lanes}p0"
        flags = ir.VectorType(ir.IntType(1), self.lanes)
        align = ir.Constant(ir.IntType(32), self.bytes)
        operands = [pointers, align, ir.Constant(flags, [True] * self.lanes), self.zero]
        function_type = ir.FunctionType(self.type, [operand.type for operand in operands])
        return b.call(cgutils.get_or_insert_function(b.module, function_type, name), operands)

    def load_masked(self, mask: Any, base: Any, first: int) -> Any:
        """Read the elements from `first` on whose bits in the mask are set; the others are zero."""
        b = self.builder
        bits = b.trunc(b.lshr(mask, index(first)), ir.IntType(self.lanes))
        lanes = b.bitcast(bits, ir.VectorType(ir.IntType(1), self.lanes))
        align = ir.Constant(ir.IntType(32), self.bytes)
        return self._masked("load", self.type, self._address(base, index(first)), align, lanes, self.zero)

    def store_first(self, count: Any, value: Any, base: Any, offset: Any) -> None:
        """Write the first `count` lanes."""
        align = ir.Constant(ir.IntType(32), self.bytes)
        address = self._address(base, self._touched(count, offset))
        self._masked("store", ir.VoidType(), value, address, align, self.first(count))

    def _touched(self, count: Any, offset: Any) -> Any:
        """Return the offset, or 0 if there is nothing to access.

        Where no memory is mapped, an access of no lanes takes hundreds of cycles on some processors.
        """
        return self.builder.select(self.builder.icmp_signed(">", count, index(0)), offset, index(0))

    def load_part(self, part: Any, base: Any, offset: Any) -> Any:
        """Read the first `part` lanes, or all of them if it is None."""
        return self.load(base, offset) if part is None else self.load_first(part, base, offset)

    def store_part(self, part: Any, value: Any, base: Any, offset: Any) -> None:
        """Write the first `part` lanes, or all of them if it is None."""
        if part is None:
            self.store(value, base, offset)
        else:
            self.store_first(part, value, base, offset)

    def store_present(self, present: Any, value: Any, base: Any, offset: Any) -> None:
        """Write what is among the first `present` elements from `base` on; whole vectors without a mask."""
        b = self.builder
        left = b.sub(present, offset)
        with b.if_else(b.icmp_signed(">=", left, index(self.lanes))) as (whole, part):
            with whole:
                self.store(value, base, offset)
            with part, b.if_then(b.icmp_signed(">", left, index(0))):
                self.store_first(left, value, base, offset)

    def first(self, count: Any) -> Any:
        """Return which lanes are among the first `count`."""
        lane = ir.VectorType(INDEX, self.lanes)
        return self.builder.icmp_signed("<", ir.Constant(lane, list(range(self.lanes))), self.splat(count, lane))

    def splat(self, value: Any, vector_type: Any = None) -> Any:
        """Copy a scalar to all lanes."""
        b, kind = self.builder, vector_type or self.type
        undefined = ir.Constant(kind, ir.Undefined)
        first = b.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        return b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None))

    def constant(self, value: float) -> Any:
        """Return a vector whose lanes are all one constant."""
        return ir.Constant(self.type, [value] * self.lanes)

    def broadcast(self, base: Any, offset: Any) -> Any:
        """Read one element into all lanes."""
        return self.splat(self.builder.load(self.builder.gep(base, [offset])))

    def select(self, a: Any, b: Any, lanes: list[int]) -> Any:
        """Pick lanes of two vectors by number; those of `b` count on from those of `a`."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))

    def interleave(self, rows: list[Any]) -> list[Any]:
        """Return as many vectors, with the elements 0 of all rows side by side, then the elements 1, and so on."""
        count, lanes = len(rows), self.lanes
        if count % 2 == 0:
            even, odd = self.interleave(rows[::2]), self.interleave(rows[1::2])
            halves = [[h * lanes // 2 + i // 2 + i % 2 * lanes for i in range(lanes)] for h in range(2)]
            return [self.select(a, b, half) for a, b in zip(even, odd) for half in halves]
        mixed = []
        for j in range(count):
            value = rows[0]
            for r in range(count):
                places = [j * lanes + i for i in range(lanes)]
                picked = [lanes + at // count if at % count == r else i for i, at in enumerate(places)]
                value = self.select(value, rows[r], picked)
            mixed.append(value)
        return mixed

    def deinterleave(self, row: list[Any]) -> list[Any]:
        """Return the phases of a row of vectors, each as one: `interleave` undone."""
        count, lanes = len(row), self.lanes
        if count % 2 == 0:
            halves = [
                self.deinterleave(
                    [self.select(a, b, [2 * i + h for i in range(lanes)]) for a, b in zip(row[::2], row[1::2])]
                )
                for h in range(2)
            ]
            return [phase for pair in zip(*halves) for phase in pair]
        return [self.every(row, r) for r in range(count)]

    def every(self, row: list[Any], first: int) -> Any:
        """Return the elements `first`, ``first + len(row)``, … of a row of vectors, as one: `interleave` undone."""
        stride, lanes = len(row), self.lanes
        places = [first + stride * i for i in range(lanes)]
        value = row[0]
        for v, vector in enumerate(row):
            picked = [at % lanes + (lanes if v else 0) if at // lanes == v else i for i, at in enumerate(places)]
            value = self.select(value, vector, picked)
        return value

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Return a·b + c, rounded once where the host can."""
        if not HAS_FMA:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        name = f"llvm.fma.v{self.lanes}f{8 * self.bytes}"
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(self.type, [self.type] * 3), name
        )
        return self.builder.call(function, [a, b, c])

    def add_products(self, weights: Iterable[tuple[Any, Any]], x: list[Any], sums: list[Any]) -> list[Any]:
        """Return the sums of a register tile, row by row, with each row's weight times every vector of `x` added.

        A weight is told by where it is read, a base and an offset.
        """
        updated: list[Any] = []
        for base, offset in weights:
            w, row = self.broadcast(base, offset), sums[len(updated) : len(updated) + len(x)]
            updated += [self.multiply_add(w, value, total) for value, total in zip(x, row)]
        return updated

    def sums(self, vectors: list[Any]) -> Any:
        """Return a vector whose lane i is the sum of the lanes of ``vectors[i]``; at most as many as there are lanes.

        Two vectors become one by adding neighbours, then neighbours of neighbours: half the work of summing each alone.
        """
        distance = 1
        while distance < self.lanes:
            pairs = [vectors[i : i + 2] for i in range(0, len(vectors), 2)]
            vectors = [self._fold(pair[0], pair[-1], distance) for pair in pairs]
            distance *= 2
        return vectors[0]

    def _fold(self, a: Any, b: Any, distance: int) -> Any:
        """Add lanes `distance` apart, those of `a` where that bit of the lane number is 0, of `b` where it is 1."""
        near = [i & ~distance | (self.lanes if i & distance else 0) for i in range(self.lanes)]
        return self.builder.fadd(self.select(a, b, near), self.select(a, b, [i + distance for i in near]))


# Functions of modules that were linked, by name.
_emitters: dict[str, Callable[..., None]] = {}


def call_once_compiled(
    builder: Any, name: str, element: types.Float, values: list[Any], emit: Callable[[Vectors, list[Any]], None]
) -> None:
    """Call a function of the module that `emit` writes when it is first called for: inlined, it would cost seconds.

    Parameters
    ----------
    name : str
        Of what the function does; its values' types are those of its first call.
    emit : callable
        ``emit(vectors, arguments)`` writes the body, which returns nothing.

    Raises
    ------
    ValueError
        Another function has the name: the linker would take one of them for both.
    """
    owner, other = f"{emit.__module__}.{emit.__qualname__}", _emitters.setdefault(name, emit)
    if owner != f"{other.__module__}.{other.__qualname__}":
        raise ValueError(f"{name} is the name of what {other.__qualname__} in {other.__module__} emits; got {owner}")
    name = f"fastdeconv.{name}.{element}"
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        function = ir.Function(builder.module, kind, name)
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        function.attributes.add("optsize")
        inner = ir.IRBuilder(function.append_basic_block("entry"))
        emit(Vectors(inner, element), list(function.args))
        inner.ret_void()
    builder.call(function, values)


def loop(
    builder: Any, count: Any, carried: list[Any], body: Callable[[Any, list[Any]], list[Any]], unroll: bool = True
) -> list[Any]:
    """Emit ``for i in range(count): carried = body(i, carried)`` and return the last values.

    Unrolled, a body that takes all registers has its addresses on the stack.
    """
    before, head = builder.block, builder.append_basic_block("head")
    step, after = builder.append_basic_block("body"), builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(INDEX)
    index.add_incoming(ir.Constant(INDEX, 0), before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, count), step, after)
    builder.position_at_end(step)
    results = body(index, values)
    index.add_incoming(builder.add(index, ir.Constant(INDEX, 1)), builder.block)
    for phi, value in zip(values, results):
        phi.add_incoming(value, builder.block)
    back = builder.branch(head)
    if not unroll:
        module = builder.module
        number = ir.Constant(INDEX, len(module.metadata))  # each loop has a node of its own, which begins with itself
        node = module.add_metadata([module.add_metadata(["llvm.loop.unroll.disable"]), number])
        node.operands = (node, *node.operands)
        back.set_metadata("llvm.loop", node)
    builder.position_at_end(after)
    return values


def switch(builder: Any, value: Any, cases: Sequence[int], emit: Callable[[int], None]) -> None:
    """Emit one variant of the code for each case of a value, and a jump to the right one."""
    after = builder.append_basic_block("switched")
    switch = builder.switch(value, after)
    for case in cases:
        block = builder.append_basic_block(f"case{case}")
        switch.add_case(ir.Constant(INDEX, case), block)
        builder.position_at_end(block)
        emit(case)
        builder.branch(after)
    builder.position_at_end(after)
