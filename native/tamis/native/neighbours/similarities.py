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
from tamis.native.neighbours.kmeans import BLOCK_ROWS, Map
from tamis.native.neighbours.knn import Graph
from tamis.native.neighbours.panels import assign, pack, read_only
from tamis.native.simd.tile import FLOAT_BYTES, pair_distance

MAX_COMPLETE_ROWS = 1 << 12
"""Rows of a matrix of all pairs, at most: 8 bytes a pair."""

COMPLETE_BLOCK_ROWS = 128
"""Rows of such a matrix that are compared with all before them in one call: a fraction of a second at most."""


class Similarities(NamedTuple):
    """Pairs by row; both directions of a pair are there."""

    starts: NDArray[np.int64]  # [n + 1]
    rows: NDArray[np.int32]  # [pairs], place of the other row
    squared: NDArray[np.float32]  # [pairs], squared distance
    largest: float  # M
    ids: NDArray[np.int32]  # [n], row numbers: all else is by place, where neighbours stand close to each other
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
def _count_pairs(rows, squared, first, last, mutual, counts):
    """Count the neighbours of rows ``first`` to ``last``, and the neighbours that do not list them as theirs."""
    for k in range(first, last):
        for place in range(rows.shape[1]):
            row = rows[k, place]
            if row < 0:
                break
            counts[k] += 1
            mutual[k, place] = _lists(rows, squared, row, k, squared[k, place])
            if not mutual[k, place]:
                counts[row] += 1


@kernel
def _fill_pairs(rows, squared, first, last, mutual, filled, out):
    for k in range(first, last):
        for place in range(rows.shape[1]):
            row = rows[k, place]
            if row < 0:
                break
            out.rows[filled[k]] = row
            out.squared[filled[k]] = squared[k, place]
            filled[k] += 1
            if not mutual[k, place]:
                out.rows[filled[row]] = k
                out.squared[filled[row]] = squared[k, place]
                filled[row] += 1


@kernel
def _fill_complete(data, first, last, rows, squared):
    """Fill in the pairs of rows ``first`` to ``last`` with all rows before them."""
    dimension = data.shape[1]
    address = np.int64(data.ctypes.data)
    stride = dimension * FLOAT_BYTES
    for k in range(first, last):
        for row in range(k):
            distance = np.float32(pair_distance(address + k * stride, address + row * stride, dimension))
            rows[k, row] = row
            squared[k, row] = distance
            rows[row, k - 1] = k
            squared[row, k - 1] = distance


def _inverse(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    places = np.empty(len(ids), np.int32)
    places[ids] = np.arange(len(ids), dtype=np.int32)
    return places


def places_of(pairs: Similarities, rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Places, int64 [k], of row numbers int64 [k]."""
    places: NDArray[np.int64] = _inverse(pairs.ids)[rows].astype(np.int64)
    return places


def of_neighbours(graph: Graph, *, each: Map = map) -> Similarities:
    """Pairs of which one row at least lists the other as its neighbour.

    Parameters
    ----------
    graph : Graph
    each
        An ordered map that does one block after the other, never two at once.
    """
    n = len(graph.rows)
    ids = np.argsort(graph.cells, kind="stable").astype(np.int32)
    places = np.append(_inverse(ids), np.int32(-1))  # the last: of no row
    rows, squared = places[graph.rows[ids]], graph.squared[ids]
    starts = np.zeros(n + 1, np.int64)
    mutual = np.empty(rows.shape, np.bool_)
    blocks = range(-(-n // BLOCK_ROWS))

    def count(block: int) -> None:
        first = block * BLOCK_ROWS
        _count_pairs(rows, squared, first, min(n, first + BLOCK_ROWS), mutual, starts[1:])

    for _ in each(count, blocks):
        pass
    np.cumsum(starts, out=starts)
    pairs = int(starts[-1])
    reach = np.array(squared[:, -1], np.float32)
    out = Similarities(starts, np.empty(pairs, np.int32), np.empty(pairs, np.float32), 0.0, ids, reach)
    filled = starts[:-1].copy()

    def fill(block: int) -> None:
        first = block * BLOCK_ROWS
        _fill_pairs(rows, squared, first, min(n, first + BLOCK_ROWS), mutual, filled, out)

    for _ in each(fill, blocks):
        pass
    return out._replace(largest=float(out.squared.max(initial=0.0)))


def of_all_pairs(matrix: NDArray[np.float32], *, each: Map = map) -> Similarities:
    """Every pair of rows.

    Parameters
    ----------
    matrix : float32 [n, dimension]
        At most `MAX_COMPLETE_ROWS` rows.
    each
        An ordered map over block numbers. Blocks fill in places of their own.
    """
    data = read_only(matrix)
    n = len(data)
    if n > MAX_COMPLETE_ROWS:
        raise ValueError(f"all pairs of at most {MAX_COMPLETE_ROWS} rows")
    rows, squared = np.empty((n, max(0, n - 1)), np.int32), np.empty((n, max(0, n - 1)), np.float32)

    def fill(block: int) -> None:
        first = block * COMPLETE_BLOCK_ROWS
        _fill_complete(data, first, min(n, first + COMPLETE_BLOCK_ROWS), rows, squared)

    for _ in each(fill, range(-(-n // COMPLETE_BLOCK_ROWS))):
        pass
    starts = np.arange(n + 1, dtype=np.int64) * max(0, n - 1)
    reach = np.full(n, np.inf, np.float32)
    ids = np.arange(n, dtype=np.int32)
    return Similarities(starts, rows.reshape(-1), squared.reshape(-1), float(squared.max(initial=0.0)), ids, reach)


@kernel
def _reach(pairs, chosen, nearest, squared):
    for number in range(len(chosen)):
        row = chosen[number]
        for pair in range(pairs.starts[row], pairs.starts[row + 1]):
            other, distance = pairs.rows[pair], pairs.squared[pair]
            if distance < squared[other] or (distance == squared[other] and number < nearest[other]):
                squared[other] = distance
                nearest[other] = number
    for number in range(len(chosen)):
        squared[chosen[number]] = np.float32(0.0)
        nearest[chosen[number]] = number


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
    nearest, squared = np.zeros(len(data), np.int32), np.full(len(data), np.inf, np.float32)
    chosen_places = places_of(pairs, chosen)
    _reach(pairs, chosen_places, nearest, squared)
    beyond = squared >= pairs.reach
    beyond[chosen_places] = False
    unreached = np.flatnonzero(beyond)
    centres = data[chosen]
    panels = pack(centres)

    def search(block: int) -> None:
        found = unreached[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
        nearest[found], squared[found] = assign(data[pairs.ids[found]], centres, panels)

    for _ in each(search, range(-(-len(unreached) // BLOCK_ROWS))):
        pass
    order = _inverse(pairs.ids)
    return nearest[order], squared[order]
