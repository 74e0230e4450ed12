"""Ground costs of optimal transport between unit vectors: the Euclidean distance on the sphere, sqrt(2 - 2 s)."""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.neighbours.panels import Panels, read_only
from tamis.native.simd.exp_sweep import ROWS
from tamis.native.simd.tile import FLOAT_BYTES, LANES, QUERIES, QUERY_BYTES, tile_products


@kernel
def _fill(vectors, panels, out):
    n, dimension = vectors.shape
    count = panels.shape[0]
    size = max(1, QUERY_BYTES // (FLOAT_BYTES * dimension * QUERIES)) * QUERIES
    lines = np.zeros((size, dimension), np.float32)
    bias = np.zeros(LANES, np.float32)
    worst = np.full(QUERIES, np.inf, np.float32)
    sums = np.empty((QUERIES, LANES), np.float32)
    lines_at, panels_at = np.int64(lines.ctypes.data), np.int64(panels.ctypes.data)
    bias_at, worst_at, sums_at = np.int64(bias.ctypes.data), np.int64(worst.ctypes.data), np.int64(sums.ctypes.data)
    for start in range(0, n, size):
        rows = min(size, n - start)
        lines[:rows] = vectors[start : start + rows]
        for panel in range(count):
            panel_at = panels_at + panel * dimension * LANES * FLOAT_BYTES
            for group in range(0, rows, QUERIES):
                tile_products(
                    lines_at + group * dimension * FLOAT_BYTES, panel_at, bias_at, dimension, worst_at, sums_at
                )
                for query in range(min(QUERIES, rows - group)):
                    for lane in range(LANES):
                        similarity = sums[query, lane]
                        cost = np.sqrt(np.abs(np.float32(2.0) - np.float32(2.0) * similarity))
                        out[start + group + query, panel * LANES + lane] = cost


def sphere_costs(vectors: NDArray[np.float32], targets: Panels) -> NDArray[np.float32]:
    """Costs sqrt(|2 - 2 s|) of unit vectors to packed unit targets.

    The whitened-feature distance of TAROT (Feng et al., arXiv 2412.00420), the ground cost as it is: neither squared
    nor halved.

    Parameters
    ----------
    vectors : float32 [n, d]
    targets : Panels
        Of `tamis.native.neighbours.panels.pack` with ``inner=True``.

    Returns
    -------
    float32
        [n, m], both padded: rows to `exp_sweep.ROWS`, columns to panels. Padding has no meaning.
    """
    data = read_only(vectors)
    if data.shape[1] != targets.rows.shape[1]:
        raise ValueError("vectors and targets must have as many columns")
    rows = -(-len(data) // ROWS) * ROWS
    out = np.zeros((rows, len(targets.rows) * LANES), np.float32)
    _fill(data, targets.rows, out)
    return out
