"""Compiled kernels on disk: every way in which that can go wrong still gives the right answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdeconv

PACKAGE = Path(fastdeconv.__file__).parent

# Prints how many kernels had to be compiled, and where they are kept.
COUNT = """
from fastdeconv.kernels import cache
from fastdeconv.kernels.cpu import direct_loops, jit, planes, shared_loop
runs = [k._run for m in (direct_loops, planes) for k in vars(m).values() if isinstance(k, jit.Kernel)]
functions = [*runs, shared_loop._loop]
print(sum(sum(f.stats.cache_misses.values()) for f in functions), cache.directory()[0])
"""
# One small kernel.
SMALL = """
import os
import numpy as np
import fastdeconv as fd
y = fd.conv_transpose2d(np.ones((5, 5), "float32"), np.ones((3, 3), "float32"))
assert y.max() == 9 and y[0, 0] == 1, y
"""
CALL = SMALL + COUNT
# Large ones, with threads, by a kernel that copies to planes.
LARGE = (
    """
import sys
import numpy as np
import fastdeconv as fd
x, w = np.ones((2, 8, 20, 21), sys.argv[1]), np.ones((8, 7, 4, 4), sys.argv[1])
y = fd.conv_transpose2d(x, w, stride=2, padding=1, algorithm="direct_tile")
assert y.max() == 32 and y[0, 0, 0, 0] == 8, y
"""
    + COUNT
)


def run(
    *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None, code: str = CALL
) -> tuple[int, str]:
    """Run the call; return how many kernels it compiled, and where they are kept."""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {"NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=environment | (env or {}), cwd=cwd, capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    compiled, folder = done.stdout.split(maxsplit=1)
    return int(compiled), folder.strip()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that one process has filled."""
    root = tmp_path_factory.mktemp("cache")
    compiled, folder = run(env={"NUMBA_CACHE_DIR": str(root)})
    assert compiled > 0
    assert Path(folder).parent == root / "fastdeconv"
    return root


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Path:
    """Return a copy of it that a test may spoil."""
    shutil.copytree(filled, tmp_path / "cache", symlinks=True)
    return tmp_path / "cache"


def kernels(root: Path) -> list[Path]:
    return sorted(root.glob("fastdeconv/*/*.bin"))


def test_the_next_process_compiles_nothing(cache):
    assert kernels(cache)
    before = {path: path.read_bytes() for path in kernels(cache)}
    assert run(env={"NUMBA_CACHE_DIR": str(cache)})[0] == 0
    assert {path: path.read_bytes() for path in kernels(cache)} == before


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "flipped", "folder"])
def test_a_damaged_file_is_compiled_again(cache, damage):
    for path in kernels(cache):
        data = bytearray(path.read_bytes())
        if damage == "folder":
            path.unlink()
            path.mkdir()
            continue
        if damage == "flipped":
            data[len(data) // 2] ^= 1
        path.write_bytes(
            {"truncated": data[: len(data) // 2], "empty": b"", "garbage": b"\x80" * 500}.get(damage, data)
        )
    assert run(env={"NUMBA_CACHE_DIR": str(cache)})[0] > 0
    if damage != "folder":
        assert run(env={"NUMBA_CACHE_DIR": str(cache)})[0] == 0
    assert not list(cache.rglob(".part-*"))


def test_a_file_of_another_kernel_is_not_run(cache):
    """A file that is whole, but not what its name says."""
    run("float64", env={"NUMBA_CACHE_DIR": str(cache)}, code=CALL.replace('"float32"', '"float64"'))
    first, second = kernels(cache)
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    assert run(env={"NUMBA_CACHE_DIR": str(cache)})[0] > 0


def test_several_processes_start_cold_at_once(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2"}
    processes = [
        subprocess.Popen([sys.executable, "-c", LARGE, dtype], env=environment, stderr=subprocess.PIPE)
        for dtype in ("float32", "float64", "float32", "float64")
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-3000:]
    assert not list(tmp_path.rglob(".part-*"))
    for dtype in ("float32", "float64"):
        assert run(dtype, env={"NUMBA_CACHE_DIR": str(tmp_path)}, code=LARGE)[0] == 0


def test_nowhere_to_write(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for env in ({"NUMBA_CACHE_DIR": str(blocked)}, {"XDG_CACHE_HOME": str(blocked / "below")}):
        compiled, folder = run(env=env)
        assert compiled > 0
        assert folder == "None"


def test_no_home(tmp_path):
    code = "import os, pwd\npwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))\n" + CALL
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[1] == "None"


def test_a_read_only_install_and_a_full_disk(cache):
    """Nothing can be written, but what is there is used; what is not there is compiled."""
    path = kernels(cache)[0]
    path.unlink()
    code = """
import os, tempfile, errno
def full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
tempfile.TemporaryFile = tempfile.mkstemp = full
"""
    run(env={"NUMBA_CACHE_DIR": str(cache)}, code=code + CALL)
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions are POSIX's")
def test_a_folder_that_others_can_write_to_is_not_read(cache):
    for folder in (cache / "fastdeconv", next((cache / "fastdeconv").iterdir())):
        mode = folder.stat().st_mode
        folder.chmod(0o777)
        compiled, where = run(env={"NUMBA_CACHE_DIR": str(cache)})
        assert compiled > 0
        assert where == "None"
        folder.chmod(mode)


def test_an_edited_kernel_gives_no_old_answer(filled, tmp_path):
    """The edit is in a file other than that of the kernel that is called."""
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site / "fastdeconv", ignore=shutil.ignore_patterns("__pycache__"))  # follows the links
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(site)}
    # The copy, not the installed package, whatever finds that.
    start = "import sys\nsys.path.insert(0, sys.argv[2])\n"
    start += "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]\n"
    compiled, folder = run("float32", str(site), env=environment, code=start + LARGE)
    assert compiled > 0
    rows = site / "fastdeconv" / "kernels" / "cpu" / "rows.py"
    text = rows.read_text(encoding="utf-8")
    changed = text.replace("builder.fadd(vectors.load(each, here), addend)", "builder.fadd(addend, addend)")
    assert changed != text
    rows.write_text(changed, encoding="utf-8")
    edited = LARGE.replace("y.max() == 32 and y[0, 0, 0, 0] == 8", "y[0, 0, 0, 0] == 0")
    compiled, other = run("float32", str(site), env=environment, code=start + edited)
    assert compiled > 0
    assert other != folder


def test_the_cache_of_a_relative_folder(tmp_path):
    assert run(env={"NUMBA_CACHE_DIR": "here"}, cwd=tmp_path)[0] > 0
    assert kernels(tmp_path / "here")
    assert run(env={"NUMBA_CACHE_DIR": "here"}, cwd=tmp_path)[0] == 0


def test_a_relative_folder_stays_where_it_was(tmp_path):
    """Also for what is compiled after the program has changed its directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = SMALL.replace('"float32"', '"float64"') + COUNT
    code = SMALL + f"os.chdir({str(elsewhere)!r})\n" + other
    compiled, folder = run(env={"NUMBA_CACHE_DIR": "here"}, cwd=tmp_path, code=code)
    assert compiled > 0
    assert Path(folder).parent == tmp_path / "here" / "fastdeconv"
    assert not list(elsewhere.iterdir())
    assert run(env={"NUMBA_CACHE_DIR": "here"}, cwd=tmp_path, code=other)[0] == 0


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions are POSIX's")
@pytest.mark.parametrize("mask", [0o002, 0o000])
def test_folders_are_private_whatever_the_umask(tmp_path, mask):
    base = tmp_path / "cache" / "of" / "mine"
    code = f"import os\nos.umask({mask})\n" + CALL
    compiled, folder = run(env={"NUMBA_CACHE_DIR": str(base)}, code=code)
    assert compiled > 0
    assert Path(folder).parent == base / "fastdeconv"
    for path in (Path(folder), Path(folder).parent):
        assert path.stat().st_mode & 0o777 == 0o700
    assert run(env={"NUMBA_CACHE_DIR": str(base)}, code=code)[0] == 0


@pytest.mark.quick
def test_a_call_needs_no_cache(monkeypatch):
    """What this process has compiled serves it, whatever happens to the files."""
    x, w = np.ones((1, 1, 5, 5)), np.ones((1, 1, 3, 3))
    want = fastdeconv.conv_transpose2d(x, w)
    monkeypatch.setattr("fastdeconv.kernels.cache.directory", lambda: (None, "gone"))
    np.testing.assert_array_equal(fastdeconv.conv_transpose2d(x, w), want)
