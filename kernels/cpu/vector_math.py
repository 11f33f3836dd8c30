"""exp, tanh, the logistic function and the normal distribution on whole vectors.

They are right to a few units in the last place, the tail of the normal distribution to x² times as many.

``exp(x) = 2ⁿ·(1 + p)``, where n is the integer nearest to x / ln 2 and p the Taylor series of expm1 at what is left,
|r| <= ln 2 / 2, long enough for the element type. Everything else follows from it:

    tanh(x) = -m / (2 + m)                      m = expm1(-2|x|), with the sign of x
    σ(x) = 1 / (1 + e), or e / (1 + e) below 0  e = exp(-|x|)
    erfc(a) = exp(-a²)·g(t)                     t = (a - c) / (a + c)

where g is smooth: a Chebyshev series that is computed when a kernel is compiled. A NaN stays one; what would be
subnormal is 0.

The reduction of exp is that of Cody and Waite, Software manual for the elementary functions, 1980; the map of erfc
that of Shepherd and Laframboise, Chebyshev approximation of (1 + 2x) exp(x²) erfc x, Math. Comp. 36, 1981.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

from llvmlite import ir

from fastdeconv.kernels.cpu.vectors import Vectors

_LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680")
# Where t is 0: near half of the way of erfc from 1 to nothing.
_CENTRE = 3.0


@dataclass(frozen=True)
class _Format:
    """What the functions need to know of an element type."""

    mantissa: int  # bits stored
    bias: int  # of the exponent
    high_bits: int  # of ln 2 that times any exponent still fits into the mantissa
    terms: int  # of expm1: the next is below half a unit in the last place of r
    saturated: float  # tanh is 1 from here on
    smallest: float  # exp(-this) is still normal
    series: int  # terms of erfc


_FORMATS = {
    4: _Format(23, 127, 14, 7, 10.0, 87.0, 13),
    8: _Format(52, 1023, 40, 13, 20.0, 708.0, 24),
}


class VectorMath:
    """The functions, for vectors of one kind in a function under construction."""

    def __init__(self, vectors: Vectors) -> None:
        self.v = vectors
        self.builder = vectors.builder
        self.format = _FORMATS[vectors.bytes]

    def _intrinsic(self, name: str, *values: Any) -> Any:
        v = self.v
        full = f"llvm.{name}.v{v.lanes}f{8 * v.bytes}"
        function = self.builder.module.globals.get(full)
        if function is None:
            function = ir.Function(self.builder.module, ir.FunctionType(v.type, [v.type] * len(values)), full)
        return self.builder.call(function, values)

    def absolute(self, x: Any) -> Any:
        """Return |x|."""
        return self._intrinsic("fabs", x)

    def at_most(self, x: Any, limit: float) -> Any:
        """Return the smaller of x and a number; a NaN stays one."""
        bound = self.v.constant(limit)
        return self.builder.select(self.builder.fcmp_ordered(">", x, bound), bound, x)

    def negative(self, x: Any) -> Any:
        """Return -x."""
        return self.builder.fsub(self.v.zero, x)

    def _parts(self, x: Any) -> tuple[Any, Any]:
        """Return 2ⁿ and expm1(r), where x = n·ln 2 + r; x must be within what has a normal exponential."""
        v, b, form = self.v, self.builder, self.format
        # Added to a number this large, the integer nearest to x / ln 2 lies in the last bits of the sum.
        shifter = 1.5 * 2.0**form.mantissa
        shifted = v.multiply_add(x, v.constant(float(1 / _LN2)), v.constant(shifter))
        n = b.fsub(shifted, v.constant(shifter))
        high = Fraction(round(_LN2 * 2**form.high_bits), 2**form.high_bits)
        r = v.multiply_add(n, v.constant(-float(high)), x)
        r = v.multiply_add(n, v.constant(-float(_LN2 - high)), r)
        series = v.constant(1 / math.factorial(form.terms))
        for k in range(form.terms - 1, 1, -1):
            series = v.multiply_add(series, r, v.constant(1 / math.factorial(k)))
        expm1 = v.multiply_add(b.fmul(r, r), series, r)
        integer = ir.VectorType(ir.IntType(8 * v.bytes), v.lanes)

        def same(value: int) -> Any:
            return ir.Constant(integer, [value] * v.lanes)

        bits = b.shl(b.bitcast(shifted, integer), same(form.mantissa))
        power = b.bitcast(b.add(bits, same(form.bias << form.mantissa)), v.type)
        return power, expm1

    def exp_negative(self, a: Any) -> Any:
        """Return exp(-a), for a that is not negative; 0 in place of what is subnormal."""
        power, expm1 = self._parts(self.negative(self.at_most(a, self.format.smallest)))
        nothing = self.builder.fcmp_ordered(">", a, self.v.constant(self.format.smallest))
        return self.builder.select(nothing, self.v.zero, self.v.multiply_add(power, expm1, power))

    def tanh(self, x: Any) -> Any:
        """Return tanh(x)."""
        v, b = self.v, self.builder
        a = self.at_most(self.absolute(x), self.format.saturated)
        power, expm1 = self._parts(b.fmul(a, v.constant(-2.0)))
        m = v.multiply_add(power, expm1, b.fsub(power, v.constant(1.0)))
        size = b.fdiv(self.negative(m), b.fadd(m, v.constant(2.0)))
        return self._intrinsic("copysign", size, x)

    def sigmoid(self, x: Any) -> Any:
        """Return 1 / (1 + exp(-x))."""
        v, b = self.v, self.builder
        e = self.exp_negative(self.absolute(x))
        positive = b.fdiv(v.constant(1.0), b.fadd(e, v.constant(1.0)))
        return b.select(b.fcmp_ordered("<", x, v.zero), b.fmul(e, positive), positive)

    def normal(self, x: Any) -> tuple[Any, Any]:
        """Return the distribution function Φ and the density φ of the standard normal distribution."""
        v, b, form = self.v, self.builder, self.format
        size = b.fmul(self.absolute(x), v.constant(math.sqrt(0.5)))
        e = self.exp_negative(b.fmul(size, size))
        a = self.at_most(size, 1e3)  # beside which e is 0; infinity would have no t
        # Clenshaw's recurrence as Reinsch has it near t = -1, where tails are large: u = 2·(t + 1) is exact there.
        u = b.fdiv(b.fmul(a, v.constant(4.0)), b.fadd(a, v.constant(_CENTRE)))
        *others, first = reversed(_erfc_series(form.series))
        value, sum_ = v.zero, v.zero
        for c in others:
            sum_ = v.multiply_add(u, value, b.fsub(v.constant(c), sum_))
            value = b.fsub(sum_, value)
        g = v.multiply_add(b.fmul(u, v.constant(0.5)), value, b.fsub(v.constant(first), sum_))
        tail = b.fmul(b.fmul(e, v.constant(0.5)), g)
        below = b.fcmp_ordered("<", x, v.zero)
        phi = b.select(below, tail, b.fsub(v.constant(1.0), tail))
        return phi, b.fmul(e, v.constant(1 / math.sqrt(2 * math.pi)))


@cache
def _erfc_series(terms: int) -> tuple[float, ...]:
    """Return the Chebyshev coefficients of g in t, from -1, where a is 0, to 1, where it is infinite."""
    angles = [math.pi * (j + 0.5) / terms for j in range(terms)]  # t is their cosine
    values = [_scaled_erfc(_CENTRE / math.tan(angle / 2) ** 2) for angle in angles]
    sums = [math.fsum(v * math.cos(k * angle) for v, angle in zip(values, angles)) for k in range(terms)]
    return (sums[0] / terms, *(2 * each / terms for each in sums[1:]))


def _scaled_erfc(a: float) -> float:
    """Return exp(a²)·erfc(a)."""
    if a < 2:
        return math.exp(a * a) * math.erfc(a)
    # Laplace's continued fraction, from far enough down.
    denominator = a
    for k in range(200, 0, -1):
        denominator = a + k / 2 / denominator
    return 1 / (denominator * math.sqrt(math.pi))
