"""Layers with explicit forward and backward passes, with torch's names, defaults and state.

A model is a `Module`: ``y = model(x)``, then ``gx = model.backward(gy)`` adds the gradients of its parameters to their
``grad``. `fastdeconv.fit` trains one.
"""

from fastdeconv.nn import init
from fastdeconv.nn.activations import GELU, LeakyReLU, PReLU, ReLU, Sigmoid, Tanh
from fastdeconv.nn.containers import Identity, Residual, Sequential
from fastdeconv.nn.conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from fastdeconv.nn.module import Module, Parameter, no_grad
from fastdeconv.nn.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d
from fastdeconv.nn.shuffle import PixelShuffle

__all__ = [
    "GELU",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Identity",
    "LeakyReLU",
    "Module",
    "PReLU",
    "Parameter",
    "PixelShuffle",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "init",
    "no_grad",
]
