"""What the kinds of work take that kernels count, for the choice among them.

A weight is in multiplications at the peak of all cores. ``python -m bench choices --fit`` fits them to times of random
float32 problems, and without ``--fit`` tells how far the choice is from the best. With 16 registers they are fitted on
a Zen 3 (AVX2), rounded between fits (docs/decisions/0015-panels.md, 0016, 0017, 0019), with 32 on an Intel Xeon with
AVX-512 and 2 MB of second-level cache a core (0006, 0015, 0020 to 0023). Guesses: with 16 those of `winograd` that are
"ranged", for kernels and for gradients' elements apart, and those of `direct_panels`, `direct_im2row`, `direct_outer`,
`direct_windows` and, as with 32, kernels for channels last.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastdeconv.kernels.cpu import host

Weights = Mapping[str, float]

# For arrays with channels last; kernels that are not told apart have the same weights for both layouts.
_CHANNELS_LAST: dict[tuple[str, str], Weights] = {
    ("direct_nhwc", "forward"): {
        "product": 1.35, "place": 138, "tile": 2820, "segment": 374, "result": 20, "source": 15, "weight": 133,
        "call": 3.8e6,
    },
    ("direct_nhwc", "input_grad"): {
        "product": 1.36, "place": 142, "tile": 3350, "segment": 549, "result": 4.3, "source": 9, "weight": 127,
        "call": 3.75e6,
    },
    ("direct_nhwc", "weight_grad"): {
        "product": 1.39, "place": 237, "packed": 13, "tile": 7520, "source": 11, "weight": 102, "call": 3.8e6,
    },
    ("direct_depthwise_nhwc", "forward"): {"product": 3.8, "place": 122, "result": 45, "call": 3.5e6},
    ("direct_depthwise_nhwc", "input_grad"): {"product": 6.2, "pair": 17, "place": 53, "source": 24, "call": 6e6},
    ("direct_depthwise_nhwc", "weight_grad"): {"product": 7.6, "pair": 135, "source": 17, "weight": 160},
}  # fmt: skip

_CHANNELS_LAST_32: dict[tuple[str, str], Weights] = {
    ("winograd", "forward"): {
        "product": 1.68, "operand": 22, "result": 31, "weight": 88, "row": 229, "apart": 54,
        "many_products": 1.5, "many_operands": 41, "many_results": 32, "many_weights": 77, "many_strips": 9810,
        "launch": 4.1e6,
    },
    ("winograd", "input_grad"): {
        "product": 1.89, "operand": 17, "result": 78, "weight": 67, "launch": 4.4e6,
        "many_products": 2.06, "many_operands": 32, "many_results": 36, "many_weights": 106,
    },
    ("winograd", "weight_grad"): {
        "product": 1.72, "operand": 81, "result": 81, "weight": 32, "strip": 4030, "launch": 4.1e6,
        "ranged_product": 1.53, "ranged_operand": 37, "ranged_result": 29, "ranged_weight": 96, "ranged_strip": 10700,
        "ranged_launch": 7.3e6, "ranged_many_products": 1.27, "ranged_many_operands": 63, "ranged_many_results": 7,
        "ranged_many_weights": 98,
    },
    ("direct_product", "forward"): {
        "product": 1.48, "operand": 51, "result": 55, "weight": 184, "strip": 5750, "launch": 4.9e6,
    },
    ("direct_product", "input_grad"): {
        "product": 1.4, "operand": 79, "result": 60, "weight": 205, "strip": 4410, "launch": 5.1e6,
    },
}  # fmt: skip

_REGISTERS_16: dict[tuple[str, str], Weights] = {
    ("direct_pointwise", "forward"): {"product": 4.1, "weight": 69, "result": 16},
    ("direct_pointwise", "input_grad"): {"product": 2.2, "result": 40},
    ("direct_pointwise", "weight_grad"): {"product": 1.5, "tile": 6000, "gradient": 17, "call": 2e6},
    ("direct_linear", "forward"): {"product": 1.9, "piece": 830, "tile": 2000, "call": 1.8e6},
    ("direct_linear", "input_grad"): {"product": 2.1, "tile": 7900, "copy": 29, "call": 6.7e5},
    ("direct_linear", "weight_grad"): {"product": 1.6, "piece": 900, "tile": 1850, "call": 3.5e6},
    ("direct_blocks", "forward"): {"product": 1.3, "piece": 1000, "result": 33, "row": 790, "weight": 570},
    ("direct_col2im", "forward"): {
        "product": 1.35, "piece": 740, "tile": 1350, "moved": 4, "line": 310, "result": 37, "row": 240, "weight": 500,
        "call": 2.7e6,
    },
    ("direct_images", "forward"): {"product": 1.45, "sum": 11, "result": 41, "weight": 11, "call": 1.5e7},
    ("direct_images", "input_grad"): {
        "product": 1.4, "sum": 9.6, "operand": 180, "result": 63, "weight": 64, "call": 1.8e6,
    },
    ("direct_panels", "input_grad"): {
        "product": 1.24, "stretch": 46, "load": 15, "gradient": 20, "list": 2400, "tile": 1800, "call": 3.6e6,
    },
    ("direct_rows", "input_grad"): {
        "product": 1.46, "term": 40, "tile": 590, "line": 1230, "gradient": 21, "call": 1.2e6,
    },
    ("winograd", "forward"): {
        "product": 1.72, "operand": 25, "result": 19, "weight": 70, "strip": 16000, "apart": 136, "launch": 3e6,
        "many_products": 1.69, "many_operands": 41, "many_results": 36, "many_weights": 184, "many_strips": 27000,
    },
    ("winograd", "input_grad"): {
        "product": 1.48, "operand": 41, "result": 61, "weight": 51, "strip": 18800, "apart": 300, "launch": 3.5e6,
        "many_products": 1.91, "many_operands": 40, "many_results": 42, "many_weights": 199, "many_strips": 49000,
    },
    ("winograd", "weight_grad"): {
        "product": 1.57, "operand": 77, "result": 58, "weight": 95, "launch": 9.8e6, "apart": 200, "kernel": 300,
        "ranged_product": 1.6, "ranged_operand": 45, "ranged_result": 34, "ranged_weight": 95, "ranged_launch": 1.3e7,
        "ranged_many_products": 1.6, "ranged_many_operands": 60, "ranged_many_results": 30, "ranged_many_weights": 180,
        "ranged_many_strips": 20000,
    },
    ("direct_product", "forward"): {"product": 1.5, "operand": 49, "result": 57, "weight": 160, "strip": 5700},
    ("direct_product", "input_grad"): {"product": 1.31, "operand": 100, "result": 63, "weight": 256, "strip": 10700},
    ("direct_local", "input_grad"): {
        "product": 1.18, "result": 84, "row": 1310, "plane": 17, "line": 880, "weight": 540, "call": 4.4e6,
    },
    ("direct_local", "weight_grad"): {
        "product": 2.0, "plane": 29, "gradient": 16, "row": 1900, "weight": 850, "call": 9.1e6,
    },
    ("direct_tile", "forward"): {"product": 1.71, "result": 77, "row": 470, "plane": 66, "weight": 305, "call": 2.5e6},
    ("direct_windows", "forward"): {
        "product": 1.4, "stretch": 120, "input": 40, "list": 1500, "tile": 1500, "result": 40, "row": 600,
        "weight": 330, "call": 2.5e6,
    },
    ("direct_joint", "forward"): {"product": 1.5, "result": 160, "row": 2300, "plane": 66, "weight": 1600},
    ("direct_tile", "input_grad"): {
        "product": 1.62, "result": 132, "row": 1230, "plane": 91, "line": 1150, "weight": 204, "call": 5e6,
    },
    ("direct_outer", "weight_grad"): {
        "product": 1.4, "stretch": 60, "gradient": 35, "list": 5000, "column": 20, "weight": 60, "call": 3e6,
    },
    ("direct_im2row", "weight_grad"): {
        "product": 1.57, "stretch": 42, "load": 25, "gradient": 18, "list": 5000, "tile": 1800, "weight": 6,
        "call": 3e6,
    },
    ("direct_im2col", "weight_grad"): {
        "product": 1.58, "chunk": 100, "tile": 1400, "line": 280, "border": 69, "weight": 18, "call": 3e6,
    },
    ("direct_dot", "weight_grad"): {
        "product": 1.8, "plane": 47, "gradient": 64, "lanes": 51, "row": 1240, "weight": 450, "call": 6.4e6,
    },
}  # fmt: skip

_REGISTERS_32: dict[tuple[str, str], Weights] = {
    ("direct_pointwise", "forward"): {"product": 1.82, "weight": 32, "result": 2.65, "call": 4.5e6},
    ("direct_pointwise", "input_grad"): {"product": 2.2, "result": 19},
    ("direct_pointwise", "weight_grad"): {"product": 3.6, "gradient": 3, "call": 8e6},
    ("direct_linear", "forward"): {"product": 1.48, "piece": 1290, "tile": 4240, "call": 2.2e6},
    ("direct_linear", "input_grad"): {"product": 3.0, "tile": 16300, "copy": 31},
    ("direct_linear", "weight_grad"): {"product": 1.49, "piece": 1840, "tile": 5900, "call": 1e6},
    ("direct_blocks", "forward"): {
        "product": 1.12, "piece": 1070, "tile": 6900, "result": 34, "row": 114, "weight": 132,
    },
    ("direct_col2im", "forward"): {
        "product": 1.1, "piece": 1230, "tile": 7240, "moved": 6.5, "line": 62, "result": 32, "weight": 106,
        "call": 5e6,
    },
    ("direct_images", "forward"): {
        "product": 1.3, "sum": 5.65, "operand": 177, "result": 56, "weight": 49, "call": 8e6,
    },
    ("direct_images", "input_grad"): {
        "product": 1.39, "sum": 7.2, "operand": 204, "result": 33, "weight": 32, "call": 7.4e6,
    },
    ("direct_panels", "input_grad"): {
        "product": 1.3, "stretch": 78, "load": 30, "gradient": 31, "list": 940, "tile": 6630, "call": 2.4e6,
    },
    ("direct_rows", "input_grad"): {"product": 3.1, "term": 52, "tile": 230, "line": 90, "gradient": 35},
    ("winograd", "forward"): {
        "product": 1.48, "operand": 25, "result": 27, "weight": 50, "strip": 12000, "row": 495, "apart": 141,
        "many_products": 1.45, "many_operands": 30, "many_results": 28, "many_weights": 97, "many_strips": 9090,
        "launch": 4.6e6,
    },
    ("winograd", "input_grad"): {
        "product": 1.65, "operand": 26, "result": 62, "weight": 67, "strip": 13000, "apart": 700, "launch": 7e6,
        "many_products": 1.54, "many_operands": 28, "many_results": 48, "many_weights": 197, "many_strips": 25000,
    },
    ("winograd", "weight_grad"): {
        "product": 1.68, "operand": 51, "result": 54, "weight": 44, "strip": 8800, "launch": 4.9e6,
        "apart": 950, "kernel": 1380, "input_line": 78, "output_line": 38,
        "ranged_product": 1.37, "ranged_operand": 1, "ranged_result": 13, "ranged_weight": 197, "ranged_strip": 18800,
        "ranged_launch": 1.14e7, "ranged_many_products": 1.3, "ranged_many_operands": 37, "ranged_many_weights": 88,
        "ranged_many_strips": 21300,
    },
    ("direct_product", "forward"): {
        "product": 1.21, "operand": 50, "result": 45, "weight": 132, "strip": 11100, "launch": 1e7,
    },
    ("direct_product", "input_grad"): {
        "product": 1.34, "operand": 80, "result": 55, "weight": 330, "strip": 6300, "launch": 4.8e6,
    },
    ("direct_local", "input_grad"): {
        "product": 1.18, "result": 29, "row": 370, "plane": 38, "line": 670, "weight": 540, "call": 3.8e6,
    },
    ("direct_local", "weight_grad"): {
        "product": 2.63, "plane": 23, "gradient": 18, "row": 1040, "weight": 860, "call": 2.2e6,
    },
    ("direct_tile", "forward"): {
        "product": 1.31, "result": 31, "row": 214, "plane": 61, "line": 1770, "weight": 137, "call": 7.7e6,
    },
    ("direct_windows", "forward"): {
        "product": 1.15, "stretch": 125, "input": 28, "list": 4020, "tile": 2780, "result": 20, "row": 370,
        "weight": 98, "call": 1.9e6,
    },
    ("direct_joint", "forward"): {"product": 1.24, "result": 32, "row": 878, "plane": 75, "weight": 719},
    ("direct_tile", "input_grad"): {
        "product": 1.34, "result": 49, "row": 405, "plane": 84, "line": 800, "weight": 290, "call": 2.7e6,
    },
    ("direct_outer", "weight_grad"): {
        "product": 1.36, "stretch": 95, "load": 22, "gradient": 28, "list": 4900, "column": 28, "weight": 62,
        "call": 4.1e6,
    },
    ("direct_im2row", "weight_grad"): {
        "product": 1.85, "stretch": 115, "load": 18, "gradient": 22, "list": 3300, "tile": 4250, "weight": 13,
        "call": 4e6,
    },
    ("direct_im2col", "weight_grad"): {
        "product": 1.49, "chunk": 134, "tile": 7500, "line": 220, "border": 105, "weight": 11, "call": 6e6,
    },
    ("direct_dot", "weight_grad"): {
        "product": 1.65, "plane": 53, "gradient": 71, "lanes": 338, "row": 800, "weight": 109, "call": 8.2e6,
    },
}  # fmt: skip

_WEIGHTS = _REGISTERS_32 if host.REGISTERS == 32 else _REGISTERS_16
_WEIGHTS_LAST = {**_WEIGHTS, **_CHANNELS_LAST, **(_CHANNELS_LAST_32 if host.REGISTERS == 32 else {})}


def weights_of(name: str, pass_: str, channels_last: bool = False) -> Weights:
    """Return what each kind of work takes that a kernel counts."""
    return (_WEIGHTS_LAST if channels_last else _WEIGHTS).get((name, pass_), {})
