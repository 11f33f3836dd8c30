"""What a run of `fit` is to do, where it stands, and what its callbacks see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastdeconv.fit.batches import Source
from fastdeconv.fit.history import Row
from fastdeconv.fit.judge import Metric
from fastdeconv.losses import Loss
from fastdeconv.nn import Module
from fastdeconv.optim import Schedule


class TrainingState(NamedTuple):
    """What a callback of `fit` is given, after each step.

    Attributes
    ----------
    step : int
        Steps taken so far.
    epoch : int
        Passes over the data that are finished.
    loss : float
        Of the step's batch, before the step.
    learning_rate : float
        Of the step.
    seconds : float
        Since the start, of all parts of a resumed run together.
    row : Row, optional
        The history's new entry, if the step has brought one.
    model : Module
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    row: Row | None
    model: Module


@dataclass
class Numbers:
    """The numbers of a run that its steps change; a checkpoint has all of them."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # batches of the present pass that are done
    total: float = 0.0  # of losses, one for each item, since the last entry of the history
    items: int = 0
    limit: float = math.inf  # a loss above it is divergence
    peak: float = math.nan  # the largest value of images; 0 if the data are none, NaN before that is known
    best: float = math.inf
    best_step: int = 0
    stale: int = 0  # entries of the history since the best
    rate: float = 0.0
    seconds: float = 0.0  # since the start, by the end of the last step or of its entry in the history
    shapes: str = ""  # of the first batch
    trouble: str = ""  # why the run cannot go on


@dataclass(frozen=True)
class Plan:
    """The arguments of `fit`, checked."""

    source: Source
    validation: Source | None
    loss: Loss
    learning_rate: float
    schedule: Schedule
    epochs: float
    max_steps: float
    max_seconds: float
    validate_every: int | None
    metric: Metric | None
    metric_name: str
    peak: float
    patience: float
    restore_best: bool
    callbacks: tuple[Callable[[TrainingState], Any], ...]
    path: Path | None
    checkpoint_seconds: float
    facts: dict[str, str]  # what must not change between the parts of a resumed run
