"""What tiles fetch early is what is gathered next: a wrong list costs time, which no other test would see."""

import numpy as np
import pytest
from numba.core.caching import NullCache

from fastdeconv.dispatch import geometry_of
from fastdeconv.kernels.cpu import host, stretches
from fastdeconv.kernels.cpu.fetching import LINES, ask_bytes, spread
from fastdeconv.kernels.cpu.jit import kernel
from fastdeconv.kernels.cpu.stretches import list_lines, list_stretches
from fastdeconv.problem import Problem

LAYOUT = np.dtype(stretches.FIELDS)


@kernel("int[]", "int[]", "int", "int", "int", "int", "int[]")
def spread_all(lo, hi, table, lines, slots, rows, step, share, once):
    once[0] = spread(table, 1, slots, lines, lines.size, rows, step, share, 4)


@kernel(LAYOUT, "int[]", "int", "int", "int", "int[]")
def list_all(lo, hi, layout, lines, begin, end, line, found):
    table = np.empty((6, 4096), np.int64)
    count = list_stretches(table, layout[0], begin, end)
    found[0] = list_lines(lines, table, count, layout[0], line)


for made in (spread_all, list_all):
    made._run._cache = NullCache()  # the cache on disk knows the content of the package's sources only


@pytest.mark.parametrize(
    ("slots", "rows", "share", "once"),
    [
        (24, 9, 12, 4),  # as many rows as have the share
        (24, 9, 13, 5),  # and a part of one
        (24, 3, 20, 3),  # no more than there are
        (24, 99, 99, 8),  # than slots hold
        (2, 99, 99, 1),  # one at least, of which slots hold the first lines
        (7, 2, 6, 2),
    ],
)
def test_lines_are_spread_over_slots(slots, rows, share, once):
    lines = np.array([0, 16, 40])
    table, told = np.full(slots + 2, -7), np.zeros(1, np.int64)
    spread_all.launcher("float32", 1, 0)(table, lines, slots, rows, 1000, share, told)
    assert told[0] == once
    assert table[0] == table[-1] == -7
    wanted = [4 * (1000 * row + line) for row in range(once) for line in lines][:slots]
    assert sorted(set(table[1:-1])) == wanted
    assert list(table[1:-1]) == sorted(table[1:-1])  # in their order
    times = np.unique(table[1:-1], return_counts=True)[1]
    assert times.max() - times.min() <= 1 + slots // len(wanted) * (slots % len(wanted) > 0)


def test_no_lines_are_the_first_element():
    table, told = np.full(6, -7), np.zeros(1, np.int64)
    spread_all.launcher("float32", 1, 0)(table, np.empty(0, np.int64), 4, 5, 1000, 1, told)
    assert list(table) == [-7, 0, 0, 0, 0, -7]


@pytest.mark.parametrize(
    "descriptor",
    [
        "mb1ic1iw70oc1ow140kw5sw2pw2",
        "mb1ic1ih9iw23oc1oh18ow46kh2kw2sh2sw2ph0pw0",
        "mb1ic1ih9iw23oc1oh18ow46kh5kw3sh2sw2ph2pw1",
        "mb1ic1ih6iw11oc1oh23ow41kh2kw3sh4sw4ph0pw1",
        "mb1ic1ih9iw23oc1oh13ow27kh3kw3sh1sw1ph0pw0dh1dw1",
        "mb1ic1id4ih5iw7oc1od8oh10ow14kd4kh4kw4sd2sh2sw2pd1ph1pw1",
    ],
)
@pytest.mark.parametrize("line", [8, 16])
def test_lists_cover_what_is_gathered(descriptor, line):
    g = geometry_of(Problem.parse(descriptor))
    width = 3 * host.lanes(g.dtype)
    layout = np.zeros(1, LAYOUT)
    for name, value in {"width": width, "panel": 1000, "most": 4096, **stretches.fields(g)}.items():
        layout[name] = value
    pixels, plane = int(np.prod(g.input)), int(np.prod(g.output))
    # What the first row of a slice reads is left to gathering, if rows share what they read.
    left = elements(g, 0, pixels, of_rows=(0,)) if g.kernel[1] > g.stride[1] else set()
    read = set()
    for begin in range(0, pixels, width):
        end = min(begin + width, pixels)
        lines, found = np.full(4096, -1), np.zeros(1, np.int64)
        list_all.launcher(g.dtype, 1, 0)(layout, lines, begin, end, line, found)
        listed = lines[: found[0]]
        assert ((listed >= 0) & (listed < plane)).all()
        covered = {int(at) + j for at in listed for j in range(line)}
        assert elements(g, begin, end) - read - left <= covered
        assert len(covered) <= 3 * len(elements(g, begin, end)) + 4 * line * g.kernel[0] * g.kernel[1]
        read |= elements(g, begin, end)


def elements(g, begin, end, of_rows=None):
    """Return the elements of a plane that the taps connect some pixels with, or those of some rows of each slice."""
    found = set()
    for index in (np.unravel_index(q, g.input) for q in range(begin, end)):
        if of_rows is not None and index[1] not in of_rows:
            continue
        for tap in np.ndindex(*g.kernel):
            o = [i * s - p + t * d for i, s, p, t, d in zip(index, g.stride, g.padding, tap, g.dilation)]
            if all(0 <= a < size for a, size in zip(o, g.output)):
                found.add(int(np.ravel_multi_index(o, g.output)))
    return found


def test_room_for_lists():
    assert ask_bytes(10, 2, 5) == 8 * (3 * 10 * LINES + 6 * 5)
