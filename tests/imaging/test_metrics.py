"""PSNR and SSIM against their formulas."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from fastdeconv.imaging.metrics import checkerboard, detail_psnr, overshoot, phase_bias, psnr, ssim
from fastdeconv.imaging.resize import cubic, resize

pytestmark = pytest.mark.quick


def pair():
    rng = np.random.default_rng(0)
    truth = rng.random((40, 50), dtype=np.float32)
    return truth, (truth + 0.1 * rng.standard_normal(truth.shape, dtype=np.float32)).astype(np.float32)


def test_psnr_is_its_formula_inside_the_border():
    truth, image = pair()
    image[:4] = 7
    image[:, -4:] = 7
    error = np.mean((truth - image)[4:-4, 4:-4].astype(float) ** 2)
    assert psnr(truth, image, 4) == pytest.approx(-10 * np.log10(error), abs=1e-4)
    assert psnr(truth, image, 3) < psnr(truth, image, 4) - 10


def test_equal_pictures():
    truth, _ = pair()
    assert psnr(truth, truth, 0) == np.inf
    assert ssim(truth, truth, 0) == pytest.approx(1)


def test_ssim_is_that_of_wang_et_al():
    truth, image = pair()
    row = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(row, row) / row.sum() ** 2

    def mean(a):
        return (sliding_window_view(a.astype(float)[2:-2, 2:-2], (11, 11)) * window).sum((2, 3))

    mx, my = mean(truth), mean(image)
    vx, vy, cxy = mean(truth**2) - mx**2, mean(image**2) - my**2, mean(truth * image) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mx * my + c1) * (2 * cxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(truth, image, 2) == pytest.approx(values.mean(), abs=1e-4)


def test_shapes_must_agree():
    truth, image = pair()
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match=r"truth's shape \(40, 50\); got \(39, 50\)"):
            metric(truth, image[1:], 2)


def test_detail_counts_only_the_steepest_pixels():
    truth = np.zeros((40, 40), np.float32)
    truth[:, 20:] = 1  # central differences see the edge in columns 19 and 20: 5 % of the pixels
    image = truth.copy()
    image[:, 19:21] += 0.1
    image[:, 5] += 0.5
    assert detail_psnr(truth, image, 0, share=0.05) == pytest.approx(20, abs=1e-4)
    assert detail_psnr(truth, truth, 0) == np.inf
    with pytest.raises(ValueError, match="share must be above 0 and at most 1; got 0"):
        detail_psnr(truth, image, 0, share=0)


def test_detail_of_all_pixels_is_psnr():
    truth, image = pair()
    assert detail_psnr(truth, image, 4, share=1) == pytest.approx(psnr(truth, image, 4), abs=1e-4)


def test_overshoot_is_what_lies_beyond_an_edge_in_flat_parts_beside_it():
    truth = np.full((30, 50), 0.25, np.float32)
    truth[:, 25:] = 0.75
    image = truth.copy()
    image[:, 27] += 0.1  # a halo on each side
    image[:, 22] -= 0.1
    image[:, 26] -= 0.2  # blur
    image[:, 40] += 0.3  # far from the edge
    image[:, 24] -= 0.3  # the edge itself
    # 4 columns see the edge on each side, and the nearest of them are not flat.
    # A halo of 0.1 beside an edge of height 0.5.
    assert overshoot(truth, image, 0) == pytest.approx((2 * 0.2 / 6, 0.2), rel=1e-5)
    assert overshoot(truth, image, 4) == pytest.approx((2 * 0.2 / 6, 0.2), rel=1e-5)
    assert overshoot(truth, truth, 0) == (0, 0)
    flat = np.full_like(truth, 0.5)
    assert overshoot(flat, image, 0) == (0, 0)


def test_bicubic_enlargement_overshoots_as_its_kernel_does():
    truth = np.zeros((40, 64), np.float32)
    truth[:, 32:] = 1
    # Enlarged twice, the first flat columns past the step lack one negative tap each, at 1.25 and 1.75 input pixels;
    # the third, which is the last within reach, lacks none.
    excess = -cubic(np.array([1.25, 1.75])).sum() / 3
    found = overshoot(truth, resize(truth[::2, ::2], truth.shape), 0)
    assert found.mean == pytest.approx(excess, rel=1e-4)
    assert found.peak == pytest.approx(-cubic(np.array([1.25, 1.75])).min(), rel=1e-4)


@pytest.mark.parametrize("height", [0.3, 0.9])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_overshoot_of_bicubic_enlargement_is_a_share_of_the_edge_at_every_scale(scale, height):
    truth = np.full((48, 96), 0.05, np.float32)
    truth[:, 48:] += height
    found = overshoot(truth, resize(truth[::scale, ::scale], truth.shape), 0, reach=2 * scale)
    # The pixels beyond the step lack the outer tap, from 1 to 2 input pixels away.
    phases = ((np.arange(scale) + 0.5) / scale - 0.5) % 1
    assert found.peak == pytest.approx(-cubic(1 + phases).min(), rel=1e-3)


def test_phase_bias_is_that_of_its_pattern_and_not_of_noise():
    truth, _ = pair()
    noise = 0.001 * np.random.default_rng(1).standard_normal((400, 300), dtype=np.float32)
    pattern = np.zeros_like(noise)
    pattern[1::2, ::2] = 0.01  # one phase of four
    assert phase_bias(np.zeros_like(noise), pattern + noise, 2) == pytest.approx(0.01 * np.sqrt(3) / 4, rel=0.01)
    assert phase_bias(np.zeros_like(noise), 0.3 + noise, 2) < 1e-5
    assert phase_bias(truth, truth + np.float32(0.1), 3, 1) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_noise_is_checkerboard_zero_and_a_pattern_stands_out(scale):
    noise = np.random.default_rng(0).normal(0.5, 0.02, (400, 300)).astype(np.float32)
    assert abs(checkerboard(noise, scale)) < 2
    pattern = np.zeros_like(noise)
    pattern[::scale, ::scale] = 0.03
    assert checkerboard(noise + pattern, scale) > 10
    other = np.zeros_like(noise)
    other[::5, ::5] = 0.03  # of another period
    assert abs(checkerboard(noise + other, scale)) < 2


def test_checkerboard_is_the_power_of_its_pattern():
    # Of amplitude a in noise of deviation s, a Nyquist wave has a²·(Σw)² at one bin and noise s²·Σw² at each.
    noise = np.random.default_rng(0).normal(0, 0.1, (960, 960)).astype(np.float32)
    sign = (-1.0) ** np.arange(960)
    wave = 0.02 * np.outer(sign, sign).astype(np.float32)
    window = np.outer(np.hanning(49)[:-1], np.hanning(49)[:-1])
    ratio = 1 + 0.02**2 * window.sum() ** 2 / (0.1**2 * (window**2).sum())
    assert checkerboard(noise + wave, 2) == pytest.approx(10 * np.log10(ratio), abs=0.5)


def test_checkerboard_refuses_what_it_cannot_measure():
    truth, _ = pair()
    with pytest.raises(ValueError, match=r"48 pixels a side inside the border; got shape \(40, 50\)"):
        checkerboard(truth, 2)
    with pytest.raises(ValueError, match="scale must be 2, 3 or 4; got 1"):
        checkerboard(truth, 1)
