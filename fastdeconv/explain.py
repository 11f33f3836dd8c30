"""Which implementation runs for a problem, why the others do not, and what the problem costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastdeconv.arrays import operand, same_dtype
from fastdeconv.calls import with_channels
from fastdeconv.devices import resolve
from fastdeconv.dispatch import Plan, plan, table_of
from fastdeconv.layouts import channels_last
from fastdeconv.precision import get_float32_precision
from fastdeconv.problem import PASSES, IntOrTuple, Pass, Problem, shown


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` found; its `str` is the report.

    Attributes
    ----------
    problem : Problem
    plans : tuple of Plan
        The choice for each pass that was asked for.
    """

    problem: Problem
    plans: tuple[Plan, ...]

    def __str__(self) -> str:
        p = self.problem
        lines = [
            str(p),
            f"  input {p.input_shape}, weight {p.weight_shape}, output {p.output_shape}, {p.dtype}",
            f"  {p.flops:,} flops, {p.bytes:,} bytes, {p.intensity:.3g} flops a byte",
        ]
        for chosen in self.plans:
            lines.append(f"{chosen.pass_} on {chosen.device}: {chosen.implementation.name}")
            lines.append(f"  {chosen.implementation.idea}")
            if chosen.estimate:
                lines.append(f"  device: {chosen.estimate}")
            if chosen.device != "cpu" and p.dtype in ("float32", "complex64"):
                lines.append(f'  float32 precision "{get_float32_precision()}"')
            if chosen.tuned:
                lines.append(f"  chosen by autotune: {chosen.tuned}")
            if chosen.note:
                lines.append(f"  {chosen.note}")
            lines.append(f"  each element sums at most {p.accumulation_length(chosen.pass_):,} products")
            lines.append(f"  takes {chosen.workspace:,} bytes of scratch memory")
            lines += [f"  not {name}: {reason}" for name, reason in chosen.declined]
            known = {chosen.implementation.name, *dict(chosen.declined)}
            after = [i.name for i in table_of(chosen.device, chosen.pass_, p.ndim) if i.name not in known]
            if after:
                lines.append(f"  not needed: {', '.join(after)}")
        return "\n".join(lines)


def explain(
    problem: Any,
    weight: Any = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    output_size: IntOrTuple | None = None,
    pass_: Pass | None = None,
    device: str | None = None,
    algorithm: str | None = None,
) -> Explanation:
    """Tell which implementation runs, why those before it do not, and what the problem costs. Computes nothing.

    Parameters
    ----------
    problem : Problem, str or ndarray
        A problem, its descriptor, or the input of a call, followed by the call's other arguments.
    weight : ndarray
        Only with an input.
    stride, padding, output_padding, groups, dilation, output_size
        As in the call; only with an input.
    pass_ : {"forward", "input_grad", "weight_grad"}, optional
        One pass only.
    device, algorithm
        As in the call.

    Returns
    -------
    Explanation
        Print it. Flops count an addition and a multiplication for every product that reaches the output; bytes count
        input, weight and output once.

    Raises
    ------
    TypeError, ValueError
        As the call does, or no such pass.

    Examples
    --------
    >>> import fastdeconv as fd
    >>> print(fd.explain("mb1ic3ih128iw128oc3kh4kw4sh2sw2ph1pw1", pass_="forward"))  # doctest: +ELLIPSIS
    mb1ic3ih128iw128oc3oh256ow256kh4kw4sh2sw2ph1pw1
      input (1, 3, 128, 128), weight (3, 3, 4, 4), output (1, 3, 256, 256), float32
      4,681,800 flops, 983,616 bytes, 4.76 flops a byte
    forward on cpu: ...
      each element sums at most 12 products
      takes ... bytes of scratch memory
      not direct_loops: 2359296 multiplications are more than 12000, so vector tiles are faster
      not direct_pointwise: serves kernel 1 without stride, padding and output_padding only
      not direct_linear: serves inputs of one pixel whose taps fill the output
      not direct_blocks: serves layers whose kernel is their stride, without padding and output_padding
      not direct_phases: 3 output channels of a group share reads of x better in tiles of channels
      not direct_wide_stride: a stride of 2 along the last axis is too narrow for vectors along it...
      not needed: ...reference
    """
    passes = passes_of(pass_)
    place = resolve(device, None if weight is None else operand("input", problem))
    described = problem_of(
        problem, weight, stride, padding, output_padding, groups, dilation, output_size
    )  # fmt: skip
    return Explanation(described, tuple(plan(described, each, place, algorithm) for each in passes))


def passes_of(pass_: Pass | None) -> tuple[Pass, ...]:
    """Return the one pass that was asked for, or all."""
    if pass_ is None:
        return PASSES
    if pass_ not in PASSES:
        raise ValueError(f"pass_ must be one of {', '.join(PASSES)}; got {shown(pass_)}")
    return (pass_,)


def problem_of(
    problem: Any,
    weight: Any,
    stride: IntOrTuple,
    padding: IntOrTuple,
    output_padding: IntOrTuple,
    groups: int,
    dilation: IntOrTuple,
    output_size: IntOrTuple | None,
) -> Problem:
    """Return a problem that is given as one, by its descriptor, or by the arguments of a call; see `explain`."""
    if weight is None:
        described = Problem.parse(problem) if isinstance(problem, str) else problem
        if not isinstance(described, Problem):
            raise TypeError(
                "problem must be a Problem, a descriptor, or an input array followed by its weight; "
                f"got {shown(problem)}"
            )
        return described
    x, w = operand("input", problem), operand("weight", weight)
    ndim = max(1, w.ndim if x.ndim == w.ndim and x.ndim < 3 else w.ndim - 2)
    x_shape, w_shape, _ = with_channels(ndim, x.shape, w.shape)
    return Problem.from_shapes(
        x_shape,
        w_shape,
        ndim=min(ndim, 3),
        dtype=same_dtype(input=x, weight=w),
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
        output_size=output_size,
        channels_last=channels_last(min(ndim, 3), x),
    )
