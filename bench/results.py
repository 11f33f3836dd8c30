"""The figures of a run: what the JSON file holds, and what follows from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastdeconv.bench.operands import TimedPass
from fastdeconv.bench.timing import Times

SCHEMA = 1
OURS, OURS_CHANNELS_LAST = "fastdeconv", "fastdeconv_cl"


@dataclass(frozen=True, slots=True)
class Limits:
    """Measured limits of the machine with all threads of the run."""

    flops: dict[str, float]  # a second, by dtype
    bytes: float  # a second, read and written

    def seconds(self, row: Row) -> float:
        """Return the least time that the direct method needs: arithmetic or memory, whichever takes longer."""
        return max(row.flops / self.flops[row.dtype], row.bytes / self.bytes)

    def share(self, row: Row) -> float:
        """Return the row's share of its roofline: 1 where our median is that least time."""
        return self.seconds(row) / row.times[OURS].median


@dataclass(slots=True)
class Row:
    """One pass of one layer."""

    layer: str
    source: str
    problem: str
    pass_: TimedPass
    dtype: str  # on a GPU the precision: "tf32" is one of float32
    kernel: str
    flops: int
    bytes: int
    times: dict[str, Times] = field(default_factory=dict)  # by contender
    notes: dict[str, str] = field(default_factory=dict)  # why a contender has no time
    error: str | None = None  # our own result is wrong: nobody was timed
    disagrees: list[str] = field(default_factory=list)  # peers whose result is not ours

    def best_peer(self, peers: Iterable[str]) -> str | None:
        """Return the peer with the lowest median."""
        timed = [name for name in peers if name in self.times]
        return min(timed, key=lambda name: self.times[name].median) if timed else None

    def ratio(self, peer: str, either_layout: bool = False) -> float:
        """Return how many times as long as ours a peer's median is; as that of our better layout if `either_layout`."""
        ours = [self.times[OURS].median]
        if either_layout and OURS_CHANNELS_LAST in self.times:
            ours.append(self.times[OURS_CHANNELS_LAST].median)
        return self.times[peer].median / min(ours)


@dataclass(slots=True)
class Run:
    """What every run tells of itself."""

    command: str
    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    threads: int

    def write(self, path: Path) -> None:
        """Write the JSON file; what could not be measured is null."""
        path.write_text(json.dumps(_finite(asdict(self)), indent=1) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(slots=True)
class Results(Run):
    """A whole run of the suite."""

    rounds: int
    contenders: dict[str, str]  # conditions by name, in the order of the table
    peers: list[str]  # those of them that are other libraries
    left_out: dict[str, str]  # peers that did not take part, and why
    limits: Limits
    rows: list[Row] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)  # rows that the budget left no time for
    sections: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    schema: int = SCHEMA

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read the JSON file.

        Raises
        ------
        ValueError
            It is not one, or of another version of the format.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            schema = data["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a file that fastdeconv bench --json wrote") from error
        if schema != SCHEMA:
            raise ValueError(f"{path} has format {schema}; this version reads {SCHEMA}")
        data["limits"] = Limits(**data["limits"])
        data["rows"] = [
            Row(**row | {"times": {name: Times(**times) for name, times in row["times"].items()}})
            for row in data["rows"]
        ]
        return cls(**data)

    def groups(self) -> dict[tuple[str, TimedPass], list[Row]]:
        """Return the rows by dtype and pass, in the order they came."""
        groups: dict[tuple[str, TimedPass], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.dtype, row.pass_), []).append(row)
        return groups

    def ratios(self, rows: Iterable[Row], peer: str | None = None, either_layout: bool = False) -> list[float]:
        """Return how many times as long as ours the best peer took, or a given one, on the rows where it was timed.

        Ours are those of channels first, or of the better layout if `either_layout`.
        """
        pairs = ((row, row.best_peer([peer] if peer else self.peers)) for row in rows if OURS in row.times)
        return [row.ratio(name, either_layout) for row, name in pairs if name is not None]


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))
