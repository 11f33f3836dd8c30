"""How a batch is cut into parts."""

import tracemalloc

import pytest

import fastdeconv as fd
from fastdeconv.dispatch import geometry_of, plan
from fastdeconv.kernels.cpu import frame
from fastdeconv.problem import PASSES


@pytest.mark.quick
@pytest.mark.parametrize("batch", [1, 2, 7, 12])
def test_parts_cover_the_batch_and_their_sizes_are_known(batch):
    g = geometry_of(fd.Problem.parse(f"mb{batch}ic1ih4iw4oc1kh3kw3"))
    for images in range(1, batch + 1):
        parts = list(frame.parts(g, images))
        assert [n for first, count in parts for n in range(first, first + count)] == list(range(batch))
        assert {count for _, count in parts} == frame.part_sizes(g, images)


@pytest.mark.quick
@pytest.mark.parametrize("pass_", PASSES)
def test_a_plan_does_not_grow_with_the_batch(pass_):
    """A million images of which each is a part."""
    p = fd.Problem.parse("mb1048576ic64ih256iw256oc64kh4kw4sh2sw2ph1pw1")
    tracemalloc.start()
    try:
        plan(p, pass_)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
