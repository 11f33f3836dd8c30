"""Instructions of a whole warp, and asynchronous copies, as inline PTX: for compute capability 8.0 and newer.

Matrices are in pieces of 16 bytes (a *chunk*): eight elements of 16 bits or four of 32. A matrix of ``ldmatrix`` is
eight rows of one chunk, so that operands of all types lie in memory and in registers alike, and only the product tells
them apart. Addresses in shared memory are 32-bit integers. None of this has a twin in Python: Numba's simulator cannot
run it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types

from fastdeconv.kernels.cuda.device import intrinsic

CHUNK = 16  # bytes
DEPTH = 2  # chunks of depth that a product of warps takes

_I8, _I16, _I32, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()

# Operands of ``mma`` by element type: sums of 16 × 8, over a depth of two chunks.
_PRODUCTS = {
    "float16": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "bfloat16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "float32": "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
}


def _ptx(builder: Any, text: str, result: Any, constraints: str, operands: Sequence[Any] = ()) -> Any:
    """Emit an instruction that stays where it is among others of its kind."""
    kind = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=True), operands)


def _numbered(first: int, count: int) -> str:
    return "{" + ", ".join(f"${first + i}" for i in range(count)) + "}"


def _parts(builder: Any, packed: Any, count: int) -> list[Any]:
    return [builder.extract_value(packed, i) for i in range(count)]


@intrinsic
def shared_address(typing_context: Any, array: Any) -> Any:
    """Return where an array begins in shared memory."""
    signature = types.uint32(array)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(builder.addrspacecast(data, data.type.pointee.as_pointer(3)), _I32)

    return signature, generate


@intrinsic
def copy_chunk(typing_context: Any, to: Any, array: Any, at: Any, size: Any) -> Any:
    """Begin to copy chunk `at` of a global array to an address in shared memory: `size` of its bytes, then zeros."""
    signature = types.void(types.uint32, array, at, types.uint32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, array, at, size = arguments
        place = builder.mul(builder.sext(at, ir.IntType(64)), ir.Constant(ir.IntType(64), CHUNK))
        source = builder.gep(builder.bitcast(array, _I8.as_pointer()), [place])
        source = builder.addrspacecast(source, _I8.as_pointer(1))
        text = f"cp.async.cg.shared.global [$0], [$1], {CHUNK}, $2;"
        _ptx(builder, text, ir.VoidType(), "r,l,r,~{memory}", [to, source, size])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def commit_copies(typing_context: Any) -> Any:
    """Make one group of the copies that this thread began since the last."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _ptx(builder, "cp.async.commit_group;", ir.VoidType(), "~{memory}")
        return context.get_dummy_value()

    return types.void(), generate


@cache
def wait_copies(pending: int) -> Any:
    """Return an operation that waits until no more than so many of the thread's groups are under way."""

    @intrinsic
    def wait(typing_context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _ptx(builder, f"cp.async.wait_group {pending};", ir.VoidType(), "~{memory}")
            return context.get_dummy_value()

        return types.void(), generate

    return wait


@cache
def load_matrices(count: int, step: int, transposed: bool = False) -> Any:
    """Return an operation ``(tile, offset)`` that loads `count` times four matrices.

    The i-th four begin at ``tile + (offset ^ i·step)``: the places of chunks are swizzled, those of tiles are not.
    Lanes give the addresses of rows: lanes 8·i to 8·i + 7 those of matrix i of four. A lane gets two neighbours of 16
    bits, or one element of 32: of row ``lane // 4``, or of that column if transposed.
    """

    @intrinsic
    def load(typing_context: Any, tile: Any, offset: Any) -> Any:
        signature = types.UniTuple(types.uint32, 4 * count)(types.uint32, types.uint32)
        op = f"ldmatrix.sync.aligned.m8n8.x4{'.trans' if transposed else ''}.shared.b16"

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            tile, offset = arguments
            four = ir.LiteralStructType([_I32] * 4)
            text = f"{op} {_numbered(0, 4)}, [$4];"
            loaded = []
            for i in range(count):
                address = builder.add(tile, builder.xor(offset, ir.Constant(_I32, i * step)))
                loaded += _parts(builder, _ptx(builder, text, four, "=r,=r,=r,=r,r,~{memory}", [address]), 4)
            return context.make_tuple(builder, signature.return_type, loaded)

        return signature, generate

    return load


@cache
def load_words(count: int, step: int, neighbours: int, below: int) -> Any:
    """Return an operation ``(tile, offset)`` that loads elements of 32 bits, which ``ldmatrix`` cannot transpose.

    `count` times `neighbours` words `step` bytes apart, then those `below` bytes further on: what `multiply_matrices`
    takes as its left operand with two neighbours, as its right one with one. Places are as in `load_matrices`.
    """

    @intrinsic
    def load(typing_context: Any, tile: Any, offset: Any) -> Any:
        signature = types.UniTuple(types.uint32, 2 * neighbours * count)(types.uint32, types.uint32)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            tile, offset = arguments
            loaded = []
            for i in range(count):
                for line in (0, below):
                    for j in range(i * neighbours, (i + 1) * neighbours):
                        address = builder.add(tile, builder.xor(offset, ir.Constant(_I32, j * step)))
                        address = builder.add(address, ir.Constant(_I32, line))
                        loaded.append(builder.load(builder.inttoptr(address, _I32.as_pointer(3))))
            return context.make_tuple(builder, signature.return_type, loaded)

        return signature, generate

    return load


@cache
def multiply_matrices(dtype: str) -> Any:
    """Return an operation ``(left, right, sums)``: sums and all products of 16 rows with 8 columns.

    `left` has four registers for each 16 rows, `right` two for each 8 columns, `sums` four for each pair of them, rows
    first: those of rows ``lane // 4`` and ``lane // 4 + 8``, columns ``2·(lane % 4)`` and the next.
    """

    @intrinsic
    def multiply(typing_context: Any, left: Any, right: Any, sums: Any) -> Any:
        signature = sums(left, right, sums)
        numbers = f"{_numbered(0, 4)}, {_numbered(4, 4)}, {_numbered(8, 2)}, {_numbered(10, 4)}"
        text = f"{_PRODUCTS[dtype]} {numbers};"

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            left, right, sums = (_parts(builder, value, kind.count) for value, kind in zip(arguments, signature.args))
            four = ir.LiteralStructType([_F32] * 4)
            added: list[Any] = []
            for m in range(0, len(left), 4):
                for n in range(0, len(right), 2):
                    at = len(added)
                    operands = left[m : m + 4] + right[n : n + 2] + sums[at : at + 4]
                    added += _parts(builder, _ptx(builder, text, four, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", operands), 4)
            return context.make_tuple(builder, signature.return_type, added)

        return signature, generate

    return multiply


@intrinsic
def round_to_tf32(typing_context: Any, values: Any) -> Any:
    """Round float32 numbers, as bits in a tuple, to those that tensor cores multiply; ties go away from zero."""
    signature = values(values)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rounded = [
            _ptx(builder, "cvt.rna.tf32.f32 $0, $1;", _I32, "=r,r", [value])
            for value in _parts(builder, arguments[0], signature.args[0].count)
        ]
        return context.make_tuple(builder, signature.return_type, rounded)

    return signature, generate


@cache
def store_sums(rows: int, columns: int, row_step: int, column_step: int) -> Any:
    """Return an operation ``(sums, address, part)`` that stores the sums of 16 rows in shared memory.

    `rows` and `columns` are the parts that `sums` has of each (see `multiply_matrices`), the steps are bytes from one
    row or column to the next, and the address is that of the lane's first sum.
    """

    @intrinsic
    def store(typing_context: Any, sums: Any, address: Any, part: Any) -> Any:
        signature = types.void(sums, types.uint32, part)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums, address, part = arguments
            values = iter(_parts(builder, sums, rows * columns * 4))
            for number in range(rows):
                with builder.if_then(builder.icmp_unsigned("==", part, ir.Constant(part.type, number))):
                    for column in range(0, 8 * columns, 8):
                        for row in (0, 8):
                            at = builder.add(address, ir.Constant(_I32, row * row_step + column * column_step))
                            _store_pair(builder, at, next(values), next(values), column_step)
            return context.get_dummy_value()

        return signature, generate

    return store


@cache
def write_sums(rows: int, columns: int) -> Any:
    """Return an operation ``(sums, array, at, pitch)`` that writes sums to a global array of float32.

    `rows` and `columns` are the parts that `sums` has of each (see `multiply_matrices`), `at` is the place of the
    lane's first sum, and `pitch` the elements from one row to the next: both even.
    """

    @intrinsic
    def write(typing_context: Any, sums: Any, array: Any, at: Any, pitch: Any) -> Any:
        signature = types.void(sums, array, types.int64, types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sums, array, at, pitch = arguments
            values = _parts(builder, sums, rows * columns * 4)
            for line in range(2 * rows):
                start = builder.gep(array, [builder.add(at, builder.mul(pitch, ir.Constant(pitch.type, 8 * line)))])
                for column in range(columns):
                    first = (line // 2 * columns + column) * 4 + line % 2 * 2
                    place = builder.gep(start, [ir.Constant(_I32, 8 * column)])
                    _write_two(builder, place, values[first], values[first + 1])
            return context.get_dummy_value()

        return signature, generate

    return write


def _write_two(builder: Any, place: Any, first: Any, second: Any) -> None:
    """Write two floats with one access."""
    pair = ir.Constant(ir.VectorType(_F32, 2), ir.Undefined)
    for i, value in enumerate((first, second)):
        pair = builder.insert_element(pair, value, ir.Constant(_I32, i))
    builder.store(pair, builder.bitcast(place, pair.type.as_pointer(place.type.addrspace))).align = 8


def _store_pair(builder: Any, address: Any, first: Any, second: Any, step: int) -> None:
    """Store two floats in shared memory, `step` bytes apart: with one access if they are neighbours."""
    if step == 4:
        _write_two(builder, builder.inttoptr(address, _F32.as_pointer(3)), first, second)
        return
    builder.store(first, builder.inttoptr(address, _F32.as_pointer(3)))
    other = builder.add(address, ir.Constant(_I32, step))
    builder.store(second, builder.inttoptr(other, _F32.as_pointer(3)))


@cache
def narrow(dtype: str) -> Any:
    """Return an operation that rounds a float32 to a type of elements: their bits."""

    @intrinsic
    def narrowed(typing_context: Any, value: Any) -> Any:
        signature = (types.uint32 if dtype == "float32" else types.uint16)(types.float32)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if dtype == "float32":
                return builder.bitcast(arguments[0], _I32)
            kind = {"float16": "f16", "bfloat16": "bf16"}[dtype]
            return _ptx(builder, f"cvt.rn.{kind}.f32 $0, $1;", _I16, "=h,f", arguments)

        return signature, generate

    return narrowed


@cache
def widen(dtype: str) -> Any:
    """Return an operation that gives the float32 of an element's bits."""

    @intrinsic
    def widened(typing_context: Any, bits: Any) -> Any:
        signature = types.float32(bits)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            bits = arguments[0]
            if dtype == "float16":
                return builder.fpext(builder.bitcast(bits, ir.HalfType()), _F32)
            if dtype == "bfloat16":
                bits = builder.shl(builder.zext(bits, _I32), ir.Constant(_I32, 16))
            return builder.bitcast(bits, _F32)

        return signature, generate

    return widened
