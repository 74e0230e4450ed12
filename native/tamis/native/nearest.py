"""Nearest neighbours inside small sets of rows (a batch, a leaf of a hash), and merging what several sets gave.

All rows of a set meet in the register tiles of :mod:`tamis.native.tile`; a query's sums are then folded into a few
columns, whose k-th largest maximum bounds the k-th largest sum from below, so that about k columns need a closer look.
What is nearest is decided by q.x - |x|² / 2 in float32, which has the same bits for a pair whatever set it is met in.

A neighbour is one int64 key: the complement of the sum's ordered bits above the row number. Keys order by distance,
then by row, and equal keys are the same neighbour.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from tamis.native.compiled import kernel, piece
from tamis.native.tile import LANES, QUERIES, tile_products

NO_NEIGHBOUR = np.int64(2**63 - 1)
"""The key of an absent neighbour: larger than any other."""

MAX_NEIGHBOURS = 32
"""Columns that a query's sums are folded into; k is at most as many."""

_GROUPS = 2
"""Tiles of queries that take their turn at a panel before the next one is read."""
_FOLDED = MAX_NEIGHBOURS // LANES
"""Panels side by side in the folded columns."""
_FLOAT_BYTES = 4
_ROW_BITS = 31
_ROW_MASK = np.int64(2**31 - 1)
_SIGN = np.uint32(1 << 31)
_ABSENT = np.float32(-np.inf)


@piece
def row_of(key):
    """Row number of a neighbour's key."""
    return key & _ROW_MASK


@piece
def key_of(total, row):
    """Key of a neighbour by its sum q.x - |x|²/2, a float32 that is not NaN, and its row number."""
    bits = np.float32(total + np.float32(0.0)).view(np.uint32)
    ordered = ~bits if bits & _SIGN != 0 else bits | _SIGN
    return np.int64(np.uint32(~ordered)) << _ROW_BITS | np.int64(row)


@piece
def pack_members(points, members, panels, bias):
    """Pack rows into panels, float32 [panels, d, LANES], with their -|x|²/2; -inf where there is no row."""
    d = points.shape[1]
    bias[:] = _ABSENT
    for place in range(len(members)):
        row = points[members[place]]
        panel, lane = place // LANES, place % LANES
        total = 0.0
        for c in range(d):
            panels[panel, c, lane] = row[c]
            total += np.float64(row[c]) * np.float64(row[c])
        bias[panel, lane] = np.float32(-0.5 * total)


@piece
def fill_sums(queries, panels, bias, first, last, sums):
    """Sums of a few groups of queries with panels ``first`` to ``last``, float32 [groups, panels, QUERIES, LANES]."""
    d = queries.shape[1]
    worst = np.full(QUERIES, np.inf, np.float32)
    query_at, panel_at = np.int64(queries.ctypes.data), np.int64(panels.ctypes.data)
    bias_at, out_at = np.int64(bias.ctypes.data), np.int64(sums.ctypes.data)
    for panel in range(first, last):
        for group in range(len(queries) // QUERIES):
            tile_products(
                query_at + group * QUERIES * d * _FLOAT_BYTES,
                panel_at + panel * d * LANES * _FLOAT_BYTES,
                bias_at + panel * LANES * _FLOAT_BYTES,
                d,
                np.int64(worst.ctypes.data),
                out_at + (group * sums.shape[1] + panel) * QUERIES * LANES * _FLOAT_BYTES,
            )


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
def fold(sums, query, maxima):
    """Largest sum of a query in every column, float32 [MAX_NEIGHBOURS]; the number of panels is a multiple of two."""
    maxima[:] = _ABSENT
    for panel in range(0, len(sums), _FOLDED):
        for side in range(_FOLDED):
            part, column = sums[panel + side, query], maxima[side * LANES : (side + 1) * LANES]
            for lane in range(LANES):
                column[lane] = part[lane] if part[lane] > column[lane] else column[lane]


@piece
def kth_largest(values, k, largest):
    """k-th largest of float32 [n]; -inf where there are fewer. ``largest`` float32 [k] is scratch."""
    largest[:] = _ABSENT
    for value in values:
        if value > largest[k - 1]:
            at = k - 1
            while at > 0 and largest[at - 1] < value:
                largest[at] = largest[at - 1]
                at -= 1
            largest[at] = value
    return largest[k - 1]


@kernel
def nearest_members(points, members, keys):
    """Find the nearest other members of every member of a set.

    Parameters
    ----------
    points : float32 [n, d]
        C-contiguous, finite, squared lengths within float32.
    members : int32 [m]
        Distinct rows of ``points``.
    keys : int64 [n, k]
        k is at most `MAX_NEIGHBOURS`. Rows of the members are overwritten: keys ascending, `NO_NEIGHBOUR` behind the
        last.
    """
    m, d, k = len(members), points.shape[1], keys.shape[1]
    used = (m + LANES - 1) // LANES
    folded = (used + _FOLDED - 1) // _FOLDED * _FOLDED
    panels, bias = np.zeros((used, d, LANES), np.float32), np.empty((used, LANES), np.float32)
    pack_members(points, members, panels, bias)
    groups = min(_GROUPS, (m + QUERIES - 1) // QUERIES)
    queries = np.zeros((groups * QUERIES, d), np.float32)
    sums = np.full((groups, folded, QUERIES, LANES), _ABSENT, np.float32)
    maxima, largest = np.empty(MAX_NEIGHBOURS, np.float32), np.empty(k, np.float32)
    for start in range(0, m, len(queries)):
        rows = min(len(queries), m - start)
        for r in range(rows):
            queries[r] = points[members[start + r]]
        fill_sums(queries, panels, bias, 0, used, sums)
        for r in range(rows):
            place, query = start + r, r % QUERIES
            own = sums[r // QUERIES]
            own[place // LANES, query, place % LANES] = _ABSENT
            fold(own, query, maxima)
            bound = kth_largest(maxima, k, largest)
            out = keys[members[place]]
            out[:] = NO_NEIGHBOUR
            filled = 0
            for column in range(MAX_NEIGHBOURS):
                if maxima[column] < bound or maxima[column] == _ABSENT:
                    continue
                lane = column % LANES
                for panel in range(column // LANES, used, _FOLDED):
                    total = own[panel, query, lane]
                    if total >= bound and total > _ABSENT:
                        filled = insert(out, filled, key_of(total, members[panel * LANES + lane]))


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
