"""D2 pruning: difficulty spread over a graph of neighbours, rows taken by it, their neighbours made less wanted.

Maharana, Yadav and Bansal, D2 Pruning: Message Passing for Balancing Diversity and Difficulty in Data Pruning
(arXiv 2310.07931, section 3): forward messages give x_i = s_i + sum over neighbours j of exp(-gamma_f d_ij) s_j; then,
again and again, the row with the largest x is taken, and x_j falls by exp(-gamma_r d_ij) x_i for each neighbour j.

As in the authors' code the graph is symmetric (a neighbour of one row is a neighbour of both), d is the distance, not
squared, and a row taken with a negative x raises its neighbours'. Of equal x the lower row is taken.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.greedy.heap import make_heap
from tamis.native.greedy.limits import Limits, fits, take
from tamis.native.math.elementary import natural_exp
from tamis.native.neighbours.similarities import Similarities

WORKING, FINISHED = 0, 1
"""What `advance` returns: call again, or nothing more can be taken."""

_NOWHERE = -1
"""Place in the heap of a row that can't be taken any more."""
_TAKEN = 0
_IN_HEAP = 1


class Pruning(NamedTuple):
    """The state between two calls of `advance`."""

    pairs: Similarities  # all that follows is by place in it, but `order` and `limits`
    priorities: NDArray[np.float64]  # [n], x
    heap: NDArray[np.int32]  # [n]; the first `counters[1]` are a heap by x
    places: NDArray[np.int32]  # [n], in the heap; -1: not in it
    order: NDArray[np.int64]  # [capacity], row numbers in the order taken
    values: NDArray[np.float64]  # [capacity], their x when they were taken
    limits: Limits
    gamma_reverse: float
    counters: NDArray[np.int64]  # [2], rows taken, rows in the heap


@kernel
def _spread(scores, pairs, gamma, out):
    for place in range(len(scores)):
        total = 0.0
        for pair in range(pairs.starts[place], pairs.starts[place + 1]):
            distance = np.sqrt(np.float64(pairs.squared[pair]))
            total += natural_exp(-gamma * distance) * scores[pairs.rows[pair]]
        out[place] = scores[place] + total


def spread(scores: NDArray[np.float64], pairs: Similarities, gamma: float) -> NDArray[np.float64]:
    """Forward messages: x of every row, float64 [n].

    Parameters
    ----------
    scores : float64 [n]
        s, by row number.
    pairs : Similarities
    gamma : float
        gamma_f.
    """
    found = np.empty(len(scores))
    _spread(np.ascontiguousarray(scores, np.float64)[pairs.ids], pairs, float(gamma), found)
    return by_row(pairs, found)


def by_row(pairs: Similarities, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values by place in the order of row numbers."""
    out = np.empty_like(values)
    out[pairs.ids] = values
    return out


@piece
def _comes_before(state, one, other):
    left, right = state.priorities[one], state.priorities[other]
    return left > right or (left == right and state.pairs.ids[one] < state.pairs.ids[other])


@piece
def _record(state, row, place):
    state.places[row] = place


_sift_down, _sift_up = make_heap(_comes_before, _record)


@piece
def _remove(state, row):
    """Take a row out of the heap."""
    place = state.places[row]
    state.places[row] = _NOWHERE
    last = state.counters[_IN_HEAP] - 1
    state.counters[_IN_HEAP] = last
    if place != last:
        moved = state.heap[last]
        state.heap[place] = moved
        state.places[moved] = place
        _sift_down(state, state.heap, state.counters[_IN_HEAP], place)
        _sift_up(state, state.heap, state.places[moved])


@piece
def _take_row(state, row):
    """Take a row and send its reverse messages."""
    count, value = state.counters[_TAKEN], state.priorities[row]
    state.order[count] = state.pairs.ids[row]
    state.values[count] = value
    state.counters[_TAKEN] = count + 1
    take(state.limits, state.pairs.ids[row])
    for pair in range(state.pairs.starts[row], state.pairs.starts[row + 1]):
        other = state.pairs.rows[pair]
        distance = np.sqrt(np.float64(state.pairs.squared[pair]))
        state.priorities[other] -= natural_exp(-state.gamma_reverse * distance) * value
        if state.places[other] != _NOWHERE:
            _sift_down(state, state.heap, state.counters[_IN_HEAP], state.places[other])
            _sift_up(state, state.heap, state.places[other])


@kernel
def _begin(state, first):
    for place in range(state.counters[_IN_HEAP] // 2 - 1, -1, -1):
        _sift_down(state, state.heap, state.counters[_IN_HEAP], place)
    for row in first:
        _take_row(state, row)


@kernel
def _advance(state, work):
    done = 0
    while done < work:
        if state.counters[_IN_HEAP] == 0 or state.counters[_TAKEN] == len(state.order):
            return FINISHED
        row = np.int64(state.heap[0])
        _remove(state, row)
        if fits(state.limits, state.pairs.ids[row]):
            _take_row(state, row)
            done += state.pairs.starts[row + 1] - state.pairs.starts[row]
        done += 1
    return WORKING


def begin(
    pairs: Similarities,
    scores: NDArray[np.float64],
    limits: Limits,
    *,
    free: NDArray[np.bool_],
    first: NDArray[np.int64],
    gamma_forward: float,
    gamma_reverse: float,
) -> Pruning:
    """Send the forward messages, and take the rows of an earlier selection.

    Parameters
    ----------
    pairs : Similarities
        Both directions of each pair of neighbours; their distances count, their similarities do not.
    scores : float64 [n]
        s, finite: larger is harder.
    limits : Limits
        That nothing was taken of; ``first`` counts.
    free : bool [n]
        Rows that may be taken.
    first : int64 [k]
        Rows to take first, in their order, free or not.
    gamma_forward, gamma_reverse : float
        0 or more.
    """
    n = len(scores)
    usable = np.array(free, np.bool_)
    usable[first] = False
    heap = np.flatnonzero(usable[pairs.ids]).astype(np.int32)
    places = np.full(n, _NOWHERE, np.int32)
    places[heap] = np.arange(len(heap), dtype=np.int32)
    capacity = len(first) + len(heap)
    if len(limits.sizes) == 0:
        capacity = max(len(first), min(capacity, int(limits.counters[0])))
    state = Pruning(
        pairs=pairs,
        priorities=spread(scores, pairs, gamma_forward)[pairs.ids],
        heap=heap,
        places=places,
        order=np.empty(capacity, np.int64),
        values=np.empty(capacity, np.float64),
        limits=limits,
        gamma_reverse=float(gamma_reverse),
        counters=np.array([0, len(heap)], np.int64),
    )
    own = np.empty(n, np.int64)
    own[pairs.ids] = np.arange(n)
    _begin(state, own[first])
    return state


def advance(state: Pruning, work: int) -> int:
    """Take more rows, looking at about ``work`` neighbours; return `WORKING` or `FINISHED`."""
    status: int = _advance(state, work)
    return status


def taken(state: Pruning) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows so far in their order, int64 [t], and each one's x when it was taken, float64 [t]."""
    count = int(state.counters[_TAKEN])
    return state.order[:count].copy(), state.values[:count].copy()
