"""Problems to test on, inputs for them, and the definition of the three passes as an oracle of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastdeconv as fd
from fastdeconv.dispatch import TABLES, geometry_of
from fastdeconv.kernels.geometry import Implementation
from fastdeconv.lowering import lower
from fastdeconv.problem import PASSES, Pass, Problem

Array = NDArray[Any]


def problem(x: tuple[int, ...], w: tuple[int, ...], **parameters: Any) -> Problem:
    """Build a problem from the shapes of input and weight; the weight tells the number of spatial axes."""
    return Problem.from_shapes(x, w, ndim=len(w) - 2, **parameters)


# Each names what it is there for. No channel count or width is a multiple of a vector or a tile, save where said.
EDGE_CASES: dict[str, Problem] = {
    "textbook": problem((1, 1, 5, 5), (1, 1, 3, 3), padding=1),
    "one_pixel": problem((1, 1, 1, 1), (1, 1, 1, 1)),
    "one_pixel_one_output": problem((1, 3, 1, 1), (3, 2, 3, 3), padding=1),
    "one_pixel_many_taps": problem((3, 17, 1, 1), (17, 9, 4, 4)),
    "one_pixel_long_sum": problem((9, 520, 1, 1), (520, 3, 2, 3)),
    "one_pixel_many_images": problem((301, 9, 1, 1), (9, 5, 2, 2)),
    "one_pixel_many_outputs": problem((9, 18, 1), (18, 65, 16), groups=2),
    "kernel_1": problem((2, 7, 9, 11), (7, 5, 1, 1)),
    "kernel_1_stride_2": problem((2, 7, 9, 11), (7, 5, 1, 1), stride=2),
    "kernel_1_stride_3_output_padding": problem((1, 3, 5, 7), (3, 2, 1, 1), stride=3, output_padding=2),
    "kernel_1_many_channels": problem((1, 33, 5, 7), (33, 35, 1, 1)),
    "stride_over_kernel": problem((2, 3, 5, 6), (3, 5, 3, 2), stride=7),
    "stride_over_kernel_output_padding": problem((1, 5, 4, 3), (5, 2, 2, 3), stride=7, output_padding=6, padding=1),
    "stride_is_kernel": problem((2, 9, 7, 5), (9, 7, 2, 2), stride=2),
    "stride_is_kernel_3": problem((1, 5, 6, 7), (5, 3, 3, 3), stride=3),
    "stride_is_kernel_padding": problem((2, 7, 6, 9), (7, 5, 2, 3), stride=(2, 3), padding=1, output_padding=(1, 2)),
    "stride_is_kernel_groups": problem((1, 34, 5, 6), (34, 9, 2, 2), stride=2, groups=2),
    "stride_is_kernel_many_channels": problem((2, 67, 5, 3), (67, 33, 2, 2), stride=2),
    "stride_is_kernel_rectangular": problem((3, 5, 11, 3), (5, 7, 1, 4), stride=(1, 4)),
    "kernel_1_groups": problem((2, 15, 7, 5), (15, 6, 1, 1), groups=3),
    "kernel_1_long_sum": problem((1, 603, 3, 7), (603, 19, 1, 1)),
    "many_tiles": problem((2, 9, 40, 61), (9, 5, 3, 3), stride=2, padding=1),
    "padding_moves_the_only_slice": problem(
        (1, 5, 1, 7, 6), (5, 4, 1, 3, 3), stride=(3, 1, 1), padding=1, output_padding=(2, 0, 0)
    ),
    "many_channels_in_blocks": problem((1, 260, 13, 14), (260, 3, 4, 4), stride=2, padding=1),
    "strips": problem((1, 3, 9, 230), (3, 1, 9, 9), stride=2, padding=4, output_padding=1),
    "strips_of_blocks": problem((1, 5, 7, 301), (5, 6, 7, 9), stride=(2, 3), padding=(3, 2), dilation=(1, 2)),
    "strips_1d": problem((2, 5, 1501), (5, 7, 24), stride=4, padding=3),
    "many_images": problem((9, 10, 4, 4), (10, 19, 4, 4), stride=2, padding=1),
    "many_images_in_chunks": problem((70, 6, 3, 5), (6, 3, 3, 2), stride=(1, 2), padding=(2, 0), groups=2),
    "many_images_3d": problem(
        (13, 3, 2, 3, 2), (3, 9, 2, 2, 3), stride=(1, 2, 1), padding=(0, 0, 1), dilation=(1, 1, 2)
    ),
    "dcgan": problem((3, 17, 4, 4), (17, 9, 4, 4), stride=2, padding=1),
    "dcgan_last": problem((2, 33, 11, 13), (33, 3, 4, 4), stride=2, padding=1),
    "fsrcnn": problem((1, 17, 13, 19), (17, 1, 9, 9), stride=2, padding=4, output_padding=1),
    "fsrcnn_3": problem((1, 8, 9, 11), (8, 1, 9, 9), stride=3, padding=4),
    "fcn": problem((1, 5, 3, 4), (5, 5, 16, 16), stride=8),
    "cyclegan": problem((1, 9, 10, 12), (9, 17, 3, 3), stride=2, padding=1, output_padding=1),
    "deblur": problem((1, 7, 33, 35), (7, 8, 5, 5), padding=2),
    "rectangular_kernel": problem((2, 3, 8, 9), (3, 4, 1, 7), stride=(1, 2), padding=(0, 3)),
    "rectangular_kernel_turned": problem((2, 3, 8, 9), (3, 4, 7, 1), stride=(3, 1), padding=(2, 0)),
    "each_axis_its_own": problem(
        (2, 4, 6, 7), (4, 6, 3, 4), stride=(3, 2), padding=(2, 1), output_padding=(2, 0), dilation=(1, 2), groups=2
    ),
    "even_kernel_stride_3": problem((1, 3, 7, 8), (3, 5, 4, 4), stride=3, padding=1),
    "kernel_5_stride_4": problem((2, 3, 5, 7), (3, 2, 5, 5), stride=4, padding=2, output_padding=3),
    "kernel_shorter_than_stride": problem(
        (2, 5, 4, 37), (5, 9, 2, 3), stride=(3, 4), padding=(1, 2), output_padding=(2, 3)
    ),
    "kernel_shorter_than_stride_5": problem((1, 3, 3, 35), (3, 4, 3, 2), stride=(2, 5), output_padding=(0, 1)),
    "stride_7": problem((1, 4, 2, 41), (4, 9, 3, 9), stride=(1, 7), padding=(1, 4)),
    "dilated": problem((1, 7, 9, 10), (7, 5, 3, 3), padding=2, dilation=2),
    "dilated_strided": problem((1, 3, 7, 5), (3, 5, 3, 3), stride=2, padding=1, dilation=3, output_padding=2),
    "dilation_multiple_of_stride": problem((2, 3, 6, 5), (3, 2, 3, 3), stride=2, dilation=2, output_padding=1),
    "dilation_shares_factor": problem((1, 2, 5, 6), (2, 3, 3, 4), stride=4, dilation=6, padding=5, output_padding=5),
    "dilation_over_input": problem((1, 2, 3, 2), (2, 3, 3, 3), dilation=7),
    "padding_over_kernel": problem((1, 3, 9, 11), (3, 5, 3, 3), padding=5),
    "padding_over_kernel_strided": problem((2, 3, 7, 8), (3, 5, 2, 3), stride=3, padding=6, output_padding=1),
    "padding_to_one_output": problem((1, 2, 7, 7), (2, 3, 3, 3), padding=4),
    "padding_cuts_taps": problem((1, 2, 2, 1), (2, 3, 7, 5), padding=(3, 2)),
    "padding_leaves_output_padding": problem((1, 2, 1, 1), (2, 3, 1, 1), stride=3, padding=1, output_padding=2),
    "output_padding_by_dilation": problem((1, 2, 4, 5), (2, 3, 2, 2), dilation=4, output_padding=3),
    "output_padding_untouched": problem((1, 2, 4, 5), (2, 3, 1, 1), stride=4, output_padding=3),
    "groups": problem((2, 6, 5, 7), (6, 5, 3, 3), stride=2, padding=1, groups=3),
    "groups_wide": problem((1, 34, 5, 7), (34, 9, 4, 4), stride=2, padding=1, groups=2),
    "depthwise": problem((2, 7, 9, 10), (7, 1, 3, 3), stride=2, padding=1, output_padding=1, groups=7),
    "depthwise_stride_1": problem((1, 5, 11, 17), (5, 1, 5, 5), padding=2, groups=5),
    # Of the weight gradient, ranges of tiles, that several groups have enough of: rows of many, and several windows.
    "long_row_in_groups": problem((1, 8, 1411), (8, 3, 3), padding=1, groups=4),
    "windows_in_groups": problem((2, 10, 40, 37), (10, 5, 5, 5), padding=2, groups=2),
    "windows_of_phases_in_groups": problem((2, 8, 30, 31), (8, 4, 7, 7), stride=2, padding=3, groups=4),
    "depthwise_bilinear": problem((1, 3, 5, 6), (3, 1, 16, 16), stride=8, padding=4, groups=3),
    "depthwise_multiplier": problem((1, 5, 7, 6), (5, 3, 3, 3), stride=2, groups=5),
    "depthwise_dilated": problem((1, 3, 9, 8), (3, 1, 3, 3), dilation=2, padding=2, groups=3),
    "to_one_channel": problem((1, 33, 9, 9), (33, 1, 3, 3), padding=1),
    "from_one_channel": problem((2, 1, 9, 9), (1, 33, 3, 3), padding=1),
    "one_column": problem((1, 3, 17, 1), (3, 2, 5, 1), stride=2),
    "one_row": problem((1, 3, 1, 50), (3, 2, 1, 5), stride=2),
    "wide_row": problem((1, 2, 3, 129), (2, 3, 3, 3), padding=1),
    "whole_vectors": problem((1, 16, 16, 16), (16, 32, 4, 4), stride=2, padding=1),
    # Wide strides and long kernels: parts of vectors, rows of fewer blocks than a tile, blocks that the output cuts.
    "wide_stride_cut_at_both_ends": problem((2, 3, 4, 19), (3, 5, 16, 16), stride=8, padding=4),
    "wide_stride_10": problem((1, 3, 3, 15), (3, 2, 5, 20), stride=(2, 10), padding=(1, 5)),
    "wide_stride_24": problem((2, 2, 2, 27), (2, 3, 3, 31), stride=(1, 24), padding=(1, 3), output_padding=(0, 7)),
    "wide_stride_in_pieces": problem((1, 2, 2, 5), (2, 3, 2, 301), stride=(2, 150), padding=(0, 151)),
    "wide_stride_kernel_shorter": problem((1, 3, 3, 5), (3, 4, 2, 9), stride=(3, 17), output_padding=(1, 12)),
    "wide_stride_padding_over_kernel": problem((2, 2, 3, 9), (2, 3, 3, 11), stride=(2, 12), padding=(3, 29)),
    "wide_stride_dilated_rows": problem(
        (2, 4, 5, 6), (4, 3, 3, 16), stride=(2, 8), padding=(2, 3), dilation=(3, 1), groups=2
    ),
    "wide_stride_3d": problem((2, 2, 3, 2, 5), (2, 3, 3, 2, 24), stride=(2, 1, 16), padding=(1, 0, 4)),
    "wide_stride_many_channels": problem((1, 1051, 1, 13), (1051, 2, 2, 16), stride=(2, 8), padding=(0, 4)),
    "wide_stride_parallel": problem((2, 7, 6, 15), (7, 5, 16, 16), stride=8, padding=3),
    "wide_stride_depthwise": problem((1, 9, 14, 13), (9, 1, 16, 16), stride=8, padding=4, groups=9),
    "rows_of_one_channel": problem((1, 5, 9, 70), (5, 1, 9, 9), stride=2, padding=4, output_padding=1),
    "rows_early_phases": problem((2, 3, 4, 66), (3, 1, 2, 2), stride=(3, 4), padding=(1, 3)),
    "rows_kernel_under_padding": problem(
        (1, 2, 3, 71), (2, 1, 3, 1), stride=(1, 4), padding=(2, 3), output_padding=(0, 3)
    ),
    "rows_parallel": problem((2, 35, 49, 67), (35, 1, 3, 3), stride=2, padding=1, groups=35),
    "rows_many_taps": problem((1, 8, 2, 40), (8, 1, 19, 67), padding=(9, 33)),
    "long_kernel": problem((1, 3, 5, 37), (3, 5, 2, 67), padding=(0, 30)),
    # Tiles that need their neighbours' windows: chunks of rows, several strips a row, even and odd numbers of taps.
    "five_taps_chunks": problem((2, 5, 71, 20), (5, 3, 5, 5), padding=2),
    "four_and_six_taps_wide": problem((1, 2, 5, 1051), (2, 3, 4, 6), padding=(3, 1)),
    "seven_taps_1d": problem((3, 4, 90), (4, 9, 7), padding=1, groups=2),
    "five_taps_in_one_slice": problem((1, 8, 1, 6, 7), (8, 9, 5, 5, 5), padding=2),
    "five_taps_in_two_slices": problem((1, 8, 2, 6, 7), (8, 9, 3, 5, 5), padding=(1, 2, 2)),
    "five_taps_beside_spread_taps": problem((1, 8, 40, 12), (8, 9, 3, 5), padding=(0, 2), dilation=(2, 1)),
    "phases_of_two_and_three_taps": problem((2, 9, 13, 12), (9, 17, 5, 5), stride=2, padding=(2, 1)),
    "phases_of_four_and_five_taps": problem((1, 3, 17, 9), (3, 2, 9, 9), stride=2, padding=3),
    "phases_of_four_taps": problem((1, 3, 9, 33), (3, 9, 8, 8), stride=2, padding=3, output_padding=1),
    # Weights larger than a cache: ranges of output channels, the last ones longer.
    "long_kernel_ranges": problem((1, 2, 2, 3), (2, 19, 29, 61), stride=(16, 32), padding=(3, 5)),
    "long_kernel_stride_2": problem((2, 5, 3, 21), (5, 7, 3, 33), stride=2, padding=(1, 19)),
    "unbatched": problem((3, 7, 6), (3, 5, 3, 3), stride=2),
    "parallel": problem((2, 9, 31, 33), (9, 7, 4, 4), stride=2, padding=1),
    "parallel_stride_1": problem((1, 9, 37, 41), (9, 9, 3, 3), padding=1),
    "parallel_depthwise": problem((1, 35, 49, 47), (35, 1, 3, 3), stride=2, padding=1, groups=35),
    "many_pixels": problem((2, 1, 49, 51), (1, 1, 3, 3), stride=2, padding=1),
    "many_pixels_untouched_taps": problem((1, 1, 1, 3001), (1, 2, 5, 3), padding=(2, 1)),
    "many_phases": problem((1, 3, 2, 5), (3, 2, 3, 45), stride=(2, 37), padding=(1, 3), output_padding=(1, 36)),
    "far_taps": problem((1, 2, 3, 3), (2, 1, 3, 3), dilation=600, padding=600),
    "lattices": problem((2, 5, 9, 11), (5, 7, 3, 3), padding=2, dilation=2),
    "lattices_3": problem((1, 17, 20, 19), (17, 5, 3, 3), padding=4, dilation=3),
    "lattices_stride": problem((1, 4, 8, 9), (4, 5, 3, 2), stride=(3, 1), padding=1, dilation=(1, 3)),
    "lattices_1d": problem((1, 5, 601), (5, 5, 3), padding=2, dilation=4),
    "lattices_parallel": problem((1, 19, 37, 41), (19, 17, 3, 3), padding=2, dilation=2),
    "many_channels": problem((1, 701, 2, 3), (701, 3, 4, 4), stride=2, padding=1),
    "many_channels_out": problem((1, 3, 2, 3), (3, 259, 3, 3), padding=1),
    "many_channels_one_tap": problem((1, 2101, 1, 3), (2101, 3, 2, 2), stride=2),
    "many_taps": problem((1, 2, 3), (2, 3, 2101), padding=1000),
    "1d": problem((2, 3, 13), (3, 5, 4), stride=2, padding=1),
    "1d_one": problem((1, 1, 1), (1, 1, 1)),
    "1d_long": problem((1, 3, 501), (3, 2, 9), stride=4, padding=4),
    "1d_depthwise_long_kernel": problem((1, 3, 7), (3, 1, 256), stride=64, groups=3),
    "1d_stride_70000": problem((1, 2, 2), (2, 1, 5), stride=70_000, padding=1),
    "1d_hifigan": problem((1, 17, 25), (17, 9, 16), stride=8, padding=4),
    "1d_dilated": problem((3, 5, 19), (5, 7, 3), stride=3, dilation=5, padding=4, output_padding=4),
    "1d_stride_is_kernel": problem((3, 19, 37), (19, 11, 4), stride=4),
    "1d_kernel_1": problem((2, 9, 50), (9, 17, 1)),
    "1d_unbatched": problem((5, 11), (5, 3, 3), padding=1),
    "3d": problem((2, 3, 3, 5, 4), (3, 2, 3, 3, 3), stride=2, padding=1, output_padding=1),
    "3d_stride_is_kernel": problem((1, 5, 3, 4, 5), (5, 3, 2, 2, 2), stride=2),
    "3d_vnet": problem((1, 7, 3, 5, 4), (7, 5, 4, 4, 4), stride=2, padding=1),
    "3d_each_axis_its_own": problem(
        (1, 4, 3, 5, 2), (4, 3, 1, 2, 3),
        stride=(1, 3, 2), padding=(0, 1, 2), output_padding=(0, 2, 1), dilation=(2, 1, 3), groups=2,
    ),
    "3d_stride_1": problem((1, 3, 5, 6, 7), (3, 4, 3, 3, 3), padding=1),
    "3d_depthwise": problem((1, 3, 4, 5, 6), (3, 1, 3, 3, 3), stride=2, padding=1, groups=3),
    "3d_kernel_1": problem((1, 3, 2, 3, 5), (3, 4, 1, 1, 1)),
    "3d_unbatched": problem((2, 2, 3, 4), (2, 3, 2, 2, 2)),
}  # fmt: skip


def random_problem(rng: np.random.Generator, ndim: int, kind: str = "") -> Problem:
    """Draw a small legal problem: every parameter, axis by axis, independently of the others.

    Of kind "wide" the last axis has a wide stride and a long kernel, of kind "rows" it has many inputs and each group
    one output channel. Of kind "pointwise" there is a kernel of one tap, and planes are larger than a register tile. Of
    kind "blocks" the kernel is the stride, and output channels are whole register tiles. Of kind "linear" the input is
    one pixel, whose taps fill the output, and there are many images. Of kind "depthwise" each channel is a group.
    """

    def axes(values: list[int]) -> tuple[int, ...]:
        return tuple(int(v) for v in rng.choice(values, ndim))

    while True:
        groups = int(rng.choice([1, 1, 1, 2, 3, 5]))
        group_in, group_out = (int(c) for c in rng.choice([1, 1, 2, 3, 5, 7, 8, 9, 17, 33], 2))
        size = axes({1: [1, 2, 3, 7, 13, 31, 50], 2: [1, 2, 3, 5, 7, 11, 15], 3: [1, 2, 3, 5]}[ndim])
        kernel = axes([1, 2, 3, 4, 5, 7] if ndim < 3 else [1, 2, 3, 4])
        stride, dilation = axes([1, 1, 2, 2, 3, 4]), axes([1, 1, 1, 2, 3])
        padding = axes([0, 1, 2, 3, 5])
        if kind == "rows":
            group_in, group_out = min(group_in, 8), 1
            size = (*size[:-1], int(rng.choice([17, 33, 50, 64, 71, 130])))
            dilation = (*dilation[:-1], 1)
        if kind == "wide":
            kernel = (*kernel[:-1], int(rng.choice([5, 8, 13, 16, 24, 33, 40])))
            stride = (*stride[:-1], int(rng.choice([8, 9, 12, 15, 16, 20, 33])))
            padding = (*padding[:-1], int(rng.choice([0, 1, 4, 8, 17])))
            dilation = (*dilation[:-1], 1)
        if kind == "pointwise":
            group_in, group_out = (int(c) for c in rng.choice([4, 5, 7, 8, 9, 12, 13, 16, 17, 20], 2))
            size = axes({1: [96, 127, 901], 2: [10, 13, 24, 33], 3: [5, 6, 7]}[ndim])
            kernel, stride, padding, dilation = ((v,) * ndim for v in (1, 1, 0, 1))
        if kind == "linear":
            group_in, group_out = (int(c) for c in rng.choice([8, 9, 12, 17, 33, 40], 2))
            size, padding, dilation, stride = ((v,) * ndim for v in (1, 0, 1, 1))
        extra = tuple(int(rng.integers(max(s, d))) for s, d in zip(stride, dilation))
        if kind == "depthwise":
            groups, group_in, group_out = int(rng.choice([2, 3, 7, 16, 17, 33, 70])), 1, 1
        if kind == "blocks":
            group_out = int(rng.choice([8, 16, 24]))
            kernel, padding, dilation, extra = stride, (0,) * ndim, (1,) * ndim, (0,) * ndim
        batch = () if rng.random() < 0.2 else (int(rng.choice([1, 1, 2, 3])),)
        if kind == "linear":
            batch = (int(rng.choice([8, 9, 13, 24, 41])),)
        try:
            drawn = problem(
                (*batch, groups * group_in, *size), (groups * group_in, group_out, *kernel),
                stride=stride, padding=padding, output_padding=extra, dilation=dilation, groups=groups,
            )  # fmt: skip
        except ValueError:  # padding left no output
            continue
        if drawn.flops < 3_000_000:
            return drawn


def drawn_cases(count: int, seed: int = 0, kind: str = "") -> dict[str, Problem]:
    rng = np.random.default_rng(seed)
    return {f"drawn{kind}{i}": random_problem(rng, (2, 2, 1, 3)[i % 4], kind) for i in range(count)}


CASES = EDGE_CASES | drawn_cases(72) | drawn_cases(24, 1, "wide") | drawn_cases(20, 2, "rows")
CASES |= drawn_cases(30, 3, "pointwise") | drawn_cases(22, 4, "linear") | drawn_cases(10, 5, "blocks")
CASES |= drawn_cases(24, 6, "depthwise")
# A third of the drawn ones: for what every case shows in float32 already.
FEWER = EDGE_CASES | dict([item for item in CASES.items() if item[0] not in EDGE_CASES][::3])

# Every implementation there is, in the order of the tables.
IMPLEMENTATIONS: list[tuple[Pass, Implementation]] = [
    (pass_, implementation) for pass_ in PASSES for implementation in TABLES["cpu", pass_]
]


def declines(implementation: Implementation, pass_: Pass, p: Problem) -> str | None:
    """Return why an implementation cannot serve a problem, or None if it can."""
    return implementation.declines(geometry_of(lower(p, pass_)[0]))


def in_layouts_of(implementation: Implementation, p: Problem) -> list[Problem]:
    """Return a problem with arrays as an implementation takes them; not with channels last if they lie either way."""
    either = 1 in (p.in_channels, p.out_channels, math.prod(p.input_size), math.prod(p.output_size))
    return [replace(p, channels_last=last) for last in implementation.channels_last if not (last and either)]


def runs(cases: dict[str, Problem]) -> list[Any]:
    """Return a pytest parameter (pass, algorithm, problem) for each pass, implementation and case that it serves."""
    import pytest

    return [
        pytest.param(
            pass_, implementation.name, p, id=f"{pass_}-{implementation.name}-{name}{'-last' * p.channels_last}"
        )
        for pass_, implementation in IMPLEMENTATIONS
        for name, case in cases.items()
        for p in in_layouts_of(implementation, case)
        if declines(implementation, pass_, p) is None
    ]


# -- inputs -----------------------------------------------------------------------------------------------------


def operand_shapes(p: Problem, pass_: Pass) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a pass's two inputs and of its result."""
    x, w, y = p.input_shape, p.weight_shape, p.output_shape
    return {"forward": (x, w, y), "input_grad": (y, w, x), "weight_grad": (x, y, w)}[pass_]


def integers(p: Problem, pass_: Pass, limit: int = 2**24, seed: int = 0, largest: int = 4) -> tuple[Array, Array]:
    """Return a pass's inputs as small integers, thinned so that no sum of magnitudes can pass `limit`."""
    rng = np.random.default_rng(seed)
    *shapes, _ = operand_shapes(p, pass_)
    a, b = (rng.integers(-largest, largest + 1, shape) for shape in shapes)
    density = limit / (largest**2 * p.accumulation_length(pass_))
    if density < 2:
        a *= rng.random(a.shape) < density / 2
    assert oracle(p, pass_, abs(a), abs(b)).max(initial=0) < limit
    return a.astype(p.dtype), b.astype(p.dtype)


def floats(p: Problem, pass_: Pass, seed: int = 0) -> tuple[Array, Array]:
    """Return a pass's inputs drawn from a normal distribution; real and imaginary part alike."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...]) -> Array:
        values = rng.standard_normal(shape)
        if p.dtype.startswith("complex"):
            return (values + 1j * rng.standard_normal(shape)).astype(p.dtype)
        return values.astype(p.dtype)

    a_shape, b_shape, _ = operand_shapes(p, pass_)
    return draw(a_shape), draw(b_shape)


# -- the definition ---------------------------------------------------------------------------------------------


@cache
def _incidence(i: int, k: int, o: int, stride: int, padding: int, dilation: int) -> Array:
    """hit[o, i, k] is 1 where ``o = stride·i + dilation·k - padding``."""
    out, at, tap = np.ogrid[:o, :i, :k]
    return (out.reshape(-1, 1, 1) == stride * at.reshape(1, -1, 1) + dilation * tap.reshape(1, 1, -1) - padding) + 0


def oracle(p: Problem, pass_: Pass, a: Array, b: Array) -> Array:
    """Compute a pass from its definition: a sum of products over the pairs (i, k) that hit each o.

    Integers are summed as float64 (exact below 2^53), floats in the precision of `a` and `b`.
    """
    if a.dtype.kind in "iu":
        a, b = a.astype(float), b.astype(float)
    shapes = {
        "x": (p.batch, p.groups, p.in_channels // p.groups, *p.input_size),
        "w": (1, p.groups, p.in_channels // p.groups, p.out_channels // p.groups, *p.kernel_size),
        "y": (p.batch, p.groups, p.out_channels // p.groups, *p.output_size),
    }
    hits = [
        _incidence(*sizes).astype(a.dtype)
        for sizes in zip(p.input_size, p.kernel_size, p.output_size, p.stride, p.padding, p.dilation)
    ]
    first, second, result = {"forward": "xwy", "input_grad": "ywx", "weight_grad": "xyw"}[pass_]
    a, b = a.reshape(shapes[first]), b.reshape(shapes[second])
    total = np.stack([_one_group(pass_, a[:, g], b[:, g], hits) for g in range(p.groups)], axis=1)
    assert total.shape == shapes[result]
    return total.reshape(operand_shapes(p, pass_)[2])


def _one_group(pass_: Pass, a: Array, b: Array, hits: list[Array]) -> Array:
    # Letters: n, c, m for batch and channels; i j k input, p q r tap and u v w output positions.
    d = len(hits)
    x, w, y = "nc" + "ijk"[:d], "cm" + "pqr"[:d], "nm" + "uvw"[:d]
    pairs = "nm" + "ijk"[:d] + "pqr"[:d]

    def product(terms: str, *arrays: Array) -> Array:
        return np.einsum(terms, *arrays, optimize=True)

    if pass_ == "forward":
        total, now = product(f"{x},{w}->{pairs}", a, b[0]), pairs
        for o, i, k, hit in zip("uvw", "ijk", "pqr", hits):
            after = now.replace(i, o).replace(k, "")
            total, now = product(f"{now},{o + i + k}->{after}", total, hit), after
        return total
    gathered, now = (a if pass_ == "input_grad" else b), y
    for o, i, k, hit in zip("uvw", "ijk", "pqr", hits):
        after = now.replace(o, i + k)
        gathered, now = product(f"{now},{o + i + k}->{after}", gathered, hit), after
    if pass_ == "input_grad":
        return product(f"{w},{now}->{x}", b[0], gathered)
    return product(f"{x},{now}->{w}", a, gathered)[None]


# -- calls ------------------------------------------------------------------------------------------------------


def parameters(p: Problem) -> dict[str, Any]:
    return {
        "stride": p.stride,
        "padding": p.padding,
        "output_padding": p.output_padding,
        "dilation": p.dilation,
        "groups": p.groups,
    }


def call(p: Problem, pass_: Pass, a: Array, b: Array, algorithm: str | None = None, **more: Any) -> Array:
    """Run a pass through its public call, with channels last in memory if the problem has them so."""
    keywords = parameters(p) | {"algorithm": algorithm} | more
    a, b = in_memory(p, pass_, a, b)
    if pass_ == "forward":
        return getattr(fd, f"conv_transpose{p.ndim}d")(a, b, **keywords)
    if pass_ == "input_grad":
        return getattr(fd.grad, f"conv_transpose{p.ndim}d_input")(p.input_shape, b, a, **keywords)
    return getattr(fd.grad, f"conv_transpose{p.ndim}d_weight")(a, p.weight_shape, b, **keywords)


def in_memory(p: Problem, pass_: Pass, a: Array, b: Array) -> tuple[Array, Array]:
    """Return a pass's inputs as they are, or with channels last in memory if the problem has them so."""
    axis = -p.ndim - 1

    def last(array: Array) -> Array:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, axis, -1)), -1, axis)

    if not p.channels_last:
        return a, b
    return last(a), last(b) if pass_ == "weight_grad" else b


# Elements before a result and behind it that nothing may write to.
_BESIDE = 2048


def poisoned(p: Problem, pass_: Pass) -> Array:
    """Return an array for a result, full of NaN (of the largest integer, for integers), as is what lies beside it."""
    shape = operand_shapes(p, pass_)[2]
    axis = len(shape) - p.ndim - 1
    last = p.channels_last and pass_ != "weight_grad"
    if last:
        shape = (*shape[:axis], *shape[axis + 1 :], shape[axis])
    dtype = np.dtype(p.dtype)
    poison = np.nan if dtype.kind in "fc" else np.iinfo(dtype).max
    room = np.full(math.prod(shape) + 2 * _BESIDE, poison, dtype)
    result = room[_BESIDE:-_BESIDE].reshape(shape)
    return np.moveaxis(result, -1, axis) if last else result


def assert_alone(result: Array) -> None:
    """Assert that nothing beside a result from `poisoned` has been written."""
    room = result.base
    assert room is not None
    beside = np.concatenate([room[:_BESIDE], room[-_BESIDE:]])
    kept = np.isnan(beside) if beside.dtype.kind in "fc" else beside == np.iinfo(beside.dtype).max
    assert kept.all(), f"{np.count_nonzero(~kept)} elements beside the result were written"
