"""Runs a program: threads of a block side by side, blocks one after the other.

Every thread has a program counter. What runs next are the threads that are least far in the program, so that those that
took different branches meet again where the branches do. A barrier lets threads go on when all that have not ended wait
at it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptx_machine import arithmetic, warps
from ptx_machine.copies import Copies
from ptx_machine.memory import FaultError, Global, Local, Shared
from ptx_machine.program import BITS, Instruction, Program

UNSIGNED = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
WARP = 32
# Where a generic address is one of shared memory.
SHARED_WINDOW = 1 << 48
LOCAL_WINDOW = 1 << 49


@dataclass
class Counts:
    """What a launch did, over all blocks.

    Attributes
    ----------
    instructions : Counter
        Executed by each warp, by opcode with its type.
    wavefronts, ideal_wavefronts : int
        Of shared memory, and how many there would be without bank conflicts.
    sectors, ideal_sectors : int
        32-byte pieces of global memory, and as many as the bytes would fill.
    """

    instructions: Counter[str] = field(default_factory=Counter)
    wavefronts: int = 0
    ideal_wavefronts: int = 0
    sectors: int = 0
    ideal_sectors: int = 0
    loads: Counter[int] = field(default_factory=Counter)  # of shared memory, by bytes
    conflicts: Counter[int] = field(default_factory=Counter)  # wavefronts over the ideal, by bytes of a thread's access


class Machine:
    """Global memory, and launches on it."""

    def __init__(self) -> None:
        self.memory = Global()
        self.counts = Counts()

    def place(self, array: NDArray[Any]) -> int:
        """Give an array, which stays where it is and takes the results, an address."""
        return self.memory.place(array)

    def launch(
        self, program: Program, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[int | float],
        dynamic_shared: int = 0,
    ) -> None:  # fmt: skip
        """Run a kernel to its end."""
        if len(arguments) != len(program.parameters):
            raise ValueError(f"{program.name} has {len(program.parameters)} parameters; got {len(arguments)}")
        if min(*grid, *block) < 1:
            raise FaultError(f"nothing to launch: {grid} blocks of {block} threads")
        self.memory.begin()
        sizes = tuple((*shape, 1, 1)[:3] for shape in (grid, block))
        for z in range(sizes[0][2]):
            for y in range(sizes[0][1]):
                for x in range(sizes[0][0]):
                    _Block(self, program, (x, y, z), sizes[0], sizes[1], arguments, dynamic_shared).run()


class _Block:
    def __init__(
        self, machine: Machine, program: Program, index: tuple[int, ...], grid: tuple[int, ...],
        block: tuple[int, ...], arguments: list[int | float], dynamic_shared: int,
    ) -> None:  # fmt: skip
        self.program, self.memory, self.counts = program, machine.memory, machine.counts
        self.threads = int(np.prod(block))
        number = np.arange(self.threads, dtype=np.uint32)
        self.special: dict[str, Any] = {"%laneid": number % WARP, "%warpid": number // WARP}
        self.special["%tid.x"] = number % block[0]
        self.special["%tid.y"] = number // block[0] % block[1]
        self.special["%tid.z"] = number // (block[0] * block[1])
        for axis, name in enumerate("xyz"):
            for special, values in (("ctaid", index), ("nctaid", grid), ("ntid", block)):
                self.special[f"%{special}.{name}"] = np.full(self.threads, values[axis], np.uint32)
        linear = index[0] + grid[0] * (index[1] + grid[1] * index[2])
        self.identity = number.astype(np.int64) + linear * self.threads
        self.registers: dict[str, NDArray[Any]] = {}
        static = max((at + size for at, size in program.shared.values()), default=0)
        self.shared = Shared(static + dynamic_shared)
        self.local = Local(self.threads, max((at + size for at, size in program.local.values()), default=0))
        self.copies = Copies(self.threads)
        self.arguments = dict(zip(program.parameters, arguments))
        self.pc = np.zeros(self.threads, np.int64)
        self.ended = np.zeros(self.threads, bool)
        self.waiting = np.zeros(self.threads, bool)
        self.barrier_at = np.full(self.threads, -1, np.int64)
        self.all = number.astype(np.int64)
        self.constants: dict[tuple[str, str], NDArray[Any]] = {}
        self.counted: NDArray[np.int64] = self.all[:0]  # the lanes whose warps were counted last
        self.warps = 0

    def run(self) -> None:
        """Run all threads to their ends."""
        with np.errstate(all="ignore"):
            self._run()

    def _run(self) -> None:
        instructions = self.program.instructions
        while True:
            ready = ~self.ended & ~self.waiting
            if not ready.any():
                if not self.waiting.any():
                    self.copies.end()
                    return
                self._release()
                continue
            pc = int(self.pc[ready].min())
            active = ready & (self.pc == pc)
            behind = self.pc[ready & ~active]
            stop = int(behind.min()) if behind.size else len(instructions)
            lanes = self.all if active.all() else np.flatnonzero(active)
            while pc < stop:
                instruction = instructions[pc]
                try:
                    pc = self._step(instruction, pc, lanes)
                except FaultError as fault:
                    raise FaultError(f"{fault}\n  at instruction {pc}: {instruction.line}") from None
                if pc < 0:
                    break
            else:
                self.pc[lanes] = pc

    def _release(self) -> None:
        places = np.unique(self.barrier_at[self.waiting])
        if places.size > 1:
            lines = ", ".join(str(int(p)) for p in places)
            raise FaultError(f"divergent barrier: threads of a block wait at instructions {lines}")
        self.shared.barrier()
        self.waiting[:] = False

    def _step(self, instruction: Instruction, pc: int, lanes: NDArray[np.int64]) -> int:
        """Execute; return the next instruction, or -1 where threads part or wait."""
        op = instruction.op
        running = lanes
        if instruction.guard is not None:
            holds = self._register(instruction.guard, 1)[lanes] == instruction.wanted
            running = lanes if holds.all() else lanes[holds]
            if op == "bra":
                self._count(instruction, lanes)
                target = self.program.labels[instruction.operands[0]]
                if holds.all():
                    return self._go(lanes, target, pc)
                if not holds.any():
                    return pc + 1
                self.pc[lanes] = pc + 1
                self.pc[running] = target
                return -1
            if not running.size:
                return pc + 1
        self._count(instruction, running)
        if op == "bra":
            return self._go(lanes, self.program.labels[instruction.operands[0]], pc)
        if op in ("ret", "exit"):
            self.ended[running] = True
            self.pc[lanes] = pc + 1
            return -1
        if op == "bar" or op == "barrier":
            if instruction.modifiers[0] != "sync" and instruction.modifiers[:2] != ("cta", "sync"):
                raise FaultError(f"unknown barrier {instruction.line!r}")
            if instruction.operands != ("0",):
                raise FaultError(f"a barrier that is not number 0: {instruction.line!r}")
            self.waiting[running] = True
            self.barrier_at[running] = pc
            self.pc[lanes] = pc + 1
            return -1
        self._execute(instruction, running)
        return pc + 1

    def _go(self, lanes: NDArray[np.int64], target: int, pc: int) -> int:
        self.pc[lanes] = target
        return -1

    def _count(self, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
        if lanes is not self.counted:
            self.counted = lanes
            self.warps = 1 + int(np.count_nonzero(np.diff(lanes // WARP)))  # lanes ascend
        kind = next((m for m in reversed(instruction.modifiers) if m in BITS), "")
        self.counts.instructions[f"{instruction.op}.{kind}" if kind else instruction.op] += self.warps

    # Operands

    def _register(self, name: str, bits: int) -> NDArray[Any]:
        held = self.registers.get(name)
        if held is None:
            letters = name.rstrip("0123456789")
            size = self.program.registers.get(letters, self.program.registers.get(name))
            if size is None:
                raise FaultError(f"unknown register {name}")
            held = self.registers[name] = np.zeros(self.threads, UNSIGNED[size])
        return held

    def value(self, operand: str, kind: str, lanes: NDArray[np.int64]) -> NDArray[Any]:
        """Return an operand's values, viewed as a type; nobody may write to them."""
        dtype = arithmetic.DTYPES[kind]
        if operand in self.special:
            return self.special[operand][lanes].astype(dtype)
        if operand.startswith("%"):
            raw = self._register(operand, BITS[kind])
            if lanes is not self.all:
                raw = raw[lanes]
            if raw.dtype == np.bool_ or raw.dtype.itemsize == np.dtype(dtype).itemsize:
                return raw.view(dtype)
            if np.dtype(dtype).kind in "iu" and raw.dtype.itemsize > np.dtype(dtype).itemsize:
                return raw.astype(UNSIGNED[8 * np.dtype(dtype).itemsize]).view(dtype)
            raise FaultError(f"register {operand} has {8 * raw.dtype.itemsize} bits, the instruction is for .{kind}")
        held = self.constants.get((operand, kind))
        if held is None:
            held = self.constants[operand, kind] = np.full(self.threads, self._constant(operand, dtype))
        return held[: lanes.size]

    def _constant(self, operand: str, dtype: Any) -> Any:
        if operand.startswith("0f"):
            return np.uint32(int(operand[2:], 16)).view(np.float32)
        if operand.startswith("0d"):
            return np.uint64(int(operand[2:], 16)).view(np.float64)
        if operand in self.program.shared:
            return np.array(self.program.shared[operand][0]).astype(dtype)
        if operand in self.program.local:
            return np.array(self.program.local[operand][0]).astype(dtype)
        number = int(operand, 0)
        bits = 8 * np.dtype(dtype).itemsize
        if np.dtype(dtype).kind == "b":
            return bool(number)
        return np.array(number & ((1 << bits) - 1), UNSIGNED[bits]).view(dtype)[()]

    def store(self, name: str, values: NDArray[Any], lanes: NDArray[np.int64]) -> None:
        """Write a destination register."""
        if name == "_":
            return
        register = self._register(name, 0)
        if register.dtype == np.bool_ or values.dtype == np.bool_:
            if register.dtype != values.dtype:
                raise FaultError(f"register {name} has another type")
            self._put(register, values, lanes)
            return
        raw = np.ascontiguousarray(values).view(UNSIGNED[8 * values.dtype.itemsize])
        if raw.dtype.itemsize > register.dtype.itemsize:
            raise FaultError(
                f"register {name} has {8 * register.dtype.itemsize} bits, the value {8 * raw.dtype.itemsize}"
            )
        if values.dtype.kind == "i":
            raw = values.astype(f"i{register.dtype.itemsize}").view(register.dtype)
        self._put(register, raw, lanes)

    def _put(self, register: NDArray[Any], values: NDArray[Any], lanes: NDArray[np.int64]) -> None:
        if lanes is self.all:  # several times as fast as by index
            register[:] = values
        else:
            register[lanes] = values

    # Instructions

    def _execute(self, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
        op = instruction.op
        if op in ("ld", "ldu"):
            self._load(instruction, lanes)
        elif op == "st":
            self._store(instruction, lanes)
        elif op == "mov":
            self._move(instruction, lanes)
        elif op == "ldmatrix":
            warps.load_matrices(self, instruction, lanes)
        elif op == "mma":
            warps.multiply(self, instruction, lanes)
        elif op == "cp":
            self.copies.execute(self, instruction, lanes)
        elif op in ("cvta",):
            self._convert_address(instruction, lanes)
        elif op == "setp":
            arithmetic.compare(self, instruction, lanes)
        elif op in arithmetic.OPERATIONS:
            arithmetic.compute(self, instruction, lanes)
        else:
            raise FaultError(f"unknown opcode {instruction.line!r}")

    def address(self, operand: str, lanes: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return what an operand in brackets points to."""
        inside = operand[1:-1].replace(" ", "")
        base, _, offset = inside.partition("+")
        start = int(offset) if offset else 0
        if base.startswith("%"):
            register = self._register(base, 0)[lanes]
            return register.astype(np.uint64) + np.uint64(start & (2**64 - 1))
        table = self.program.shared if base in self.program.shared else self.program.local
        if base not in table:
            raise FaultError(f"unknown address {operand}")
        return np.full(lanes.size, table[base][0] + start, np.uint64)

    def _space(self, modifiers: tuple[str, ...], addresses: NDArray[np.uint64]) -> tuple[str, NDArray[np.uint64]]:
        for space in ("global", "shared", "local"):
            if space in modifiers:
                return space, addresses
        for space, window in (("local", LOCAL_WINDOW), ("shared", SHARED_WINDOW)):
            if (addresses >= window).all():
                return space, addresses - np.uint64(window)
        return "global", addresses

    def _parts(self, instruction: Instruction) -> tuple[int, int]:
        """Return how many elements an access has, and the bytes of one."""
        count = 4 if "v4" in instruction.modifiers else 2 if "v2" in instruction.modifiers else 1
        return count, BITS[instruction.type] // 8

    def _load(self, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
        target, source = instruction.operands
        count, size = self._parts(instruction)
        names = [name.strip() for name in target.strip("{}").split(",")]
        if "param" in instruction.modifiers:
            name = source[1:-1].partition("+")[0]
            kind = self.program.parameters[name][0]
            self.store(names[0], np.full(lanes.size, self.arguments[name]).astype(arithmetic.DTYPES[kind]), lanes)
            return
        space, addresses = self._space(instruction.modifiers, self.address(source, lanes))
        if space == "global":
            data = self.read_global(addresses, count * size, lanes)
        elif space == "shared":
            self.count_shared_load(addresses, count * size, lanes)
            data = self.shared.read(addresses, count * size, self.identity[lanes])
        else:
            data = self.local.read(addresses, count * size, lanes)
        kind = arithmetic.DTYPES[instruction.type]
        for i, name in enumerate(names):
            part = np.ascontiguousarray(data[:, i * size : (i + 1) * size]).view(kind)[:, 0]
            self.store(name, part, lanes)

    def _store(self, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
        target, source = instruction.operands
        count, size = self._parts(instruction)
        names = [name.strip() for name in source.strip("{}").split(",")]
        columns = [np.ascontiguousarray(self.value(name, instruction.type, lanes)) for name in names]
        data = np.concatenate([column.view(np.uint8).reshape(lanes.size, size) for column in columns], axis=1)
        space, addresses = self._space(instruction.modifiers, self.address(target, lanes))
        who = self.identity[lanes]
        if space == "global":
            self._sectors(addresses, count * size, lanes)
            self.memory.write(addresses, data, who)
        elif space == "shared":
            self.count_wavefronts(addresses, count * size, lanes)
            self.shared.write(addresses, data, who)
        else:
            self.local.write(addresses, data, lanes)

    def read_global(
        self, addresses: NDArray[np.uint64], size: int, lanes: NDArray[np.int64], aligned: int = 0
    ) -> NDArray[np.uint8]:
        """Return ``(lane, size)`` bytes, at addresses that are multiples of `size` or of another number."""
        self._sectors(addresses, size, lanes)
        return self.memory.read(addresses, size, self.identity[lanes], aligned)

    def count_shared_load(self, addresses: NDArray[np.uint64], size: int, lanes: NDArray[np.int64]) -> None:
        """Count a load of so many bytes a lane."""
        self.count_wavefronts(addresses, size, lanes)
        self.counts.loads[size] += 1

    def _sectors(self, addresses: NDArray[np.uint64], size: int, lanes: NDArray[np.int64]) -> None:
        sectors = (addresses[:, None] + np.arange(0, size, min(size, 32), dtype=np.uint64)) // np.uint64(32)
        warps = (lanes // WARP).astype(np.uint64)
        keys = sectors + (warps[:, None] << np.uint64(50))
        self.counts.sectors += np.unique(keys).size
        distinct = np.unique(addresses + (warps << np.uint64(52)))
        self.counts.ideal_sectors += -(-distinct.size * size // 32)

    def count_wavefronts(self, addresses: NDArray[np.uint64], size: int, lanes: NDArray[np.int64]) -> None:
        """Count the turns that an access to shared memory takes."""
        # Threads are served as many at a time as fill 128 bytes: all, half or a quarter of a warp.
        share = max(1, size // 4)
        group = lanes // WARP * share + lanes % WARP // (WARP // share)
        words = (addresses[:, None] // np.uint64(4) + np.arange(max(1, size // 4), dtype=np.uint64)).astype(np.int64)
        numbers = np.unique(group, return_inverse=True)[1]
        groups = int(numbers[-1]) + 1  # lanes ascend
        distinct = np.unique(words + (numbers[:, None] << 40))
        places = (distinct >> 40) * 32 + distinct % 32
        banks = np.bincount(places, minlength=32 * groups).reshape(groups, 32)
        needed, ideal = int(banks.max(axis=1).sum()), int((-(-banks.sum(axis=1) // 32)).sum())
        self.counts.wavefronts += needed
        self.counts.ideal_wavefronts += ideal
        self.counts.conflicts[size] += needed - ideal

    def _move(self, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
        target, source = instruction.operands
        kind = instruction.type
        if source.startswith("{"):
            names = [name.strip() for name in source.strip("{}").split(",")]
            part = f"b{BITS[kind] // len(names)}"
            columns = [np.ascontiguousarray(self.value(name, part, lanes)) for name in names]
            size = BITS[part] // 8
            data = np.concatenate([c.view(np.uint8).reshape(lanes.size, size) for c in columns], axis=1)
            self.store(target, np.ascontiguousarray(data).view(arithmetic.DTYPES[kind])[:, 0], lanes)
        elif target.startswith("{"):
            names = [name.strip() for name in target.strip("{}").split(",")]
            size = BITS[kind] // 8 // len(names)
            data = np.ascontiguousarray(self.value(source, kind, lanes)).view(np.uint8).reshape(lanes.size, -1)
            for i, name in enumerate(names):
                part = np.ascontiguousarray(data[:, i * size : (i + 1) * size]).view(UNSIGNED[8 * size])[:, 0]
                self.store(name, part, lanes)
        else:
            self.store(target, self.value(source, kind, lanes), lanes)

    def _convert_address(self, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
        target, source = instruction.operands
        addresses = self.value(source, "u64", lanes)
        back = "to" in instruction.modifiers
        for space, window in (("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW), ("global", 0)):
            if space in instruction.modifiers:
                offset = np.uint64(window)
                self.store(target, addresses - offset if back else addresses + offset, lanes)
                return
        raise FaultError(f"unknown address space {instruction.line!r}")
