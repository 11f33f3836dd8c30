"""The page on device kernels as machine code: written from what the compilers say, and read back to guard it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as package_version
from typing import NamedTuple

from fastdeconv.bench.cuda_code import toolchain
from fastdeconv.bench.cuda_code.cases import Key
from fastdeconv.bench.cuda_code.measure import ARCHITECTURES, Code
from fastdeconv.bench.markdown import table

Found = dict[tuple[Key, tuple[int, int]], Code]

AIM = 0.85  # of the instructions in hot loops
# What another version of the compilers may change: one unit of registers that a warp is given, and little of a loop.
SPARE_REGISTERS, SPARE_SHARE = 8, 0.02

_KEY = ("kernel", "variant", "elements", "places")
_SECTIONS = ("Registers and occupancy", "Hot loops")


class Told(NamedTuple):
    """What the page says of a kernel on an architecture."""

    registers: int
    share: float | None
    step: float | None


def versions() -> str:
    """Return the compilers' versions in a line."""
    return (
        f"numba-cuda {package_version('numba-cuda')}, NVVM {package_version('nvidia-nvvm')}, "
        f"ptxas {toolchain.version('ptxas')}, nvdisasm {toolchain.version('nvdisasm')}"
    )


def render(found: Found) -> str:
    """Return the page as Markdown."""
    keys = list(dict.fromkeys(key for key, _ in found))
    hot = {key: [code.hot for (other, _), code in found.items() if other == key and code.hot] for key in keys}
    return _PAGE.format(
        versions=versions(),
        memory=_memory(found),
        usage=_rows(found, keys, ["shared bytes"], lambda key: [_shared(found, key)], _usage),
        aims=_aims(found),
        aim=f"{AIM:.0%}",
        loops=_rows(
            found, [key for key in keys if hot[key]], ["shared loads", "global loads"],
            lambda key: [_widths({w for loop in hot[key] for w in loop.shared_loads}),
                         _widths({w for loop in hot[key] for w in loop.global_loads})],
            _hot,
        ),
    )  # fmt: skip


def read(page: str) -> dict[tuple[Key, tuple[int, int]], Told]:
    """Return what a page says of each kernel on each architecture."""
    usage, loops = (_cells(page.partition(f"## {title}\n")[2].partition("\n## ")[0]) for title in _SECTIONS)
    told = {}
    for at, cell in usage.items():
        shares = [None if part == "–" else int(part) / 100 for part in loops.get(at, "– · –").split(" · ")]
        told[at] = Told(int(cell.partition(" ")[0]), *shares)
    return told


def regressions(at: tuple[Key, tuple[int, int]], code: Code, told: Told | None) -> list[str]:
    """Return what is worse than the page says, or never right, in a sentence each."""
    key, (major, minor) = at
    name = f"{' '.join(key)} on sm_{major}{minor}"
    if told is None:
        return [f"{name} is not in the page"]
    found = []
    if code.usage.spills or code.usage.stack:
        found.append(f"{name} spills {code.usage.spills} bytes and has a stack frame of {code.usage.stack}")
    if code.usage.registers > told.registers + SPARE_REGISTERS:
        found.append(f"{name} takes {code.usage.registers} registers; the page says {told.registers}")
    for what in ("share", "step"):
        before, now = getattr(told, what), getattr(code.hot, what, None)
        if before is not None and (now is None or now < before - SPARE_SHARE - 0.005):  # the page is rounded
            found.append(f"{name}: products are {_percent(now)} % of the hot loop ({what}); the page says {before:.0%}")
    return found


def _memory(found: Found) -> str:
    bad = [
        f"{' '.join(key)} on sm_{major}{minor} ({code.usage.spills} bytes spilled, stack frame {code.usage.stack})"
        for (key, (major, minor)), code in found.items()
        if code.usage.spills or code.usage.stack
    ]
    if not bad:
        return "No kernel spills a register, and none has a stack frame: nothing is in local memory."
    return "**In local memory:** " + "; ".join(bad) + "."


def _aims(found: Found) -> str:
    """Return how many hot loops reach the aim, and between what each kernel's lie."""
    lines = []
    for name in dict.fromkeys(key.kernel for key, _ in found):
        loops = [code.hot for (key, _), code in found.items() if key.kernel == name and code.hot]
        for what, shares in {
            "innermost loop": [loop.share for loop in loops],
            "barrier to barrier": [loop.step for loop in loops if loop.step is not None],
        }.items():
            if shares:
                reached = sum(share >= AIM for share in shares)
                lines.append([
                    f"`{name}`", what, f"{min(shares):.0%} to {max(shares):.0%}", f"{reached} of {len(shares)}",
                ])  # fmt: skip
    return table(["kernel", "", "products", f"at {AIM:.0%} or more"], lines)


def _rows(
    found: Found, keys: list[Key], more: list[str], cells: Callable[[Key], list[str]], cell: Callable[[Code], str]
) -> str:
    """Return a table; variants of a kernel with the same figures share a row."""
    variants: dict[tuple[str, ...], list[str]] = {}
    for key in keys:
        figures = (cell(found[key, at]) if (key, at) in found else "–" for at in ARCHITECTURES)
        variants.setdefault((f"`{key.kernel}`", key.dtype, key.places, *cells(key), *figures), []).append(key.variant)
    return table(
        [*_KEY, *more, *(f"sm_{major}{minor}" for major, minor in ARCHITECTURES)],
        [[kernel, ", ".join(names), *others] for (kernel, *others), names in variants.items()],
    )


def _usage(code: Code) -> str:
    return f"{code.usage.registers} · {code.occupancy:.0%}"


def _hot(code: Code) -> str:
    return f"{_percent(code.hot.share)} · {_percent(code.hot.step)}" if code.hot else "–"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}"


def _shared(found: Found, key: Key) -> str:
    return _widths({code.usage.shared for (other, _), code in found.items() if other == key})


def _widths(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers, reverse=True))) or "–"


def _cells(section: str) -> dict[tuple[Key, tuple[int, int]], str]:
    """Return the cells of a section's table, by kernel and architecture."""
    found: dict[tuple[Key, tuple[int, int]], str] = {}
    columns: list[str] = []
    for line in section.splitlines():
        cells = [cell.strip("` ") for cell in line.strip("|").split("|")]
        if tuple(cells[:4]) == _KEY:
            columns = cells
        elif len(cells) == len(columns) and "---" not in cells:
            kernel, variants, *others = cells[:4]
            for column, cell in zip(columns, cells):
                if column.startswith("sm_") and cell != "–":
                    at = int(column[3:-1]), int(column[-1])
                    found |= {(Key(kernel, variant, *others), at): cell for variant in variants.split(", ")}
    return found


_PAGE = """\
# CUDA kernels as machine code

Kernels that calls can launch, those of the largest tile for every element type, compiled for every architecture that
their family supports, and what the compilers say of them. **Not yet run on hardware**: no figure here is a time.
Generated, do not edit:

```sh
pip install -e ".[bench,cuda-check]"
python -m bench cuda-code -o docs/cuda.md
```

With {versions}. A test compiles a part of the kernels again, and
fails where one has got worse than this page.

{memory}

## Registers and occupancy

Registers of a thread · share of a multiprocessor's warps that can be there at once. Occupancy follows from registers,
shared memory and the size of blocks, with the limits in NVIDIA's CUDA C++ Programming Guide, "Technical Specifications
per Compute Capability", and the units of allocation in the toolkit's `cuda_occupancy.h`. Elements are those of the
arrays; places are the bits of places in them ("–": one kernel for all). "–" under an architecture: not served there.

{usage}

## Hot loops

Products (FFMA, DFMA, HMMA: multiplications added to sums) in percent of the instructions of the innermost loop that has
them · of all instructions from one barrier to the next. The second counts loads, addresses and stores to shared memory
too, every branch as taken, though some are rare (places of the next tap), and an inner loop as often as it runs.
Kernels without products in loops are left out. Loads are in bits a thread: from shared memory in the innermost loop,
from global memory from barrier to barrier.

The aim is {aim}. Where it stands:

{aims}

{loops}
"""
