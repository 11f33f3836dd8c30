"""What a kernel is told about a problem: integers on three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Axes = tuple[int, int, int]

# Arrays are C-contiguous vectors of the geometry's dtype, in the order of the shapes below; the last takes the result.
# forward: run(x, w, bias or None, y); input gradient: run(gy, w, gx); weight gradient: run(x, gy, gw).
Run = Callable[..., None]


class Prepared(NamedTuple):
    """The forward pass with one array of weights, brought into the kernel's own layout.

    Attributes
    ----------
    run : callable
        ``run(x, bias or None, y)`` gives the bits of ``run(x, w, bias, y)``.
    nbytes : int
        Bytes that it holds.
    """

    run: Run
    nbytes: int


@dataclass(frozen=True, slots=True)
class Bound:
    """A `Run` with what else there is to tell about it.

    Attributes
    ----------
    run : callable
        Runs the pass; see `Run`.
    workspace : int
        Bytes of scratch memory that a run takes, with all threads that Numba may start.
    prepare : callable, optional
        ``prepare(w)`` packs or transforms weights for many runs of the forward pass; it keeps no reference to `w`.
    """

    run: Run
    workspace: int
    prepare: Callable[[Any], Prepared] | None = None

    def __call__(self, *arrays: Any) -> None:
        """Run the pass."""
        self.run(*arrays)


class Geometry(NamedTuple):
    """One transposed convolution on three spatial axes; 1-D and 2-D problems have leading axes of size 1.

    ``y[n, co, o] = bias[co] + Σ x[n, ci, i] · w[ci, co, k]`` over all ``i, k`` with
    ``o = stride·i + dilation·k - padding``.
    """

    dtype: str
    batch: int
    groups: int
    in_channels: int
    out_channels: int
    input: Axes
    output: Axes
    kernel: Axes
    stride: Axes
    padding: Axes
    dilation: Axes
    channels_last: bool = False  # in memory: x is (N, D, H, W, C_in) there, y (N, D, H, W, C_out); w is as it is

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    @property
    def group_out(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of x: (N, C_in, D, H, W)."""
        return (self.batch, self.in_channels, *self.input)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of y: (N, C_out, D, H, W)."""
        return (self.batch, self.out_channels, *self.output)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of w: (C_in, C_out / groups, kd, kh, kw)."""
        return (self.in_channels, self.group_out, *self.kernel)

    @property
    def taps(self) -> int:
        """Elements of one kernel."""
        return math.prod(self.kernel)

    @property
    def multiplications(self) -> int:
        """Products of one pass, those that fall outside the output included."""
        return math.prod(self.weight_shape) * self.batch * math.prod(self.input)

    @property
    def elements(self) -> int:
        """Elements of x, w and y together."""
        return sum(math.prod(s) for s in (self.input_shape, self.output_shape, self.weight_shape))


def never(_: Any) -> None:
    """Decline nothing."""


@dataclass(frozen=True, slots=True)
class Cost:
    """How long a pass should take, as a sum over what a kernel does.

    Attributes
    ----------
    counts : callable
        ``counts(geometry)`` tells how many there are of each kind of work, those of no weight among them.
    weights : mapping of str to float
        What one of a kind takes, in multiplications at the machine's peak.
    channels_last : mapping of str to float, optional
        The same for arrays with channels last, if it is not the same.
    """

    counts: Callable[[Geometry], dict[str, float]]
    weights: Mapping[str, float]
    channels_last: Mapping[str, float] | None = None

    def __call__(self, geometry: Geometry) -> float:
        """Return the time, in multiplications at the machine's peak."""
        weights = self.weights
        if geometry.channels_last and self.channels_last is not None:
            weights = self.channels_last
        return sum(weights.get(kind, 0.0) * count for kind, count in self.counts(geometry).items())


class Implementation(NamedTuple):
    """One way to compute one pass: an entry of the dispatch tables.

    Attributes
    ----------
    name : str
        The kernel's one name, in dispatch, ``explain``, tests, flags and benchmark rows.
    idea : str
        One sentence for ``explain``.
    declines : callable
        ``declines(geometry)`` is None, or a sentence saying why the kernel cannot serve it.
    bind : callable
        ``bind(geometry)`` does all work that depends on sizes only and returns the function that runs the pass.
        See `Run`; the result array comes uninitialised. A kernel that takes scratch memory returns a `Bound`.
    yields : callable
        ``yields(geometry)`` is None, or a sentence saying why a later entry of the table is expected to be faster. Not
        asked of a kernel that is called for by its name.
    cost : Cost, optional
        How long it should take. Of those that have one and neither decline nor yield, all but the fastest yield.
    batch_invariant : bool
        Whether an image's result is the same to the bit however many images come with it. Of no meaning in the weight
        gradient, which sums images.
    channels_last : tuple of bool
        The values of `Geometry.channels_last` that it takes. If only False, it gets copies of arrays with channels
        last.
    """

    name: str
    idea: str
    declines: Callable[[Geometry], str | None]
    bind: Callable[[Geometry], Run]
    yields: Callable[[Geometry], str | None] = never
    cost: Cost | None = None
    batch_invariant: bool = True
    channels_last: tuple[bool, ...] = (False,)

    def workspace(self, geometry: Geometry) -> int:
        """Return the bytes of scratch memory that a run takes, with all threads that Numba may start."""
        run = self.bind(geometry)
        return run.workspace if isinstance(run, Bound) else 0
