"""Data to learn kernels from."""

from __future__ import annotations

import numpy as np

import fastdeconv as fd

FORWARD = {1: fd.conv_transpose1d, 2: fd.conv_transpose2d, 3: fd.conv_transpose3d}


def synthetic(x_shape, w_shape, dtype="float64", bias=False, seed=0, **parameters):
    """Random x, a kernel, a bias, and what they give."""
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
    groups = parameters.get("groups", 1)
    b = rng.standard_normal(w_shape[1] * groups).astype(dtype) if bias else None
    return x, w, b, FORWARD[len(w_shape) - 2](x, w, b, **parameters)


def off(found, true):
    return float(np.abs(found - true).max() / np.abs(true).max())


def smooth_signal(roughness, dtype):
    """A nearly constant signal, whose taps are nearly alike: the condition number goes with 1 / roughness²."""
    rng = np.random.default_rng(0)
    x = (1 + roughness * rng.standard_normal(40)).astype(dtype)
    y = rng.random(38).astype(dtype)
    taps = np.stack([fd.conv_transpose1d(x.astype(float), tap, padding=2) for tap in np.eye(3)], 1)
    least = float(np.mean((taps @ np.linalg.lstsq(taps, y.astype(float))[0] - y) ** 2))
    return x, y, least, np.linalg.cond(taps) ** 2


def textbook():
    """Return the textbook example's w, x and y_true."""
    rng = np.random.default_rng(1)
    return rng.random((3, 3)), rng.random((5, 5)), rng.random((5, 5))
