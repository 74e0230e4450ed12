"""Second moments of rows, in float64, as a running sum: covariance for whitening, uncentred moments for influence.

Rows are measured from a shift (any point near their mean), so that the covariance keeps its digits when data lie far
from zero. Sums run over blocks of `BLOCK` rows in order, so that what was summed up is the same bytes however the rows
arrived, as long as the blocks are cut alike; sums of several parts are added in the order of the parts.
"""

# mypy: disable-error-code="no-untyped-def"

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.simd.tile64 import DOUBLE_BYTES, LINES, PANEL_COLUMNS, add_tile

BLOCK = 64
"""Rows summed at a time: twice their coordinates in float64 stay in the second-level cache up to 512 dimensions."""

Floats = NDArray[np.float64]


class Moments(NamedTuple):
    """Sums over rows."""

    rows: int
    shift: Floats  # [d], taken off every row
    sums: Floats  # [d], of the shifted rows
    products: Floats  # [d, d], of their outer products


@kernel
def _add_rows(rows, shift, sums, products, scratch):
    """Add rows [n, d] to sums [d] and to the upper triangle of ``products``, padded to whole tiles."""
    n, d = rows.shape
    wide = products.shape[0]
    lines, panels, tile = scratch
    lines_at = np.int64(lines.ctypes.data)
    panels_at = np.int64(panels.ctypes.data)
    tile_at = np.int64(tile.ctypes.data)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        for row in range(size):
            for column in range(d):
                value = np.float64(rows[start + row, column]) - shift[column]
                sums[column] += value
                lines[column, row] = value
                panels[column // PANEL_COLUMNS, row, column % PANEL_COLUMNS] = value
        for first in range(0, wide, LINES):
            for panel in range(first // PANEL_COLUMNS, panels.shape[0]):
                tile[:] = 0.0
                add_tile(
                    lines_at + first * BLOCK * DOUBLE_BYTES,
                    BLOCK,
                    panels_at + panel * BLOCK * PANEL_COLUMNS * DOUBLE_BYTES,
                    size,
                    tile_at,
                )
                for line in range(LINES):
                    for lane in range(PANEL_COLUMNS):
                        products[first + line, panel * PANEL_COLUMNS + lane] += tile[line, lane]


def second_moments(parts: Iterable[NDArray[np.floating]], shift: Floats) -> Moments:
    """Sum rows and their outer products.

    Parameters
    ----------
    parts : iterable of float16, float32 or float64 [n, d]
        Finite rows, part by part.
    shift : float64 [d]
        Taken off every row: a point near their mean.
    """
    d = len(shift)
    if d == 0:
        raise ValueError("one column or more is needed")
    wide = -(-d // (LINES * PANEL_COLUMNS)) * LINES * PANEL_COLUMNS
    sums, products = np.zeros(d), np.zeros((wide, wide))
    scratch = (
        np.zeros((wide, BLOCK)),
        np.zeros((wide // PANEL_COLUMNS, BLOCK, PANEL_COLUMNS)),
        np.zeros((LINES, PANEL_COLUMNS)),
    )
    origin = np.ascontiguousarray(shift, np.float64)
    count = 0
    for rows in parts:
        if rows.ndim != 2 or rows.shape[1] != d:
            raise ValueError("rows must have as many columns as the shift")
        _add_rows(as_floats(rows), origin, sums, products, scratch)
        count += len(rows)
    upper = np.triu(products[:d, :d])
    return Moments(count, origin, sums, upper + np.triu(upper, 1).T)


def as_floats(rows: NDArray[np.floating]) -> NDArray[Any]:
    """View of rows as C-contiguous float32 or float64 that kernels can't write: half precision is widened."""
    kind = np.float32 if rows.dtype.itemsize < DOUBLE_BYTES else np.float64
    view = np.ascontiguousarray(rows, kind).view()
    view.setflags(write=False)
    return view


def add_moments(left: Moments, right: Moments) -> Moments:
    """Moments of the rows of both, which must have been measured from the same shift."""
    if not np.array_equal(left.shift, right.shift):
        raise ValueError("moments measured from different points can't be added")
    return Moments(left.rows + right.rows, left.shift, left.sums + right.sums, left.products + right.products)


def mean_and_covariance(moments: Moments) -> tuple[Floats, Floats]:
    """Mean, float64 [d], and covariance, float64 [d, d], divided by the number of rows."""
    if moments.rows == 0:
        raise ValueError("no rows")
    mean = moments.sums / moments.rows
    return moments.shift + mean, moments.products / moments.rows - mean[:, None] * mean[None, :]


def uncentred(moments: Moments) -> Floats:
    """Mean of the rows' own outer products, float64 [d, d]: the empirical Fisher matrix of gradients."""
    mean, covariance = mean_and_covariance(moments)
    return covariance + mean[:, None] * mean[None, :]


@kernel
def _transform(rows, centre, columns, reach, out):
    """Write (row - centre) times a matrix in panels of its columns; ``reach`` coordinates of each panel count."""
    n, d = rows.shape
    lines = np.zeros((LINES, d))
    tile = np.zeros((LINES, PANEL_COLUMNS))
    lines_at = np.int64(lines.ctypes.data)
    tile_at = np.int64(tile.ctypes.data)
    columns_at = np.int64(columns.ctypes.data)
    width = out.shape[1]
    for start in range(0, n, LINES):
        size = min(LINES, n - start)
        for line in range(size):
            for column in range(d):
                lines[line, column] = np.float64(rows[start + line, column]) - centre[column]
        for panel in range(columns.shape[0]):
            tile[:] = 0.0
            add_tile(lines_at, d, columns_at + panel * d * PANEL_COLUMNS * DOUBLE_BYTES, reach[panel], tile_at)
            for line in range(size):
                for lane in range(min(PANEL_COLUMNS, width - panel * PANEL_COLUMNS)):
                    out[start + line, panel * PANEL_COLUMNS + lane] = tile[line, lane]


def transform(rows: NDArray[np.floating], centre: Floats, matrix: Floats) -> Floats:
    """(rows - centre) times a matrix, float64 [n, k].

    Parameters
    ----------
    rows : float16, float32 or float64 [n, d]
        Finite.
    centre : float64 [d]
        Taken off every row.
    matrix : float64 [d, k]
        Zeros at the end of a column cost nothing: a triangular matrix takes half the time.
    """
    d, k = matrix.shape
    if rows.ndim != 2 or rows.shape[1] != d or len(centre) != d or d == 0:
        raise ValueError("rows and centre must have as many columns as the matrix has rows, one or more")
    data = as_floats(rows)
    panels = -(-k // PANEL_COLUMNS)
    columns = np.zeros((panels, d, PANEL_COLUMNS))
    reach = np.ones(panels, np.int64)
    for panel in range(panels):
        part = matrix[:, panel * PANEL_COLUMNS : (panel + 1) * PANEL_COLUMNS]
        columns[panel, :, : part.shape[1]] = part
        filled = np.flatnonzero(part.any(axis=1))
        reach[panel] = filled[-1] + 1 if len(filled) else 1
    out = np.empty((len(data), k))
    _transform(data, np.ascontiguousarray(centre, np.float64), columns, reach, out)
    return out
