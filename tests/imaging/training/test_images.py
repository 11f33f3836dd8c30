"""The user's pictures: found, paired by name, and what cannot be used is named and left out."""

import numpy as np
import pytest
from PIL import Image

from fastdeconv.imaging.training.images import TrainingError, found, read, read_pairs

pytestmark = pytest.mark.quick

PIXELS = 1_000_000


def save(path, height=40, width=50, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)).save(path)
    return path


def test_pictures_are_found_in_folders_and_by_name(tmp_path):
    files = [save(tmp_path / name) for name in ("b.png", "a.JPG", "deep/c.tif")]
    save(tmp_path / ".hidden.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert found([tmp_path]) == sorted(files)
    assert found([files[0], tmp_path]) == [files[0], *sorted(set(files) - {files[0]})]
    with pytest.raises(TrainingError, match="missing: no such file or folder"):
        found([tmp_path / "missing"])


def test_unreadable_and_small_pictures_are_listed_and_left_out(tmp_path):
    good = save(tmp_path / "good.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:60])
    small = save(tmp_path / "small.png", 10, 50)
    result = read([good, broken, small], 32, None, PIXELS, 0)
    assert list(result.planes) == [good]
    assert [line.partition(":")[0] for line in result.skipped] == [str(broken), str(small)]
    assert "at least 32×32 needed" in result.skipped[1]


def test_large_pictures_are_reduced(tmp_path):
    path = save(tmp_path / "large.png", 60, 120)
    assert read([path], 16, 80, PIXELS, 0).planes[path].shape == (40, 80)
    assert read([path], 16, None, PIXELS, 0).planes[path].shape == (60, 120)


def test_pairs_are_found_by_name_whatever_the_ending(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        save(tmp_path / "in" / f"{name}.png", 40, 50, seed)
        save(tmp_path / "out" / f"{name}.bmp", 80, 100, seed + 5)
    result = read_pairs(tmp_path / "in", tmp_path / "out", 32, PIXELS, 0)
    assert result.scale == 2
    assert list(result.pairs) == ["one", "two"]
    assert [p.shape for p in result.pairs["two"]] == [(40, 50), (80, 100)]
    assert result.skipped == []


def test_mismatched_pairs_are_listed_and_left_out(tmp_path):
    sizes = {"a": (80, 100), "a2": (80, 100), "b": (80, 101), "c": (40, 50), "d": (200, 250), "small": (80, 100)}
    for name, size in sizes.items():
        save(tmp_path / "in" / f"{name}.png", *((20, 20) if name == "small" else (40, 50)))
        save(tmp_path / "out" / f"{name}.png", *size)
    save(tmp_path / "in" / "lonely.png")
    save(tmp_path / "out" / "other.png")
    result = read_pairs(tmp_path / "in", tmp_path / "out", 32, PIXELS, 0)
    assert list(result.pairs) == ["a", "a2"]
    assert result.scale == 2
    text = "\n".join(result.skipped)
    assert len(result.skipped) == 6
    assert "b.png: 101×80 pixels are not 1, 2, 3 or 4 times the 50×40 of" in text
    assert "c.png: is 1 times its input, and most are 2 times" in text
    assert "lonely.png: has no partner in" in text
    assert "other.png: has no partner in" in text
    assert "small.png: 20×20 pixels, at least 32×32 needed" in text


def test_pairs_need_two_folders_with_common_names(tmp_path):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "out" / "b.png")
    with pytest.raises(TrainingError, match=r"no picture in .*in has the name of one in .*out"):
        read_pairs(tmp_path / "in", tmp_path / "out", 32, PIXELS, 0)
    with pytest.raises(TrainingError, match=r"--targets .*none: no such folder"):
        read_pairs(tmp_path / "in", tmp_path / "none", 32, PIXELS, 0)
    with pytest.raises(TrainingError, match=r"--inputs .*a\.png: is not a folder"):
        read_pairs(tmp_path / "in" / "a.png", tmp_path / "out", 32, PIXELS, 0)


def test_of_many_pictures_parts_are_kept_and_of_very_many_some(tmp_path):
    files = [save(tmp_path / "in" / f"{i}.png", 60, 80, i) for i in range(8)]
    for i in range(8):
        x = np.asarray(Image.open(files[i]))
        (tmp_path / "out").mkdir(exist_ok=True)
        Image.fromarray(x.repeat(2, axis=0).repeat(2, axis=1)).save(tmp_path / "out" / f"{i}.png")
    parts = read(files, 16, None, 8 * 1200, 0).planes
    assert [p.shape for p in parts.values()] == [(30, 40)] * 8
    whole = read(files, 16, None, PIXELS, 0).planes
    starts = set()
    for path, part in parts.items():
        places = [
            (i, j) for i in range(31) for j in range(41) if np.array_equal(whole[path][i : i + 30, j : j + 40], part)
        ]
        starts.add(places[0])
    assert len(starts) > 4
    assert len(read(files, 16, None, 3 * 4 * 16**2, 0).planes) == 3
    pairs = read_pairs(tmp_path / "in", tmp_path / "out", 16, 8 * 1200, 0).pairs
    assert len(pairs) == 8
    for x, y in pairs.values():
        assert x.shape == (30, 40)
        np.testing.assert_array_equal(x.repeat(2, axis=0).repeat(2, axis=1), y)
