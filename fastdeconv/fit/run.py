"""One run of `fit`: steps, entries of the history, when to stop."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeconv.fit import checkpoint, run_file
from fastdeconv.fit.batches import shapes
from fastdeconv.fit.checkpoint import CheckpointError
from fastdeconv.fit.checks import check_finite, schedule_factor
from fastdeconv.fit.history import History, Row
from fastdeconv.fit.interrupts import held_back
from fastdeconv.fit.judge import check_shape, evaluate, psnr
from fastdeconv.fit.kernel_run import DIVERGED, quiet
from fastdeconv.fit.learner import Learner
from fastdeconv.fit.plan import Numbers, Plan, TrainingState
from fastdeconv.fit.progress import Show
from fastdeconv.losses import MSE

Array = NDArray[Any]

# Steps between entries of the history where the data have no end and nothing else is asked for.
_ENTRY = 100
# Seconds between changes of the progress bar.
_REFRESH = 0.1
# How much of the bar's items a second is that of before.
_SMOOTH = 0.7


class Run:
    """A model on its way through its data."""

    def __init__(self, plan: Plan, learner: Learner) -> None:
        self.plan, self.learner = plan, learner
        self.numbers = Numbers(peak=plan.peak)
        self.rows: list[Row] = []
        self._metric = plan.metric
        self._metric_name = plan.metric_name
        self._resumed: int | None = None
        self._start = self._written = time.perf_counter()
        self._before = 0.0  # seconds of the run's earlier parts
        self._seen = 0  # items since the start of this part
        self._shown = -math.inf, 0  # when the bar was last changed, and items by then
        self._speed = 0.0  # items a second
        self._text = ""  # behind the bar
        self._failure = ""  # of the last writing
        self._whole = True  # whether no step is half done

    # -- the loop ---------------------------------------------------------------------------------------------------

    def go(self, show: Show | None) -> History:
        """Step until there is a reason to stop, and leave the model with the weights that were asked for."""
        self._choose_metric()
        before = self._mark()
        with held_back() as interrupted:
            try:
                reason = self._reason()
                while reason is None:
                    reason = self._pass(show, interrupted)
                if show is not None:
                    show(self.numbers.step, self._text)
                if self.numbers.items and not self.numbers.trouble:
                    self._enter()
                    reason = self.numbers.trouble or reason
            except KeyboardInterrupt:
                if self._whole:
                    self._save()
                raise
            if self._mark() != before:
                self._save()
            if interrupted():
                raise KeyboardInterrupt
        return self._finish(reason)

    def _pass(self, show: Show | None, interrupted: Callable[[], bool]) -> str | None:
        """Take the steps of one pass over the data; return why the run stops, if it does."""
        n, plan = self.numbers, self.plan
        for x, y_true, last in plan.source.batches(n.epoch, n.position):
            self._whole = False
            value = self._step(x, y_true, show)
            if n.trouble:
                return n.trouble
            n.position += 1
            if last:
                n.epoch, n.position = n.epoch + 1, 0
            row = self._enter() if self._entry_due(last) else None
            self._whole = True
            told = self._tell(value, row) if plan.callbacks else None
            if plan.path is not None and time.perf_counter() - self._written >= plan.checkpoint_seconds:
                self._save()
            if interrupted():
                raise KeyboardInterrupt
            reason = self._reason() or told
            if reason is not None:
                return reason
        return None

    def _step(self, x: Array, y_true: Array, show: Show | None) -> float:
        """Learn from a batch; return its loss."""
        n, plan = self.numbers, self.plan
        with quiet():
            y = self.learner.model(x)
            check_shape(y, y_true, plan.source.name)
            value, gradient = plan.loss.value_and_gradient(y, y_true)
            if n.step == 0:
                self._look(value, x, y_true)
            if not value <= n.limit:
                self._diverged(value, x, y_true)
                return value
            if show is not None:
                self._show(show, value, y, y_true)
            del y
            factor = schedule_factor(plan.schedule, n.step)
            self.learner.learn(gradient, factor)
        n.rate = plan.learning_rate * factor
        n.step += 1
        n.total += value * len(x)
        n.items += len(x)
        self._seen += len(x)
        n.seconds = self._seconds()
        return value

    def _look(self, value: float, x: Array, y_true: Array) -> None:
        """Take from the first batch what a loss is compared with, and whether the data are images."""
        n, zero = self.numbers, y_true - y_true
        n.shapes = shapes(x, y_true)
        scale = max(value if math.isfinite(value) else 0.0, self.plan.loss(zero, y_true))
        n.limit = DIVERGED * scale if 0 < scale < math.inf else np.finfo(float).max
        if math.isnan(n.peak):
            n.peak = float(y_true.ndim == 4 and float(y_true.min()) >= 0 and float(y_true.max()) <= 1)
        self._choose_metric()

    def _choose_metric(self) -> None:
        if self._metric is None and self.plan.validation is not None and self.numbers.peak > 0:
            self._metric, self._metric_name = psnr(self.numbers.peak), "psnr"

    def _diverged(self, value: float, x: Array, y_true: Array) -> None:
        n = self.numbers
        try:
            check_finite(f"x of batch {n.position + 1} of pass {n.epoch + 1} of data", x)
            check_finite(f"y_true of batch {n.position + 1} of pass {n.epoch + 1} of data", y_true)
        except ValueError:
            # The batch is at fault and not the run: what was learned so far is good.
            self.learner.finish(best=True)
            raise
        n.trouble = f"diverged: the loss is {value:.3g} at step {n.step}"

    def _entry_due(self, last: bool) -> bool:
        every = self.plan.validate_every
        if every is None:
            if not self.plan.source.endless:
                return last
            every = _ENTRY
        return self.numbers.step % every == 0

    def _enter(self) -> Row:
        """Judge the weights, and make an entry in the history."""
        n, plan = self.numbers, self.plan
        loss, validation, measured = n.total / n.items, math.nan, math.nan
        if plan.validation is not None:
            with self.learner.averaged(), quiet():
                validation, measured = evaluate(self.learner.model, plan.validation, plan.loss, self._metric)
        judged = loss if plan.validation is None else validation
        n.seconds = self._seconds()
        epoch = n.epoch + (n.position > 0)
        row = Row(epoch, n.step, loss, validation, measured, n.rate, n.seconds)
        self.rows.append(row)
        n.total, n.items = 0.0, 0
        observe = getattr(plan.schedule, "observe", None)
        if observe is not None:
            observe(judged)
        if not math.isfinite(judged):
            n.trouble = f"diverged: the validation loss is {judged:.3g} at step {n.step}"
        elif judged < n.best:
            if self.learner.finite():
                n.best, n.best_step, n.stale = judged, n.step, 0
                self.learner.keep_best()
            else:
                n.trouble = f"diverged: weights are no longer finite at step {n.step}"
        else:
            n.stale += 1
        return row

    def _reason(self) -> str | None:
        n, plan = self.numbers, self.plan
        if n.trouble:
            return n.trouble
        if n.epoch >= plan.epochs:
            return f"stopped at epochs={plan.epochs}"
        if n.step >= plan.max_steps:
            return f"stopped at max_steps={plan.max_steps}"
        if n.stale >= plan.patience:
            judged = "loss" if plan.validation is None else "validation loss"
            return f"stopped at step {n.step}: no lower {judged} in patience={plan.patience} entries of the history"
        if n.seconds >= plan.max_seconds:
            return f"stopped at max_seconds={plan.max_seconds:g}, at step {n.step}"
        return None

    def _tell(self, value: float, row: Row | None) -> str | None:
        n, model = self.numbers, self.learner.model
        state = TrainingState(n.step, n.epoch, value, n.rate, n.seconds, row, model)
        answers = [callback(state) for callback in self.plan.callbacks]
        model.train()  # whatever they did with it
        if any(isinstance(answer, bool | np.bool_) and answer for answer in answers):
            return f"stopped by a callback at step {n.step}"
        return None

    def _finish(self, reason: str) -> History:
        n, plan, learner = self.numbers, self.plan, self.learner
        if not n.trouble and not plan.restore_best and not learner.finite():
            n.trouble = reason = f"diverged: weights are no longer finite at step {n.step}"
        best = plan.restore_best or bool(n.trouble)
        learner.finish(best)
        judged = "loss" if plan.validation is None else "validation loss"
        if not best or (n.best_step == n.step and not n.trouble):
            left = "the weights are the last"
        elif n.best < math.inf:
            left = f"the weights are those of step {n.best_step}, with the lowest {judged}, {n.best:.4g}"
        else:
            left = "the weights are those of the start"
        advice = f". Use a learning_rate below {plan.learning_rate:.3g}, or clip_norm" if n.trouble else ""
        resumed = "" if self._resumed is None else f" (resumed at step {self._resumed})"
        failed = f". The last checkpoint is missing: {self._failure}" if self._failure else ""
        return History.of(
            self.rows,
            metric_name=self._metric_name,
            best_step=n.best_step,
            diverged=bool(n.trouble),
            message=f"{reason}{resumed}; {left}{advice}{failed}",
        )

    def _mark(self) -> tuple[object, ...]:
        """Return what tells that the run has moved."""
        return self.numbers.step, len(self.rows), self.numbers.trouble

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._start

    def _show(self, show: Show, value: float, y: Array, y_true: Array) -> None:
        now = time.perf_counter()
        passed = now - self._shown[0]
        if passed < _REFRESH:
            return
        n = self.numbers
        parts = [f"loss {value:.4g}"]
        if n.peak > 0:
            square = value if isinstance(self.plan.loss, MSE) else MSE()(y, y_true)
            parts.append(f"{10 * math.log10(n.peak**2 / square):.2f} dB" if square else "∞ dB")
        speed = (self._seen - self._shown[1]) / passed
        self._speed = _SMOOTH * self._speed + (1 - _SMOOTH) * speed if self._speed else speed
        if self._speed:
            parts.append(f"{self._speed:.3g} items/s")
        self._shown = now, self._seen
        self._text = ", ".join(parts)
        show(n.step, self._text)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def begin(self, resume: bool) -> None:
        """Go on from a checkpoint if there is one, or write the first: then there is a place for the others.

        Raises
        ------
        CheckpointError
        """
        path = self.plan.path
        if path is None:
            return
        checkpoint.prepare(path)
        if resume and path.exists():
            self.numbers, self.rows = run_file.read(path, self.plan, self.learner)
            self._before, self._resumed = self.numbers.seconds, self.numbers.step
        else:
            self._write(path)

    def _write(self, path: Path) -> None:
        self.numbers.seconds = self._seconds()
        run_file.write(path, self.plan, self.learner, self.numbers, self.rows)
        self._written = time.perf_counter()

    def _save(self) -> None:
        """Write a checkpoint, if there is to be one; where that fails, training goes on."""
        if self.plan.path is None:
            return
        try:
            self._write(self.plan.path)
        except CheckpointError as error:
            if not self._failure:
                warnings.warn(f"{error}; training goes on, and is resumable from the one before", RuntimeWarning, 4)
            self._failure = str(error)
            self._written = time.perf_counter()
        else:
            self._failure = ""
