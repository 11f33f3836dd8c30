"""``fastdeconv bench choices``: fitted weights, and a short run."""

import re

import numpy as np
import pytest

from fastdeconv.bench import choices
from fastdeconv.cli import main
from fastdeconv.problem import Problem

SMALL = Problem.parse("mb1ic8ih24iw24oc8kh4kw4sh2sw2ph1pw1")


def test_weights_are_found_again():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(50):
        counts = {"product": 10 ** rng.uniform(4, 8), "row": 10 ** rng.uniform(2, 5), "never": 0.0, "free": 1.0}
        rows.append((counts, 2 * counts["product"] + 300 * counts["row"]))
    weights, spread = choices.fit(rows)
    assert weights == pytest.approx({"product": 2, "row": 300, "never": 0, "free": 0}, rel=1e-3, abs=1e-3)
    assert spread < 1e-3


def test_all_that_serve_are_timed_and_the_chosen_one_is_among_them():
    rng = np.random.default_rng(0)
    for pass_, expected in (("forward", "direct_tile"), ("input_grad", "direct_panels"), ("weight_grad", "direct_dot")):
        timed = choices.measure(SMALL, pass_, rng)
        assert {expected, "winograd"} <= set(timed.seconds)
        assert timed.chosen in timed.seconds
        assert timed.loss >= 1
    assert choices.measure(Problem.parse("mb1ic1ih5iw5oc1kh3kw3"), "forward", rng) is None


def test_problems_are_drawn_alike_for_a_seed_and_are_of_the_sizes_told():
    drawn = [[choices.draw(np.random.default_rng(seed), 1e7) for seed in range(30)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    found = [problem for problem in drawn[0] if problem]
    assert found
    assert all(1e7 < problem.flops < choices._FLOPS for problem in found)


def test_a_run(monkeypatch, capsys):
    problems = iter([SMALL, None, Problem.parse("mb2ic8ih16oc8kh3"), *[SMALL] * 1000])
    monkeypatch.setattr(choices, "draw", lambda rng, least, channels_last: next(problems))
    monkeypatch.setattr(choices, "flops_per_second", lambda dtype: 1e11)
    assert main(["bench", "choices", "--pass", "input_grad", "--seconds", "1", "--fit"]) == 0
    out = capsys.readouterr().out
    assert "input_grad: " in out
    # How near depends on what else the machine does.
    assert float(re.search(r"chosen over best (\d+\.\d{3}) ", out)[1]) >= 1
    assert '("direct_tile", "input_grad"): {"' in out


def test_no_time_for_a_problem(capsys):
    assert main(["bench", "choices", "--pass", "forward", "--seconds", "0"]) == 0
    assert "forward: no problem was timed in 0 seconds" in capsys.readouterr().out
