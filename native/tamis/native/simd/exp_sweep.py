"""Powers of 2 of the entries of a few rows of a matrix, with sums by row and by column: the inner loop of Sinkhorn.

Four rows meet in vector registers, in float32 or float64: lanes and order are fixed, so bits depend neither on the
processor nor on whether its vectors have 256 bits or 512.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import math
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types

from tamis.native.simd.ir import (
    F32,
    F64,
    I32,
    I64,
    constant,
    counted_loop,
    element,
    fma,
    intrinsic,
    load,
    load_splat,
    offset,
    splat,
    store,
)
from tamis.native.simd.tile import FLOAT_BYTES, lines_of

ROWS = 4
"""Rows of one step."""
STEP_COLUMNS = 16
"""Columns of one step, one vector of 512 bits in float32; a matrix of costs is padded to whole steps."""


class Width(NamedTuple):
    """Constants of the exponential in one float type."""

    scalar: Any
    whole: Any  # integer of the same size
    n_bytes: int  # of a number
    lanes: int  # of one vector
    magic: float  # adding it rounds to a whole number, in the low bits
    mantissa: int  # bits
    limit: float  # exponents are clamped to this on either side
    series: tuple[float, ...]  # coefficients of 2^r for |r| <= 1/2


LEAST_ERROR = (
    1.0000000733176135,
    0.6931469682296735,
    0.24022114337835218,
    0.05550709598138957,
    0.009675757640757277,
    0.0013277938903206255,
)
"""The polynomial of degree 5 whose largest relative error from 2^r is least: 7.7e-8 (by Remez)."""
TAYLOR = tuple(math.log(2) ** k / math.factorial(k) for k in range(14))
"""The first term left out is 4e-18."""

NARROW = Width(F32, I32, 4, STEP_COLUMNS, 1.5 * 2.0**23, 23, 115.0, LEAST_ERROR)
WIDE = Width(F64, I64, 8, STEP_COLUMNS // 2, 1.5 * 2.0**52, 52, 940.0, TAYLOR)


def _power_of_2(builder: Any, width: Width, x: Any) -> Any:
    """2 to the power of a vector: 2^n times a polynomial of what the whole number n leaves."""
    vector = x.type
    wholes = ir.VectorType(width.whole, vector.count)
    low, high, magic = (constant(vector, value) for value in (-width.limit, width.limit, width.magic))
    x = builder.select(builder.fcmp_ordered("<", x, high), x, high)
    x = builder.select(builder.fcmp_ordered(">", x, low), x, low)
    rounded = builder.fadd(x, magic)
    r = builder.fsub(x, builder.fsub(rounded, magic))
    series = constant(vector, width.series[-1])
    for coefficient in width.series[-2::-1]:
        series = fma(builder, series, r, constant(vector, coefficient))
    exponent = builder.shl(builder.bitcast(rounded, wholes), constant(wholes, width.mantissa))
    return builder.bitcast(builder.add(builder.bitcast(series, wholes), exponent), vector)


def sweep_rows(width: Width) -> Any:
    """Intrinsic that sums powers of 2 over `ROWS` rows in one float type."""
    vector, costs_kind = ir.VectorType(width.scalar, width.lanes), ir.VectorType(F32, width.lanes)
    parts = STEP_COLUMNS // width.lanes

    @intrinsic
    def sweep(typingctx, costs, stride, rows, columns, n, scale, out):
        """``p = 2 ** (costs * scale + columns[0] + rows[0, :, None]); out += p; columns[1] += rows[1] @ p``.

        ``out`` is added to lane by lane: of every `STEP_COLUMNS` columns.

        Parameters
        ----------
        costs : int64
            Address of float32 [ROWS, stride].
        stride : int64
        rows : int64
            Address of the type's [2, ROWS]: each row's shift f / (e ln 2), then its weight.
        columns : int64
            Address of the type's [2, n]: each column's shift (g / e + log b) / ln 2, then its sum.
        n : int64
            Columns, a multiple of `STEP_COLUMNS`, one step or more.
        scale : float64
            -1 / (e ln 2).
        out : int64
            Address of the type's [ROWS, STEP_COLUMNS]: added to.
        """

        def codegen(context, builder, signature, args):
            costs, stride, rows, columns, n, scale, out = args
            lines = lines_of(builder, costs, builder.mul(stride, constant(I64, FLOAT_BYTES)), ROWS)
            per_row = [
                load_splat(builder, offset(builder, rows, k * width.n_bytes), vector, FLOAT_BYTES)
                for k in range(2 * ROWS)
            ]
            shifts, weights = per_row[:ROWS], per_row[ROWS:]
            minus = splat(builder, scale if width is WIDE else builder.fptrunc(scale, F32), vector)
            sums_at = element(builder, columns, n, width.n_bytes)
            places = [offset(builder, out, k * width.lanes * width.n_bytes) for k in range(ROWS * parts)]

            def step(at: Any, totals: list[Any]) -> list[Any]:
                following = list(totals)
                for part in range(parts):
                    first = offset(builder, at, part * width.lanes)
                    shift = load(builder, element(builder, columns, first, width.n_bytes), vector, FLOAT_BYTES)
                    sum_at = element(builder, sums_at, first, width.n_bytes)
                    column = load(builder, sum_at, vector, FLOAT_BYTES)
                    for row in range(ROWS):
                        cost = load(builder, element(builder, lines[row], first, FLOAT_BYTES), costs_kind, FLOAT_BYTES)
                        cost = builder.fpext(cost, vector) if width is WIDE else cost
                        exponent = fma(builder, cost, minus, builder.fadd(shift, shifts[row]))
                        entry = _power_of_2(builder, width, exponent)
                        column = fma(builder, entry, weights[row], column)
                        following[row * parts + part] = builder.fadd(totals[row * parts + part], entry)
                    store(builder, column, sum_at, FLOAT_BYTES)
                return following

            held = [load(builder, place, vector, FLOAT_BYTES) for place in places]
            totals = counted_loop(builder, (0, n, STEP_COLUMNS), held, step)
            for total, place in zip(totals, places, strict=True):
                store(builder, total, place, FLOAT_BYTES)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 5, types.float64, types.int64), codegen

    return sweep


sweep_rows_narrow = sweep_rows(NARROW)
sweep_rows_wide = sweep_rows(WIDE)
