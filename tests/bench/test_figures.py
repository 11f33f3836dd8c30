"""Statistics, the roofline's arithmetic, and the way from figures to JSON, tables and pages."""

import json
import math

import pytest

from fastdeconv.bench import report, table
from fastdeconv.bench.contenders import PEERS
from fastdeconv.bench.layers import LAYERS, drawn, select, variants
from fastdeconv.bench.results import Limits, Results, Row, geometric_mean
from fastdeconv.bench.timing import Times, interleaved, settle, summary

pytestmark = pytest.mark.quick


def times(median):
    return Times(best=0.9 * median, p20=0.95 * median, median=median, p80=1.2 * median, rounds=3)


def row(layer="k3s1", flops=4_000, bytes_=100, pass_="forward", **medians):
    return Row(
        layer, "a network", "mb1ic3ih5oc4kh3", pass_, "float32", "direct_tile", flops, bytes_,
        times={name: times(median) for name, median in medians.items()},
    )  # fmt: skip


def results(rows, peers=("torch", "jax"), **changes):
    fields = {
        "command": "fastdeconv bench", "date": "2026-01-01", "machine": {"processor": "one"},
        "versions": {"torch": "2"}, "threads": 2, "rounds": 3,
        "contenders": dict.fromkeys(("fastdeconv", *peers), "conditions"),
        "peers": list(peers), "left_out": {"openvino": "openvino is not installed (pip install openvino)"},
        "limits": Limits({"float32": 1e3}, 50.0), "rows": rows,
    }  # fmt: skip
    return Results(**fields | changes)


def test_summary():
    found = summary([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.best, found.median, found.rounds) == (1.0, 3.0, 5)
    assert found.p20 == pytest.approx(1.8)
    assert found.p80 == pytest.approx(4.2)


def test_rounds_are_interleaved_and_slow_calls_get_fewer(monkeypatch):
    order = []
    monkeypatch.setattr("fastdeconv.bench.timing._SHORTEST", 0.0)
    monkeypatch.setattr("fastdeconv.bench.timing._LEAD_IN", 0.0)
    quick, slow = interleaved([lambda: order.append("a"), lambda: order.append("b")], 3, 1.0)
    assert (quick.rounds, slow.rounds) == (3, 3)
    assert order == ["a", "b", *["a", "a", "b", "b"] * 3]  # a lead-in before each
    assert interleaved([lambda: None], 3, 0.0)[0].rounds == 1


def test_a_lead_in_lasts_as_long_as_a_processor_needs():
    repeats = []

    def clock(call, count):
        repeats.append(count)
        return count * 1e-3

    interleaved([lambda: None], 1, 1.0, clock)
    assert repeats == [1, 20, 5]  # the first call, 20 ms of them that do not count, one measurement of 5 ms


def test_settle_ends():
    settle(limit=0.01)


def test_roofline():
    limits = Limits({"float32": 1e3}, 50.0)
    computing, moving = row(flops=4_000, bytes_=100, fastdeconv=8.0), row(flops=1_000, bytes_=100, fastdeconv=8.0)
    assert limits.seconds(computing) == 4.0
    assert limits.share(computing) == 0.5
    assert limits.seconds(moving) == 2.0  # 100 bytes at 50 a second take longer than 1,000 operations at 1,000
    assert limits.share(moving) == 0.25


def test_ratios_and_means():
    rows = [row(fastdeconv=2.0, torch=4.0, jax=8.0), row(fastdeconv=2.0, jax=1.0), row(fastdeconv=1.0)]
    found = results(rows)
    assert rows[0].best_peer(found.peers) == "torch"
    assert rows[2].best_peer(found.peers) is None
    assert found.ratios(rows) == [2.0, 0.5]
    assert found.ratios(rows, "jax") == [4.0, 0.5]
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert table.means(found, rows) == (
        "best peer 1.00 times ours (geometric mean), ahead on 1 of 2, lowest 0.50; torch 2.00; jax 1.41"
    )


def test_lines():
    slow = row(fastdeconv=2e-3, torch=0.4567)
    slow.notes["jax"] = "no such thing"
    found = results([slow])
    line = table.line(found, slow)
    assert "2 (1.9–2.4)" in line
    assert "457" in line
    assert "228.35" in line
    assert table.notes([slow, slow]) == ["jax: no such thing [k3s1]"]
    wrong = row()
    wrong.error = "forward[0] is 1, by definition 2"
    assert "WRONG, not timed: forward[0] is 1, by definition 2; forward mb1ic3" in table.line(found, wrong)


def test_json_there_and_back(tmp_path):
    found = results([row(fastdeconv=2.0, torch=4.0), row(pass_="step", fastdeconv=1.0)], not_run=["a"])
    found.rows[0].notes["jax"] = "no"
    found.sections["scaling"] = [{"layer": "k3s1", "1 threads ms": 2.0}]
    path = tmp_path / "results.json"
    found.write(path)
    assert json.loads(path.read_text())["schema"] == 1
    again = Results.read(path)
    assert again == found
    assert report.page(again) == report.page(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "is not a file"), ("{", "is not a file"), ('{"schema": 99}', "format 99; this version")],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Results.read(path)


def test_the_page_says_what_is_missing(tmp_path):
    found = results([row(fastdeconv=2.0, torch=4.0)])
    page = report.page(found)
    assert "not for publication" in page
    assert "openvino (openvino is not installed (pip install openvino))" in page
    assert "| k3s1 | direct_tile | 2000 (1900–2400) | 4000 | – | 2.00 | 2.00 | 200% |" in page
    peers = [peer.name for peer in PEERS]
    assert "Incomplete" not in report.page(results([row(fastdeconv=2.0)], peers, left_out={}))
    assert "rows that the budget left no time for:** a, b" in report.page(results([], not_run=["a", "b"]))


def test_the_page_has_its_pictures(tmp_path):
    wrong = row("wrong")
    wrong.error = "no"
    rows = [row(fastdeconv=2.0, torch=4.0, jax=1.0), row("alone", fastdeconv=1.0), wrong]
    rows += [row("alone", pass_="step", fastdeconv=1.0)]
    page, *pictures = report.write(results(rows), tmp_path / "docs" / "page.md")
    assert len(pictures) == 2
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"](images/{picture.name})" in page.read_text()


def test_layers():
    assert select("all") == [*LAYERS, *drawn(0)]
    assert select("1d") == [layer for layer in LAYERS if layer.problem.ndim == 1]
    assert [layer.name for layer in select("k3s1, unseen:7")] == ["k3s1", *(layer.name for layer in drawn(7))]
    assert drawn(3) == drawn(3) != drawn(4)
    assert len({layer.name for layer in select("all")}) == len(select("all"))
    (given,) = select("--unbatched mb1ic3ih5oc4kh3")
    assert given.problem.batched
    with pytest.raises(ValueError, match="'nothing' is neither a layer, a set of layers nor a descriptor"):
        select("nothing")


def test_variants():
    found = variants(select("k3s1"), ["float32", "float64"], [1, 16])
    assert [(layer.name, layer.problem.dtype, layer.problem.batch) for layer in found] == [
        ("k3s1_mb1", "float32", 1), ("k3s1_mb16", "float32", 16),
        ("k3s1_mb1", "float64", 1), ("k3s1_mb16", "float64", 16),
    ]  # fmt: skip
    assert variants(select("k3s1"), [], []) == select("k3s1")


def test_geometric_mean_of_many():
    assert geometric_mean([1e-3, 1e3, 1.0]) == pytest.approx(1.0)
    assert math.isfinite(geometric_mean([1e300] * 10))


def test_a_page_on_a_gpu():
    found = results([row(fastdeconv=2.0, cudnn=4.0)], ("cudnn", "cudnn_cl", "cupy"), machine={"gpu": "a GPU"})
    found.sections["targets"] = [{"precision": "float32", "mean": 2.0}]
    page = report.page(found)
    assert "Incomplete" not in page
    assert "by CUDA events of up to 3 rounds" in page
    assert "-o docs/benchmarks-gpu.md" in page
    assert "## cuDNN's time over ours, same layout and precision" in page
