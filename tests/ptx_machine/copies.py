"""Asynchronous copies to shared memory: what ``cp.async`` began is there when its thread has waited for its group.

Other threads may read it after a barrier, as whatever a thread writes. Until it has arrived nobody may touch the place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptx_machine.memory import FaultError
from ptx_machine.program import Instruction

if TYPE_CHECKING:
    from ptx_machine.machine import _Block

BYTES = 16


class Copies:
    """The copies of one block that are under way."""

    def __init__(self, threads: int) -> None:
        self.groups = np.zeros(threads, np.int64)  # that each thread has committed
        self.lane = np.empty(0, np.int64)
        self.group = np.empty(0, np.int64)
        self.address = np.empty(0, np.uint64)
        self.data = np.empty((0, BYTES), np.uint8)

    def execute(self, block: _Block, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
        """Execute ``cp.async``, ``commit_group``, ``wait_group`` or ``wait_all``."""
        modifiers = instruction.modifiers
        if modifiers == ("async", "cg", "shared", "global"):
            self._begin(block, instruction, lanes)
        elif modifiers == ("async", "commit_group"):
            self.groups[lanes] += 1
        elif modifiers == ("async", "wait_group"):
            self._wait(block, lanes, self.groups[lanes] - int(instruction.operands[0]))
        elif modifiers == ("async", "wait_all"):
            self._wait(block, lanes, self.groups[lanes] + 1)
        else:
            raise FaultError(f"unknown copy: {instruction.line!r}")

    def end(self) -> None:
        """Refuse to end a block whose copies are under way."""
        if self.lane.size:
            raise FaultError("a block ends while copies to its shared memory are under way")

    def _begin(self, block: _Block, instruction: Instruction, lanes: NDArray[np.int64]) -> None:
        to, source, copied, *rest = instruction.operands
        if int(copied) != BYTES:
            raise FaultError(f"cp.async.cg copies {BYTES} bytes: {instruction.line!r}")
        size = block.value(rest[0], "u32", lanes) if rest else np.full(lanes.size, BYTES)
        if (size > BYTES).any():
            raise FaultError(f"cp.async of more than {BYTES} bytes")
        data = np.zeros((lanes.size, BYTES), np.uint8)
        sources = block.address(source, lanes)
        for count in np.unique(size[size > 0]):  # a size of zero reads nothing, wherever the address points
            chosen = size == count
            data[chosen, : int(count)] = block.read_global(sources[chosen], int(count), lanes[chosen], BYTES)
        addresses = block.address(to, lanes)
        block.count_wavefronts(addresses, BYTES, lanes)
        block.shared.expect(addresses, BYTES, block.identity[lanes])
        self.lane = np.append(self.lane, lanes)
        self.group = np.append(self.group, self.groups[lanes])
        self.address = np.append(self.address, addresses)
        self.data = np.append(self.data, data, axis=0)

    def _wait(self, block: _Block, lanes: NDArray[np.int64], before: NDArray[np.int64]) -> None:
        """Let those copies of threads arrive whose group comes before one of each thread."""
        limit = np.full(self.groups.size, -1)
        limit[lanes] = before
        done = self.group < limit[self.lane]
        block.shared.arrive(self.address[done], self.data[done], block.identity[self.lane[done]])
        self.lane, self.group, self.address, self.data = (
            held[~done] for held in (self.lane, self.group, self.address, self.data)
        )
