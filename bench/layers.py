"""The layers that are measured: one table from networks that people run, and layers drawn that no kernel was made for.

Nothing else in the package depends on a row of the table.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from fastdeconv.problem import Problem


class Layer(NamedTuple):
    """One row of the table."""

    name: str
    source: str
    problem: Problem


_TABLE = """
textbook_5x5_k3    | the textbook example         | mb1ic1ih5iw5oc1kh3kw3sh1sw1ph1pw1
dcgan_1_k4         | DCGAN generator              | mb64ic100ih1iw1oc512kh4kw4sh1sw1ph0pw0
dcgan_2_k4s2       | DCGAN generator              | mb64ic512ih4iw4oc256kh4kw4sh2sw2ph1pw1
dcgan_3_k4s2       | DCGAN generator              | mb64ic256ih8iw8oc128kh4kw4sh2sw2ph1pw1
dcgan_4_k4s2       | DCGAN generator              | mb64ic128ih16iw16oc64kh4kw4sh2sw2ph1pw1
dcgan_5_k4s2       | DCGAN generator              | mb64ic64ih32iw32oc3kh4kw4sh2sw2ph1pw1
pix2pix_k4s2       | pix2pix U-Net                | mb1ic512ih64iw64oc128kh4kw4sh2sw2ph1pw1
unet_deep_k2s2     | U-Net                        | mb1ic1024ih28iw28oc512kh2kw2sh2sw2ph0pw0
unet_wide_k2s2     | U-Net                        | mb1ic128ih200iw200oc64kh2kw2sh2sw2ph0pw0
fsrcnn_k9s3        | FSRCNN x3                    | mb1ic56ih85iw85oc1kh9kw9sh3sw3ph4pw4
fsrcnn_hd_k9s2     | FSRCNN x2 to 1080p           | mb1ic56ih540iw960oc1oh1080ow1920kh9kw9sh2sw2ph4pw4
fcn32_k64s32       | FCN-32s                      | mb1ic21ih10iw10oc21kh64kw64sh32sw32ph0pw0
fcn8_dw_k16s8      | FCN-8s, bilinear             | g21mb1ic21ih64iw64oc21kh16kw16sh8sw8ph4pw4
simplepose_k4s2    | SimpleBaseline               | mb8ic256ih16iw12oc256kh4kw4sh2sw2ph1pw1
cyclegan_k3s2      | CycleGAN                     | mb1ic256ih64iw64oc128oh128ow128kh3kw3sh2sw2ph1pw1
dw_k3s2            | mobile decoder               | g128mb4ic128ih56iw56oc128oh112ow112kh3kw3sh2sw2ph1pw1
k3s1               | decoder, stride 1            | mb4ic64ih56iw56oc64kh3kw3sh1sw1ph1pw1
deblur_k5s1        | deblurring                   | mb1ic32ih256iw256oc32kh5kw5sh1sw1ph2pw2
dilated_k3d2       | dilated decoder              | mb1ic64ih64iw64oc64kh3kw3sh1sw1ph2pw2dh1dw1
grouped_k4s2       | grouped decoder              | g4mb4ic128ih32iw32oc128kh4kw4sh2sw2ph1pw1
hifigan_k16s8      | HiFi-GAN                     | mb1ic512iw800oc256kw16sw8pw4
istft_dw_k1024s256 | vocoder (pytorch 120982)     | g1026mb1ic1026iw224oc1026kw1024sw256pw0
audio_k4s2         | pytorch 41382                | mb1ic64iw40000oc32kw4sw2pw1
unet3d_k2s2        | 3-D U-Net                    | mb1ic128id32ih32iw32oc64kd2kh2kw2sd2sh2sw2pd0ph0pw0
vnet_k4s2          | 3-D decoder                  | mb1ic64id16ih16iw16oc32kd4kh4kw4sd2sh2sw2pd1ph1pw1
"""


def _layers() -> tuple[Layer, ...]:
    rows = (line.split("|") for line in _TABLE.strip().splitlines())
    return tuple(Layer(name.strip(), source.strip(), Problem.parse(text.strip())) for name, source, text in rows)


LAYERS = _layers()

_DRAWN = 8
_LEAST, _MOST = 2e7, 2e9  # flops of a drawn layer


def drawn(seed: int) -> tuple[Layer, ...]:
    """Return legal layers with sizes that no one chose, the same for the same seed."""
    uniform = random.Random(seed).random  # the one method whose values are the same in every version of Python
    layers: list[Layer] = []
    while len(layers) < _DRAWN:
        problem = _draw(lambda low, high: low + int((high - low + 1) * uniform()))
        if problem is not None and _LEAST <= problem.flops <= _MOST:
            layers.append(Layer(f"unseen{seed}_{len(layers)}", f"drawn with seed {seed}", problem))
    return tuple(layers)


def _draw(integer: Callable[[int, int], int]) -> Problem | None:
    ndim = (1, 2, 2, 2, 3)[integer(0, 4)]
    stride = (integer(1, 4),) * ndim
    kernel = tuple(integer(1, {1: 20, 2: 7, 3: 4}[ndim]) for _ in range(ndim))
    group_in, group_out = (max(1, int(2 ** (integer(0, 80) / 10))) for _ in range(2))
    groups = (1, 1, 1, integer(2, 32))[integer(0, 3)]
    longest = {1: 4000, 2: 150, 3: 24}[ndim]
    try:
        return Problem(
            batch=(1, 1, integer(2, 16))[integer(0, 2)],
            in_channels=groups * group_in,
            out_channels=groups * group_out,
            input_size=tuple(integer(1, longest) for _ in range(ndim)),
            kernel_size=kernel,
            stride=stride,
            padding=tuple(integer(0, k // 2) for k in kernel),
            output_padding=tuple(integer(0, s - 1) for s in stride),
            dilation=((1, 1, 1, 2)[integer(0, 3)],) * ndim,
            groups=groups,
        )
    except ValueError:
        return None


def select(text: str) -> list[Layer]:
    """Return the layers that a list with commas names.

    ``listed`` is the table, ``quick`` every third of it, ``1d``, ``2d``, ``3d`` those of it with so many axes,
    ``unseen`` or ``unseen:SEED`` layers drawn, ``all`` the table and ``unseen``; else a layer's name or a descriptor.

    Raises
    ------
    ValueError
        A part is none of these.
    """
    return [layer for part in text.split(",") for layer in _named(part.strip())]


def _named(text: str) -> list[Layer]:
    sets = {
        "listed": LAYERS,
        "quick": LAYERS[::3],
        "all": LAYERS + drawn(0),
        "unseen": drawn(0),
        **{f"{ndim}d": tuple(layer for layer in LAYERS if layer.problem.ndim == ndim) for ndim in (1, 2, 3)},
        **{layer.name: (layer,) for layer in LAYERS},
    }
    if text in sets:
        return list(sets[text])
    name, _, seed = text.partition(":")
    if name == "unseen" and seed.isdecimal():
        return list(drawn(int(seed)))
    try:
        problem = Problem.parse(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r} is neither a layer, a set of layers nor a descriptor: {error}") from None
    # A batch of one is the same memory, and every peer has it.
    return [Layer("given", "given", replace(problem, batched=True))]


def variants(layers: list[Layer], dtypes: list[str], batches: list[int]) -> list[Layer]:
    """Return the layers with each element type and each batch size; an empty list leaves what they have."""
    return [
        Layer(
            layer.name + (f"_mb{batch}" if batch else ""),
            layer.source,
            replace(layer.problem, dtype=dtype or layer.problem.dtype, batch=batch or layer.problem.batch),
        )
        for dtype in dtypes or [""]
        for batch in batches or [0]
        for layer in layers
    ]
