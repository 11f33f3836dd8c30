"""The command's answers and its errors: one line that says what is wrong, and a non-zero status."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import fastdeconv as fd
from fastdeconv.cli import main

pytestmark = pytest.mark.quick

DESCRIPTOR = "mb2ic8ih16iw16oc4oh32ow32kh4kw4sh2sw2ph1pw1"


def failure(capsys, *arguments: str) -> str:
    """Return the one line that a failing command prints."""
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastdeconv: error: ")
    assert err.count("\n") == 1
    return err


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"fastdeconv {fd.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["demo", "--seed", "-1"], "must be a whole number of at least 0; got '-1'"),
        (["demo", "--seed", "1.5"], "got '1.5'"),
        (["demo", "--image"], "expected one argument"),
        (["demo", "--colour"], "unrecognized arguments: --colour"),
        (["info", "now"], "unrecognized arguments: now"),
        (["explain"], "DESCRIPTOR"),
        (["explain", DESCRIPTOR, "--pass", "backward"], "invalid choice: 'backward'"),
        (["autotune"], "DESCRIPTOR"),
        (["autotune", DESCRIPTOR, "--rounds", "many"], "invalid int value: 'many'"),
    ],
)
def test_bad_usage(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_explain_prints_the_report(capsys):
    assert main(["explain", DESCRIPTOR]) == 0
    assert capsys.readouterr().out == f"{fd.explain(DESCRIPTOR)}\n"
    assert main(["explain", DESCRIPTOR, "--pass", "weight_grad", "--algorithm", "reference"]) == 0
    out = capsys.readouterr().out
    assert out == f"{fd.explain(DESCRIPTOR, pass_='weight_grad', algorithm='reference')}\n"
    assert "forward on" not in out


@pytest.mark.parametrize("quoted", [True, False])
def test_explain_takes_a_descriptor_with_flags_as_it_is_printed(capsys, quoted):
    text = str(fd.Problem.parse(f"--dt=f64 --unbatched {DESCRIPTOR.replace('mb2', 'mb1')}"))
    assert main(["explain", *([text] if quoted else text.split())]) == 0
    assert capsys.readouterr().out.startswith(text + "\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mb1ic3"], "lacks iw"),
        (["nonsense"], "lacks iw (and ih, id)"),
        (["--dx", DESCRIPTOR], "flag '--dx' is not known"),
        ([DESCRIPTOR, "--algorithm", "magic"], "algorithm must be one of"),
    ],
)
def test_explain_refuses(capsys, arguments, message):
    assert message in failure(capsys, "explain", *arguments)


def test_autotune_refuses(capsys):
    assert "lacks iw" in failure(capsys, "autotune", "mb1ic3")
    assert "flag '--dx' is not known" in failure(capsys, "autotune", "--dx", DESCRIPTOR)
    assert "rounds must be at least 1; got 0" in failure(capsys, "autotune", DESCRIPTOR, "--rounds", "0")


def test_info_prints_the_report(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for subject in ("fastdeconv", "Numba", "CPU", "vectors", "threads", "CUDA", "cache"):
        assert subject in out


def test_demo_refuses_bad_pictures_before_it_makes_a_folder(capsys, tmp_path):
    Image.new("L", (200, 40)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("hello")
    output = str(tmp_path / "output")
    for name, message in {
        "missing.png": "no such file",
        "small.png": "200×40 pixels, at least 96×96 needed",
        "text.png": "not a picture",
    }.items():
        line = failure(capsys, "demo", "--image", str(tmp_path / name), "--output", output)
        assert name in line
        assert message in line
    assert not os.path.exists(output)


@pytest.mark.parametrize("name", ["demo.png", "scores.csv", "upscale_kernel.npy", "deblur_kernel.npy"])
def test_demo_does_not_overwrite(capsys, tmp_path, name):
    (tmp_path / name).write_text("mine")
    line = failure(capsys, "demo", "--output", str(tmp_path))
    assert f"{name}: exists already; --overwrite replaces it" in line
    assert (tmp_path / name).read_text() == "mine"
    assert os.listdir(tmp_path) == [name]


def test_demo_names_a_network_that_the_installation_lacks(capsys, tmp_path, monkeypatch):
    from fastdeconv.imaging import shipped

    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    shipped.upscaling.cache_clear()
    assert "has no network for scale 2 in " in failure(capsys, "demo", "--output", str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


def test_demo_needs_a_folder_it_can_write_to(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in failure(capsys, "demo", "--output", str(tmp_path / "file"))
    assert "cannot be written to" in failure(capsys, "demo", "--output", "/dev/null/folder")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ | environment
    )


@pytest.mark.parametrize("package", ["PIL", "skimage", "matplotlib"])
def test_a_missing_extra_is_named(package):
    done = run(
        f"import sys; sys.modules[{package!r}] = None\n"
        "from fastdeconv.cli import main\n"
        "sys.exit(main(['demo', '--output', '/dev/null/folder']))"
    )
    assert done.returncode == 1
    assert done.stderr == f'fastdeconv: error: demo needs {package}: pip install "fastdeconv[images]"\n'


def test_a_benchmark_of_images_names_their_extra():
    done = run(
        "import sys; sys.modules['skimage'] = None\n"
        "from fastdeconv.cli import main\n"
        "sys.exit(main(['bench', 'quality']))"
    )
    assert done.returncode == 1
    assert done.stderr == 'fastdeconv: error: bench needs skimage: pip install "fastdeconv[images]"\n'


def test_explain_and_info_need_no_extra():
    code = (
        "import sys\n"
        "for name in ('PIL', 'skimage', 'matplotlib', 'scipy', 'tqdm'): sys.modules[name] = None\n"
        "from fastdeconv.cli import main\n"
        f"sys.exit(main(['explain', {DESCRIPTOR!r}]) or main(['info']))"
    )
    assert run(code).returncode == 0


def test_a_terminal_without_our_signs_gets_escapes():
    code = "import sys; from fastdeconv.cli import main; sys.exit(main(['demo', '--image', 'σ.png']))"
    done = run(code, PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert done.returncode == 1
    assert done.stderr == "fastdeconv: error: \\u03c3.png: no such file\n"


def test_a_reader_that_leaves_is_no_error():
    code = f"import sys; from fastdeconv.cli import main; sys.exit(main(['explain', {DESCRIPTOR!r}]))"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == ""


def test_seed_and_arguments_reach_the_demo(monkeypatch, tmp_path):
    from fastdeconv.imaging import demo

    seen = {}
    monkeypatch.setattr(demo, "run", lambda output, **options: seen.update(output=output, **options))
    Image.fromarray(np.zeros((100, 100), np.uint8)).save(tmp_path / "a.png")
    arguments = ["demo", "--image", str(tmp_path / "a.png"), "--output", str(tmp_path), "--overwrite", "--seed", "7"]
    assert main(arguments) == 0
    assert seen == {"output": tmp_path, "image": tmp_path / "a.png", "overwrite": True, "seed": 7}


def test_interruption_has_its_own_status(monkeypatch, capsys):
    from fastdeconv.imaging import demo

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "fastdeconv: error: interrupted\n"
