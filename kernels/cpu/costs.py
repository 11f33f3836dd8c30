"""What the kinds of work take that kernels count, for the choice among them.

A weight is in multiplications at the peak of all cores. ``python -m bench choices --fit`` fits them to times of random
float32 problems, and without ``--fit`` tells how far the choice is from the best. With 16 registers they are fitted on
a Zen 3 (AVX2), rounded between fits (docs/decisions/0015-panels.md, 0016, 0017, 0019). With 32 those of `winograd`,
`direct_tile` forward and `direct_dot` were fitted on a Zen 4; the others are guesses after those of AVX2.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastdeconv.kernels.cpu import host

Weights = Mapping[str, float]

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
    ("direct_panels", "input_grad"): {"product": 1.24, "piece": 735, "tile": 2060, "call": 3.6e6},
    ("direct_rows", "input_grad"): {
        "product": 1.46, "term": 40, "tile": 590, "line": 1230, "gradient": 21, "call": 1.2e6,
    },
    ("winograd", "forward"): {
        "product": 1.72, "operand": 25, "result": 19, "weight": 70, "strip": 16000, "apart": 136, "launch": 3e6,
        "many_products": 1.69, "many_operands": 41, "many_results": 36, "many_weights": 184, "many_strips": 27000,
    },
    ("winograd", "input_grad"): {
        "product": 1.48, "operand": 41, "result": 61, "weight": 51, "strip": 18800, "launch": 3.5e6,
        "many_products": 1.91, "many_operands": 40, "many_results": 42, "many_weights": 199, "many_strips": 49000,
    },
    ("winograd", "weight_grad"): {"product": 1.57, "operand": 77, "result": 58, "weight": 95, "launch": 9.8e6},
    ("direct_product", "forward"): {"product": 1.5, "operand": 49, "result": 57, "weight": 160, "strip": 5700},
    ("direct_product", "input_grad"): {"product": 1.31, "operand": 100, "result": 63, "weight": 256, "strip": 10700},
    ("direct_local", "input_grad"): {
        "product": 1.18, "result": 84, "row": 1310, "plane": 17, "line": 880, "weight": 540, "call": 4.4e6,
    },
    ("direct_local", "weight_grad"): {
        "product": 2.0, "plane": 29, "gradient": 16, "row": 1900, "weight": 850, "call": 9.1e6,
    },
    ("direct_tile", "forward"): {"product": 1.71, "result": 77, "row": 470, "plane": 66, "weight": 305, "call": 2.5e6},
    ("direct_joint", "forward"): {"product": 1.5, "result": 160, "row": 2300, "plane": 66, "weight": 1600},
    ("direct_tile", "input_grad"): {
        "product": 1.62, "result": 132, "row": 1230, "plane": 91, "line": 1150, "weight": 204, "call": 5e6,
    },
    ("direct_im2col", "weight_grad"): {
        "product": 1.58, "chunk": 100, "tile": 1400, "line": 280, "border": 69, "weight": 18, "call": 3e6,
    },
    ("direct_dot", "weight_grad"): {
        "product": 1.8, "plane": 47, "gradient": 64, "lanes": 51, "row": 1240, "weight": 450, "call": 6.4e6,
    },
}  # fmt: skip

_TRANSFORMS = {
    "product": 1.12, "operand": 30, "result": 20, "weight": 32,
    "many_products": 1.3, "many_operands": 35, "many_results": 30, "many_weights": 120, "many_strips": 25000,
}  # fmt: skip
_REGISTERS_32: dict[tuple[str, str], Weights] = {
    ("winograd", "forward"): _TRANSFORMS | {"row": 1000, "apart": 250},
    ("winograd", "input_grad"): _TRANSFORMS,
    ("winograd", "weight_grad"): _TRANSFORMS,
    ("direct_product", "forward"): _TRANSFORMS | {"row": 1000, "apart": 250},
    ("direct_product", "input_grad"): _TRANSFORMS,
    ("direct_tile", "forward"): {"product": 1.15, "weight": 130, "result": 25},
    ("direct_joint", "forward"): {"product": 1.15, "weight": 130, "result": 25},
    ("direct_tile", "input_grad"): {"product": 1.15, "result": 58, "row": 1100, "plane": 77, "weight": 150},
    ("direct_local", "input_grad"): {"product": 1.05, "result": 23, "row": 960, "plane": 37, "weight": 460},
    ("direct_dot", "weight_grad"): {"product": 1.35, "weight": 250, "gradient": 12},
    ("direct_local", "weight_grad"): {"product": 1.3, "weight": 250},
    ("direct_im2col", "weight_grad"): {
        "product": 1.2, "chunk": 40, "tile": 1000, "line": 40, "border": 40, "weight": 40,
    },
    ("direct_blocks", "forward"): {"product": 1.12, "piece": 480, "result": 22, "row": 450, "weight": 140},
    ("direct_col2im", "forward"): {
        "product": 1.12, "piece": 430, "tile": 1000, "line": 140, "result": 22, "row": 450, "weight": 140,
    },
    ("direct_images", "forward"): {"product": 1.2, "sum": 10, "operand": 20, "result": 20, "weight": 40},
    ("direct_images", "input_grad"): {"product": 1.2, "sum": 10, "operand": 20, "result": 20, "weight": 40},
    ("direct_panels", "input_grad"): {"product": 1.15, "piece": 470, "tile": 960},
    ("direct_rows", "input_grad"): {"product": 1.2, "term": 35, "tile": 500, "line": 1000, "gradient": 17},
    ("direct_pointwise", "forward"): {"product": 1.15},
    ("direct_pointwise", "input_grad"): {"product": 1.15},
    ("direct_pointwise", "weight_grad"): {"product": 1.3},
    ("direct_linear", "forward"): {"product": 1.05, "piece": 440, "tile": 1100},
    ("direct_linear", "input_grad"): {"product": 1.05, "tile": 5000, "copy": 18},
    ("direct_linear", "weight_grad"): {"product": 1.05, "piece": 440, "tile": 1100},
}  # fmt: skip

_WEIGHTS = _REGISTERS_32 if host.REGISTERS == 32 else _REGISTERS_16


def weights_of(name: str, pass_: str) -> Weights:
    """Return what each kind of work takes that a kernel counts."""
    return _WEIGHTS.get((name, pass_), {})
