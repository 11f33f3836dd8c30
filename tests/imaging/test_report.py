"""The table, the CSV and the picture say what the scores are."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from fastdeconv.imaging.figure import Learned, Panel, Row, busiest, draw
from fastdeconv.imaging.report import Score, as_csv, mean_scores, table

pytestmark = pytest.mark.quick

SCORES = {
    "cat": {"bicubic": Score(30.0, 0.8), "learned": Score(31.5, 0.85)},
    "dog": {"bicubic": Score(32.0, 0.9), "learned": Score(32.5, 0.91)},
    "my picture.jpg": {"bicubic": Score(20.0, 0.5), "learned": Score(19.0, 0.4)},
}


def test_mean_is_over_the_photographs_named():
    mean = mean_scores(SCORES, ["cat", "dog"])
    assert mean["bicubic"].psnr == 31
    assert mean["learned"].ssim == pytest.approx(0.88)


def test_table_has_a_row_each_with_the_gain():
    lines = table(SCORES, ["cat", "dog"], ("bicubic", "learned")).splitlines()
    assert [line[:14].strip() for line in lines] == ["PSNR in dB", "cat", "dog", "mean", "my picture.jpg"]
    assert lines[1].split() == ["cat", "30.00", "31.50", "+1.50", "0.8000", "0.8500"]
    assert lines[3].split() == ["mean", "31.00", "32.00", "+1.00", "0.8500", "0.8800"]
    assert "-1.00" in lines[4]
    assert len({len(line) for line in lines}) == 1


def test_csv_has_every_score():
    rows = list(csv.DictReader(io.StringIO(as_csv({"upscale": SCORES}))))
    assert len(rows) == 6
    assert rows[1] == {
        "task": "upscale", "photograph": "cat", "method": "learned", "psnr": "31.5000", "ssim": "0.850000"
    }  # fmt: skip


def test_busiest_finds_the_detail():
    image = np.zeros((60, 80), np.float32)
    image[20:30, 40:50] = np.random.default_rng(0).random((10, 10))
    i, j = busiest(image, 12)
    assert 18 <= i <= 20
    assert 38 <= j <= 40
    assert busiest(np.zeros((12, 12), np.float32), 12) == (0, 0)


def test_picture_is_a_png_drawn_without_pyplot():
    square = np.random.default_rng(0).random((40, 40), dtype=np.float32)
    panels = tuple(Panel(name, "30.00 dB", square) for name in ("input", "bicubic", "learned", "truth"))
    row = Row("Upscale", panels, Learned(square - 0.5, np.geomspace(1, 0.1, 50), 0.09))
    short = Row("Undo", panels[:3])
    png = Image.open(io.BytesIO(draw([row, short, short, short])))
    assert png.format == "PNG"
    assert png.width > 1000
    assert png.height == 3 * 275  # two short rows share a band
    pixels = np.asarray(png.convert("L"))
    assert np.unique(pixels).size > 100
    assert pixels[0].min() > 200  # nothing is cut off at the top
