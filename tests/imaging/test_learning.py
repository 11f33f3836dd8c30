"""The tasks' geometry, the closed form that descent is measured against, and descent itself on a small problem."""

import dataclasses

import numpy as np
import pytest

from fastdeconv.functional import conv_transpose2d
from fastdeconv.imaging import learning, photographs, shipped
from fastdeconv.imaging.learning import learn, least_squares, restore, training_loss, training_pairs
from fastdeconv.imaging.metrics import psnr
from fastdeconv.imaging.network import Description, Network, NetworkError
from fastdeconv.imaging.photographs import HELD_OUT, TRAINING, photograph
from fastdeconv.imaging.resize import bicubic_kernel
from fastdeconv.imaging.tasks import DEBLUR, JPEG, KERNEL_TASKS, UPSCALE, enlarge, identity_kernel, wiener_deblur

pytestmark = pytest.mark.quick


def picture(height=120, width=130, seed=0):
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def test_the_bicubic_kernel_is_bicubic_interpolation():
    image = picture(31, 22)
    np.testing.assert_allclose(restore(UPSCALE, bicubic_kernel(2, 18), image), enlarge(image, 2).clip(0, 1), atol=2e-6)


def test_the_identity_kernel_changes_nothing():
    np.testing.assert_allclose(restore(DEBLUR, identity_kernel(15), picture()), picture(), atol=1e-6)


@pytest.mark.parametrize("task", KERNEL_TASKS.values(), ids=KERNEL_TASKS)
def test_training_pairs_fit_each_other(task):
    """Starting kernels do what the standard methods do, which shows crops and targets placed to the pixel."""
    truths = [photograph(HELD_OUT["chelsea"])]
    x, y_true = training_pairs(task, truths, np.random.default_rng(3))
    y = conv_transpose2d(x, task.initial_kernel(task.kernel_size)[None, None], stride=task.scale, padding=task.padding)
    assert y.shape == y_true.shape
    errors = {
        (i, j): np.mean((np.roll(y, (i, j), (2, 3)) - y_true)[..., 2:-2, 2:-2] ** 2)
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    }
    assert min(errors, key=errors.__getitem__) == (0, 0)
    np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), 0, atol=1e-6)


@pytest.mark.parametrize("task", KERNEL_TASKS.values(), ids=KERNEL_TASKS)
def test_least_squares_finds_the_kernel_that_made_the_targets(task):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((task.kernel_size, task.kernel_size), dtype=np.float32)
    x = rng.standard_normal((4, 1, 40, 40), dtype=np.float32)
    y_true = conv_transpose2d(x, kernel[None, None], stride=task.scale, padding=task.padding)
    np.testing.assert_allclose(least_squares(task, x, y_true), kernel, atol=1e-4)


def test_no_kernel_beats_least_squares_and_descent_comes_close(monkeypatch):
    task = dataclasses.replace(UPSCALE, taps=5)
    monkeypatch.setattr(learning, "CROPS", 2)
    x, y_true = training_pairs(task, [photograph(TRAINING["brick"])], np.random.default_rng(0))
    fit = learn(task, x, y_true, progress=False)
    start = training_loss(task, task.initial_kernel(task.kernel_size), x, y_true)
    best = training_loss(task, least_squares(task, x, y_true), x, y_true)
    assert best <= fit.loss * (1 + 1e-6)
    assert fit.loss < best + 0.02 * (start - best)
    assert fit.history[0] == pytest.approx(start, rel=1e-5)


def test_restore_clips_to_the_range_of_a_picture():
    result = restore(DEBLUR, 5 * identity_kernel(15), picture())
    assert result.min() == 0
    assert result.max() == 1


def test_a_network_for_something_else_is_not_taken(monkeypatch):
    blur = shipped.Shipped("restore-blur", Network(Description(1, 1, 1, 0, degradation=DEBLUR.degradation)))
    monkeypatch.setattr(shipped, "restoring", lambda: (blur,))
    assert DEBLUR.pretrained().network is blur.network
    with pytest.raises(NetworkError, match="has no network that undoes JPEG of quality 40 in "):
        JPEG.pretrained()


def test_wiener_undoes_a_known_blur():
    truth = photograph(HELD_OUT["camera"])
    blurred = DEBLUR.degrade(truth, np.random.default_rng(0))
    restored = wiener_deblur(blurred)
    assert restored.shape == truth.shape
    assert psnr(truth, restored, 8) > psnr(truth, blurred, 8) + 2
    assert psnr(truth, restored, 0) > psnr(truth, blurred, 0) + 2  # borders too


def test_training_never_sees_a_held_out_photograph():
    assert not set(HELD_OUT.values()) & set(TRAINING.values())
    assert "motorcycle_right.png" not in TRAINING.values()  # the same scene as the left one
    for file in (*HELD_OUT.values(), *TRAINING.values()):
        image = photograph(file)
        assert image.ndim == 2
        assert min(image.shape) >= 256
        assert 0 <= image.min() < image.max() <= 1


def test_photographs_need_scikit_image(monkeypatch):
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="skimage"):
        photograph("skimage/data/camera.png")
