"""Greedy maximisation of submodular functions of a similarity matrix, lazily.

At each step the row with the largest gain is taken; of equal gains the lowest row number, as an argmax over all rows
would. Gains only fall as rows are taken (submodularity), and so do they as computed, in float64 and in a fixed order: a
gain computed long ago bounds the gain now, and only rows at the top of a heap of such bounds are computed anew (Minoux,
Accelerated greedy algorithms for maximizing submodular set functions, 1978).
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.greedy.limits import Limits, fits, is_closed, stratum_of, take
from tamis.native.neighbours.similarities import Similarities, places_of

FACILITY_LOCATION, GRAPH_CUT, SATURATED_COVERAGE = 0, 1, 2
"""Functions of a set S of rows, of similarities s:

- facility location: sum over all rows i of the largest s_ij of j in S;
- graph cut: sum of s_ij over all rows i and j in S, less lambda times the sum over i and j in S;
- saturated coverage: sum over all rows i of the sum of s_ij over j in S, or alpha times that over all rows j if less.
"""

WORKING, FINISHED = 0, 1
"""What `advance` returns: call again; nothing more can be taken."""

_NEVER, _GONE = -2, -1
"""In `fresh`: a row that can't be taken; one whose gain was never computed."""

# Places in `Greedy.counters`.
_TAKEN = 0
_CURSOR = 1  # rows whose first gain was computed
_HEAPED = 2  # rows in the heap


class Greedy(NamedTuple):
    """The state between two calls of `advance`; `begin` makes it. By place in the similarities, but for `order`."""

    similarities: Similarities
    limits: Limits
    function: int
    tradeoff: float  # lambda, or alpha
    covered: NDArray[np.float64]  # [n], of each row i: largest s_ij (facility location), or their sum, over j taken
    whole: NDArray[np.float64]  # [n], sum of s_ij over all rows j; empty for facility location
    bounds: NDArray[np.float64]  # [n], gain when it was last computed
    fresh: NDArray[np.int32]  # [n], rows that were taken by then
    heap: NDArray[np.int32]  # [n]
    heap_bounds: NDArray[np.float64]  # [n], of the rows in the heap: beside each other, as they are compared
    order: NDArray[np.int64]  # [capacity], rows in the order they were taken
    gains: NDArray[np.float64]  # [capacity]
    counters: NDArray[np.int64]


@piece
def _similarity(greedy, pair):
    return greedy.similarities.largest - np.float64(greedy.similarities.squared[pair])


@piece
def _gain(greedy, row):
    """The gain of the function by a row."""
    itself = greedy.similarities.largest
    starts, rows = greedy.similarities.starts, greedy.similarities.rows
    if greedy.function == GRAPH_CUT:
        return greedy.whole[row] - greedy.tradeoff * (2.0 * greedy.covered[row] + itself)
    if greedy.function == FACILITY_LOCATION:
        total = max(0.0, itself - greedy.covered[row])
        for pair in range(starts[row], starts[row + 1]):
            total += max(0.0, _similarity(greedy, pair) - greedy.covered[rows[pair]])
        return total
    total = max(0.0, min(itself, greedy.tradeoff * greedy.whole[row] - greedy.covered[row]))
    for pair in range(starts[row], starts[row + 1]):
        other = rows[pair]
        room = greedy.tradeoff * greedy.whole[other] - greedy.covered[other]
        total += max(0.0, min(_similarity(greedy, pair), room))
    return total


@piece
def _cover(greedy, row, similarity):
    if greedy.function == FACILITY_LOCATION:
        greedy.covered[row] = max(greedy.covered[row], similarity)
    else:
        greedy.covered[row] += similarity


@piece
def _take(greedy, row, gain):
    place = greedy.counters[_TAKEN]
    greedy.order[place] = greedy.similarities.ids[row]
    greedy.gains[place] = gain
    greedy.counters[_TAKEN] = place + 1
    greedy.fresh[row] = _GONE
    take(greedy.limits, greedy.similarities.ids[row])
    _cover(greedy, row, greedy.similarities.largest)
    for pair in range(greedy.similarities.starts[row], greedy.similarities.starts[row + 1]):
        _cover(greedy, greedy.similarities.rows[pair], _similarity(greedy, pair))


@piece
def _sift_down(heap, bounds, ids, size, place):
    """Move the row at a place of the heap down to where it belongs; of equal bounds the lower row number is above."""
    row, bound = heap[place], bounds[place]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size:
            left, right = bounds[child], bounds[child + 1]
            if right > left or (right == left and ids[heap[child + 1]] < ids[heap[child]]):
                child += 1
        if bounds[child] < bound or (bounds[child] == bound and ids[heap[child]] > ids[row]):
            break
        heap[place], bounds[place] = heap[child], bounds[child]
        place = child
    heap[place], bounds[place] = row, bound


@piece
def _pop(heap, bounds, ids, size):
    """Take the top off a heap."""
    heap[0], bounds[0] = heap[size - 1], bounds[size - 1]
    if size > 1:
        _sift_down(heap, bounds, ids, size - 1, 0)


@piece
def _pairs_of(greedy, row):
    return greedy.similarities.starts[row + 1] - greedy.similarities.starts[row] + 1


@piece
def _compute_first_gains(greedy, work):
    """Compute the gains of rows one after the other, and make the heap once all are there; returns the pairs seen."""
    n = len(greedy.bounds)
    row = greedy.counters[_CURSOR]
    pairs = 0
    while row < n and pairs < work:
        if greedy.fresh[row] != _GONE:
            greedy.bounds[row] = _gain(greedy, row)
            greedy.fresh[row] = greedy.counters[_TAKEN]
            greedy.heap[greedy.counters[_HEAPED]] = row
            greedy.heap_bounds[greedy.counters[_HEAPED]] = greedy.bounds[row]
            greedy.counters[_HEAPED] += 1
            pairs += _pairs_of(greedy, row)
        row += 1
    greedy.counters[_CURSOR] = row
    if row == n:
        size = greedy.counters[_HEAPED]
        for place in range(size // 2 - 1, -1, -1):
            _sift_down(greedy.heap, greedy.heap_bounds, greedy.similarities.ids, size, place)
    return pairs


@kernel
def _sum_similarities(greedy):
    for row in range(len(greedy.whole)):
        total = greedy.similarities.largest
        for pair in range(greedy.similarities.starts[row], greedy.similarities.starts[row + 1]):
            total += _similarity(greedy, pair)
        greedy.whole[row] = total


@kernel
def _take_first(greedy, rows):
    for k in range(len(rows)):
        _take(greedy, rows[k], _gain(greedy, rows[k]))


@kernel
def advance(greedy, work):
    """Take rows until about ``work`` pairs were looked at; returns `WORKING` or `FINISHED`."""
    pairs = 0
    if greedy.counters[_CURSOR] < len(greedy.bounds):
        pairs += _compute_first_gains(greedy, work)
    heap, bounds, ids = greedy.heap, greedy.heap_bounds, greedy.similarities.ids
    while pairs < work:
        size = greedy.counters[_HEAPED]
        if size == 0 or greedy.counters[_TAKEN] == len(greedy.order):
            return FINISHED
        top = heap[0]
        pairs += 1
        if is_closed(greedy.limits, stratum_of(greedy.limits, ids[top])):
            _pop(heap, bounds, ids, size)
            greedy.counters[_HEAPED] = size - 1
        elif greedy.fresh[top] < greedy.counters[_TAKEN]:
            bounds[0] = greedy.bounds[top] = _gain(greedy, top)
            greedy.fresh[top] = greedy.counters[_TAKEN]
            pairs += _pairs_of(greedy, top)
            _sift_down(heap, bounds, ids, size, 0)
        else:
            if fits(greedy.limits, ids[top]):
                _take(greedy, top, greedy.bounds[top])
                pairs += _pairs_of(greedy, top)
            _pop(heap, bounds, ids, size)
            greedy.counters[_HEAPED] = size - 1
    return WORKING


def begin(
    similarities: Similarities,
    limits: Limits,
    *,
    function: int = FACILITY_LOCATION,
    tradeoff: float = 0.0,
    free: NDArray[np.bool_] | None = None,
    first: NDArray[np.int64] | None = None,
) -> Greedy:
    """State of a greedy choice that has taken ``first`` and nothing else.

    Parameters
    ----------
    similarities : Similarities
        Of n rows.
    limits : Limits
        Updated.
    function : int
        One of the functions of this module.
    tradeoff : float
        Lambda of the graph cut (at most 0.5: above, gains may be negative); alpha of saturated coverage.
    free : bool [n] or None
        Rows that may be taken; all are to be represented. None: all.
    first : int64 [p] or None
        Rows taken before anything else, in this order, whatever ``free`` says.
    """
    n = len(similarities.starts) - 1
    kept = np.empty(0, np.int64) if first is None else np.asarray(first, np.int64)
    fresh = np.full(n, _NEVER, np.int32)
    if free is not None:
        fresh[~free[similarities.ids]] = _GONE
    greedy = Greedy(
        similarities=similarities,
        limits=limits,
        function=function,
        tradeoff=float(tradeoff),
        covered=np.zeros(n),
        whole=np.zeros(0 if function == FACILITY_LOCATION else n),
        bounds=np.zeros(n),
        fresh=fresh,
        heap=np.empty(n, np.int32),
        heap_bounds=np.empty(n),
        order=np.empty(n, np.int64),
        gains=np.empty(n),
        counters=np.zeros(3, np.int64),
    )
    _sum_similarities(greedy)
    _take_first(greedy, places_of(similarities, kept))
    return greedy


def taken(greedy: Greedy) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows taken so far, in their order, and the gain of each: int64 [k], float64 [k]."""
    count = int(greedy.counters[_TAKEN])
    return greedy.order[:count].copy(), greedy.gains[:count].copy()


def scores(greedy: Greedy) -> NDArray[np.float64]:
    """By row number, float64 [n]: the gain of rows taken, of others the gain when last computed, 0 if never."""
    out = np.empty(len(greedy.bounds))
    out[greedy.similarities.ids] = greedy.bounds
    return out
