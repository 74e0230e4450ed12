"""One sweep of Sinkhorn's iteration over a matrix of costs: one exponential an entry serves rows and columns.

Of potentials f and g, temperature e and weights b, the entry p[i, j] = b[j] exp((f[i] + g[j] - C[i, j]) / e) is taken
once, as a power of 2. The sum of a row gives the row's next potential, f - e log(sum); the sum of a column, weighted by
the rows', the column's. Sums that leave the range where that is exact are taken anew, row by row, from their largest
term.

Four rows meet in vector registers, in float32 or float64: lanes and order are fixed, so bits depend neither on the
processor nor on whether its vectors have 256 bits or 512. Rounding enters a potential times the temperature: float32 is
within 1e-7 of the costs' unit at e = 1e-4.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.math.elementary import natural_exp
from tamis.native.math.rng import natural_log
from tamis.native.simd.tile import fused, loaded, pointer, spread
from tamis.native.simd.words import intrinsic

ROWS = 4
"""Rows of one step."""
LANES = 16
"""Columns of one step, one vector of 512 bits in float32; a matrix of costs is padded to whole steps."""
BLOCK = 64
"""Rows whose column sums are kept in the narrow type before they are added up in float64."""
PER_OCTAVE = 1 / math.log(2)
"""Exponents of 2 in one of e."""
NO_COLUMN = -1e30
"""Shift of a column that is padding: nothing reaches it."""

_FLOAT_BYTES = 4
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_F32 = ir.FloatType()
_F64 = ir.DoubleType()

Floats = NDArray[np.float64]


class Width(NamedTuple):
    """What the exponential of one float type needs."""

    scalar: Any
    whole: Any  # integer of the same size
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

NARROW = Width(_F32, _I32, LANES, 1.5 * 2.0**23, 23, 115.0, LEAST_ERROR)
WIDE = Width(_F64, _I64, LANES // 2, 1.5 * 2.0**52, 52, 940.0, TAYLOR)

NARROW_RANGE = (1e-20, 1e30)
WIDE_RANGE = (1e-200, 1e270)
"""Sums outside of these may have lost terms to the clamp."""


def _exponential(builder: Any, width: Width, vector: Any, x: Any) -> Any:
    """2 to the power of a vector: 2^n times a Taylor series of what the whole number n leaves."""

    def every(value: float) -> ir.Constant:
        return ir.Constant(vector, [value] * vector.count)

    wholes = ir.VectorType(width.whole, vector.count)
    x = builder.select(builder.fcmp_ordered("<", x, every(width.limit)), x, every(width.limit))
    x = builder.select(builder.fcmp_ordered(">", x, every(-width.limit)), x, every(-width.limit))
    rounded = builder.fadd(x, every(width.magic))
    r = builder.fsub(x, builder.fsub(rounded, every(width.magic)))
    series = every(width.series[-1])
    for coefficient in width.series[-2::-1]:
        series = fused(builder, vector, series, r, every(coefficient))
    shift = ir.Constant(wholes, [width.mantissa] * vector.count)
    exponent = builder.shl(builder.bitcast(rounded, wholes), shift)
    return builder.bitcast(builder.add(builder.bitcast(series, wholes), exponent), vector)


def _sweep(width: Width) -> Any:
    vector = ir.VectorType(width.scalar, width.lanes)
    bytes_each = width.mantissa // 8 + 2 if width is NARROW else 8
    parts = LANES // width.lanes

    @intrinsic
    def sweep_rows(typingctx, costs, stride, rows, columns, n, scale, out):
        """Powers of 2 of `ROWS` rows: sums by row to ``out``, weighted sums by column added to ``columns``.

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
            Columns, a multiple of `LANES`, one step or more.
        scale : float64
            -1 / (e ln 2).
        out : int64
            Address of the type's [ROWS, LANES]: lane by lane, added to.
        """

        def codegen(context, builder, signature, args):
            costs, stride, rows, columns, n, scale, out = args
            step = builder.mul(stride, ir.Constant(_I64, _FLOAT_BYTES))
            lines = [costs]
            for _ in range(ROWS - 1):
                lines.append(builder.add(lines[-1], step))

            def value(address: Any, index: int) -> Any:
                place = builder.add(address, ir.Constant(_I64, index * bytes_each))
                return spread(builder, loaded(builder, place, width.scalar), vector)

            shifts = [value(rows, row) for row in range(ROWS)]
            weights = [value(rows, ROWS + row) for row in range(ROWS)]
            narrowed = scale if width is WIDE else builder.fptrunc(scale, _F32)
            minus = spread(builder, narrowed, vector)
            sums_at = builder.add(columns, builder.mul(n, ir.Constant(_I64, bytes_each)))
            start = builder.block
            loop = builder.append_basic_block("columns")
            done = builder.append_basic_block("done")
            places = [
                [
                    builder.add(out, ir.Constant(_I64, (row * LANES + part * width.lanes) * bytes_each))
                    for part in range(parts)
                ]
                for row in range(ROWS)
            ]
            held = [[loaded(builder, place, vector) for place in line] for line in places]
            builder.branch(loop)
            builder.position_at_end(loop)
            at = builder.phi(_I64)
            at.add_incoming(ir.Constant(_I64, 0), start)
            totals = [[builder.phi(vector) for _ in range(parts)] for _ in range(ROWS)]
            narrow = ir.VectorType(_F32, width.lanes)
            cost_offset = builder.mul(at, ir.Constant(_I64, _FLOAT_BYTES))
            offset = builder.mul(at, ir.Constant(_I64, bytes_each))
            for part in range(parts):
                aside = ir.Constant(_I64, part * width.lanes * bytes_each)
                cost_aside = ir.Constant(_I64, part * width.lanes * _FLOAT_BYTES)
                shift_at = builder.add(builder.add(columns, offset), aside)
                sum_at = builder.add(builder.add(sums_at, offset), aside)
                shift = loaded(builder, shift_at, vector)
                column = loaded(builder, sum_at, vector)
                for row in range(ROWS):
                    totals[row][part].add_incoming(held[row][part], start)
                    cost = loaded(builder, builder.add(builder.add(lines[row], cost_offset), cost_aside), narrow)
                    if width is WIDE:
                        cost = builder.fpext(cost, vector)
                    exponent = fused(builder, vector, cost, minus, builder.fadd(shift, shifts[row]))
                    entry = _exponential(builder, width, vector, exponent)
                    column = fused(builder, vector, entry, weights[row], column)
                    total = builder.fadd(totals[row][part], entry)
                    totals[row][part].add_incoming(total, loop)
                builder.store(column, pointer(builder, sum_at, vector), align=_FLOAT_BYTES)
            following = builder.add(at, ir.Constant(_I64, LANES))
            at.add_incoming(following, loop)
            ends = [[phi.incomings[1][0] for phi in line] for line in totals]
            builder.cbranch(builder.icmp_signed("<", following, n), loop, done)
            builder.position_at_end(done)
            for row in range(ROWS):
                for part in range(parts):
                    builder.store(ends[row][part], pointer(builder, places[row][part], vector), align=_FLOAT_BYTES)
            return context.get_dummy_value()

        arguments = (types.int64,) * 5 + (types.float64, types.int64)
        return types.void(*arguments), codegen

    return sweep_rows


_sweep_narrow = _sweep(NARROW)
_sweep_wide = _sweep(WIDE)


@kernel
def sweep_narrow(costs, rows, columns, scale, row_sums, column_sums):
    """Powers of 2 of a block of rows, in float32.

    Parameters
    ----------
    costs : float32 [n, m]
        Both padded, to multiples of `ROWS` and of `LANES`.
    rows : float32 [n / ROWS, 2, ROWS]
        Shifts f / (e ln 2) and weights, `ROWS` rows at a time; a row that is padding has the weight 0.
    columns : float32 [2, m]
        Shifts (g / e + log b) / ln 2, and room for sums.
    scale : float64
        -1 / (e ln 2).
    row_sums : float64 [n]
        Written.
    column_sums : float64 [m]
        Added to.
    """
    n, m = costs.shape
    lanes = np.zeros((ROWS, LANES), np.float32)
    at, rows_at = np.int64(costs.ctypes.data), np.int64(rows.ctypes.data)
    columns_at, lanes_at = np.int64(columns.ctypes.data), np.int64(lanes.ctypes.data)
    for first in range(0, n, BLOCK):
        columns[1, :] = np.float32(0.0)
        for start in range(first, min(first + BLOCK, n), ROWS):
            lanes[:] = np.float32(0.0)
            group_at = rows_at + start * 2 * _FLOAT_BYTES
            _sweep_narrow(at + start * m * _FLOAT_BYTES, m, group_at, columns_at, m, scale, lanes_at)
            for row in range(ROWS):
                total = 0.0
                for lane in range(LANES):
                    total += np.float64(lanes[row, lane])
                row_sums[start + row] = total
        for column in range(m):
            column_sums[column] += np.float64(columns[1, column])


@kernel
def sweep_wide(costs, rows, columns, scale, row_sums, column_sums):
    """Powers of 2 of a block of rows, in float64: as `sweep_narrow`, but for the type of ``rows`` and ``columns``."""
    n, m = costs.shape
    lanes = np.zeros((ROWS, LANES))
    at, rows_at = np.int64(costs.ctypes.data), np.int64(rows.ctypes.data)
    columns_at, lanes_at = np.int64(columns.ctypes.data), np.int64(lanes.ctypes.data)
    for first in range(0, n, BLOCK):
        columns[1, :] = 0.0
        for start in range(first, min(first + BLOCK, n), ROWS):
            lanes[:] = 0.0
            group_at = rows_at + start * 2 * 2 * _FLOAT_BYTES
            _sweep_wide(at + start * m * _FLOAT_BYTES, m, group_at, columns_at, m, scale, lanes_at)
            for row in range(ROWS):
                total = 0.0
                for lane in range(LANES):
                    total += lanes[row, lane]
                row_sums[start + row] = total
        for column in range(m):
            column_sums[column] += columns[1, column]


@kernel
def row_potential(costs, shifts, epsilon):
    """-e log sum exp(shift - cost / e) of one row of costs [m], from its largest term."""
    largest = -np.inf
    for column in range(len(shifts)):
        largest = max(largest, shifts[column] - np.float64(costs[column]) / epsilon)
    total = 0.0
    for column in range(len(shifts)):
        total += natural_exp(shifts[column] - np.float64(costs[column]) / epsilon - largest)
    return -epsilon * (largest + natural_log(total))
