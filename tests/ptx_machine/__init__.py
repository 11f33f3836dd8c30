"""A machine that executes PTX as NVVM emits it, with NumPy over the threads of a block: CUDA kernels run without a GPU.

It is strict where a GPU is silent. Faults, each of which ends the run with the line of PTX:

- an opcode or a modifier that it does not know;
- an access outside every array, one that is not aligned to its size, a read of shared or local memory nobody wrote;
- two threads of a block at one place in shared memory with no barrier in between, one of them writing;
- two threads of a launch at one place in global memory, one of them writing;
- a barrier that some threads wait at elsewhere, or never reach.

It counts what a profiler would: instructions by class, wavefronts of shared memory, 32-byte sectors of global memory.
"""

from ptx_machine.machine import Counts, Machine
from ptx_machine.memory import FaultError
from ptx_machine.program import Program

__all__ = ["Counts", "FaultError", "Machine", "Program"]
