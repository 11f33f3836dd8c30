"""Update rules of gradient descent as ``torch.optim`` defines them, schedules, gradient clipping, averages of weights.

A rule holds hyper-parameters only. ``update = rule.start(parameter)`` makes the state for one array, of NumPy or CuPy,
and ``update(gradient, factor)`` changes that array in place, with the learning rate times `factor`, in one pass over
memory. What has state gives it away by ``state_dict()``, as NumPy arrays, and takes it back by ``load_state_dict``.
"""

from fastdeconv.optim.average import EMA, Average
from fastdeconv.optim.checks import number
from fastdeconv.optim.clipping import clip_grad_norm, clip_grad_value
from fastdeconv.optim.rules import SGD, Adam, AdamW, Optimizer, RMSprop, as_optimizer
from fastdeconv.optim.schedules import Cosine, Plateau, Schedule, StepDecay, Warmup, as_schedule, constant
from fastdeconv.optim.update import Update

__all__ = [
    "EMA",
    "SGD",
    "Adam",
    "AdamW",
    "Average",
    "Cosine",
    "Optimizer",
    "Plateau",
    "RMSprop",
    "Schedule",
    "StepDecay",
    "Update",
    "Warmup",
    "as_optimizer",
    "as_schedule",
    "clip_grad_norm",
    "clip_grad_value",
    "constant",
    "number",
]
