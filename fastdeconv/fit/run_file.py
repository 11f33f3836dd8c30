"""The checkpoint of a run: all that it needs to go on to the same bits."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from fastdeconv.fit import checkpoint
from fastdeconv.fit.batches import Calls, shapes
from fastdeconv.fit.checkpoint import CheckpointError
from fastdeconv.fit.history import Row
from fastdeconv.fit.learner import Learner, under
from fastdeconv.fit.plan import Numbers, Plan

# Differences between two runs that a message lists.
_MOST_LISTED = 5


def write(path: Path, plan: Plan, learner: Learner, numbers: Numbers, rows: list[Row]) -> None:
    """Write a checkpoint.

    Raises
    ------
    CheckpointError
    """
    arrays = learner.arrays()
    state = getattr(plan.schedule, "state_dict", None)
    if state is not None:
        arrays |= {f"schedule.{key}": array for key, array in state().items()}
    arrays["history"] = np.array(rows, np.float64).reshape(-1, len(Row._fields))
    checkpoint.write(path, "run", arrays, {"numbers": asdict(numbers), "facts": plan.facts}, {})


def read(path: Path, plan: Plan, learner: Learner) -> tuple[Numbers, list[Row]]:
    """Bring schedule and model to where a checkpoint was written; return the run's numbers and history.

    Raises
    ------
    CheckpointError
        It is damaged, of something else, or of a run with other arguments.
    """
    arrays, about, _ = checkpoint.read(path)
    if about is None or about["kind"] != "run":
        held = "weights" if about else "arrays from elsewhere"
        raise CheckpointError(
            f"{path}: holds {held}, and is no checkpoint of a run; choose another name for the checkpoint, or "
            "resume=False to write over it"
        )
    try:
        numbers = Numbers(**{each.name: about["numbers"][each.name] for each in fields(Numbers)})
        then, now = dict(about["facts"]), dict(plan.facts)
        if isinstance(plan.source, Calls) and numbers.shapes:
            then["the first batch of data"] = numbers.shapes
            now["the first batch of data"] = shapes(*plan.source.batch(0))
        differences = _differences(then, now)
        if differences:
            raise CheckpointError(
                f"{path}: is of a run with other arguments: {differences}. Use them again, or resume=False to begin "
                "anew, or another name for the checkpoint"
            )
        learner.load(arrays)
        load = getattr(plan.schedule, "load_state_dict", None)
        if load is not None:
            load(under(arrays, "schedule."))
        rows = [Row(int(row[0]), int(row[1]), *row[2:]) for row in arrays["history"].tolist()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: does not hold all of a run ({error}); resume=False begins anew") from error
    return numbers, rows


def _differences(then: dict[str, str], now: dict[str, str]) -> str:
    found = [
        f"{name} was {then.get(name, 'absent')} and is {now.get(name, 'absent')}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]
    more = [f"and {len(found) - _MOST_LISTED} more"] if len(found) > _MOST_LISTED else []
    return "; ".join(found[:_MOST_LISTED] + more)
