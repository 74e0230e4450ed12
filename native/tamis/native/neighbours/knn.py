"""k nearest neighbours of every row: exact, or among the rows of the nearest cells.

The approximate graph is an inverted file searched backwards. Rows are grouped in k-means cells; every row picks the
cells with the nearest centres; then, cell by cell, all rows that picked it meet the cell's rows in register tiles. So
the work a pair costs is that of a matrix product, where searching row by row costs a pass over memory.
"""

# mypy: disable-error-code="no-untyped-def"

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.neighbours import kmeans
from tamis.native.neighbours.kmeans import Map
from tamis.native.neighbours.panels import (
    EMPTY,
    Panels,
    best_rows,
    lists_of,
    pack,
    pack_groups,
    pair_distances,
    read_only,
    update_lists,
)

SEARCHED_ROWS = 1 << 14
"""Rows whose neighbours are sought in one call, at most: well below a second up to `SEARCHED_DIMENSION`."""
SEARCHED_DIMENSION = 128
"""Beyond it a call takes the fewer rows, the more dimensions they have."""
SAMPLE_PER_CELL = 32
"""Rows a cell that its centre is trained on."""
TRAINING_STEPS = 5
"""Steps of k-means; more move the recall by less than a percent."""

_NOBODY = -1


class Graph(NamedTuple):
    """Neighbours of each row, nearest first, equal distances by lower row number; a row is not its own neighbour."""

    rows: NDArray[np.int32]  # [n, k]; -1 where there are fewer than k others
    squared: NDArray[np.float32]  # [n, k], squared Euclidean distances; inf where there is no row
    cells: NDArray[np.int32]  # [n], the cell of each row: neighbours tend to share one


class Cells(NamedTuple):
    """Rows grouped by the nearest of some centres."""

    centres: NDArray[np.float32]  # [cells, dimension]
    panels: Panels  # the rows, cell after cell
    first_panel: NDArray[np.int64]  # [cells + 1]
    order: NDArray[np.int32]  # [n], row numbers, cell after cell
    chosen: NDArray[np.int32]  # [n, probes], cells by distance, the row's own first


@piece
def _sort_line(rows, squared):
    for k in range(1, len(rows)):
        row, distance = rows[k], squared[k]
        place = k
        while place > 0 and (
            squared[place - 1] > distance or (squared[place - 1] == distance and rows[place - 1] > row)
        ):
            rows[place] = rows[place - 1]
            squared[place] = squared[place - 1]
            place -= 1
        rows[place] = row
        squared[place] = distance


@kernel
def _sort_lines(rows, squared):
    for k in range(len(rows)):
        _sort_line(rows[k], squared[k])


@kernel
def _group_members(chosen, first, last, starts, members):
    """Group rows by the cells they chose as ``first`` to ``last`` nearest: a counting sort."""
    starts[:] = 0
    for k in range(len(chosen)):
        for probe in range(first, last):
            starts[chosen[k, probe] + 1] += 1
    for cell in range(len(starts) - 1):
        starts[cell + 1] += starts[cell]
    filled = starts.copy()
    for k in range(len(chosen)):
        for probe in range(first, last):
            cell = chosen[k, probe]
            members[filled[cell]] = k
            filled[cell] += 1


@kernel
def _search_cells(queries, own, members, starts, panels, first_panel, keys):
    for cell in range(len(starts) - 1):
        if starts[cell + 1] > starts[cell]:
            mine = members[starts[cell] : starts[cell + 1]]
            update_lists(queries, own, mine, panels, first_panel[cell], first_panel[cell + 1], keys)


def _search(
    data: NDArray[np.float32], cells: Cells, own: NDArray[np.int32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Neighbours of the rows ``own``, and their squared distances."""
    queries, chosen = read_only(data[own]), cells.chosen[own]
    probes = chosen.shape[1]
    keys = np.full((len(own), k), EMPTY)
    starts = np.empty(len(cells.first_panel), np.int64)
    members = np.empty(len(own) * max(1, probes - 1), np.int32)
    for first, last in ((0, 1), (1, probes)):  # one's own cell first: what follows then seldom enters a list
        _group_members(chosen, first, last, starts, members)
        _search_cells(queries, own, members, starts, cells.panels, cells.first_panel, keys)
    rows = lists_of(keys).rows
    missing = rows == _NOBODY
    squared = pair_distances(queries, data, np.arange(len(own)), np.where(missing, 0, rows))
    squared[missing] = np.inf
    _sort_lines(rows, squared)
    return rows, squared


def _block_rows(data: NDArray[np.float32]) -> int:
    dimension: int = max(SEARCHED_DIMENSION, data.shape[1])
    return max(1, SEARCHED_ROWS * SEARCHED_DIMENSION // dimension)


def _fill(data: NDArray[np.float32], cells: Cells, k: int, each: Map) -> Graph:
    n = len(data)
    size = _block_rows(data)
    graph = Graph(np.empty((n, k), np.int32), np.empty((n, k), np.float32), cells.chosen[:, 0].copy())

    def search(block: int) -> None:
        own = cells.order[block * size : (block + 1) * size]
        graph.rows[own], graph.squared[own] = _search(data, cells, own, k)

    for _ in each(search, range(math.ceil(n / size))):
        pass
    return graph


def exact_graph(matrix: NDArray[np.float32], k: int, *, each: Map = map) -> Graph:
    """Nearest neighbours among all rows.

    Parameters
    ----------
    matrix : float32 [n, dimension]
        Finite.
    k : int
        1 or more.
    each
        An ordered map over block numbers.
    """
    data = read_only(matrix)
    n = len(data)
    order = np.arange(n, dtype=np.int32)
    one = Cells(data[:0], pack(data), np.zeros(2, np.int64), order, np.zeros((n, 1), np.int32))
    one.first_panel[1] = len(one.panels.rows)
    return _fill(data, one, k, each)


def make_cells(
    matrix: NDArray[np.float32], n_cells: int, probes: int, key: NDArray[np.uint64], *, each: Map = map
) -> Cells:
    """Group rows by k-means centres trained on a sample.

    Parameters
    ----------
    matrix : float32 [n, dimension]
    n_cells : int
        1 to n.
    probes : int
        Cells that each row chooses, 1 to ``n_cells``.
    key
        Of the random stream that the sample is drawn from.
    """
    data = read_only(matrix)
    n = len(data)
    sample = kmeans.sample_rows(key, n, SAMPLE_PER_CELL * n_cells)
    start = data[kmeans.sample_rows(key, n, n_cells)]
    centres = kmeans.means(kmeans.in_blocks(data[sample]), start, TRAINING_STEPS, each=each).centres
    packed = pack(centres)
    chosen, size = np.empty((n, probes), np.int32), _block_rows(data)

    def choose(block: int) -> None:
        part = slice(block * size, (block + 1) * size)
        chosen[part] = best_rows(data[part], packed, probes).rows

    for _ in each(choose, range(math.ceil(n / size))):
        pass
    order = np.argsort(chosen[:, 0], kind="stable").astype(np.int32)
    starts = np.searchsorted(chosen[order, 0], np.arange(n_cells + 1))
    panels, first_panel = pack_groups(data, order, starts)
    return Cells(centres, panels, first_panel, order, chosen)


def cell_graph(
    matrix: NDArray[np.float32], k: int, n_cells: int, probes: int, key: NDArray[np.uint64], *, each: Map = map
) -> Graph:
    """Nearest neighbours among the rows of the cells nearest to each row: see `make_cells`."""
    data = read_only(matrix)
    return _fill(data, make_cells(data, n_cells, probes, key, each=each), k, each)
