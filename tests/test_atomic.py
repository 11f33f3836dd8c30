"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from fastdeconv import atomic

pytestmark = pytest.mark.quick


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "a file [1]*"
    path.write_bytes(b"old")
    seen = []

    def parts():
        yield b"ne"
        seen.append((path.read_bytes(), len(os.listdir(tmp_path))))
        yield memoryview(b"w")

    atomic.write(path, parts())
    assert seen == [(b"old", 2)]
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left on device"):
        atomic.write(path, [b"new"])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_killed_processes_left_is_cleared(tmp_path):
    path = tmp_path / "run [1]"
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    left, alive = tmp_path / f".run [1].partial-{killed.pid}", tmp_path / f".run [1].partial-{os.getppid()}"
    others = [tmp_path / name for name in (".run 1.partial-1", ".run [1].partial-", ".run [1].partial-x", "run [1]")]
    for each in (left, alive, *others):
        each.touch()
    atomic.clear(path)
    assert sorted(tmp_path.iterdir()) == sorted((alive, *others))
