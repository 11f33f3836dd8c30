"""Check every CPU kernel on cases with small integers, bit for bit, and print the width of vectors and the registers.

``exactness.py NAMES DTYPES``, both with commas: for processes that compile for another CPU or another width.
"""

import sys
from dataclasses import replace

import numpy as np
from cases import EDGE_CASES, IMPLEMENTATIONS, assert_alone, call, declines, in_layouts_of, integers, oracle, poisoned

from fastdeconv.kernels.cpu import host


def check(names, dtypes):
    for name in names:
        for dtype in dtypes:
            for pass_, implementation in IMPLEMENTATIONS:
                if not implementation.name.startswith(("direct", "winograd")):
                    continue
                for p in in_layouts_of(implementation, replace(EDGE_CASES[name], dtype=dtype)):
                    if declines(implementation, pass_, p):
                        continue
                    a, b = integers(p, pass_)
                    got = call(p, pass_, a, b, implementation.name, out=poisoned(p, pass_))
                    np.testing.assert_array_equal(got, oracle(p, pass_, a, b), f"{pass_} {implementation.name} {p}")
                    assert_alone(got)


if __name__ == "__main__":
    check(*(argument.split(",") for argument in sys.argv[1:]))
    print(host.VECTOR_BITS, host.REGISTERS)
