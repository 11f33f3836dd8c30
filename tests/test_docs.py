"""The Python blocks of the documentation run, in order, and print what the ``text`` block after them says."""

from __future__ import annotations

import contextlib
import io
import operator
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import fastdeconv as fd
from fastdeconv import tuning

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"\bfd\.([\w.]*\w)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


class Block(NamedTuple):
    kind: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1].strip(), m[2], text.count("\n", 0, m.start(2))) for m in FENCE.finditer(text)]


def run(page: Path, namespace: dict[str, Any]) -> int:
    """Run the page's ``python`` blocks and return how many; ``python no-run`` and other kinds are not run."""
    found = blocks(page)
    count = 0
    for block, after in zip(found, [*found[1:], Block("", "", 0)]):
        if block.kind != "python":
            continue
        count += 1
        printed = io.StringIO()
        # Blank lines in front make a traceback show the page's own line numbers.
        code = compile("\n" * block.line + block.text, str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if after.kind == "text":
            assert printed.getvalue() == after.text, f"{page.name}, line {block.line + 1}"
    return count


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = SimpleNamespace(directory=lambda: (tmp_path, "here"), existing=lambda: tmp_path)
    monkeypatch.setattr(tuning, "cache", folder)  # what a page tunes is not for the user
    monkeypatch.setattr(tuning, "_table", {})
    count = run(page, {"__name__": "__main__"})
    assert count or page.name not in ("README.md", "textbook.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_exist(page: Path) -> None:
    for name in sorted(set(NAME.findall(page.read_text(encoding="utf-8")))):
        operator.attrgetter(name)(fd)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", AssertionError),
        ("```python\nx = 1\n```\n```python\ny\n```\n", NameError),
    ],
)
def test_a_wrong_page_fails(text: str, error: type[Exception], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(error):
        run(page, {})
