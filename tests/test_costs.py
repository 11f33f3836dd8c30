"""The choice among kernels that tell what they cost."""

import dataclasses
import itertools

import pytest

from fastdeconv import dispatch
from fastdeconv.bench.layers import LAYERS, drawn
from fastdeconv.dispatch import TABLES, costs_of, geometry_of, plan
from fastdeconv.kernels.cpu import costs
from fastdeconv.kernels.cpu.winograd import axes
from fastdeconv.kernels.geometry import Cost
from fastdeconv.problem import PASSES, Problem

SOME = Problem.parse("mb2ic16ih40iw40oc8kh4kw4sh2sw2ph1pw1")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("weights", "last"),
    [
        (costs._REGISTERS_16, False),
        (costs._REGISTERS_32, False),
        (costs._CHANNELS_LAST | costs._CHANNELS_LAST_32, True),
    ],
    ids=["16", "32", "last"],
)
def test_what_has_weights_counts_what_they_are_for(weights, last):
    """A weight whose kind of work no kernel counts would never be used."""
    counted = {}
    for pass_ in PASSES:
        for implementation in TABLES["cpu", pass_]:
            if implementation.cost is not None and last in implementation.channels_last:
                kinds = set()
                for layer in (*LAYERS, *drawn(0)):
                    geometry = geometry_of(dataclasses.replace(layer.problem, channels_last=last))
                    if implementation.declines(geometry) is None:
                        kinds |= set(implementation.cost.counts(geometry))
                counted[implementation.name, pass_] = kinds
    if not last:
        counted["direct_pointwise", "forward"] |= {"product", "weight", "result", "call"}
        counted["direct_pointwise", "input_grad"] |= {"product", "weight", "result", "call"}
        counted["direct_pointwise", "weight_grad"] |= {"product", "tile", "gradient", "call"}
    assert weights.keys() == counted.keys()
    for key, told in weights.items():
        assert set(told) <= counted[key], key
        assert told["product"] >= 1


@pytest.mark.parametrize("pass_", PASSES)
def test_the_cheapest_is_chosen(pass_, monkeypatch):
    geometry = geometry_of(SOME)
    table = TABLES["cpu", pass_]
    names = list(costs_of(table, geometry))
    assert len(names) > 1
    for cheapest in names:
        priced = tuple(
            i if i.cost is None else i._replace(cost=Cost(lambda g: {"call": 1}, {"call": 1 + (i.name != cheapest)}))
            for i in table
        )
        monkeypatch.setitem(TABLES, ("cpu", pass_), priced)
        dispatch.choose.cache_clear()
        chosen = plan(SOME, pass_)
        assert chosen.implementation.name == cheapest
        for name, reason in chosen.declined:
            if name in names:
                assert reason == f"should take as long as 2 multiplications, {cheapest} as 1"
    dispatch.choose.cache_clear()


def test_a_kernel_called_for_by_name_runs_though_another_is_cheaper():
    for pass_ in PASSES:
        for name in costs_of(TABLES["cpu", pass_], geometry_of(SOME)):
            assert plan(SOME, pass_, algorithm=name).implementation.name == name


def test_costs_grow_with_the_batch():
    geometry = geometry_of(SOME)
    larger = geometry._replace(batch=8 * geometry.batch)
    for implementation in itertools.chain(*(TABLES["cpu", pass_] for pass_ in PASSES)):
        if implementation.cost is not None and implementation.declines(geometry) is None:
            assert implementation.cost(larger) > 2 * implementation.cost(geometry) > 0, implementation.name


def test_tiles_of_one_column_are_told_from_those_of_rows():
    """Windows over 16 inputs and 16 phases' outputs, and single outputs at both edges of a row or of a column."""
    g = geometry_of(Problem.parse("mb2ic8ih16iw16oc4oh32ow32kh4kw4sh2sw2ph1pw1"))
    windows, columns, rows, both = axes.plans(g)
    assert [len(plan) for plan in (windows, columns, rows, both)] == [1, 3, 3, 9]
    assert all(axes.single_elements(g, group) == (0, 0) for group in (*windows, *rows))
    # Six rows of windows with four inputs each, or three outputs of two phases; one column on each side.
    assert [axes.single_elements(g, group) for group in columns] == [(0, 0), (384, 288), (384, 288)]
    assert axes.lines(g, windows[0]) == (2 * 24 * 16 * 8, 2 * 24 * 2 * 32 * 4)


def test_a_cost_is_the_weighted_sum_of_counts():
    cost = Cost(lambda g: {"product": 10.0, "row": 3, "unknown": 5}, {"product": 2.0, "row": 4.0})
    assert cost(geometry_of(SOME)) == cost(geometry_of(SOME)._replace(channels_last=True)) == 32
    either = dataclasses.replace(cost, channels_last={"product": 1.0})
    assert either(geometry_of(SOME)) == 32
    assert either(geometry_of(SOME)._replace(channels_last=True)) == 10
    assert dataclasses.is_dataclass(cost)
