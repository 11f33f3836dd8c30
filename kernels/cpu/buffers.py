"""Memory that one call of a kernel takes for itself."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

_ALIGNMENT = 64  # bytes, a cache line


@intrinsic
def empty(typing_context: Any, size: Any, dtype: Any) -> Any:
    """Do what ``np.empty(size, dtype)`` does, of which Numba compiles several functions a kernel."""
    from numba.core.typing.npydecl import parse_dtype  # here, as Numba takes its time to import them
    from numba.np.arrayobj import populate_array

    array_type = types.Array(parse_dtype(dtype), 1, "C")
    signature = array_type(types.int64, dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        element = context.get_data_type(array_type.dtype)
        step = context.get_constant(types.intp, context.get_abi_sizeof(element))
        size = arguments[0]
        room = builder.mul(size, step)
        # It raises MemoryError where there is none.
        owner = context.nrt.meminfo_alloc_aligned(builder, room, context.get_constant(types.uint32, _ALIGNMENT))
        array = context.make_array(array_type)(context, builder)
        data = builder.bitcast(context.nrt.meminfo_data(builder, owner), element.as_pointer())
        populate_array(array, data=data, shape=[size], strides=[step], itemsize=step, meminfo=owner)
        return array._getvalue()

    return signature, generate
