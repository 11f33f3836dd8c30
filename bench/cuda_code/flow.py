"""Loops of a control-flow graph, whose blocks are numbers: `after[block]` lists those that may come next."""

from __future__ import annotations

from collections.abc import Iterable

Graph = list[list[int]]


def natural_loops(after: Graph) -> list[set[int]]:
    """Return the blocks of each natural loop, entered at block 0; loops with one head are one.

    An edge to a block that every way to the edge has passed closes a loop: of that block, the head, and of all that
    reach the edge without it.
    """
    before: Graph = [[] for _ in after]
    for block in _reached(0, after):
        for following in after[block]:
            before[following].append(block)
    passed = _dominators(before)
    found: dict[int, set[int]] = {}
    for head, tails in enumerate(before):
        for tail in tails:
            if passed[tail] >> head & 1:
                found.setdefault(head, {head}).update(_reached(tail, before, {head}))
    return list(found.values())


def _dominators(before: Graph) -> list[int]:
    """Return the blocks that every way to a block passes, itself included, as bits of an integer."""
    found = [1] + [(1 << len(before)) - 1] * (len(before) - 1)
    changed = True
    while changed:
        changed = False
        for block in range(1, len(before)):
            common = found[block]
            for previous in before[block]:
                common &= found[previous]
            common |= 1 << block
            changed |= common != found[block]
            found[block] = common
    return found


def _reached(start: int, ways: Graph, closed: Iterable[int] = ()) -> set[int]:
    """Return what can be reached without passing what is closed, and the closed itself."""
    seen, stack = set(closed), [start]
    while stack:
        at = stack.pop()
        if at not in seen:
            seen.add(at)
            stack += ways[at]
    return seen
