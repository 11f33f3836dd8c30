"""Who takes part: one file a library, this table, and who of it can be started here."""

from __future__ import annotations

from collections.abc import Iterable

from fastdeconv.bench.contenders.base import Contender
from fastdeconv.bench.contenders.ours import Fastdeconv, FastdeconvChannelsLast, FastdeconvPrepared
from fastdeconv.bench.contenders.with_jax import Jax
from fastdeconv.bench.contenders.with_onnxruntime import OnnxRuntime
from fastdeconv.bench.contenders.with_openvino import OpenVino
from fastdeconv.bench.contenders.with_tensorflow import TensorFlow
from fastdeconv.bench.contenders.with_torch import Torch, TorchChannelsLast

CONTENDERS: tuple[type[Contender], ...] = (
    Fastdeconv,
    FastdeconvChannelsLast,
    FastdeconvPrepared,
    Torch,
    TorchChannelsLast,
    OnnxRuntime,
    OpenVino,
    Jax,
    TensorFlow,
)
PEERS = tuple(contender for contender in CONTENDERS if contender.is_peer)


def start(names: Iterable[str], threads: int) -> tuple[list[Contender], dict[str, str]]:
    """Import and set up contenders, in the table's order.

    Parameters
    ----------
    names : iterable of str
        Peers that are wanted; what is not a peer always takes part.

    Returns
    -------
    contenders : list of Contender
    left_out : dict
        Why a contender does not take part, by its name.
    """
    wanted = set(names)
    contenders: list[Contender] = []
    left_out: dict[str, str] = {}
    for kind in CONTENDERS:
        if kind.is_peer and kind.name not in wanted:
            continue
        if missing := kind.missing():
            left_out[kind.name] = f"{missing} is not installed (pip install {kind.install})"
            continue
        try:
            contenders.append(kind(threads))
        except Exception as error:  # whatever another library raises, the others can still be timed
            left_out[kind.name] = f"does not start: {one_line(error)}"
    return contenders, left_out


def one_line(error: Exception, limit: int = 160) -> str:
    """Return an error's message as a line of a table of notes."""
    text = " ".join((str(error) or type(error).__name__).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
