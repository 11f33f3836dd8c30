"""``fastdeconv bench quality`` on a small picture: what is known of its figures, and what it writes."""

import json

import numpy as np
import pytest

from fastdeconv.bench import quality, quality_charts, quality_methods
from fastdeconv.bench.quality import OURS, TRUTH
from fastdeconv.bench.quality_charts import edges
from fastdeconv.cli import main
from fastdeconv.imaging import metrics, tiles
from fastdeconv.imaging import network as networks
from fastdeconv.imaging.metrics import psnr
from fastdeconv.imaging.network import Degradation, Description, Network

SMALL = {"features": 3, "shrunk": 2, "maps": 0, "taps": 3}
BLUR = Degradation(blur=(1.6, 1.6), noise=(2 / 255, 2 / 255))


@pytest.fixture
def pictures(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:100, :112]
    folder = tmp_path / "pictures"
    folder.mkdir()
    levels = 120 + 60 * np.sin(x * y / 400) + 40 * (x // 16 % 2) + rng.normal(0, 2, x.shape)
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(folder / "waves.png")
    return folder


@pytest.fixture(autouse=True)
def few_charts(monkeypatch):
    step = np.full((96, 96), 0.3, np.float32)
    step[:, 48:] = 0.7
    monkeypatch.setattr(quality_charts, "edges", lambda: {"steps": [step]})


def silent(description):
    """Return a network that adds nothing."""
    network = Network(description)
    network.body[-1].weight.data[...] = 0
    return network


def test_a_network_that_adds_nothing_is_as_good_as_bicubic(pictures):
    truths = quality.photographs(pictures)
    model, results = quality.assess("silent", silent(Description(2, **SMALL)), truths)
    base, ours = (model.mean(name) for name in ("bicubic", OURS))
    assert ours.psnr == pytest.approx(base.psnr, abs=1e-3)
    assert ours.overshoot == pytest.approx(base.overshoot, abs=1e-3)
    assert model.edges["steps"][OURS] == pytest.approx(model.edges["steps"]["bicubic"], abs=1e-3)
    assert model.edges["steps"]["bicubic"].peak > 0.01
    assert model.bias == pytest.approx(0, abs=1e-3)
    assert set(model.pattern) == {"noise", "noise on a ramp", "zone plate", "photographs"}
    assert set(model.pattern["noise"]) == {TRUTH, "bicubic", OURS}
    assert abs(model.pattern["noise"][TRUTH]) < 3
    assert results["waves.png"].truth.shape == (100, 112)


def test_flat_grey_is_within_limits_whatever_the_network_adds(pictures):
    network = silent(Description(2, **SMALL))
    # The same is added to one phase of four of every pixel, 4 levels of 255.
    network.body[-3].weight.data[...] = 0
    network.body[-3].bias.data[...] = 1
    network.body[-1].weight.data[0, 0, 2, 2] = 4 / 255
    model, _ = quality.assess("uneven", network, quality.photographs(pictures))
    assert model.bias < 1e-3
    grey = np.full((32, 32), 0.5, np.float32)
    made = tiles.apply(network, grey, limits=False)
    large = np.full(made.shape, 0.5, np.float32)
    assert 255 * metrics.phase_bias(large, made, 2) == pytest.approx(4 * np.sqrt(3) / 4, rel=1e-3)
    assert model.pattern["noise"][OURS] > 20


def test_filters_have_their_best_setting(pictures):
    truths = quality.photographs(pictures)
    model, results = quality.assess("blur", silent(Description(1, **SMALL, degradation=BLUR)), truths)
    assert model.methods == ["input", "Wiener", "Richardson–Lucy", OURS]
    assert not model.pattern
    truth, x = results["waves.png"].truth, results["waves.png"].degraded
    for method in quality_methods.baselines(Description(1, degradation=BLUR))[1:]:
        scores = [psnr(truth, quality.stored(method.apply(x, setting)), quality.BORDER) for setting in method.settings]
        assert model.mean(method.name).psnr == pytest.approx(max(scores), abs=1e-6)
        assert model.settings[method.name] == f"{method.setting} {method.settings[int(np.argmax(scores))]:g}"
        assert max(scores) > model.mean("input").psnr


def test_jpeg_is_compared_with_smoothing():
    names = [
        method.name for method in quality_methods.baselines(Description(1, degradation=Degradation(jpeg=(40, 40))))
    ]
    assert names == ["input", "total variation", "non-local means"]


def test_the_command_writes_figures_a_page_and_crops(pictures, tmp_path, capsys):
    models = tmp_path / "models"
    models.mkdir()
    networks.save(silent(Description(3, **SMALL)), models / "x3.safetensors")
    networks.save(silent(Description(1, **SMALL, degradation=BLUR)), models / "blur.safetensors")
    places = ["--models", str(models), "--images", str(pictures)]
    files = ["--json", str(tmp_path / "figures.json"), "-o", str(tmp_path / "quality.md")]
    assert main(["bench", "quality", *places, "--rounds", "0", *files]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [model["name"] for model in figures["models"]] == ["x3", "blur"]
    page = (tmp_path / "quality.md").read_text()
    for name in ("x3", "blur"):
        assert (tmp_path / f"images/quality-{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(images/quality-{name}.png)" in page
    for text in ("Enlarge ×3", "Undo blur of σ 1.6 px", "Richardson–Lucy with iterations", "Phase bias"):
        assert text in page
    assert "x3: Enlarge ×3" in capsys.readouterr().out


def test_time_is_taken_beside_the_libraries_that_are_there(monkeypatch):
    monkeypatch.setattr(quality, "_SIDE", 64)
    for scale in (1, 2):
        network = silent(Description(scale, **SMALL))
        model = quality.Model("any", "", scale, 1)
        figures = quality.Figures("", "", {}, {}, 1)
        quality.time_it(model, network, 1, figures)
        ours = "fastdeconv"
        assert ours in model.seconds["network alone"]
        assert ours in model.seconds["image"]
        assert ("bicubic (Pillow)" in model.seconds["image"]) == (scale == 2)
        assert all(times.median > 0 for row in model.seconds.values() for times in row.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "."], "has no network"),
        (["--json", "no/such/folder/file.json"], "there is no such folder"),
    ],
)
def test_refusals_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "quality", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_drawn_edges_have_their_heights_and_lie_at_every_place_of_the_grid():
    drawn = edges()
    assert [len(drawn[kind]) for kind in ("steps", "discs", "bars")] == [16, 4, 6]
    for planes in drawn.values():
        assert all(p.shape == (192, 192) and p.dtype == np.float32 for p in planes)
        assert {(round(float(p.min()), 3), round(float(p.max()), 3)) for p in planes} == {(0.3, 0.7), (0.1, 0.9)}
    places = {int(np.argmax(np.diff(p[0]))) % 4 for p in drawn["steps"][::4]}
    assert places == {0, 1, 2, 3}
    radius = np.sqrt(np.mean(drawn["discs"][1] > 0.5) * 192**2 / np.pi)
    assert radius == pytest.approx(30, rel=0.01)
