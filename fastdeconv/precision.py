"""How exactly float32 products are computed on devices that have a choice."""

from __future__ import annotations

from fastdeconv.problem import shown

_PRECISIONS = ("highest", "high")
# Whether the precision is "high": read at every call, changed by `set_float32_precision` only.
allows_tf32 = False


def set_float32_precision(precision: str) -> None:
    """Set how float32 arrays are multiplied on a GPU; the words are those of ``torch.set_float32_matmul_precision``.

    Parameters
    ----------
    precision : {"highest", "high"}
        "highest", the initial value, multiplies float32 numbers. "high" allows TensorFloat-32: tensor cores multiply
        factors that are rounded to 11 significant bits, sums stay float32. The CPU always computes as with "highest".

    Raises
    ------
    TypeError
        Not a string.
    ValueError
        Neither of them.
    """
    global allows_tf32
    if not isinstance(precision, str):
        raise TypeError(f'precision must be "highest" or "high"; got {shown(precision)}')
    if precision not in _PRECISIONS:
        raise ValueError(f'precision must be "highest" or "high"; got {shown(precision)}')
    allows_tf32 = precision == "high"


def get_float32_precision() -> str:
    """Return "highest" or "high"; see `set_float32_precision`."""
    return "high" if allows_tf32 else "highest"
