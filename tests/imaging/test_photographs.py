"""Photographs of installed packages: found without importing those, and never both learned from and measured on."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from fastdeconv.imaging.degrade import reduce
from fastdeconv.imaging.files import FileError
from fastdeconv.imaging.metrics import psnr
from fastdeconv.imaging.photographs import HELD_OUT, MORE_HELD_OUT, MORE_TRAINING, TRAINING, installed, photograph
from fastdeconv.imaging.resize import resize

pytestmark = pytest.mark.quick


def test_those_of_the_images_extra_are_always_there():
    planes = installed(HELD_OUT | TRAINING)
    assert planes.keys() == HELD_OUT.keys() | TRAINING.keys()
    assert all(p.dtype == np.float32 and min(p.shape) >= 256 and 0 <= p.min() < p.max() <= 1 for p in planes.values())


def test_nothing_held_out_is_learned_from():
    assert not (HELD_OUT | MORE_HELD_OUT).keys() & (TRAINING | MORE_TRAINING).keys()
    assert not set((HELD_OUT | MORE_HELD_OUT).values()) & set((TRAINING | MORE_TRAINING).values())


def test_packages_that_are_not_installed_are_left_out():
    assert installed({"no": "no_such_package/a.png", "camera": HELD_OUT["camera"]}).keys() == {"camera"}
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        photograph("no_such_package/a.png")
    with pytest.raises(FileError, match="no such file"):
        photograph("skimage/data/no.png")


def test_arrays_of_packages_are_read(tmp_path, monkeypatch):
    package = tmp_path / "some_pictures"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.savez(package / "a.npz", data=levels)
    np.savez(package / "b.npz", other=levels)
    monkeypatch.syspath_prepend(tmp_path)
    np.testing.assert_array_equal(photograph("some_pictures/a.npz"), levels.astype(np.float32) / np.float32(255))
    with pytest.raises(FileError, match=r"b\.npz: cannot be read"):
        photograph("some_pictures/b.npz")
    assert "some_pictures" not in sys.modules


@pytest.mark.skipif(find_spec("sporco") is None, reason="monarch comes with SPORCO")
def test_bicubic_enlargement_is_as_good_as_published():
    # Set14's monarch, ×3: 29.43 dB in the tables of Timofte et al., A+, ACCV 2014.
    truth = photograph(MORE_HELD_OUT["monarch"])[:510]
    enlarged = resize(reduce(truth, 3), truth.shape)
    assert psnr(truth, enlarged, 3) == pytest.approx(29.43, abs=0.015)
