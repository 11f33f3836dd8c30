"""What a row's products are of, and how exact its results must be."""

from __future__ import annotations

from typing import NamedTuple

from fastdeconv.bench.gate import Accuracy


class Precision(NamedTuple):
    """An element type with the way it is multiplied.

    Attributes
    ----------
    name : str
        Of options and rows.
    dtype : str
        Of all arrays.
    accuracy : Accuracy
        Sums are of float32 everywhere; a result is rounded once to its type.
    """

    name: str
    dtype: str
    accuracy: Accuracy

    @property
    def tf32(self) -> bool:
        """Whether factors of float32 may be rounded to TF32."""
        return self.name == "tf32"


_SUMS = 16 * 2.0**-23

# In the order in which a budget that is short serves them.
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("float32", "float32", Accuracy(_SUMS, 0.0)),
        Precision("float16", "float16", Accuracy(_SUMS, 2.0**-11)),
        Precision("tf32", "float32", Accuracy(_SUMS + 2.0**-10, 0.0)),  # two factors of 11 significant bits
        Precision("bfloat16", "bfloat16", Accuracy(_SUMS, 2.0**-8)),
    )
}
