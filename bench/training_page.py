"""The figures of training steps: the table of a terminal, and the page in Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from fastdeconv.bench.markdown import table
from fastdeconv.bench.results import Run
from fastdeconv.bench.timing import Times
from fastdeconv.bench.training import OURS, Figures, geometric
from fastdeconv.tuning import milliseconds

_METHOD = """\
A step is forward, loss (mean squared error), backward and Adam's update, in float32, from the same weights and on the
same data; the losses of the first three steps must agree within 1e-4 before anything is timed. Contenders take turns in
every round, {rounds} rounds, each alone on the machine with {threads} threads; times are medians, with 20th and 80th
percentiles in brackets. `torch` has its default layout, `torch_cl` weights and activations in channels_last. Groups are
layers that one pass of ours does together, timed by themselves, one after the other with what the layers before make;
their backward gives all gradients that training needs. Memory is measured in a process for each contender: `before` is
what it holds with model and data, `steps` how much more at most during later steps."""


@dataclass(slots=True)
class Report(Run):
    """A whole run."""

    rounds: int
    models: list[Figures]

    def page(self) -> str:
        """Return the page as Markdown."""
        facts = [*self.machine.items(), *(("version", f"{name} {v}") for name, v in self.versions.items())]
        parts = [
            "# Training steps",
            f"Made on {self.date} by\n\n```sh\n{self.command}\n```",
            table(["", ""], [["threads used", str(self.threads)], *([key, value] for key, value in facts)]),
            _METHOD.format(rounds=self.rounds, threads=self.threads),
        ]
        for figures in self.models:
            parts += [f"## {figures.model}", f"{figures.source}.", _steps(figures), _layers(figures)]
        peers = [name for name in self.models[0].steps if name != OURS]
        means = ", ".join(f"{geometric(self.models, peer):.2f} for {peer}" for peer in peers)
        parts.append(f"How many times as long as ours a peer's step takes, as the geometric mean over models: {means}.")
        return "\n\n".join(parts) + "\n"


def lines(figures: Figures) -> str:
    """Return the figures of a model for a terminal."""
    found = [f"{figures.model}: {figures.source}"]
    for name, times in figures.steps.items():
        memory = figures.memory[name]
        found.append(f"  {name:12} step {_spread(times)} ms, {_mebibytes(memory.peak - memory.before)} MiB in steps")
    for part in figures.parts:
        sides = (f"{name} {_two(part.forward[name], part.backward[name])}" for name in part.forward)
        found.append(f"  {part.name:42} {', '.join(sides)}")
    return "\n".join(found)


def _steps(figures: Figures) -> str:
    ours = figures.steps[OURS].median
    body = []
    for name, times in figures.steps.items():
        memory = figures.memory[name]
        body.append(
            [name, _spread(times), f"{times.median / ours:.2f}", _mebibytes(memory.before),
             _mebibytes(memory.peak - memory.before)]
        )  # fmt: skip
    return table(["contender", "step, ms", "× ours", "before, MiB", "steps, MiB"], body)


def _layers(figures: Figures) -> str:
    names = list(figures.steps)
    body = [
        [part.name, *(_two(part.forward[name], part.backward[name]) for name in names), f"{share:.0%}"]
        for part, share in zip(figures.parts, _shares(figures))
    ]
    return table(["group: forward / backward, ms", *names, "of our time"], body)


def _shares(figures: Figures) -> list[float]:
    """Return each group's share of the time of all groups of ours."""
    own = [part.forward[OURS].median + part.backward[OURS].median for part in figures.parts]
    return [each / sum(own) for each in own]


def _two(forward: Times, backward: Times) -> str:
    return f"{milliseconds(forward.median)} / {milliseconds(backward.median)}"


def _spread(times: Times) -> str:
    return f"{milliseconds(times.median)} ({milliseconds(times.p20)}–{milliseconds(times.p80)})"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f}"
