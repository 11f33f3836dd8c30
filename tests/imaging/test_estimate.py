"""Estimates on photographs that were spoiled by known amounts: rough, as the documentation says, but in order."""

import numpy as np
import pytest

from fastdeconv.imaging import estimate
from fastdeconv.imaging.degrade import add_noise, blur, jpeg
from fastdeconv.imaging.photographs import HELD_OUT, photograph

PHOTOGRAPHS = {name: photograph(HELD_OUT[name])[:400, :400] for name in ("astronaut", "camera", "chelsea", "coffee")}


@pytest.fixture(params=PHOTOGRAPHS)
def clean(request):
    return PHOTOGRAPHS[request.param]


@pytest.mark.parametrize("sigma", [8, 16])
def test_noise(clean, sigma):
    noisy = add_noise(clean, sigma / 255, np.random.default_rng(0))
    assert abs(255 * estimate.noise(noisy) - sigma) < 0.2 * sigma
    assert estimate.noise(clean) < estimate.CLEAN


@pytest.mark.parametrize("sigma", [1.2, 1.6, 2.0])
def test_blur(clean, sigma):
    assert abs(estimate.blur(blur(clean, sigma)) - sigma) < 0.3
    assert estimate.blur(clean) < estimate.SHARP


def test_blocks(clean):
    assert estimate.blockiness(clean) < estimate.BLOCKS_SHOW < estimate.blockiness(jpeg(clean, 40))
    assert estimate.blockiness(jpeg(clean, 10)) > estimate.blockiness(jpeg(clean, 40))
    # A picture that is cropped by other than 8 pixels has blocks that are not looked for.
    assert estimate.blockiness(np.ascontiguousarray(jpeg(clean, 40)[3:, 3:])) < estimate.BLOCKS_SHOW


def test_pictures_that_tell_nothing():
    for flat in (np.full((50, 60), 0.5, np.float32), np.zeros((1, 1), np.float32), np.zeros((3, 200), np.float32)):
        assert estimate.noise(flat) == 0
        assert estimate.blur(flat) == 0
        assert estimate.blockiness(flat) == 1


def test_of_large_pictures_the_middle_is_looked_at():
    large = np.zeros((4000, 1700), np.float32)
    large[1700:2300, 500:1200] = np.random.default_rng(0).random((600, 700), dtype=np.float32)
    small = large[(4000 - 1536) // 16 * 8 :, (1700 - 1536) // 16 * 8 :][:1536, :1536]
    assert estimate.blockiness(large) == estimate.blockiness(small.copy()) != 1
