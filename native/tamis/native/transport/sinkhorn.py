"""One sweep of Sinkhorn's iteration over a matrix of costs: one exponential an entry serves rows and columns.

Of potentials f and g, temperature e and weights b, the entry p[i, j] = b[j] exp((f[i] + g[j] - C[i, j]) / e) is taken
once, as a power of 2. The sum of a row gives the row's next potential, f - e log(sum); the sum of a column, weighted by
the rows', the column's. Sums that leave the range where that is exact are taken anew, row by row, from their largest
term.

The sums are those of :mod:`tamis.native.simd.exp_sweep`, in float32 or float64. Rounding enters a potential times the
temperature: float32 is within 1e-7 of the costs' unit at e = 1e-4.
"""

# mypy: disable-error-code="no-untyped-def"

__all__ = [
    "NARROW_RANGE",
    "NO_COLUMN",
    "PER_OCTAVE",
    "ROWS",
    "STEP_COLUMNS",
    "WIDE_RANGE",
    "row_potential",
    "sweep_narrow",
    "sweep_wide",
]

import math

import numpy as np

from tamis.native.compiled import kernel
from tamis.native.math.elementary import natural_exp, natural_log
from tamis.native.simd.exp_sweep import ROWS, STEP_COLUMNS, sweep_rows_narrow, sweep_rows_wide
from tamis.native.simd.tile import FLOAT_BYTES

BLOCK = 64
"""Rows whose column sums are kept in the narrow type before they are added up in float64."""
PER_OCTAVE = 1 / math.log(2)
"""Exponents of 2 in one of e."""
NO_COLUMN = -1e30
"""Shift of a column that is padding: nothing reaches it."""

NARROW_RANGE = (1e-20, 1e30)
WIDE_RANGE = (1e-200, 1e270)
"""Sums outside of these may have lost terms to the clamp."""


@kernel
def sweep_narrow(costs, rows, columns, scale, row_sums, column_sums):
    """Powers of 2 of a block of rows, in float32.

    Parameters
    ----------
    costs : float32 [n, m]
        Both padded, to multiples of `ROWS` and of `STEP_COLUMNS`.
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
    lanes = np.zeros((ROWS, STEP_COLUMNS), np.float32)
    at, rows_at = np.int64(costs.ctypes.data), np.int64(rows.ctypes.data)
    columns_at, lanes_at = np.int64(columns.ctypes.data), np.int64(lanes.ctypes.data)
    for first in range(0, n, BLOCK):
        columns[1, :] = np.float32(0.0)
        for start in range(first, min(first + BLOCK, n), ROWS):
            lanes[:] = np.float32(0.0)
            group_at = rows_at + start * 2 * FLOAT_BYTES
            sweep_rows_narrow(at + start * m * FLOAT_BYTES, m, group_at, columns_at, m, scale, lanes_at)
            for row in range(ROWS):
                total = 0.0
                for lane in range(STEP_COLUMNS):
                    total += np.float64(lanes[row, lane])
                row_sums[start + row] = total
        for column in range(m):
            column_sums[column] += np.float64(columns[1, column])


@kernel
def sweep_wide(costs, rows, columns, scale, row_sums, column_sums):
    """Powers of 2 of a block of rows, in float64: as `sweep_narrow`, but for the type of ``rows`` and ``columns``."""
    n, m = costs.shape
    lanes = np.zeros((ROWS, STEP_COLUMNS))
    at, rows_at = np.int64(costs.ctypes.data), np.int64(rows.ctypes.data)
    columns_at, lanes_at = np.int64(columns.ctypes.data), np.int64(lanes.ctypes.data)
    for first in range(0, n, BLOCK):
        columns[1, :] = 0.0
        for start in range(first, min(first + BLOCK, n), ROWS):
            lanes[:] = 0.0
            group_at = rows_at + start * 2 * 2 * FLOAT_BYTES
            sweep_rows_wide(at + start * m * FLOAT_BYTES, m, group_at, columns_at, m, scale, lanes_at)
            for row in range(ROWS):
                total = 0.0
                for lane in range(STEP_COLUMNS):
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
