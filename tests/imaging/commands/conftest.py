from __future__ import annotations

import pytest
from pictures import Repeater


@pytest.fixture
def repeating(monkeypatch: pytest.MonkeyPatch) -> Repeater:
    """Let the commands find the stand-in where the networks are; of `restore` it is a copy at scale 1."""
    from fastdeconv.imaging import enhance

    stand_in = Repeater()

    def upscaler(scale: int = 2) -> Repeater:
        stand_in.scale = scale
        return stand_in

    monkeypatch.setattr(enhance.Upscaler, "pretrained", upscaler)
    return stand_in
