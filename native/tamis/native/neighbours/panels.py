"""Nearest rows by squared Euclidean distance or inner product: packed rows, and each query's best k of them.

Queries and rows meet in register tiles (:mod:`tamis.native.simd.tile`), without BLAS, so that the bits of a result
depend on the data alone. What is nearest is decided by |x|² / 2 - q.x in float32; the distances returned are computed
anew from the differences, in float64.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.simd.tile import (
    FLOAT_BYTES,
    LANES,
    QUERIES,
    QUERY_BYTES,
    WORD_QUERIES,
    pair_distance,
    tile_products,
)
from tamis.native.simd.words import trailing_zeros

MAX_ROWS = (1 << 31) - 2
"""Row numbers are int32."""

_NO_ROW = -1
_ROW_BITS = 32
_LAST_ROW = (1 << 31) - 1
_LOW = (1 << 32) - 1
_MAGNITUDE = np.int32(0x7FFFFFFF)
EMPTY = np.int64(np.array(-np.inf, np.float32).view(np.int32) ^ _MAGNITUDE) << _ROW_BITS
"""Key of a place in a list that nothing has taken: below that of any row."""


class Panels(NamedTuple):
    """Rows packed for tiles."""

    rows: NDArray[np.float32]  # [panels, dimension, LANES], less the origin; zero where there is no row
    bias: NDArray[np.float32]  # [panels, LANES], -|row|²/2, or 0 for inner products; -inf where there is no row
    ids: NDArray[np.int32]  # [panels, LANES], row numbers; -1 where there is no row
    origin: NDArray[np.float32]  # [dimension], taken off rows and queries alike; zero for inner products


class Lists(NamedTuple):
    """The best rows of each query, best first; equal scores by lower row number."""

    scores: NDArray[np.float32]  # [queries, k], bias plus inner product; -inf where there is no row
    rows: NDArray[np.int32]  # [queries, k]; -1 where there is no row


def read_only(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """View of a matrix as C-contiguous float32 that kernels can't write: one type for all of them."""
    view = np.ascontiguousarray(matrix, dtype=np.float32).view()
    if view.ndim != 2 or view.shape[1] == 0:
        raise ValueError("a matrix of one column or more is needed")
    if len(view) > MAX_ROWS:
        raise ValueError(f"at most {MAX_ROWS} rows")
    view.setflags(write=False)
    return view


def _numbers(rows: NDArray[np.integer]) -> NDArray[np.int32]:
    view = np.ascontiguousarray(rows, dtype=np.int32).view()
    view.setflags(write=False)
    return view


def common_origin(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Point to measure from, float32 [dimension], so that |x|² - 2 q.x keeps its digits when data lie far from zero.

    The mean of each column to the power of two at or below the column's largest distance from it: zero for data around
    zero, and a subtraction that is exact wherever the data are whole numbers.
    """
    if len(rows) == 0:
        return np.zeros(rows.shape[1], np.float32)
    mean = rows.mean(axis=0, dtype=np.float64)
    spread = np.maximum(rows.max(axis=0) - mean, mean - rows.min(axis=0))
    step = np.exp2(np.floor(np.log2(np.maximum(spread, np.finfo(np.float32).tiny))))
    origin: NDArray[np.float32] = (np.rint(mean / step) * step).astype(np.float32)
    return origin


@kernel
def _pack(rows, order, starts, inner, panels):
    """Write the rows of ``order``, group after group, to panels; no panel holds rows of two groups."""
    dimension = rows.shape[1]
    panel = 0
    for group in range(len(starts) - 1):
        for first in range(starts[group], starts[group + 1], LANES):
            for lane in range(LANES):
                if first + lane >= starts[group + 1]:
                    panels.rows[panel, :, lane] = np.float32(0.0)
                    panels.bias[panel, lane] = -np.inf
                    panels.ids[panel, lane] = _NO_ROW
                    continue
                row = order[first + lane]
                total = 0.0
                for column in range(dimension):
                    value = np.float32(rows[row, column] - panels.origin[column])
                    panels.rows[panel, column, lane] = value
                    total += np.float64(value) * np.float64(value)
                panels.bias[panel, lane] = np.float32(0.0) if inner else np.float32(-0.5 * total)
                panels.ids[panel, lane] = row
            panel += 1


def pack_groups(
    rows: NDArray[np.float32],
    order: NDArray[np.integer],
    starts: NDArray[np.int64],
    *,
    inner: bool = False,
    origin: NDArray[np.float32] | None = None,
) -> tuple[Panels, NDArray[np.int64]]:
    """Pack rows in groups of panels.

    Parameters
    ----------
    rows : float32 [n, dimension]
        Finite.
    order : int32 [m]
        Row numbers, group after group; ascending within a group.
    starts : int64 [groups + 1]
        Where each group starts in ``order``.
    inner
        Rank by the largest inner product instead of the smallest distance.
    origin : float32 [dimension] or None
        `common_origin` of the rows where it is not given.

    Returns
    -------
    Panels, int64 [groups + 1]
        And where each group's panels start.

    Raises
    ------
    ValueError
        When a row is not finite, or too large for float32 distances.
    """
    data = read_only(rows)
    dimension = data.shape[1]
    first_panel = np.zeros(len(starts), np.int64)
    np.cumsum(-(-np.diff(starts) // LANES), out=first_panel[1:])
    n_panels = int(first_panel[-1])
    if inner:
        origin = np.zeros(dimension, np.float32)
    elif origin is None:
        extremes = (data.min(initial=0.0), data.max(initial=0.0))
        origin = common_origin(data) if np.isfinite(extremes).all() else np.zeros(dimension, np.float32)
    panels = Panels(
        rows=np.empty((n_panels, dimension, LANES), np.float32),
        bias=np.empty((n_panels, LANES), np.float32),
        ids=np.empty((n_panels, LANES), np.int32),
        origin=origin,
    )
    _pack(data, _numbers(order), np.ascontiguousarray(starts, np.int64), inner, panels)
    if not np.isfinite(panels.bias[panels.ids >= 0]).all():
        raise ValueError("rows must be finite, and their squared lengths within float32")
    return panels, first_panel


def pack(rows: NDArray[np.float32], *, inner: bool = False, origin: NDArray[np.float32] | None = None) -> Panels:
    """Pack all rows of float32 [n, dimension] in their order; see `pack_groups`."""
    n = len(rows)
    return pack_groups(rows, np.arange(n, dtype=np.int32), np.array([0, n]), inner=inner, origin=origin)[0]


@piece
def key_of(score, row):
    """One int64 that is larger for a better score, and for a lower row where scores are equal."""
    bits = np.float32(score + np.float32(0.0)).view(np.int32)  # + 0.0 takes the sign off a zero
    ordered = bits ^ (bits >> 31 & _MAGNITUDE)
    return np.int64(ordered) << _ROW_BITS | (_LAST_ROW - row)


@piece
def score_of(key):
    ordered = np.int32(key >> _ROW_BITS)
    return np.int32(ordered ^ (ordered >> 31 & _MAGNITUDE)).view(np.float32)


@kernel
def read_keys(keys, scores, rows):
    """Write the scores and row numbers of lists of keys int64 [n, k] to float32 and int32 [n, k]."""
    for k in range(keys.shape[0]):
        for place in range(keys.shape[1]):
            key = keys[k, place]
            scores[k, place] = score_of(key)
            rows[k, place] = _NO_ROW if key == EMPTY else np.int32(_LAST_ROW - (key & _LOW))


@piece
def insert_key(keys, key):
    """Put a key into one query's list unless all k in it are larger."""
    place = len(keys) - 1
    if key <= keys[place]:
        return
    while place > 0 and keys[place - 1] < key:
        keys[place] = keys[place - 1]
        place -= 1
    keys[place] = key


@kernel
def update_lists(queries, own, members, panels, first, last, keys):
    """Offer the rows of panels ``first`` to ``last`` to the lists of some queries.

    The list of a query ends the same whatever the order in which rows are offered; a row must be offered once only.

    Parameters
    ----------
    queries : float32 [n, dimension], read-only
    own : int32 [n]
        Row number of each query, which is not offered to it; -1 for none.
    members : int32 [m]
        The queries to serve: rows of ``queries``, ``own`` and ``keys``.
    panels : Panels
    first, last : int
    keys : int64 [n, k]
        The lists, as `read_keys` reads them; begun with `EMPTY`; updated.
    """
    dimension = queries.shape[1]
    k = keys.shape[1]
    size = max(1, QUERY_BYTES // (FLOAT_BYTES * dimension * QUERIES)) * QUERIES
    size = min(size, len(members) // QUERIES * QUERIES + QUERIES)
    gathered = np.zeros((size, dimension), np.float32)
    worst = np.empty(size, np.float32)
    sums = np.empty((QUERIES, LANES), np.float32)
    query_address = np.int64(gathered.ctypes.data)
    worst_address = np.int64(worst.ctypes.data)
    sum_address = np.int64(sums.ctypes.data)
    panel_address = np.int64(panels.rows.ctypes.data)
    bias_address = np.int64(panels.bias.ctypes.data)
    for start in range(0, len(members), size):
        n = min(size, len(members) - start)
        for k_query in range(n):
            member = members[start + k_query]
            for column in range(dimension):
                gathered[k_query, column] = queries[member, column] - panels.origin[column]
            worst[k_query] = score_of(keys[member, k - 1])
        worst[n:] = np.inf
        for panel in range(first, last):
            rows_at = panel_address + panel * dimension * LANES * FLOAT_BYTES
            bias_at = bias_address + panel * LANES * FLOAT_BYTES
            for group in range(0, n, QUERIES):
                words = tile_products(
                    query_address + group * dimension * FLOAT_BYTES,
                    rows_at,
                    bias_at,
                    dimension,
                    worst_address + group * FLOAT_BYTES,
                    sum_address,
                )
                for part in range(2):
                    word = words[part]
                    while word:
                        bit = trailing_zeros(word)
                        word &= word - np.uint64(1)
                        lane = bit % LANES
                        query = part * WORD_QUERIES + bit // LANES
                        row = panels.ids[panel, lane]
                        if row < 0 or group + query >= n:
                            continue
                        member = members[start + group + query]
                        if row == own[member]:
                            continue
                        insert_key(keys[member], key_of(sums[query, lane], row))
                        worst[group + query] = score_of(keys[member, k - 1])


@kernel
def _pair_distances(queries, rows, members, pairs, out):
    dimension = queries.shape[1]
    query_address = np.int64(queries.ctypes.data)
    row_address = np.int64(rows.ctypes.data)
    for k in range(len(members)):
        left = query_address + np.int64(members[k]) * dimension * FLOAT_BYTES
        for j in range(pairs.shape[1]):
            right = row_address + np.int64(pairs[k, j]) * dimension * FLOAT_BYTES
            out[k, j] = np.float32(pair_distance(left, right, dimension))


def pair_distances(
    queries: NDArray[np.float32], rows: NDArray[np.float32], members: NDArray[np.integer], pairs: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Squared Euclidean distances, float32 [m, k], of some queries to k rows each.

    Parameters
    ----------
    queries : float32 [n, dimension]
    rows : float32 [r, dimension]
    members : int32 [m]
        Which queries.
    pairs : int32 [m, k]
        Row numbers, all within ``rows``.
    """
    left, right = read_only(queries), read_only(rows)
    _within(members, len(left))
    _within(pairs, len(right))
    if left.shape[1] != right.shape[1]:
        raise ValueError("queries and rows must have as many columns")
    out = np.empty(pairs.shape, np.float32)
    _pair_distances(left, right, _numbers(members), _numbers(pairs), out)
    return out


def lists_of(keys: NDArray[np.int64]) -> Lists:
    """The scores and numbers in lists of keys, int64 [n, k]."""
    lists = Lists(np.empty(keys.shape, np.float32), np.empty(keys.shape, np.int32))
    read_keys(keys, lists.scores, lists.rows)
    return lists


def _within(numbers: NDArray[np.integer], n: int) -> None:
    if numbers.size and (int(numbers.min()) < 0 or int(numbers.max()) >= n):
        raise ValueError(f"row numbers must be 0 to {n - 1}")


def best_rows(queries: NDArray[np.float32], panels: Panels, k: int) -> Lists:
    """The k packed rows with the best scores of each query; exact up to the rounding of float32 scores.

    Parameters
    ----------
    queries : float32 [n, dimension]
        Finite.
    panels : Panels
    k : int
        1 or more; where there are fewer rows, the end of each list stays empty.
    """
    data = read_only(queries)
    if data.shape[1] != panels.rows.shape[1]:
        raise ValueError("queries and rows must have as many columns")
    if k < 1:
        raise ValueError("k must be 1 or more")
    keys = np.full((len(data), k), EMPTY)
    nobody, all_queries = np.full(len(data), _NO_ROW, np.int32), np.arange(len(data), dtype=np.int32)
    update_lists(data, nobody, all_queries, panels, 0, len(panels.rows), keys)
    return lists_of(keys)


def assign(
    rows: NDArray[np.float32], centres: NDArray[np.float32], panels: Panels | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Nearest centre of each row, the lower one where two are as near.

    Parameters
    ----------
    rows : float32 [n, dimension]
        Finite.
    centres : float32 [k, dimension]
        Finite; one or more.
    panels : Panels or None
        `pack` of the centres, where a caller comes with many blocks of rows.

    Returns
    -------
    int32 [n], float32 [n]
        The centre, and the squared Euclidean distance to it.
    """
    if len(centres) == 0:
        raise ValueError("one centre or more is needed")
    nearest = best_rows(rows, pack(centres) if panels is None else panels, 1).rows
    squared = pair_distances(rows, centres, np.arange(len(rows)), nearest)
    return nearest[:, 0], squared[:, 0]
