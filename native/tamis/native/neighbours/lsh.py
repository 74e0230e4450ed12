"""Neighbours in a batch: exactly, or by hashing with random projections in one level, several levels or views.

Sign bits of Gaussian projections are a row's key (Charikar: Similarity estimation techniques from rounding algorithms,
STOC 2002, section 3); one more projection, quantised, orders rows of the same key. After sorting, near rows are near in
the order. What the GAIS abstracts (arXiv 2502.20293) fix is single-level, multi-level and multi-view hashing by random
projections; windows, levels, leaves and weights are ours.
"""

# mypy: disable-error-code="no-untyped-def"

from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.math import rng
from tamis.native.math.dense import multiply
from tamis.native.math.elementary import logarithms, natural_log
from tamis.native.neighbours.graph import SELF, Graph
from tamis.native.neighbours.small_sets import (
    NO_NEIGHBOUR,
    add_members,
    count_meetings,
    fill_sums,
    insert,
    key_of,
    merge_neighbours,
    nearest_members,
    pack_members,
    row_of,
)
from tamis.native.simd.tile import LANES, QUERIES

Kind = Literal["minibatch", "lsh", "lsh_multilevel", "lsh_multiview"]
Single = NDArray[np.float32]
Keys = NDArray[np.int64]

MAX_BITS = 16
ROWS_A_BUCKET = 128
"""Rows that share a key, on average, at the finest level: it decides the number of sign bits."""
LEVELS = 4
LEVEL_WEIGHT = 0.5
"""A level's proposals weigh so much of the next finer one's."""
WINDOW = 32
"""Rows before and behind in the sorted order that are candidates."""
LEAF_ROWS = 256
"""About so many consecutive rows of a view's sorted order are compared with each other."""

_ORDER_BITS = 16
_ORDER_SCALE = np.float32(1024.0)
_ORDER_MIDDLE = np.float32(32768.0)
_ORDER_LAST = np.float32(65535.0)


class Found(NamedTuple):
    """A batch's nearest neighbours as far as a graph sees them."""

    keys: Keys  # [n, k], ascending, `NO_NEIGHBOUR` behind the last
    weights: Single  # [n, k], how often, or at what level, each was proposed; 0 where there is none


def gaussian(key: NDArray[np.uint64], n: int) -> NDArray[np.float64]:
    """Draw standard normal numbers, float64 [n], by Marsaglia's polar method from a stream's first random numbers."""
    pairs = 2 * n + 64  # a pair is used with probability pi / 4 and gives two numbers
    while True:
        u = 2.0 * rng.uniform(key, 0, 2 * pairs).reshape(pairs, 2) - 1.0
        square = (u * u).sum(axis=1)
        used = square < 1.0
        factor = np.sqrt(-2.0 * logarithms(square[used]) / square[used])
        drawn: NDArray[np.float64] = (u[used] * factor[:, None]).reshape(-1)
        if len(drawn) >= n:
            return drawn[:n]
        pairs *= 2


def directions(key: NDArray[np.uint64], views: int, d: int) -> Single:
    """Random unit vectors, float32 [views, MAX_BITS + 1, d]; the last of a view orders rows inside a bucket."""
    drawn = gaussian(key, views * (MAX_BITS + 1) * d).reshape(views, MAX_BITS + 1, d)
    lengths = np.sqrt((drawn * drawn).sum(axis=2, keepdims=True))
    unit: Single = (drawn / lengths).astype(np.float32)
    return unit


def sign_bits(n: int) -> int:
    """Sign bits of a key for a batch of n rows."""
    return int(np.clip((n // ROWS_A_BUCKET).bit_length() - 1, 1, MAX_BITS))


@kernel
def hash_keys(projected, keys):
    """Hash rows by their projections.

    Parameters
    ----------
    projected : float32 [n, bits + 1]
        The last one gives the order inside a bucket.
    keys : uint32 [n]
        Overwritten: sign bits, first one highest, above the quantised last projection.
    """
    bits = projected.shape[1] - 1
    for i in range(len(projected)):
        key = np.uint32(0)
        for b in range(bits):
            key = np.uint32(key << np.uint32(1)) | np.uint32(projected[i, b] > 0)
        place = min(max(projected[i, bits] * _ORDER_SCALE + _ORDER_MIDDLE, np.float32(0.0)), _ORDER_LAST)
        keys[i] = np.uint32(key << np.uint32(_ORDER_BITS)) | np.uint32(place)


def hash_rows(points: Single, views: Single) -> list[NDArray[np.uint32]]:
    """Hash rows by every view, with as many sign bits as a batch of this size needs: uint32 [n] each."""
    bits = sign_bits(len(points))
    used = np.concatenate([views[:, :bits], views[:, MAX_BITS:]], axis=1)
    columns = np.ascontiguousarray(used.reshape(-1, points.shape[1]).T)
    projected = np.empty((len(points), columns.shape[1]), np.float32)
    multiply(points, columns, projected)
    hashed = []
    for view in range(len(views)):
        keys = np.empty(len(points), np.uint32)
        hash_keys(np.ascontiguousarray(projected[:, view * (bits + 1) : (view + 1) * (bits + 1)]), keys)
        hashed.append(keys)
    return hashed


@kernel
def window_neighbours(points, order, buckets, window, found):
    """Find the nearest of the rows within a window of the sorted order that share the bucket.

    Parameters
    ----------
    points : float32 [n, d]
    order : int32 [n]
        Rows, sorted.
    buckets : uint32 [n]
        Bucket of each row.
    window : int
        Rows before and behind, each.
    found : int64 [n, k]
        Overwritten.
    """
    n, d = points.shape
    used = (n + LANES - 1) // LANES
    panels, bias = np.zeros((used, d, LANES), np.float32), np.empty((used, LANES), np.float32)
    pack_members(points, order, panels, bias)
    queries = np.zeros((QUERIES, d), np.float32)
    sums = np.empty((1, used, QUERIES, LANES), np.float32)
    for start in range(0, n, QUERIES):
        rows = min(QUERIES, n - start)
        for r in range(rows):
            queries[r] = points[order[start + r]]
        begin, end = max(0, start - window), min(n, start + rows + window)
        fill_sums(queries, panels, bias, begin // LANES, (end + LANES - 1) // LANES, sums)
        for r in range(rows):
            place = start + r
            own = order[place]
            out = found[own]
            out[:] = NO_NEIGHBOUR
            filled = 0
            for other in range(max(0, place - window), min(n, place + window + 1)):
                row = order[other]
                if other != place and buckets[row] == buckets[own]:
                    filled = insert(out, filled, key_of(sums[0, other // LANES, r, other % LANES], row))


def _sorted(keys: NDArray[np.uint32]) -> NDArray[np.int32]:
    return np.argsort(keys, kind="stable").astype(np.int32)


def _proposed(points: Single, hashed: NDArray[np.uint32], drop: int, k: int) -> Keys:
    """Neighbours in the sorted order of keys without their ``drop`` lowest sign bits."""
    buckets = hashed >> np.uint32(_ORDER_BITS + drop)
    places = hashed & np.uint32((1 << _ORDER_BITS) - 1)
    order = _sorted(buckets << np.uint32(_ORDER_BITS) | places)
    found = np.empty((len(points), k), np.int64)
    window_neighbours(points, order, buckets, WINDOW, found)
    return found


def leaves(n: int) -> NDArray[np.int64]:
    """Bounds of the leaves of n sorted rows: equal but for rounding, about `LEAF_ROWS` each."""
    count = max(1, (n + LEAF_ROWS // 2) // LEAF_ROWS)
    return np.arange(count + 1, dtype=np.int64) * n // count


def find_neighbours(points: Single, k: int, kind: Kind, views: Single) -> Found:
    """Find each row's neighbours in a batch.

    Parameters
    ----------
    points : float32 [n, d]
        C-contiguous, finite.
    k : int
        Neighbours a row, at most `nearest.MAX_NEIGHBOURS`; fewer are found where a batch or a bucket holds fewer.
    kind
        `minibatch`: the exact k nearest. `lsh`: by the first view. `lsh_multilevel`: by the first view's keys as
        prefixes of `LEVELS` lengths, finest first; a level weighs half of the finer one. `lsh_multiview`: every view's
        sorted order cut into leaves, the exact k nearest in a leaf, merged; each view weighs 1.
    views : float32 [views, MAX_BITS + 1, d]
        Of `directions`; not looked at by `minibatch`.
    """
    n = len(points)
    keys = np.full((n, k), NO_NEIGHBOUR, np.int64)
    weights = np.zeros((n, k), np.float32)
    if kind == "minibatch":
        nearest_members(points, np.arange(n, dtype=np.int32), keys)
        return Found(keys, (keys != NO_NEIGHBOUR).astype(np.float32))
    if kind == "lsh_multiview":
        orders = [_sorted(hashed) for hashed in hash_rows(points, views)]
        bounds = leaves(n)
        sets = np.empty((n, len(orders)), np.int16)
        for view, order in enumerate(orders):
            sets[order, view] = np.repeat(np.arange(len(bounds) - 1, dtype=np.int16), np.diff(bounds))
        for begin, end in pairwise(bounds.tolist()):
            nearest_members(points, orders[0][begin:end], keys)
        for view, order in enumerate(orders[1:], 1):
            for begin, end in pairwise(bounds.tolist()):
                add_members(points, order[begin:end], sets, view, keys)
        count_meetings(keys, sets, weights)
        return Found(keys, weights)
    hashed = hash_rows(points, views[:1])[0]
    for level in range(LEVELS if kind == "lsh_multilevel" else 1):
        found = _proposed(points, hashed, level * sign_bits(n) // LEVELS, k)
        merge_neighbours(keys, weights, found, np.float32(LEVEL_WEIGHT**level))
    return Found(keys, weights)


@kernel
def _fill_graph(keys, weights, neighbours, shifts):
    for i in range(len(keys)):
        neighbours[i, SELF] = i
        shifts[i, SELF] = 0
        for s in range(keys.shape[1]):
            there = keys[i, s] != NO_NEIGHBOUR
            neighbours[i, s + 1] = row_of(keys[i, s]) if there else i
            weight = np.float64(weights[i, s])
            if not there:
                shifts[i, s + 1] = -np.inf
            else:  # most weights are 1
                shifts[i, s + 1] = 0.0 if weight == 1.0 else natural_log(weight)


def to_graph(found: Found) -> Graph:
    """Lists of neighbours for `tamis.native.learning.gat`, each node itself with weight 1, log weights in float32."""
    n, k = found.keys.shape
    graph = Graph(np.empty((n, k + 1), np.int32), np.empty((n, k + 1), np.float32))
    _fill_graph(found.keys, found.weights, graph.neighbours, graph.log_weights)
    return graph
