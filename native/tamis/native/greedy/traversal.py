"""The state of a farthest-first traversal: what may be taken, and rows compared with the centres they have not seen."""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import piece
from tamis.native.greedy.limits import Limits, take
from tamis.native.simd.tile import FLOAT_BYTES, LANES, QUERIES, WORD_QUERIES, pair_distance, tile_products
from tamis.native.simd.words import trailing_zeros

_ROUNDOFF = 2.0**-24
"""Of float32."""
_ROUNDINGS = 16
"""Beside one a dimension: of origin, coordinates, squared lengths and limits. Generous."""
_TINY = 1e-36
"""Above what underflow in float32 can hide."""
GONE = -1.0
"""Key of a row that can't be taken."""
_NO_LIMIT = 3.0e38

# Places in `Traversal.counters`.
TAKEN = 0  # centres, those of the start included
LISTED = 1  # rows of the round still to be brought up to date, or in its heap
CURSOR = 2  # first listed row that is not up to date
IN_HEAP = 3  # whether the round's rows are all up to date and in a heap
N_COUNTERS = 4
# Places in `Traversal.numbers`.
FLOOR = 0  # of the round: its rows are those with keys above
LONGEST = 1  # length of the longest centre, from the origin
LEAST = 2  # squared distance below which no row is taken
N_NUMBERS = 3


class Traversal(NamedTuple):
    """The state between two calls of `advance`."""

    data: NDArray[np.float32]  # [n, d], read-only
    keys: NDArray[np.float64]  # [n], squared distance to the nearest of the first `seen` centres; -1: can't be taken
    seen: NDArray[np.int32]  # [n]
    order: NDArray[np.int64]  # [capacity], rows: the centres of the start, then those taken
    distances: NDArray[np.float64]  # [capacity], squared, to the nearest centre when a row was taken; inf at the start
    panels: NDArray[np.float32]  # [panels, d, LANES], centres less the origin
    bias: NDArray[np.float32]  # [panels, LANES], -|centre|²/2; -inf where there is none yet
    origin: NDArray[np.float32]  # [d]
    listed: NDArray[np.int32]  # [n], the round's rows
    limits: Limits  # what was taken, the centres of the start included, and what may be
    counters: NDArray[np.int64]
    numbers: NDArray[np.float64]


@piece
def add_centre(state, row, distance):
    place = state.counters[TAKEN]
    panel, lane = place // LANES, place % LANES
    total = 0.0
    for column in range(state.data.shape[1]):
        value = np.float32(state.data[row, column] - state.origin[column])
        state.panels[panel, column, lane] = value
        total += np.float64(value) * np.float64(value)
    state.bias[panel, lane] = np.float32(-0.5 * total)
    state.numbers[LONGEST] = max(state.numbers[LONGEST], np.sqrt(total))
    state.order[place] = row
    state.distances[place] = distance
    state.keys[row] = GONE
    take(state.limits, row)
    state.counters[TAKEN] = place + 1


@piece
def score_limit(key, squared, longest, dimension):
    """Least float32 score of a centre that may be nearer than ``key``.

    A score is |c|²/2 taken off x.c, so that |x - c|² = |x|² - 2 score. Its error, that of the coordinates' shift and
    that of this limit are within (d + 16) 2**-24 (|x| + |c|)², the bound on a recursive sum (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1).
    """
    reach = np.sqrt(squared) + longest
    slack = (dimension + _ROUNDINGS) * _ROUNDOFF * reach * reach + _TINY
    return np.float32(0.5 * (squared - key) - slack)


@piece
def bring_up_to_date(state, rows, block):
    """Compare rows with the centres that they have not seen; returns the pairs of a row and a lane looked at.

    Parameters
    ----------
    rows : int32 [m]
        By the panel of the first centre not seen, ascending; at most as many as ``block`` has room for.
    block : tuple
        Room: queries float32 [room, d], squared lengths float64 [room], needed scores float32 [room], sums float32
        [QUERIES, LANES].
    """
    queries, squared, needed, sums = block
    dimension = state.data.shape[1]
    taken = state.counters[TAKEN]
    longest = state.numbers[LONGEST]
    n = len(rows)
    stride = dimension * FLOAT_BYTES
    data_at, query_at = np.int64(state.data.ctypes.data), np.int64(queries.ctypes.data)
    needed_at, sum_at = np.int64(needed.ctypes.data), np.int64(sums.ctypes.data)
    panel_at, bias_at = np.int64(state.panels.ctypes.data), np.int64(state.bias.ctypes.data)
    origin_at = np.int64(state.origin.ctypes.data)
    for k in range(n):
        row = np.int64(rows[k])
        for column in range(dimension):
            queries[k, column] = state.data[row, column] - state.origin[column]
        squared[k] = pair_distance(data_at + row * stride, origin_at, dimension)
        needed[k] = score_limit(state.keys[row], squared[k], longest, dimension)
    needed[n:] = _NO_LIMIT
    pairs = 0
    for panel in range(state.seen[rows[0]] // LANES, (taken + LANES - 1) // LANES):
        for group in range(0, n, QUERIES):
            if state.seen[rows[group]] // LANES > panel:
                break  # so have all that follow
            pairs += QUERIES * LANES
            words = tile_products(
                query_at + group * stride,
                panel_at + panel * LANES * stride,
                bias_at + panel * LANES * FLOAT_BYTES,
                dimension,
                needed_at + group * FLOAT_BYTES,
                sum_at,
            )
            for part in range(2):
                word = words[part]
                while word != 0:
                    bit = trailing_zeros(word)
                    word &= word - np.uint64(1)
                    query = group + part * WORD_QUERIES + bit // LANES
                    if query >= n:
                        continue
                    row = np.int64(rows[query])
                    centre = state.order[panel * LANES + bit % LANES]
                    distance = pair_distance(data_at + row * stride, data_at + centre * stride, dimension)
                    if distance < state.keys[row]:
                        state.keys[row] = distance
                        needed[query] = score_limit(distance, squared[query], longest, dimension)
    for k in range(n):
        state.seen[rows[k]] = taken
    return pairs
