"""Three threads: what fails in one of them stops no other picture, and memory is bounded."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import tifffile
from pictures import pixels, repeated, save, tree, upscale

from fastdeconv.imaging.commands import channel, pipeline
from fastdeconv.imaging.picture import Reader

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("repeating")]


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp", "bmp"])
def test_a_full_disk_fails_one_and_goes_on(tmp_path, capsys, monkeypatch, extension):
    for name in "abc":
        save(tmp_path / f"{name}.{extension}", pixels(channels=3, size=(40, 40)))
    files, real = [], pipeline.Stoppable.write

    def write(self, data):
        if self._file not in files:
            files.append(self._file)
        if files.index(self._file) == 1:  # the second file
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(pipeline.Stoppable, "write", write)
    assert upscale(tmp_path, "-o", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 done, 0 skipped, 1 failed")
    assert err == (
        f"fastdeconv: {tmp_path}/out/b.{extension}: cannot be written (the disk is full: No space left on device)\n"
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"a.{extension}", f"c.{extension}"]


def test_a_file_that_cannot_take_its_name(tmp_path, capsys, monkeypatch):
    def refuse(*names):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    save(tmp_path / "a.png")
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png") == 1
    assert "b.png: cannot be written (Permission denied)" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_too_large_for_the_memory(tmp_path, capsys, repeating):
    def exhaust(image):
        if len(image) == 7:
            raise MemoryError

    repeating.each = exhaust
    save(tmp_path / "a.png", pixels(size=(11, 7)))
    save(tmp_path / "b.png", pixels(size=(11, 6)))
    assert upscale(tmp_path, "-o", tmp_path / "out") == 1
    assert capsys.readouterr().err == f"fastdeconv: {tmp_path / 'a.png'}: not enough memory\n"
    assert tree(tmp_path / "out") == ["b.png"]


def test_an_error_of_ours_is_not_hidden(tmp_path, repeating):
    def fail(image):
        raise ZeroDivisionError

    repeating.each = fail
    save(tmp_path / "a.png")
    with pytest.raises(ZeroDivisionError):
        upscale(tmp_path / "a.png", "-o", tmp_path / "b.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_large_pictures_are_in_memory_one_at_a_time(tmp_path, monkeypatch, repeating):
    """Each stage holds one where a second is more than it may hold for the next."""
    monkeypatch.setattr(channel, "IN_FLIGHT", 100)
    monkeypatch.setattr(channel, "_LEAST", 1)
    for i in range(6):
        save(tmp_path / f"{i}.png", pixels(size=(9, 9), seed=i))
    held, most = set(), []
    real_put, real_release = channel.Channel.put, channel.Channel.release

    def put(self, item):
        if item.page is not None:
            held.add((id(self), id(item.work)))
            most.append(len([h for h in held if h[0] == id(self)]))
        real_put(self, item)

    def release(self, reserved):
        for pair in [h for h in held if h[0] == id(self)][:1]:
            held.discard(pair)
        real_release(self, reserved)

    monkeypatch.setattr(channel.Channel, "put", put)
    monkeypatch.setattr(channel.Channel, "release", release)
    assert upscale(tmp_path, "-o", tmp_path / "out") == 0
    assert len(tree(tmp_path / "out")) == 6
    assert max(most) == 1


def test_large_pages_are_in_memory_one_at_a_time(tmp_path, monkeypatch):
    """The room of a page is free for the next one when it is written, though its file is not."""
    monkeypatch.setattr(channel, "IN_FLIGHT", 100)
    monkeypatch.setattr(channel, "_LEAST", 1)
    pages = [pixels(size=(9, 9), seed=i) for i in range(5)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pages:
            writer.write(page, metadata=None)
    most = []
    real = channel.Channel.put

    def put(self, item):
        most.append(self._held)
        real(self, item)

    monkeypatch.setattr(channel.Channel, "put", put)
    assert upscale(tmp_path / "a.tif", "-o", tmp_path / "b.tif") == 0
    with Reader(tmp_path / "b.tif") as reader:
        for found, page in zip(reader, pages, strict=True):
            np.testing.assert_array_equal(found.pixels, repeated(page))
    assert max(most) == 18 * 18


def test_decoding_and_encoding_go_on_while_one_is_computed(tmp_path, repeating):
    """The middle picture waits for its neighbours' other stages: alone in one thread, it would wait in vain."""
    decoded, encoded = threading.Event(), threading.Event()
    real_page, real_write = Reader.page, pipeline.write

    def page(self, index=0):
        found = real_page(self, index)
        if self.name.endswith("c.png"):
            decoded.set()
        return found

    def write(*arguments, **options):
        real_write(*arguments, **options)
        encoded.set()

    def wait(image):
        if len(image) == 8:
            assert decoded.wait(20)
            assert encoded.wait(20)

    repeating.each = wait
    for name, rows in (("a", 7), ("b", 8), ("c", 9)):
        save(tmp_path / f"{name}.png", pixels(size=(5, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "page", page)
        patch.setattr(pipeline, "write", write)
        assert upscale(tmp_path, "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == ["a.png", "b.png", "c.png"]
