"""What an installed package is: all its folders, light to import, silent, and without side effects."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastdeconv

ROOT = Path(__file__).resolve().parents[1]

IMPORT = """
import json, os, sys, threading
import numba, numpy
before = dict(os.environ), set(sys.modules), len(os.listdir("/proc/self/task"))
import fastdeconv
after = dict(os.environ), set(sys.modules), len(os.listdir("/proc/self/task"))
from fastdeconv.kernels.cpu import direct_dot, direct_loops, direct_tile, jit, planes, shared_loop
modules = (direct_dot, direct_loops, direct_tile, planes)
kernels = [k._run for m in modules for k in vars(m).values() if isinstance(k, jit.Kernel)]
print(json.dumps({
    "environment": before[0] == after[0],
    "threads": before[2] == after[2],
    "compiled": sum(len(f.overloads) for f in (*kernels, shared_loop._loop)),
    "modules": sorted({m.partition(".")[0] for m in after[1] - before[1]} - {"numpy", *sys.stdlib_module_names}),
}))
"""


@pytest.mark.quick
def test_every_folder_with_code_is_installed():
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {folder: name.replace(".", "/") for name, folder in configuration["package-dir"].items()}
    found = set()
    for top, package in folders.items():
        for path in (ROOT / top).rglob("*.py"):
            below = path.parent.relative_to(ROOT / top).as_posix()
            parts = [part for part in (package, below) if part != "."]
            found.add("/".join(parts).replace("/", "."))
    assert found == set(configuration["packages"])


@pytest.mark.quick
def test_import_is_light_and_silent():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"environment": True, "threads": True, "compiled": 0, "modules": ["fastdeconv"]}


@pytest.mark.quick
def test_kernels_refuses_another_name():
    done = subprocess.run(
        [sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "fastdeconv.kernels" in done.stderr


@pytest.mark.quick
def test_kernels_know_nothing_of_what_is_above():
    for path in (ROOT / "kernels").rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "import" in line and "fastdeconv" in line and not line.startswith(" "):
                assert "fastdeconv.kernels" in line, f"{path}: {line}"


@pytest.mark.quick
def test_the_test_extra_brings_no_library_to_compare_with():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert not [r for r in extras["test"] if re.match(r"torch|tensorflow|jax|onnx", r)]
    assert "fastdeconv[test,bench]" in extras["dev"]  # where .ci/run gets ONNX Runtime from
    assert "fastdeconv[cuda-check]" in extras["dev"]  # and what compiles CUDA kernels
    assert any(r.startswith("onnxruntime") for r in extras["bench"])


@pytest.mark.quick
def test_version_and_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == fastdeconv.__version__
    assert {requirement.partition(">")[0] for requirement in project["dependencies"]} == {"numpy", "numba"}
    assert all(hasattr(fastdeconv, name) for name in fastdeconv.__all__)
    assert fastdeconv.__all__ == sorted(fastdeconv.__all__)
    assert (Path(fastdeconv.__file__).parent / "py.typed").exists()
