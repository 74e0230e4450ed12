"""Nearest neighbours inside small sets of rows (a batch, a leaf of a hash), and merging what several sets gave.

All rows of a set meet in the register tiles of :mod:`tamis.native.simd.tile`; a query's sums are then folded into a few
columns, whose k-th largest maximum bounds the k-th largest sum from below, so that about k columns need a closer look.
What is nearest is decided by q.x - |x|² / 2 in float32, which has the same bits for a pair whatever set it is met in.

A neighbour is one int64 key: the complement of the sum's ordered bits above the row number. Keys order by distance,
then by row, and equal keys are the same neighbour.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from tamis.native.compiled import kernel, piece
from tamis.native.simd.sort16 import COLUMNS, FOLDED_PANELS, column_maxima, kth_largest, mask_at_least
from tamis.native.simd.tile import FLOAT_BYTES, LANES, QUERIES, WORD_QUERIES, tile_products
from tamis.native.simd.words import trailing_zeros

NO_NEIGHBOUR = np.int64(2**63 - 1)
"""The key of an absent neighbour: larger than any other."""

MAX_NEIGHBOURS = COLUMNS
"""Columns that a query's sums are folded into; k is at most as many."""

_GROUPS = 2
"""Tiles of queries that take their turn at a panel before the next one is read."""
_ROW_BITS = 31
_ROW_MASK = np.int64(2**31 - 1)
_SIGN = np.uint32(1 << 31)
_ABSENT = np.float32(-np.inf)
_LOWEST = np.nextafter(_ABSENT, np.float32(0.0))


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
def sum_of(key):
    """Sum of a neighbour's key; of an absent one the lowest that a row can have."""
    ordered = ~np.uint32(key >> _ROW_BITS)
    bits = ordered ^ _SIGN if ordered & _SIGN != 0 else ~ordered
    return _LOWEST if key == NO_NEIGHBOUR else np.uint32(bits).view(np.float32)


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
                query_at + group * QUERIES * d * FLOAT_BYTES,
                panel_at + panel * d * LANES * FLOAT_BYTES,
                bias_at + panel * LANES * FLOAT_BYTES,
                d,
                np.int64(worst.ctypes.data),
                out_at + (group * sums.shape[1] + panel) * QUERIES * LANES * FLOAT_BYTES,
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
    folded = (used + FOLDED_PANELS - 1) // FOLDED_PANELS * FOLDED_PANELS
    panels, bias = np.zeros((used, d, LANES), np.float32), np.empty((used, LANES), np.float32)
    pack_members(points, members, panels, bias)
    groups = min(_GROUPS, (m + QUERIES - 1) // QUERIES)
    queries = np.zeros((groups * QUERIES, d), np.float32)
    sums = np.full((groups, folded, QUERIES, LANES), _ABSENT, np.float32)
    maxima = np.empty(MAX_NEIGHBOURS, np.float32)
    stride = QUERIES * LANES * FLOAT_BYTES
    for start in range(0, m, len(queries)):
        rows = min(len(queries), m - start)
        for r in range(rows):
            queries[r] = points[members[start + r]]
        fill_sums(queries, panels, bias, 0, used, sums)
        for r in range(rows):
            place, query = start + r, r % QUERIES
            own = sums[r // QUERIES]
            own[place // LANES, query, place % LANES] = _ABSENT
            at = np.int64(own.ctypes.data) + query * LANES * FLOAT_BYTES
            column_maxima(at, folded, stride, np.int64(maxima.ctypes.data))
            bound = max(kth_largest(np.int64(maxima.ctypes.data), k), _LOWEST)
            out = keys[members[place]]
            out[:] = NO_NEIGHBOUR
            filled = 0
            for panel in range(used):
                mask = mask_at_least(at + panel * stride, bound)
                while mask:
                    lane = trailing_zeros(mask)
                    mask &= mask - np.uint64(1)
                    filled = insert(out, filled, key_of(own[panel, query, lane], members[panel * LANES + lane]))


@piece
def _met(left, right, sets):
    """Whether two rows were in one set before: their places in the first ``sets`` partitions."""
    same = 0
    for at in range(sets):
        same += left[at] == right[at]
    return same != 0


@kernel
def add_members(points, members, sets, before, keys):
    """Merge the nearest other members of every member of a set into its nearest so far.

    The same as `nearest_members` and `merge_neighbours` give, for less work: what is farther than the k-th nearest so
    far is passed over, and of two rows that met in an earlier set nothing new is to be learnt.

    Parameters
    ----------
    points, members : float32 [n, d], int32 [m]
        As `nearest_members` takes them.
    sets : int16 [n, partitions]
        The set of every row in every partition of the rows into sets.
    before : int
        Partitions whose sets are merged already.
    keys : int64 [n, k]
        As `merge_neighbours` takes them; changed for the members.
    """
    m, d, k = len(members), points.shape[1], keys.shape[1]
    used = (m + LANES - 1) // LANES
    panels, bias = np.zeros((used, d, LANES), np.float32), np.empty((used, LANES), np.float32)
    pack_members(points, members, panels, bias)
    queries, sums = np.zeros((QUERIES, d), np.float32), np.empty((QUERIES, LANES), np.float32)
    worst = np.empty(QUERIES, np.float32)
    for start in range(0, m, QUERIES):
        rows = min(QUERIES, m - start)
        worst[:] = np.inf
        for r in range(rows):
            queries[r] = points[members[start + r]]
            worst[r] = sum_of(keys[members[start + r], k - 1])
        for panel in range(used):
            words = tile_products(
                np.int64(queries.ctypes.data),
                np.int64(panels.ctypes.data) + panel * d * LANES * FLOAT_BYTES,
                np.int64(bias.ctypes.data) + panel * LANES * FLOAT_BYTES,
                d,
                np.int64(worst.ctypes.data),
                np.int64(sums.ctypes.data),
            )
            for part in range(2):
                word = words[part]
                while word:
                    bit = trailing_zeros(word)
                    word &= word - np.uint64(1)
                    query, lane = part * WORD_QUERIES + bit // LANES, bit % LANES
                    own, row = members[start + query], members[panel * LANES + lane]
                    if not _met(sets[own], sets[row], before):
                        insert(keys[own], k, key_of(sums[query, lane], row))
                        worst[query] = sum_of(keys[own, k - 1])


@kernel
def count_meetings(keys, sets, counts):
    """Count, for every neighbour, in how many partitions it is in the row's own set.

    Parameters
    ----------
    keys : int64 [n, k]
    sets : int16 [n, partitions]
    counts : float32 [n, k]
        Overwritten; 0 where there is no neighbour.
    """
    n, k = keys.shape
    for i in range(n):
        for s in range(k):
            total = np.float32(0.0)
            if keys[i, s] != NO_NEIGHBOUR:
                other = row_of(keys[i, s])
                for at in range(sets.shape[1]):
                    total += np.float32(sets[i, at] == sets[other, at])
            counts[i, s] = total


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
