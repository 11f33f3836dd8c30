"""`History` as text and picture, and the progress bar of `fit`."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import numpy as np
import pytest
from training import Line, points

from fastdeconv.fit import History, Row, fit

pytestmark = pytest.mark.quick


def history(n=12, validated=True, measured=True):
    rows = [
        Row(
            i + 1,
            10 * (i + 1),
            1 / (i + 1),
            2 / (i + 1) if validated else np.nan,
            20.0 + i if measured else np.nan,
            1e-3,
            i,
        )
        for i in range(n)
    ]
    return History.of(
        rows, metric_name="psnr" * measured, best_step=20, diverged=False, message="stopped at epochs=12; all is well"
    )


def test_text():
    assert repr(history(2)).split("\n") == [
        "stopped at epochs=12; all is well",
        "     epoch        step        loss  validation        psnr        rate     seconds",
        "         1          10           1           2          20       0.001         0.0",
        "         2          20         0.5           1          21       0.001         1.0        best",
    ]
    lines = repr(history(12)).split("\n")
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3", "…", "8", "9", "10", "11", "12"]
    assert "validation" not in repr(history(3, validated=False, measured=False))
    assert repr(history(0, measured=False)) == "stopped at epochs=12; all is well"
    assert len(history(12)) == 12


def test_columns():
    h = history(3)
    assert (h.epoch.dtype, h.step.dtype, h.loss.dtype) == (np.int64, np.int64, np.float64)
    assert h.step.tolist() == [10, 20, 30]
    assert history(0).step.shape == (0,)


@pytest.mark.parametrize("made", [history(), history(1), history(0), history(40, validated=False, measured=False)])
def test_picture(tmp_path, made):
    pytest.importorskip("matplotlib")
    figure = made.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["loss", *["psnr"] * bool(made.metric_name), "learning rate"]
    if len(made):
        line = figure.axes[0].lines[0]
        np.testing.assert_array_equal(line.get_xdata(), made.step)
        np.testing.assert_array_equal(line.get_ydata(), made.loss)
        assert figure.axes[0].get_yscale() == "log"
    assert len(made.plot().axes) == len(titles)


def test_no_picture_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="plot needs Matplotlib: pip install matplotlib"):
        history().plot()


# -- the bar ----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def bar_of(monkeypatch, stream, **settings):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys, "stderr", stream)
    fit(**{"model": Line(), "data": points(40), "batch_size": 4, "epochs": 2, **settings})
    return stream.getvalue().rpartition("\r")[2].strip()


@pytest.mark.parametrize(
    ("progress", "stream", "shown"),
    [(None, io.StringIO, False), (None, Terminal, True), (True, io.StringIO, True), (False, Terminal, False)],
)
def test_the_bar_shows_on_a_terminal_or_when_asked(monkeypatch, progress, stream, shown):
    assert bool(bar_of(monkeypatch, stream(), progress=progress)) == shown


def test_the_bar_tells_steps_loss_and_speed(monkeypatch):
    text = bar_of(monkeypatch, Terminal())
    assert "20/20" in text
    assert "loss " in text
    assert "dB" not in text


def test_the_bar_tells_psnr_of_images_and_items_a_second(monkeypatch):
    rng = np.random.default_rng(0)
    y = rng.random((8, 1, 4, 4))
    for loss, wanted in (("mse", "loss 0.01"), ("l1", "loss 0.1")):
        text = bar_of(
            monkeypatch, Terminal(), data=(y, 0.9 * y + 0.05), model=Line(0.9, 0.15), loss=loss, batch_size=8, epochs=3,
            optimizer="sgd", learning_rate=1e-30, callbacks=lambda state: time.sleep(0.11),
        )  # fmt: skip
        assert wanted in text
        assert "20.00 dB" in text
        speed = float(text.rpartition(" items/s")[0].rpartition(" ")[2])
        assert 20 < speed < 75


def test_the_bar_goes_on_where_a_run_was(monkeypatch, tmp_path):
    fit(Line(), points(40), batch_size=4, epochs=1, checkpoint=tmp_path / "run")
    assert "20/20" in bar_of(monkeypatch, stream := Terminal(), checkpoint=tmp_path / "run")
    assert "10/20" in stream.getvalue().split("\r")[1]


def test_no_bar_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    fit(Line(), points(4), epochs=1)
    with pytest.raises(ImportError, match="progress=True needs tqdm: pip install tqdm"):
        fit(Line(), points(4), epochs=1, progress=True)


def test_nothing_but_numpy_and_numba_is_needed_but_for_files(tmp_path):
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("safetensors", "tqdm", "matplotlib", "skimage", "PIL", "scipy")))
sys.path.insert(0, {str(__file__).rpartition("/fit/")[0]!r})
from training import Line, points
from fastdeconv.fit import fit, save
model = Line()
print(fit(model, points(9), validation=points(3), epochs=2))
for call in (lambda: save(model, "w"), lambda: fit(model, points(9), epochs=2, checkpoint={str(tmp_path / "run")!r})):
    try:
        call()
    except ModuleNotFoundError as error:
        assert "fastdeconv[train]" in str(error)
    else:
        raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("stopped at epochs=2")
