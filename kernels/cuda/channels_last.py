"""Activations as the tensor cores' kernels read them: chunks of 16 bytes, each of neighbouring channels of one pixel.

An array with channels last whose groups fill whole chunks is read where it lies. Any other is copied first: to
(pixel, group, channels padded with zeros to whole chunks).

Copying: a block has 32 pixels and eight chunks. A warp reads one chunk of 32 neighbouring pixels, one channel after the
other, and exchanges them in shared memory for eight chunks of four pixels; chunks are stored at ``chunk ^ pixel % 8``,
so that neither meets a bank twice. Parallel over pixels and chunks.

Not yet run on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastdeconv.kernels.cuda.device import cuda, device_function, read4, unravel, write4
from fastdeconv.kernels.cuda.factory import kernel_factory
from fastdeconv.kernels.cuda.inline_ptx import CHUNK
from fastdeconv.kernels.cuda.launches import Launch, Scratch, Strides, extent, index_for

PIXELS, CHUNKS = 32, 8  # of a block

# Bits of elements, as kernels get them.
BITS = {"float16": "uint16", "bfloat16": "uint16", "float32": "uint32"}

(BATCH, SIZE_0, SIZE_1, SIZE_2, STEP_N, STEP_C, STEP_0, STEP_1, STEP_2, CHANNELS, GROUP_CHUNKS, GROUPS) = range(12)


class Chunks(NamedTuple):
    """An array as chunks, and what makes it one.

    Attributes
    ----------
    name : str
        What the launches that read it call it.
    strides : tuple of int
        On (batch, group, three spatial axes), in chunks.
    of_group : int
        Chunks of a group in each pixel.
    launches, tables, scratch
        See `launches.Steps`.
    """

    name: str
    strides: Strides
    of_group: int
    launches: tuple[Launch, ...]
    tables: dict[str, NDArray[Any]]
    scratch: dict[str, Scratch]


def chunk_elements(bits: str) -> int:
    """Return the elements of a chunk, by the type of their bits."""
    return CHUNK // np.dtype(bits).itemsize


def chunks(name: str, dtype: str, shape: tuple[int, ...], strides: Strides, groups: int, aligned: bool) -> Chunks:
    """Return an array as chunks.

    Parameters
    ----------
    shape, strides : tuple of int
        On (batch, channel, three spatial axes), in elements.
    aligned : bool
        Whether it begins at a multiple of a chunk.
    """
    each = chunk_elements(BITS[dtype])
    channels = shape[1] // groups
    whole = all(step % each == 0 for axis, step in enumerate(strides) if axis != 1 and shape[axis] > 1)
    if aligned and channels % each == 0 and strides[1] == 1 and whole:
        of_group = channels // each
        n, _, *axes = (step // each for step in strides)
        return Chunks(name, (n, of_group, *axes), of_group, (), {}, {})
    of_group = -(-channels // each)
    of_pixel = groups * of_group
    pixels = shape[0] * math.prod(shape[2:])
    elements = pixels * of_pixel * each
    index = index_for(extent(shape, strides), elements)
    table = np.array([shape[0], *shape[2:], *strides, channels, of_group, groups], np.int64)
    copied, table_name = f"{name}_chunks", f"{name}_table"
    launch = Launch(
        copy_kernel(BITS[dtype], index),
        (f"{BITS[dtype]}*", "uint32*", "int64*"),
        (-(-pixels // PIXELS), -(-of_pixel // CHUNKS)),
        (name, copied, table_name),
    )
    steps = [of_pixel * math.prod(shape[2 + axis :]) for axis in range(1, 4)]
    packed = (steps[0] * shape[2], of_group, *steps)
    return Chunks(copied, packed, of_group, (launch,), {table_name: table}, {copied: Scratch(elements, dtype)})


@kernel_factory
def copy_kernel(bits: str, index: str) -> Callable[..., None]:
    """Return the kernel that copies an array to chunks; `index` is the integer type of all places in arrays."""
    cast = getattr(np, index)
    unraveled = unravel(index)
    each = chunk_elements(bits)
    room_words = PIXELS * CHUNKS * 4

    @device_function
    def element(source: Any, at: int, step: int, channel: int, channels: int) -> Any:
        return np.uint32(source[at + channel * step]) if channel < channels else np.uint32(0)

    @device_function
    def word(source: Any, at: int, step: int, channel: int, channels: int) -> Any:
        """Return one element of 32 bits, or two of 16."""
        value = element(source, at, step, channel, channels)
        if each == 8:
            value |= np.uint32(element(source, at, step, cast(channel + 1), channels) << np.uint32(16))
        return np.uint32(value)

    def copy(source: Any, copied: Any, table: Any) -> None:
        room = cuda.shared.array(room_words, types.uint32, alignment=CHUNK)
        thread = cast(cuda.threadIdx.x)
        groups, of_group = cast(table[GROUPS]), cast(table[GROUP_CHUNKS])
        size0, size1, size2 = cast(table[SIZE_0]), cast(table[SIZE_1]), cast(table[SIZE_2])
        pixels = cast(cast(table[BATCH]) * size0 * size1 * size2)
        of_pixel = cast(groups * of_group)
        first_pixel, first_chunk = cast(cast(cuda.blockIdx.x) * PIXELS), cast(cast(cuda.blockIdx.y) * CHUNKS)

        lane, warp = cast(thread % PIXELS), cast(thread // PIXELS)
        pixel, chunk = cast(first_pixel + lane), cast(first_chunk + warp)
        group = cast(chunk // of_group)
        channels = cast(table[CHANNELS]) if pixel < pixels and group < groups else cast(0)
        n, i0, i1, i2 = unraveled(pixel, size0, size1, size2)
        step = cast(table[STEP_C])
        at = cast(
            n * cast(table[STEP_N]) + i0 * cast(table[STEP_0]) + i1 * cast(table[STEP_1]) + i2 * cast(table[STEP_2])
            + group * cast(table[CHANNELS]) * step
        )  # fmt: skip
        channel = cast(chunk % of_group * each)
        further = each // 4
        words = (
            word(source, at, step, channel, channels),
            word(source, at, step, cast(channel + further), channels),
            word(source, at, step, cast(channel + 2 * further), channels),
            word(source, at, step, cast(channel + 3 * further), channels),
        )
        write4(room, (lane * CHUNKS + (warp ^ lane % CHUNKS)) * 4, words)
        cuda.syncthreads()
        pixel, chunk = cast(thread // CHUNKS), cast(thread % CHUNKS)
        words = read4(room, (pixel * CHUNKS + (chunk ^ pixel % CHUNKS)) * 4)
        if first_pixel + pixel < pixels and first_chunk + chunk < of_pixel:
            write4(copied, cast(((first_pixel + pixel) * of_pixel + first_chunk + chunk) * 4), words)

    return copy
