"""What a training run was like: the losses as they fell, as numbers, text and picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Rows at the start and the end of a table that repr prints; those between are left out.
_FIRST, _LAST = 3, 5


class Row(NamedTuple):
    """One entry of a `History`; NaN stands for what was not measured."""

    epoch: int
    step: int
    loss: float
    validation_loss: float
    metric: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class History:
    """What `fit` returns: an entry for each pass over the data, or for every `validate_every` steps.

    Attributes
    ----------
    epoch : ndarray of int64
        Passes over the data, the present one included.
    step : ndarray of int64
        Steps taken.
    loss : ndarray of float64
        Mean over the items since the entry before, each with the weights that its step had; without penalties.
    validation_loss, metric : ndarray of float64
        On the validation data; NaN where there are none.
    learning_rate : ndarray of float64
        Of the last step.
    seconds : ndarray of float64
        Since the start, of all parts of a resumed run together.
    metric_name : str
        "" where there is no metric.
    best_step : int
        Steps after which the weights were best: by validation loss, or without validation data by loss. 0 is the
        start.
    diverged : bool
        Whether the loss became NaN, infinite or huge.
    message : str
        Why the run stopped, and which weights the model was left with.
    """

    epoch: Integers
    step: Integers
    loss: Floats
    validation_loss: Floats
    metric: Floats
    learning_rate: Floats
    seconds: Floats
    metric_name: str
    best_step: int
    diverged: bool
    message: str

    @classmethod
    def of(cls, rows: list[Row], **facts: Any) -> History:
        """Return the history with these entries."""
        table = np.array(rows, dtype=np.float64).reshape(-1, len(Row._fields))
        columns: dict[str, Any] = dict(zip(Row._fields, table.T.copy()))
        for name in ("epoch", "step"):
            columns[name] = columns[name].astype(np.int64)
        return cls(**columns, **facts)

    def __len__(self) -> int:
        return len(self.step)

    def __repr__(self) -> str:
        columns = {
            "epoch": [f"{n}" for n in self.epoch],
            "step": [f"{n}" for n in self.step],
            "loss": [f"{value:.4g}" for value in self.loss],
        }
        if np.isfinite(self.validation_loss).any():
            columns["validation"] = [f"{value:.4g}" for value in self.validation_loss]
        if self.metric_name:
            columns[self.metric_name] = [f"{value:.4g}" for value in self.metric]
        columns["rate"] = [f"{value:.3g}" for value in self.learning_rate]
        columns["seconds"] = [f"{value:.1f}" for value in self.seconds]
        columns[""] = ["best" if n == self.best_step else "" for n in self.step]
        lines = ["  ".join(f"{cell:>10}" for cell in cells).rstrip() for cells in zip(*columns.values())]
        if len(lines) > _FIRST + _LAST:
            lines[_FIRST:-_LAST] = [f"{'…':>10}"]
        title = "  ".join(f"{name:>10}" for name in columns).rstrip()
        return "\n".join([self.message, *[title] * bool(lines), *lines])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the losses, the metric and the learning rate over the steps.

        Parameters
        ----------
        path : str or path, optional
            Where to write the picture, as PNG, SVG or PDF by the name's ending.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            Matplotlib is not installed.
        OSError
            The file cannot be written.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("plot needs Matplotlib: pip install matplotlib") from None
        panels = [("loss", {"training": self.loss, "validation": self.validation_loss})]
        if self.metric_name:
            panels.append((self.metric_name, {"validation": self.metric}))
        panels.append(("learning rate", {"": self.learning_rate}))
        figure = Figure(figsize=(4.5 * len(panels), 3.2), layout="constrained")
        for ax, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            for name, values in curves.items():
                if np.isfinite(values).any():
                    ax.plot(self.step, values, label=name, marker="." if len(self) < 30 else "")
            if title == "loss":
                if all(np.nanmin(values, initial=np.inf) > 0 for values in curves.values()):
                    ax.set_yscale("log")
                if self.best_step:
                    ax.axvline(self.best_step, color="grey", linewidth=0.8, linestyle=":", label="best weights")
                ax.legend()
            ax.set_title(title, parse_math=False)
            ax.set_xlabel("step")
        if path is not None:
            figure.savefig(path)
        return figure
