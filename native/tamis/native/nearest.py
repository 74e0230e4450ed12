"""Exact nearest neighbours inside small sets of rows (a batch, a leaf of a hash), and merging what several sets gave.

Distances of four rows to all others are summed in register tiles, dimension by dimension in order, so that a pair has
the same bits whatever set it is met in and from whichever side. A neighbour is one int64 key: the bits of its float32
squared distance above its row number. Keys order by distance, then by row, and equal keys are the same neighbour.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from tamis.native.compiled import kernel, piece
from tamis.native.fused import multiply_add

NO_NEIGHBOUR = np.int64(2**63 - 1)
"""The key of an absent neighbour: larger than any other."""

LANES = 64
"""Columns that a row of distances is folded into to bound its k-th smallest value; k is at most as many."""

TILE = 4
"""Rows, and dimensions, that a pass over the transposed set serves at once."""

_ROW_BITS = 32
_ROW_MASK = np.int64(2**32 - 1)
_FAR = np.int32(2**31 - 1)


@kernel
def row_of(key):
    """Row number of a neighbour's key."""
    return key & _ROW_MASK


@piece
def transpose(points, members, transposed):
    """Copy the rows ``members`` of float32 [n, d] into float32 [d, padded]; what is behind them stays as it was."""
    for position in range(len(members)):
        row = points[members[position]]
        for c in range(len(row)):
            transposed[c, position] = row[c]


@piece
def add_four_dimensions(query, c, y0, y1, y2, y3, out):
    """Add the squared differences of dimensions c to c + 3 to one row of distances; all of one length."""
    x0, x1, x2, x3 = query[c], query[c + 1], query[c + 2], query[c + 3]
    for j in range(len(out)):
        total = multiply_add(x0 - y0[j], x0 - y0[j], out[j])
        total = multiply_add(x1 - y1[j], x1 - y1[j], total)
        total = multiply_add(x2 - y2[j], x2 - y2[j], total)
        out[j] = multiply_add(x3 - y3[j], x3 - y3[j], total)


@piece
def fill_tile(transposed, queries, begin, end, tile):
    """Squared distances of four rows, ``queries`` float32 [4, d], to columns begin to end of the transposed set."""
    d = queries.shape[1]
    tile[:, begin:end] = np.float32(0.0)
    whole = d - d % TILE
    for c in range(0, whole, TILE):
        y0, y1 = transposed[c, begin:end], transposed[c + 1, begin:end]
        y2, y3 = transposed[c + 2, begin:end], transposed[c + 3, begin:end]
        for r in range(TILE):
            add_four_dimensions(queries[r], c, y0, y1, y2, y3, tile[r, begin:end])
    for c in range(whole, d):
        y = transposed[c, begin:end]
        for r in range(TILE):
            x, out = queries[r, c], tile[r, begin:end]
            for j in range(len(out)):
                out[j] = multiply_add(x - y[j], x - y[j], out[j])


@piece
def insert(keys, filled, key):
    """Put a key into the sorted first ``filled`` of ``keys``, the largest falling out where there is no room."""
    k = len(keys)
    at = filled
    if filled == k:
        if key >= keys[k - 1]:
            return filled
        at = k - 1
    while at > 0 and keys[at - 1] > key:
        keys[at] = keys[at - 1]
        at -= 1
    keys[at] = key
    return min(filled + 1, k)


@piece
def kth_of_minima(bits, minima, smallest, k):
    """Bound of the k-th smallest of int32 [blocks * LANES]: the k-th smallest of the minima of its columns."""
    minima[:] = _FAR
    for block in range(0, len(bits), LANES):
        part = bits[block : block + LANES]
        for lane in range(LANES):
            minima[lane] = min(minima[lane], part[lane])
    filled = 0
    for lane in range(LANES):
        value = minima[lane]
        at = filled
        if filled == k:
            if value >= smallest[k - 1]:
                continue
            at = k - 1
        while at > 0 and smallest[at - 1] > value:
            smallest[at] = smallest[at - 1]
            at -= 1
        smallest[at] = value
        filled = min(filled + 1, k)
    return smallest[k - 1]


@kernel
def nearest_members(points, members, keys):
    """Find the exact nearest other members of every member of a set.

    Parameters
    ----------
    points : float32 [n, d]
    members : int32 [m]
        Distinct rows of ``points``.
    keys : int64 [n, k]
        k is at most `LANES`. Rows of the members are overwritten: keys ascending, `NO_NEIGHBOUR` behind the last.
    """
    m, d, k = len(members), points.shape[1], keys.shape[1]
    padded = (m + LANES - 1) // LANES * LANES
    transposed = np.zeros((d, padded), np.float32)
    transpose(points, members, transposed)
    tile = np.empty((TILE, padded), np.float32)
    bits = tile.view(np.int32)
    queries = np.zeros((TILE, d), np.float32)
    minima, smallest = np.empty(LANES, np.int32), np.empty(k, np.int32)
    for first in range(0, m, TILE):
        rows = min(TILE, m - first)
        for r in range(rows):
            queries[r] = points[members[first + r]]
        fill_tile(transposed, queries, 0, padded, tile)
        for r in range(rows):
            out = keys[members[first + r]]
            out[:] = NO_NEIGHBOUR
            own = bits[r]
            own[m:] = _FAR
            own[first + r] = _FAR
            bound = min(kth_of_minima(own, minima, smallest, k), _FAR - np.int32(1))
            filled = 0
            for lane in range(LANES):
                if minima[lane] > bound:
                    continue
                for position in range(lane, padded, LANES):
                    if own[position] <= bound:
                        key = np.int64(own[position]) << _ROW_BITS | np.int64(members[position])
                        filled = insert(out, filled, key)


@kernel
def merge_neighbours(keys, weights, found, weight):
    """Merge newly found neighbours into the nearest so far; one found again adds to its weight.

    Parameters
    ----------
    keys : int64 [n, k]
        Ascending; changed.
    weights : float32 [n, k]
        What each neighbour's proposals weigh together; changed.
    found : int64 [n, k]
        Ascending.
    weight : float32
        Of a proposal of ``found``.
    """
    n, k = keys.shape
    merged, merged_weights = np.empty(k, np.int64), np.empty(k, np.float32)
    for i in range(n):
        old, new = 0, 0
        for at in range(k):
            left = keys[i, old] if old < k else NO_NEIGHBOUR
            right = found[i, new] if new < k else NO_NEIGHBOUR
            merged[at] = min(left, right)
            total = np.float32(0.0)
            if left <= right and left != NO_NEIGHBOUR:
                total += weights[i, old]
                old += 1
            if right <= left and right != NO_NEIGHBOUR:
                total += weight
                new += 1
            merged_weights[at] = total
        keys[i] = merged
        weights[i] = merged_weights
