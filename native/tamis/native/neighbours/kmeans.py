"""k-means over blocks of rows: Lloyd's algorithm, with sums in a fixed order so that its bits depend on the data alone.

Assignment is by register tiles; sums are float64, by row within a block and by block after that. A block is read, used
and let go, so that memory does not depend on the number of rows. Blocks may be worked on in threads: whoever calls
brings an ordered map (`each`), and the results are added up in the order of the blocks.
"""

# mypy: disable-error-code="no-untyped-def"

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.math import rng
from tamis.native.neighbours.panels import Panels, assign, pack, read_only

Map = Callable[[Callable[[int], Any], Iterable[int]], Iterator[Any]]
"""Like `map`: the results in the order of the arguments, however they are computed."""

BLOCK_ROWS = 1 << 14
"""Rows of a block of `in_blocks`. The order of sums depends on it: the centres do, in their last bits."""
FARTHEST = 32
"""Rows far from their centre that a block offers as new centres for clusters that have become empty."""


class Means(NamedTuple):
    """The centres of `means`."""

    centres: NDArray[np.float32]  # [k, dimension]
    inertia: list[float]  # a step: mean squared distance of a row to the nearest of the centres the step began with
    empty: int  # clusters without a row after the last step


class _Part(NamedTuple):
    """The sums that a block adds to a step."""

    totals: NDArray[np.float64]  # [k, dimension]
    counts: NDArray[np.int64]  # [k]
    inertia: float
    farthest: NDArray[np.float32]  # [at most FARTHEST], squared distances, largest first
    far_rows: NDArray[np.float32]  # [at most FARTHEST, dimension]


@kernel
def _add_rows(rows, codes, totals, counts):
    for k in range(len(codes)):
        code = codes[k]
        counts[code] += 1
        for column in range(rows.shape[1]):
            totals[code, column] += np.float64(rows[k, column])


def in_blocks(rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Cut a matrix into views of `BLOCK_ROWS` rows."""
    return [rows[first : first + BLOCK_ROWS] for first in range(0, len(rows), BLOCK_ROWS)]


def sample_rows(key: NDArray[np.uint64], n: int, count: int) -> NDArray[np.int64]:
    """Row numbers of a random sample without replacement, int64 [min(count, n)], ascending: the lowest random words.

    A pure function of the key, so that a larger sample contains the smaller.
    """
    if count >= n:
        return np.arange(n, dtype=np.int64)
    words = rng.random_bits(key, 0, np.empty(n, np.uint64))
    return np.sort(np.lexsort((np.arange(n), words))[:count]) if count else np.empty(0, np.int64)


def _farthest(squared: NDArray[np.float32]) -> NDArray[np.int64]:
    """Positions of the largest, ties by the lower one; those at distance 0 are left out."""
    order = np.argsort(-squared, kind="stable")[:FARTHEST]
    return order[squared[order] > 0]


def _part(rows: NDArray[np.float32], centres: NDArray[np.float32], panels: Panels) -> _Part:
    data = read_only(rows)
    codes, squared = assign(data, centres, panels)
    totals, counts = np.zeros(centres.shape), np.zeros(len(centres), np.int64)
    _add_rows(data, codes, totals, counts)
    far = _farthest(squared)
    return _Part(totals, counts, float(np.cumsum(squared, dtype=np.float64)[-1]), squared[far], data[far])


def means(
    blocks: Sequence[NDArray[np.float32]],
    start: NDArray[np.float32],
    iterations: int,
    *,
    each: Map = map,
) -> Means:
    """Move centres to the means of the rows nearest to them, a number of times.

    A cluster without rows gets the row farthest from its centre, over all blocks: the first empty cluster the farthest,
    and so on (ties: the earlier row). Where there are no more such rows, it stays where it is.

    Parameters
    ----------
    blocks : sequence of float32 [rows, dimension]
        None empty. Read once a step, by whichever thread.
    start : float32 [k, dimension]
    iterations : int
        Steps, 0 or more; it ends early once no centre moves.
    each
        An ordered map over block numbers.
    """
    centres = np.array(start, dtype=np.float32, order="C")
    inertia: list[float] = []
    empty = 0
    for _ in range(iterations):
        panels = pack(centres)

        def part(block: int, centres: NDArray[np.float32] = centres, panels: Panels = panels) -> _Part:
            return _part(blocks[block], centres, panels)

        totals, counts = np.zeros(centres.shape), np.zeros(len(centres), np.int64)
        total, far = 0.0, np.empty(0, np.float32)
        far_rows = np.empty((0, centres.shape[1]), np.float32)
        for found in each(part, range(len(blocks))):
            totals += found.totals
            counts += found.counts
            total += found.inertia
            far, far_rows = np.append(far, found.farthest), np.vstack((far_rows, found.far_rows))
            order = np.argsort(-far, kind="stable")[: len(centres)]
            far, far_rows = far[order], far_rows[order]
        inertia.append(total / int(counts.sum()))
        moved = centres.copy()
        full = counts > 0
        moved[full] = (totals[full] / counts[full, None]).astype(np.float32)
        vacant = np.flatnonzero(~full)
        empty = len(vacant)
        seats = vacant[: len(far)]
        moved[seats] = far_rows[: len(seats)]
        if np.array_equal(moved, centres):
            break
        centres = moved
    return Means(centres, inertia, empty)
