"""NVIDIA's assembler and disassembler: from PTX to what a kernel uses, and to its machine code as text."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple

# The tools, and the packages that bring them.
TOOLS = {"ptxas": "nvidia-cuda-nvcc", "nvdisasm": "nvidia-cuda-nvdisasm"}


class ToolError(Exception):
    """A tool is missing, or does not do what it should."""


class Usage(NamedTuple):
    """Registers of a thread, bytes of shared memory of a block, and bytes of a thread's local memory."""

    registers: int
    shared: int
    stack: int
    spills: int


@cache
def find(tool: str) -> Path:
    """Return the executable, of an installed package or else on the path.

    Raises
    ------
    ToolError
        There is none.
    """
    try:
        places = [place for place in files(TOOLS[tool]) or () if place.stem == tool]
    except PackageNotFoundError:
        places = []
    found = [Path(str(place.locate())) for place in places] or [Path(path) for path in [shutil.which(tool)] if path]
    if not found:
        raise ToolError(f'{tool} is not installed: pip install "fastdeconv[cuda-check]"')
    return found[0]


def version(tool: str) -> str:
    """Return a tool's version, as "13.5.37"."""
    said = _run(tool, "--version")
    match = re.search(r"\bV(\d[\d.]*)", said)
    return match[1] if match else said.strip().splitlines()[-1]


def assemble(ptx: str, capability: tuple[int, int]) -> tuple[Usage, str]:
    """Return what a kernel uses on an architecture, and its machine code as text.

    Parameters
    ----------
    ptx : str
        A module with one entry.

    Raises
    ------
    ToolError
        As `find`; or the assembler refuses the text.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx, encoding="utf-8")
        said = _run("ptxas", "-v", f"-arch=sm_{capability[0]}{capability[1]}", str(source), "-o", str(binary))
        return usage(said), _run("nvdisasm", "-c", str(binary))


def usage(said: str) -> Usage:
    """Read what ``ptxas -v`` says of a module with one entry; functions that it calls count."""

    def total(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, said)))

    registers = re.findall(r"Used (\d+) registers", said)
    if len(registers) != 1:
        raise ToolError(f"ptxas must tell the registers of one entry; it says {said!r}")
    return Usage(
        int(registers[0]),
        total(r"(\d+) bytes smem"),
        total(r"(\d+) bytes stack frame"),
        total(r"(\d+) bytes spill (?:stores|loads)"),
    )


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(find(tool)), *arguments], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise ToolError(f"{tool}: {done.stderr.strip()}")
    return done.stdout + done.stderr
