"""How many threads of a kernel a multiprocessor holds at once, of those that it could."""

from __future__ import annotations

from typing import NamedTuple

WARP = 32
_REGISTERS = 1 << 16  # of a multiprocessor
_REGISTER_UNIT = 256  # that a warp is given at a time
_PARTITIONS = 4  # of a multiprocessor, each with its share of the registers


class Limits(NamedTuple):
    """Of one multiprocessor; shared memory in bytes."""

    blocks: int
    warps: int
    shared: int
    shared_unit: int  # that a block is given at a time
    reserved: int  # for the system, in every block


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; units of allocation and partitions are
# those of the toolkit's cuda_occupancy.h.
LIMITS = {
    (7, 5): Limits(16, 32, 64 << 10, 256, 0),
    (8, 0): Limits(32, 64, 164 << 10, 128, 1024),
    (8, 6): Limits(16, 48, 100 << 10, 128, 1024),
    (8, 9): Limits(24, 48, 100 << 10, 128, 1024),
    (9, 0): Limits(32, 64, 228 << 10, 128, 1024),
    (10, 0): Limits(32, 64, 228 << 10, 128, 1024),
    (12, 0): Limits(24, 48, 100 << 10, 128, 1024),
}


def resident_blocks(capability: tuple[int, int], threads: int, registers: int, shared: int) -> int:
    """Return how many blocks a multiprocessor holds at once.

    Parameters
    ----------
    threads : int
        Of a block.
    registers : int
        Of a thread.
    shared : int
        Bytes of shared memory of a block.
    """
    limits = LIMITS[capability]
    warps = -(-threads // WARP)
    of_a_warp = _rounded(registers * WARP, _REGISTER_UNIT)
    by_registers = _REGISTERS // _PARTITIONS // of_a_warp * _PARTITIONS // warps
    taken = _rounded(shared + limits.reserved, limits.shared_unit)
    by_shared = limits.shared // taken if taken else limits.blocks
    return min(limits.blocks, limits.warps // warps, by_registers, by_shared)


def occupancy(capability: tuple[int, int], threads: int, registers: int, shared: int) -> float:
    """Return the share of a multiprocessor's warps that can be there at once; parameters as of `resident_blocks`."""
    warps = -(-threads // WARP)
    return resident_blocks(capability, threads, registers, shared) * warps / LIMITS[capability].warps


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
