"""The paste-able name of a problem, in the grammar of oneDNN's benchdnn for convolutions.

``[--dt=DT] [--tag=TAG] [--unbatched] [gG]mbNicC[idD][ihH]iwWocC[odD][ohH]owW[kdK…]kwK[sd…]sw[pd…]pw[dd…]dw[n"name"]``

Element types have benchdnn's short names, extended by ``f64``-style names for the others. The tag is ``nwc``, ``nhwc``
or ``ndhwc`` for input and output with channels last in memory; without it they have them first. Dilation is counted
from 0. Output padding follows from the output size. On reading, a size that is given for one axis only holds for the
axes to its right; what is left out altogether is stride 1, padding 0, dilation 0 and the output size without output
padding. See https://github.com/uxlfoundation/oneDNN/blob/main/tests/benchdnn/doc/knobs_convolution.md.
"""

from __future__ import annotations

import re

from fastdeconv.problem import Problem, output_padding_for, shown

_SHORT = {
    "float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64", "complex64": "c64", "complex128": "c128",
    "int8": "s8", "int16": "s16", "int32": "s32", "int64": "s64",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
}  # fmt: skip
_LONG = {short: long for long, short in _SHORT.items()}
_LETTERS = "dhw"
_TAGS = {"nwc": 1, "nhwc": 2, "ndhwc": 3}  # spatial axes
_FIELD = re.compile(r"(mb|ic|oc|g|[ioksp][dhw]|d[dhw])([0-9]{1,19})")


def format_descriptor(problem: Problem) -> str:
    """Return the descriptor of a problem; `parse_descriptor` reads it back."""
    axes = _LETTERS[-problem.ndim :]

    def sizes(letter: str, values: tuple[int, ...]) -> str:
        return "".join(f"{letter}{a}{v}" for a, v in zip(axes, values))

    flags = [f"--dt={_SHORT[problem.dtype]}"] if problem.dtype != "float32" else []
    if problem.channels_last:
        flags.append(f"--tag=n{axes}c")
    if not problem.batched:
        flags.append("--unbatched")
    core = (
        (f"g{problem.groups}" if problem.groups > 1 else "")
        + f"mb{problem.batch}ic{problem.in_channels}"
        + sizes("i", problem.input_size)
        + f"oc{problem.out_channels}"
        + sizes("o", problem.output_size)
        + sizes("k", problem.kernel_size)
        + sizes("s", problem.stride)
        + sizes("p", problem.padding)
        + (sizes("d", tuple(d - 1 for d in problem.dilation)) if max(problem.dilation) > 1 else "")
    )
    return " ".join([*flags, core])


def parse_descriptor(text: str) -> Problem:
    """Read a descriptor.

    Raises
    ------
    TypeError
        `text` is not a string.
    ValueError
        The message shows the part that cannot be read, or the size that is missing or impossible.
    """
    if not isinstance(text, str):
        raise TypeError(f"a descriptor must be a string; got {shown(text)}")
    dtype, batched, tag = "float32", True, ""
    word = text.strip()
    while word.startswith("--"):
        flag, _, word = word.partition(" ")
        word = word.lstrip()
        key, _, value = flag.partition("=")
        if key == "--dt" and value in _LONG:
            dtype = _LONG[value]
        elif key == "--tag" and value in _TAGS:
            tag = value
        elif flag == "--unbatched":
            batched = False
        else:
            raise ValueError(
                f"descriptor flag {shown(flag)} is not known; use --dt={'|'.join(_LONG)}, --tag={'|'.join(_TAGS)} or "
                "--unbatched"
            )
    if not word:
        raise ValueError(f"a descriptor is flags and then a problem such as mb1ic3ih5iw5oc2kh3kw3; got {shown(text)}")
    fields = _fields(word)
    ndim = max(len(_LETTERS) - _LETTERS.index(key[1]) for key in fields if key[0] in "iokspd" and key[1] in _LETTERS)
    axes = _LETTERS[-ndim:]
    if tag and _TAGS[tag] != ndim:
        raise ValueError(
            f"--tag={tag} is for {_TAGS[tag]} spatial axes, and descriptor {shown(word)} has {ndim}: use --tag=n{axes}c"
        )

    def sizes(letter: str, default: int | None) -> tuple[int, ...]:
        values: list[int] = []
        for a in axes:
            value = fields.get(letter + a, values[-1] if values else default)
            if value is None:
                raise ValueError(f"descriptor {shown(word)} lacks {letter}{a}")
            values.append(value)
        return tuple(values)

    for key in ("ic", "oc"):
        if key not in fields:
            raise ValueError(f"descriptor {shown(word)} lacks {key}")
    input_size, kernel_size = sizes("i", None), sizes("k", None)
    stride, padding = sizes("s", 1), sizes("p", 0)
    dilation = tuple(d + 1 for d in sizes("d", 0))
    output_padding = (0,) * ndim
    if any("o" + a in fields for a in axes):
        output_padding = output_padding_for(sizes("o", None), input_size, kernel_size, stride, padding, dilation)
    return Problem(
        batch=fields.get("mb", 1),
        in_channels=fields["ic"],
        out_channels=fields["oc"],
        input_size=input_size,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        groups=fields.get("g", 1),
        dtype=dtype,
        batched=batched,
        channels_last=bool(tag),
    )


def _fields(word: str) -> dict[str, int]:
    fields: dict[str, int] = {}
    at = 0
    while at < len(word) and not re.fullmatch(r'n"?[^"]*"?', word[at:]):
        match = _FIELD.match(word, at)
        if match is None:
            raise ValueError(f"descriptor {shown(word)} cannot be read from {shown(word[at:])} on")
        if match[1] in fields:
            raise ValueError(f"descriptor {shown(word)} gives {match[1]} twice")
        fields[match[1]] = int(match[2])
        at = match.end()
    if not any(key in fields for key in ("id", "ih", "iw")):
        raise ValueError(f"descriptor {shown(word)} lacks iw (and ih, id)")
    return fields
