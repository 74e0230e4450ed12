"""How near each row is to the rows before it in its cell: what semantic deduplication decides by.

Rows of a cell stand in an order, the most worth keeping first. A panel of them meets all earlier panels in tiles, and
its own rows one by one.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.neighbours.panels import EMPTY, Panels, read_keys, update_lists
from tamis.native.simd.tile import FLOAT_BYTES, LANES, pair_distance


@kernel
def _nearest_earlier(data, queries, panels, cell, first, last, out):
    """Serve panels ``first`` to ``last`` of the cell whose first panel is ``cell``."""
    dimension = data.shape[1]
    data_at = np.int64(data.ctypes.data)
    stride = dimension * FLOAT_BYTES
    keys = np.empty((LANES, 1), np.int64)
    scores, rows = np.empty((LANES, 1), np.float32), np.empty((LANES, 1), np.int32)
    members, own = np.arange(LANES).astype(np.int32), np.full(LANES, -1, np.int32)
    for panel in range(first, last):
        n = 0
        while n < LANES and panels.ids[panel, n] >= 0:
            queries[n] = data[panels.ids[panel, n]]
            n += 1
        keys[:] = EMPTY
        update_lists(queries, own, members[:n], panels, cell, panel, keys)
        read_keys(keys, scores, rows)
        for lane in range(n):
            row = np.int64(panels.ids[panel, lane])
            nearest = np.inf
            if rows[lane, 0] >= 0:
                nearest = pair_distance(data_at + row * stride, data_at + np.int64(rows[lane, 0]) * stride, dimension)
            for before in range(lane):
                other = np.int64(panels.ids[panel, before])
                nearest = min(nearest, pair_distance(data_at + row * stride, data_at + other * stride, dimension))
            out[row] = np.float32(nearest)


def nearest_earlier(
    data: NDArray[np.float32], panels: Panels, cell: int, first: int, last: int, out: NDArray[np.float32]
) -> None:
    """Write the squared distance of rows to the nearest earlier row of their cell.

    Parameters
    ----------
    data : float32 [n, dimension], of `distances.read_only`
    panels : Panels
        The rows, cell after cell, in their order: of `distances.pack_groups`.
    cell : int
        First panel of the cell.
    first, last : int
        Panels of that cell to serve.
    out : float32 [n]
        Written for the rows of those panels; inf for the first row of a cell.
    """
    queries = np.empty((LANES, data.shape[1]), np.float32)
    _nearest_earlier(data, queries, panels, cell, first, last, out)
