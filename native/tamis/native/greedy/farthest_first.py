"""Exact farthest-first traversal: at every step, the row farthest from all rows taken so far.

The greedy 2-approximation of k-center (Gonzalez, Clustering to minimize the maximum intercluster distance, 1985,
section 3), as active learning uses it (Sener and Savarese, arXiv 1708.00489, algorithm 1), made lazy: a row's distance
to the nearest centre only falls, so that one computed long ago is an upper bound, and only rows whose bound is near the
largest are brought up to date. They are brought up to date many at a time, in register tiles.

What decides are squared distances in float64, summed from exact differences; tiles in float32 only tell which pairs
need one, by a bound on their error. Of rows equally far the lowest row number is taken, as an argmax over all rows
would. The order is thus that of the plain algorithm in float64, whatever is skipped.
"""

# mypy: disable-error-code="no-untyped-def"

__all__ = ["FINISHED", "NEAR", "WORKING", "Traversal", "advance", "begin", "central_row", "taken"]

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import inlined, kernel, piece
from tamis.native.greedy.heap import largest_first, make_heap
from tamis.native.greedy.limits import Limits, fits, is_closed, stratum_of
from tamis.native.greedy.traversal import (
    CURSOR,
    FLOOR,
    GONE,
    IN_HEAP,
    LEAST,
    LISTED,
    N_COUNTERS,
    N_NUMBERS,
    TAKEN,
    Traversal,
    add_centre,
    bring_up_to_date,
)
from tamis.native.neighbours.panels import common_origin, read_only
from tamis.native.simd.tile import FLOAT_BYTES, LANES, QUERIES, QUERY_BYTES, pair_distance

WORKING, FINISHED, NEAR = 0, 1, 2
"""What `advance` returns: call again; nothing more can be taken; all that is left is nearer than the least distance."""

ROUND_SHARE = 0.95
"""A round brings those rows up to date whose squared bound is above this share of the largest: within 0.9 to 0.97 it
makes little difference. Larger: fewer rows a tile; smaller: more single rows brought up to date again in the round."""

ORIGIN_ROWS = 4096
"""Rows, evenly spaced, whose mean tells where the data lie."""

MAX_SQUARED_LENGTH = 1e37
"""Of a row, from the common origin: products of two stay within float32."""


@piece
def _is_stale(state, row):
    return state.seen[row] < state.counters[TAKEN] and state.keys[row] > 0.0


_sift_down, _sift_up = make_heap(largest_first)


@piece
def _pop(state):
    size = state.counters[LISTED] - 1
    top = state.listed[0]
    state.listed[0] = state.listed[size]
    state.counters[LISTED] = size
    if size > 0:
        _sift_down(state.keys, state.listed, size, 0)
    return top


@inlined
def _push(state, row):
    size = state.counters[LISTED]
    state.listed[size] = row
    state.counters[LISTED] = size + 1
    _sift_up(state.keys, state.listed, size)


@inlined
def _begin_round(state):
    """List the rows with the largest bounds, by the panel of the first centre not seen; returns whether there are any.

    All other rows have smaller bounds than whatever the round takes, so that it need not look at them.
    """
    n = len(state.keys)
    largest = GONE
    for row in range(n):
        if state.keys[row] > largest:
            if is_closed(state.limits, stratum_of(state.limits, row)):
                state.keys[row] = GONE
            else:
                largest = state.keys[row]
    if largest < 0.0:
        return False
    floor = ROUND_SHARE * largest
    if floor >= largest:
        floor = 0.0 if largest > 0.0 else GONE  # a share of the smallest number; or all that is left are duplicates
    starts = np.zeros((state.counters[TAKEN] // LANES) + 2, np.int64)
    for row in range(n):
        if state.keys[row] > floor:
            starts[state.seen[row] // LANES + 1] += 1
    for panel in range(len(starts) - 1):
        starts[panel + 1] += starts[panel]
    for row in range(n):
        if state.keys[row] > floor:
            panel = state.seen[row] // LANES
            state.listed[starts[panel]] = row
            starts[panel] += 1
    state.counters[LISTED] = starts[-2]
    state.counters[CURSOR] = 0
    state.counters[IN_HEAP] = 0
    state.numbers[FLOOR] = floor
    return True


@inlined
def _make_heap(state):
    """Keep the rows that are still above the floor of the round."""
    size = 0
    for k in range(state.counters[LISTED]):
        row = state.listed[k]
        if state.keys[row] > state.numbers[FLOOR]:
            state.listed[size] = row
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sift_down(state.keys, state.listed, size, place)
    state.counters[LISTED] = size
    state.counters[IN_HEAP] = 1


@inlined
def _list_up_to_date(state, block, work):
    """Bring the listed rows up to date, block by block, until ``work`` is done; returns the pairs looked at."""
    pairs = 0
    room = len(block[2]) - QUERIES
    while state.counters[CURSOR] < state.counters[LISTED] and pairs < work:
        first = state.counters[CURSOR]
        if not _is_stale(state, state.listed[first]):
            state.counters[CURSOR] = first + 1
            continue
        last = first + 1
        while last < min(state.counters[LISTED], first + room) and _is_stale(state, state.listed[last]):
            last += 1
        pairs += bring_up_to_date(state, state.listed[first:last], block)
        state.counters[CURSOR] = last
    return pairs


@inlined
def _top_up_to_date(state, few, block):
    """Bring the first rows of the heap up to date together, a tile of them at most; returns the pairs looked at."""
    n = 0
    while n < QUERIES and state.counters[LISTED] > 0 and _is_stale(state, state.listed[0]):
        row = _pop(state)
        if is_closed(state.limits, stratum_of(state.limits, row)):
            state.keys[row] = GONE
            continue
        place = n
        while place > 0 and state.seen[few[place - 1]] > state.seen[row]:
            few[place] = few[place - 1]
            place -= 1
        few[place] = row
        n += 1
    pairs = bring_up_to_date(state, few[:n], block) if n > 0 else 0
    for k in range(n):
        if state.keys[few[k]] > state.numbers[FLOOR]:
            _push(state, few[k])
    return pairs


@kernel
def _advance(state, work):
    dimension = state.data.shape[1]
    pairs_allowed = work // dimension + 1
    taken = max(1, state.counters[TAKEN])
    room = max(1, min(QUERY_BYTES // (FLOAT_BYTES * dimension), pairs_allowed // taken) // QUERIES) * QUERIES
    # A tile beyond the last row: the scores it needs are out of reach, its queries read but never used.
    queries = np.zeros((room + QUERIES, dimension), np.float32)
    needed = np.empty(room + QUERIES, np.float32)
    block = (queries, np.empty(room, np.float64), needed, np.empty((QUERIES, LANES), np.float32))
    few = np.empty(QUERIES, np.int32)
    pairs = 0
    while pairs < pairs_allowed:
        if state.counters[TAKEN] == len(state.order):
            return FINISHED
        if state.counters[IN_HEAP] == 0:
            pairs += _list_up_to_date(state, block, pairs_allowed - pairs)
            if state.counters[CURSOR] == state.counters[LISTED]:
                _make_heap(state)
            continue
        if state.counters[LISTED] == 0:
            pairs += len(state.keys) // LANES
            if not _begin_round(state):
                return FINISHED
            continue
        top = state.listed[0]
        if _is_stale(state, top):
            pairs += _top_up_to_date(state, few, block)
        elif not fits(state.limits, top):
            state.keys[_pop(state)] = GONE
            pairs += 1
        elif state.keys[top] < state.numbers[LEAST]:
            return NEAR
        else:
            distance = state.keys[top]
            add_centre(state, np.int64(_pop(state)), distance)
            pairs += LANES
    return WORKING


@kernel
def _begin(state, centres):
    dimension = state.data.shape[1]
    stride = dimension * FLOAT_BYTES
    data_at = np.int64(state.data.ctypes.data)
    for row in range(len(state.keys)):
        if state.keys[row] > GONE:
            state.keys[row] = pair_distance(data_at + row * stride, data_at + centres[0] * stride, dimension)
    state.seen[:] = 1
    for centre in centres:
        add_centre(state, centre, np.inf)
    state.counters[IN_HEAP] = 1


@kernel
def _longest(data, origin):
    """Largest squared distance of a row from the origin; infinite where one is not finite."""
    longest, dimension = 0.0, data.shape[1]
    data_at, origin_at = np.int64(data.ctypes.data), np.int64(origin.ctypes.data)
    for row in range(len(data)):
        squared = pair_distance(data_at + row * dimension * FLOAT_BYTES, origin_at, dimension)
        if not np.isfinite(squared):
            return np.inf
        longest = max(longest, squared)
    return longest


def begin(
    data: NDArray[np.float32],
    free: NDArray[np.bool_],
    centres: NDArray[np.int64],
    limits: Limits,
    *,
    least_distance: float = 0.0,
) -> Traversal:
    """Start a traversal.

    Parameters
    ----------
    data : float32 [n, d]
        Finite; read where it lies, so that it must not change until the end.
    free : bool [n]
        Rows that may be taken.
    centres : int64 [m]
        Rows to start from, free or not; one or more, all different.
    limits : Limits
        That nothing was taken of; the centres count.
    least_distance : float
        Rows nearer than this to a centre are not taken; 0: all may be.

    Raises
    ------
    ValueError
        When a row is not finite, or too long for float32 (`MAX_SQUARED_LENGTH`); when there is no centre.
    """
    matrix = read_only(data)
    n, dimension = matrix.shape
    starts = np.ascontiguousarray(centres, np.int64)
    if len(starts) == 0:
        raise ValueError("one centre or more is needed")
    # Any origin will do: one near most rows leaves least to the bound on errors.
    sample = matrix[:: max(1, n // ORIGIN_ROWS)]
    origin = common_origin(sample) if np.isfinite(sample).all() else np.zeros(dimension, np.float32)
    if not _longest(matrix, origin) <= MAX_SQUARED_LENGTH:
        raise ValueError(f"rows must be finite, and within {MAX_SQUARED_LENGTH**0.5:.3g} of their mean")
    capacity = len(starts) + int(np.count_nonzero(free))
    if len(limits.sizes) == 0:
        capacity = max(len(starts), min(capacity, int(limits.counters[0])))
    n_panels = -(-capacity // LANES)
    counters, numbers = np.zeros(N_COUNTERS, np.int64), np.zeros(N_NUMBERS)
    numbers[LEAST] = least_distance * least_distance
    state = Traversal(
        data=matrix,
        keys=np.where(free, 0.0, GONE),
        seen=np.empty(n, np.int32),
        order=np.empty(capacity, np.int64),
        distances=np.empty(capacity, np.float64),
        panels=np.zeros((n_panels, dimension, LANES), np.float32),
        bias=np.full((n_panels, LANES), -np.inf, np.float32),
        origin=origin,
        listed=np.empty(n, np.int32),
        limits=limits,
        counters=counters,
        numbers=numbers,
    )
    _begin(state, starts)
    return state


def advance(state: Traversal, work: int) -> int:
    """Take more rows; return `WORKING`, `FINISHED` or `NEAR`.

    Parameters
    ----------
    state : Traversal
        Changed.
    work : int
        Coordinates to compare, about, before it returns: 10**9 take about 30 milliseconds.
    """
    status: int = _advance(state, work)
    return status


def taken(state: Traversal) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Centres so far in their order, int64 [t], and each one's distance from those before, float64 [t].

    The distance is infinite for the centres of the start. It never grows over the others, and is the radius that the
    rows before cover all free rows with, as long as no stratum is closed.
    """
    count = int(state.counters[TAKEN])
    return state.order[:count].copy(), np.sqrt(state.distances[:count])


@kernel
def _sum_rows(data, chosen, total):
    for row in range(len(data)):
        if chosen[row]:
            for column in range(data.shape[1]):
                total[column] += data[row, column]


@kernel
def _nearest_to(data, free, point):
    best, best_row = np.inf, -1
    for row in range(len(data)):
        if free[row]:
            total = 0.0
            for column in range(data.shape[1]):
                apart = data[row, column] - point[column]
                total += apart * apart
            if total < best:
                best, best_row = total, row
    return best_row


def central_row(data: NDArray[np.float32], free: NDArray[np.bool_]) -> int:
    """The free row nearest to the mean of all rows, the lowest of those as near; -1 when none is free."""
    matrix = read_only(data)
    mean = np.zeros(matrix.shape[1])
    _sum_rows(matrix, np.ones(len(matrix), np.bool_), mean)
    mean /= max(1, len(matrix))
    row: int = _nearest_to(matrix, np.ascontiguousarray(free, np.bool_), mean)
    return row
