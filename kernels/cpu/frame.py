"""The index space of the direct kernels: every strided problem as stride-1 sums over zero-padded planes.

On one axis tap k connects input i with output ``o = s·i + d·k - p = s·(i + shift) + phase``, where
``shift, phase = divmod(d·k - p, s)``. So the outputs of one phase are a stride-1 sum over the input, each tap at
a constant shift, and the input gradient is a stride-1 sum over the phases of the output's gradient.

A plane holds one channel (and phase) of all images, each row followed by the zeros that shifted reads may reach. The
zeros after a row serve as the zeros before the next one, and likewise for rows and images. A pixel is one
index into the flattened plane, a tap one constant offset, and vectors run across the ends of rows: what they compute in
the padding is dropped.

Images lie behind one another, (image, depth, row, column), or side by side, (depth, row, image, column): then all share
the zeros above and below, which lie outside what is computed, but a vector's pixels belong to many images, and to
store them one by one costs more than that saves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdeconv.kernels.cpu.rows import MOST_INTERLEAVED
from fastdeconv.kernels.geometry import Axes, Geometry

Ints = NDArray[np.int64]

PLANES = np.dtype(
    [
        ("batch", "i8"),
        ("channels", "i8"),
        ("phases", "i8"),  # planes a channel
        ("plane", "i8"),  # elements of a plane
        ("lead", "i8"),  # zeros before its first image
        ("pitch", "i8", (3,)),
        ("steps", "i8", (3,)),  # elements from one image, slice and row to the next
        ("used", "i8"),  # elements before the zeros behind the last image
        ("keep", "i8", (3,)),  # at most so many elements on each axis are copied; zeros follow
        ("size", "i8", (3,)),  # of the array that is copied
        ("stride", "i8", (3,)),  # distance of the elements of one phase
        ("first", "i8", (3,)),  # index of the plane's first element on each axis, in a band of an image
        ("parts", "i8"),  # the lines of all images fall into, for threads
    ]
)

# More phases than this are tables too large for what they serve.
MOST_PHASES = 1 << 16
# Planes of so many bytes are filled and used before the next images' turn.
CACHED = 8 << 20
# Enough units to share among threads.
_UNITS = 16
# Elements of the planes of a channel that are worth two pieces: shorter ones are read more slowly.
_HALVES = 1 << 15
# The planes may hold so many times the elements of the arrays (and this many in any case).
MOST_GROWTH, SMALL = 6, 1 << 20


class Tap(NamedTuple):
    """One tap of the kernel on three axes: the output phase it serves, its shift, and which weight it is."""

    phase: Axes
    shift: Axes
    weight: int


class _Axis(NamedTuple):
    """One axis: stride, the (phase, shift, k) of its taps, and the frame's pitch and zeros in front."""

    stride: int
    taps: list[tuple[int, int, int]]
    pitch: int
    low: int
    extent: int  # indices that hold results


class Frame(NamedTuple):
    """Planes for one problem: their shape, and where each tap reads.

    Attributes
    ----------
    stride : tuple of int
        Effective stride: the problem's, or the output size on an axis with a single input, where any stride serves.
    pitch : tuple of int
        Pixels from the start of one row, slice or image to the next, in elements of that axis.
    low : tuple of int
        Zeros that reads before index 0 reach.
    taps : list of Tap
        Those that touch anything.
    steps : tuple of int
        Elements of a flattened plane from one image, slice and row to the next.
    total : int
        Pixels of one plane that are computed, all images.
    size : int
        Pixels of one plane.
    skip : int
        Pixels before the first that is computed, in a band of an image.
    """

    stride: Axes
    pitch: Axes
    low: Axes
    taps: list[Tap]
    steps: Axes
    total: int
    size: int
    skip: int = 0

    def flat(self, shift: Axes) -> int:
        """Return the offset of a shift in a flattened plane."""
        return shift[0] * self.steps[1] + shift[1] * self.steps[2] + shift[2]

    @property
    def lead(self) -> int:
        """Zeros in front of the first image, a whole number of vectors."""
        return _round_up(self.flat(self.low), 64)

    @property
    def start(self) -> int:
        """Elements of a plane before the first pixel that is computed."""
        return self.lead + self.skip

    def plane(self, reach: int) -> int:
        """Return the elements of a plane whose reads may pass the last pixel by `reach` more."""
        after = max((self.flat(t.shift) for t in self.taps), default=0)
        before = max((-self.flat(t.shift) for t in self.taps), default=0)
        length = _round_up(self.lead + self.size + max(after, before) + reach, 64)
        # An odd number of cache lines keeps neighbouring channels out of the same cache set.
        return length + 16 if length // 16 % 2 == 0 else length


class Bands(NamedTuple):
    """How one image is cut along its first axis, so that the planes of a part of it stay in a cache.

    Attributes
    ----------
    axis : int
        Which axis is cut.
    rows : int
        Indices of a band that hold results; the last band may have fewer.
    total : int
        All indices that hold results.
    before, after : int
        Indices that reads reach beyond a band.
    """

    axis: int
    rows: int
    total: int
    before: int
    after: int

    @property
    def sizes(self) -> set[int]:
        """The rows of bands, at most two numbers."""
        return {min(self.rows, self.total), self.total % self.rows} - {0}

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        """Yield the first row of each band, and how many."""
        for first in range(0, self.total, self.rows):
            yield first, min(self.rows, self.total - first)

    def moved(self, layout: NDArray[np.void], first: int) -> NDArray[np.void]:
        """Return a layout whose planes begin at another index of the axis that is cut."""
        layout = layout.copy()
        layout["first"][0, self.axis] = first
        return layout

    def frame(self, whole: Frame, rows: int) -> Frame:
        """Return the frame of a band of so many rows: what reads reach beyond it is in its planes."""
        pitch, low = list(whole.pitch), list(whole.low)
        pitch[self.axis], low[self.axis] = self.before + rows + self.after, 0
        row = pitch[2] if self.axis else pitch[1] * pitch[2]
        size = math.prod(pitch)
        return whole._replace(
            pitch=(pitch[0], pitch[1], pitch[2]), low=(low[0], low[1], low[2]),
            steps=(size, pitch[1] * pitch[2], pitch[2]), total=rows * row, size=size, skip=self.before * row,
        )  # fmt: skip


def merged(g: Geometry) -> Geometry:
    """Return the same problem with the axes merged that have a single input each and keep the kernel whole.

    Its outputs are then one contiguous row, whose phases are stored side by side.
    """
    axis = 2
    while axis > 0 and all(
        g.input[a] == g.dilation[a] == 1 and g.padding[a] == 0 and g.output[a] == g.kernel[a] for a in (axis - 1, axis)
    ):
        kernel = list(g.kernel)
        kernel[2], kernel[axis - 1] = kernel[2] * kernel[axis - 1], 1
        whole: Axes = (kernel[0], kernel[1], kernel[2])
        g = g._replace(kernel=whole, output=whole)
        axis -= 1
    return g


def scatter_frame(g: Geometry) -> Frame:
    """Return the frame of the forward pass: output phases over planes of the input."""
    return _frame(g, [_axis(g, axis, forward=True) for axis in range(3)])


def gather_frame(g: Geometry, side_by_side: bool = False) -> Frame:
    """Return the frame of both gradients: phases of the output's gradient, indexed by input pixel."""
    return _frame(g, [_axis(g, axis, forward=False) for axis in range(3)], side_by_side)


def _axis(g: Geometry, axis: int, forward: bool) -> _Axis:
    inputs, outputs = g.input[axis], g.output[axis]
    stride = outputs if inputs == 1 else g.stride[axis]
    taps = []
    first = last = 0  # the range of indices that are read
    for k in range(g.kernel[axis]):
        shift, phase = divmod(g.dilation[axis] * k - g.padding[axis], stride)
        in_phase = -(-(outputs - phase) // stride)
        written, available = (in_phase, inputs) if forward else (inputs, in_phase)
        start = -shift if forward else shift
        stop = start + written  # reads are start .. stop - 1
        if written <= 0 or start >= available or stop <= 0:
            continue
        taps.append((phase, shift, k))
        first, last = min(first, start), max(last, stop - 1)
    extent = -(-outputs // stride) if forward else inputs
    stored = min(inputs if forward else -(-outputs // stride), last + 1)
    low = -first
    return _Axis(stride, taps, max(stored + low, last + 1, extent), low, extent)


def _frame(g: Geometry, axes: list[_Axis], side_by_side: bool = False) -> Frame:
    taps = []
    for phase0, shift0, k0 in axes[0].taps:
        for phase1, shift1, k1 in axes[1].taps:
            for phase2, shift2, k2 in axes[2].taps:
                index = (k0 * g.kernel[1] + k1) * g.kernel[2] + k2
                taps.append(Tap((phase0, phase1, phase2), (shift0, shift1, shift2), index))
    pitch = (axes[0].pitch, axes[1].pitch, axes[2].pitch)
    size = g.batch * math.prod(pitch)
    if side_by_side:
        row = g.batch * pitch[2]
        steps = (pitch[2], pitch[1] * row, row)
        total = ((axes[0].extent - 1) * pitch[1] + axes[1].extent) * row
    else:
        steps = (math.prod(pitch), pitch[1] * pitch[2], pitch[2])
        total = size
    return Frame(
        stride=(axes[0].stride, axes[1].stride, axes[2].stride),
        pitch=pitch,
        low=(axes[0].low, axes[1].low, axes[2].low),
        taps=taps,
        steps=steps,
        total=total,
        size=size,
    )


class Filling(NamedTuple):
    """What `planes.fill` needs to copy arrays of one size into planes: its tables, and how much there is to do.

    ``phase`` lists three offsets a phase: the first element on each axis. Phases that share rows of the array are one
    kind: ``kinds`` lists where each starts in it and, if vectors can tell them apart, a bit for each offset in a row.
    """

    layout: NDArray[np.void]
    phase: Ints
    kinds: Ints
    units: int
    elements: int


def filling(
    frame: Frame, batch: int, channels: int, size: Axes, stride: Axes, phases: list[Axes], plane: int, shifted: bool,
    bands: Bands | None = None, halves: bool = False,
) -> Filling:  # fmt: skip
    """Describe the copy of an (N, C, *size) array into planes; `phases` are sorted.

    In `halves`, what the first half of the threads fills is what they will read.

    `shifted` tells whether taps shift the reads, so that the end of a row must be zero for the next one.
    """
    layout = np.zeros(1, PLANES)
    layout["batch"], layout["channels"], layout["phases"] = batch, channels, len(phases)
    layout["plane"], layout["lead"] = plane, frame.lead
    layout["pitch"], layout["size"], layout["stride"] = frame.pitch, size, stride
    layout["steps"], layout["used"] = frame.steps, frame.lead + frame.size
    layout["keep"] = [p - low * shifted for p, low in zip(frame.pitch, frame.low)]
    if bands:
        layout["keep"][0, bands.axis] = frame.pitch[bands.axis] - (0 if shifted else bands.after)
    wanted = 2 if halves and len(phases) * plane >= _HALVES else 1
    layout["parts"] = parts = min(batch * frame.pitch[0] * frame.pitch[1], max(wanted, -(-_UNITS // channels)))
    kinds: list[int] = []
    for i, phase in enumerate(phases):
        if i == 0 or phase[:2] != phases[i - 1][:2]:
            kinds += [i, 0]
        if stride[2] <= MOST_INTERLEAVED:
            kinds[-1] |= 1 << phase[2]
    return Filling(
        layout=layout,
        phase=ints([a for phase in phases for a in phase]),
        kinds=ints([*kinds, len(phases)]),
        units=channels * parts,
        elements=channels * len(phases) * plane,
    )


def planes_of(taps: list[Tap]) -> dict[Axes, int]:
    """Return the phases that taps read, sorted, with the number of each one's plane; one plane if there are no taps."""
    return {phase: i for i, phase in enumerate(sorted({t.phase for t in taps}) or [(0, 0, 0)])}


def bands(frame: Frame, g: Geometry, planes: int, forward: bool) -> Bands | None:
    """Return how to cut the images of a problem whose planes are too large for a cache, or None."""
    axis = 0 if g.input[0] > 1 else 1
    row = planes * math.prod(frame.pitch[axis + 1 :]) * np.dtype(g.dtype).itemsize
    shifts = [-t.shift[axis] if forward else t.shift[axis] for t in frame.taps]
    before, after = max(0, -min(shifts, default=0)), max(0, *shifts, 0)
    rows = CACHED // row - before - after
    total = -(-g.output[axis] // frame.stride[axis]) if forward else g.input[axis]
    # What a band shares with the next is copied twice: bands of few rows would not pay.
    if rows >= total or rows < max(2, 4 * (before + after)):
        return None
    return Bands(axis, -(-total // -(-total // rows)), total, before, after)


def images_at_once(frame: Frame, g: Geometry, planes: int) -> int:
    """Return how many images to take at a time, so that their planes stay in a cache between filling and use."""
    image = planes * math.prod(frame.pitch) * np.dtype(g.dtype).itemsize
    parts = min(g.batch, -(-g.batch * image // CACHED))
    return -(-g.batch // max(1, parts))


def parts(g: Geometry, images: int) -> Iterator[tuple[int, int]]:
    """Yield the (first, count) of each part of a batch."""
    for first in range(0, g.batch, images):
        yield first, min(images, g.batch - first)


def part_sizes(g: Geometry, images: int) -> set[int]:
    """Return the counts of `parts`, at most two, in a time that does not grow with the batch."""
    return {min(images, g.batch), g.batch % images} - {0}


def too_large(g: Geometry, forward: bool) -> str | None:
    """Return why planes do not suit a problem, or None."""
    if g.dtype not in ("float32", "float64"):
        return f"vector code is for float32 and float64, not {g.dtype}"
    phases = math.prod(min(s, o) for s, o in zip(g.stride, g.output))
    if phases > MOST_PHASES or g.taps > MOST_PHASES * 4:
        return f"{phases} phases of {g.taps} taps need tables larger than {MOST_PHASES} entries"
    axes = [_axis(g, axis, forward) for axis in range(3)]
    pixels = g.batch * math.prod(a.pitch for a in axes)
    used = math.prod(len({tap[0] for tap in a.taps}) for a in axes)
    channels = g.in_channels if forward else g.out_channels * used
    if pixels * channels > MOST_GROWTH * g.elements + SMALL:
        return f"zero-padded planes would hold {pixels * channels} elements for arrays of {g.elements}"
    return None


def ints(values: list[int]) -> Ints:
    """Return a table for a kernel."""
    return np.array(values, np.int64)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
