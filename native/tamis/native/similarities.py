"""Similarities of pairs of rows as a sparse symmetric matrix: of neighbours, or of all pairs.

The similarity of two rows is M less their squared distance, M the largest squared distance of any pair in the matrix;
of a row with itself it is M. Pairs that are not in it have similarity 0: so the matrix of all pairs is the one of
facility location as it is defined, and that of neighbours leaves out the pairs far apart.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.distances import assign, pack, read_only
from tamis.native.kmeans import BLOCK_ROWS, Map
from tamis.native.knn import Graph
from tamis.native.tile import pair_distance

MAX_COMPLETE_ROWS = 1 << 12
"""Rows of a matrix of all pairs, at most: 8 bytes a pair."""

_FLOAT_BYTES = 4


class Similarities(NamedTuple):
    """Pairs by row; both directions of a pair are there."""

    starts: NDArray[np.int64]  # [n + 1]
    rows: NDArray[np.int32]  # [pairs], the other row
    squared: NDArray[np.float32]  # [pairs], squared distance
    largest: float  # M
    reach: NDArray[np.float32]  # [n], squared distance below which all pairs of a row are there


@piece
def _lists(rows, squared, row, other, distance):
    """Whether ``row`` has ``other``, at this distance, among its neighbours."""
    if distance > squared[row, -1]:
        return False
    found = False
    for place in range(rows.shape[1]):
        found |= rows[row, place] == other
    return found


@kernel
def _count_pairs(rows, squared, mutual, counts):
    """Count each row's own neighbours, and those rows that list it without being listed by it."""
    for k in range(len(rows)):
        for place in range(rows.shape[1]):
            row = rows[k, place]
            if row < 0:
                break
            counts[k] += 1
            mutual[k, place] = _lists(rows, squared, row, k, squared[k, place])
            if not mutual[k, place]:
                counts[row] += 1


@kernel
def _fill_pairs(rows, squared, mutual, filled, out_rows, out_squared):
    for k in range(len(rows)):
        for place in range(rows.shape[1]):
            row = rows[k, place]
            if row < 0:
                break
            out_rows[filled[k]] = row
            out_squared[filled[k]] = squared[k, place]
            filled[k] += 1
            if not mutual[k, place]:
                out_rows[filled[row]] = k
                out_squared[filled[row]] = squared[k, place]
                filled[row] += 1


@kernel
def _fill_complete(data, rows, squared):
    n, dimension = data.shape
    address = np.int64(data.ctypes.data)
    stride = dimension * _FLOAT_BYTES
    for k in range(n):
        for row in range(k):
            distance = np.float32(pair_distance(address + k * stride, address + row * stride, dimension))
            rows[k, row] = row
            squared[k, row] = distance
            rows[row, k - 1] = k
            squared[row, k - 1] = distance


def of_neighbours(graph: Graph) -> Similarities:
    """Pairs of which one row at least lists the other as its neighbour."""
    rows, squared = (np.ascontiguousarray(part).view() for part in graph)
    rows.setflags(write=False)
    squared.setflags(write=False)
    n = len(rows)
    starts = np.zeros(n + 1, np.int64)
    mutual = np.empty(rows.shape, np.bool_)
    _count_pairs(rows, squared, mutual, starts[1:])
    np.cumsum(starts, out=starts)
    out = Similarities(
        starts, np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32), 0.0, squared[:, -1].copy()
    )
    _fill_pairs(rows, squared, mutual, starts[:-1].copy(), out.rows, out.squared)
    return out._replace(largest=float(out.squared.max(initial=0.0)))


def of_all_pairs(matrix: NDArray[np.float32]) -> Similarities:
    """Every pair of rows of float32 [n, dimension], at most `MAX_COMPLETE_ROWS` rows."""
    data = read_only(matrix)
    n = len(data)
    if n > MAX_COMPLETE_ROWS:
        raise ValueError(f"all pairs of at most {MAX_COMPLETE_ROWS} rows")
    rows, squared = np.empty((n, max(0, n - 1)), np.int32), np.empty((n, max(0, n - 1)), np.float32)
    _fill_complete(data, rows, squared)
    starts = np.arange(n + 1, dtype=np.int64) * max(0, n - 1)
    reach = np.full(n, np.inf, np.float32)
    return Similarities(starts, rows.reshape(-1), squared.reshape(-1), float(squared.max(initial=0.0)), reach)


@kernel
def _reach(pairs, chosen, places, squared):
    for place in range(len(chosen)):
        row = chosen[place]
        for pair in range(pairs.starts[row], pairs.starts[row + 1]):
            other, distance = pairs.rows[pair], pairs.squared[pair]
            if distance < squared[other] or (distance == squared[other] and place < places[other]):
                squared[other] = distance
                places[other] = place
    for place in range(len(chosen)):
        squared[chosen[place]] = np.float32(0.0)
        places[chosen[place]] = place


def nearest_chosen(
    pairs: Similarities, matrix: NDArray[np.float32], chosen: NDArray[np.int64], *, each: Map = map
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For every row the nearest of some chosen ones: among its neighbours where one is chosen, else among all of them.

    Parameters
    ----------
    pairs : Similarities
        Of the rows of ``matrix``.
    matrix : float32 [n, dimension]
    chosen : int64 [k]
        Distinct rows, one or more. A chosen row is nearest to itself; of equal distances the earlier one counts.
    each
        An ordered map over block numbers.

    Returns
    -------
    int32 [n], float32 [n]
        Which of ``chosen``, and the squared distance to it.
    """
    data = read_only(matrix)
    places, squared = np.zeros(len(data), np.int32), np.full(len(data), np.inf, np.float32)
    _reach(pairs, np.asarray(chosen, np.int64), places, squared)
    beyond = squared >= pairs.reach
    beyond[chosen] = False
    unreached = np.flatnonzero(beyond)
    centres = data[chosen]
    panels = pack(centres)

    def search(block: int) -> None:
        rows = unreached[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
        places[rows], squared[rows] = assign(data[rows], centres, panels)

    for _ in each(search, range(-(-len(unreached) // BLOCK_ROWS))):
        pass
    return places, squared
