"""What the kinds of work take that kernels count, for the choice among them.

A weight is in multiplications at the peak of all cores. ``python -m bench choices --fit`` fits them to times of random
float32 problems, and without ``--fit`` tells how far the choice is from the best. With 16 registers they are fitted on
a Zen 3 (AVX2), rounded between fits (docs/decisions/0015-panels.md, 0016, 0017). With 32 those of `winograd`,
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
    ("direct_blocks", "forward"): {
        "product": 1.4, "piece": 800, "tile": 2300, "result": 23, "row": 1250, "weight": 660,
    },
    ("direct_col2im", "forward"): {
        "product": 1.25, "piece": 680, "tile": 1600, "line": 220, "result": 28, "row": 1400, "weight": 560, "call": 6e6,
    },
    ("direct_panels", "input_grad"): {"product": 1.35, "piece": 730, "tile": 1500, "call": 3.6e6},
    ("winograd", "forward"): {
        "product": 2.1, "operand": 72, "result": 33, "weight": 68, "row": 1950, "apart": 152, "launch": 3.6e6,
    },
    ("winograd", "input_grad"): {"product": 1.7, "operand": 52, "result": 86, "weight": 45, "launch": 9.6e6},
    ("winograd", "weight_grad"): {"product": 2.7, "operand": 45, "result": 49, "weight": 45, "launch": 1.4e7},
    ("direct_product", "forward"): {"product": 1.6, "operand": 90, "result": 65, "weight": 120, "launch": 9e6},
    ("direct_product", "input_grad"): {"product": 1.5, "operand": 120, "result": 120, "weight": 270, "launch": 4.6e6},
    ("direct_local", "input_grad"): {
        "product": 1.2, "result": 36, "row": 1500, "plane": 58, "weight": 720, "call": 2.2e6,
    },
    ("direct_local", "weight_grad"): {
        "product": 2.0, "plane": 17, "gradient": 13, "row": 1900, "weight": 750, "call": 8e6,
    },
    ("direct_tile", "forward"): {"product": 1.7, "result": 72, "row": 400, "plane": 75, "weight": 290, "call": 8e6},
    ("direct_joint", "forward"): {"product": 2.0, "result": 90, "row": 1800, "plane": 65, "weight": 300, "call": 5e6},
    ("direct_tile", "input_grad"): {"product": 1.6, "result": 91, "row": 1700, "plane": 120, "weight": 240},
    ("direct_im2col", "weight_grad"): {
        "product": 1.42, "chunk": 80, "tile": 1800, "line": 220, "border": 90, "weight": 8, "call": 5.4e6,
    },
    ("direct_dot", "weight_grad"): {
        "product": 1.35, "plane": 39, "gradient": 39, "lanes": 420, "row": 1500, "call": 1e7,
    },
}  # fmt: skip

_TRANSFORMS = {"product": 1.12, "operand": 30, "result": 20, "weight": 32}
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
    ("direct_panels", "input_grad"): {"product": 1.15, "piece": 470, "tile": 960},
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
