"""PSNR and SSIM against their formulas."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from fastdeconv.imaging.metrics import psnr, ssim

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
