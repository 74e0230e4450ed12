"""The best rows of queries by inner product, most pairs left out by a bound: the lists of `distances.update_lists`.

A pair whose bound (:mod:`tamis.native.neighbours.int8`) stays below the worst score in the query's list, or below what
the caller asks for, can't enter it. All others are summed up in float32, by the chain of fused multiply-adds of
:mod:`tamis.native.simd.tile`: which pairs are left out, and whether the processor can do this at all, decides time
alone.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.neighbours import panels as distances
from tamis.native.neighbours.int8 import OFFSET, UP, pack_bytes, to_bytes
from tamis.native.neighbours.panels import (
    EMPTY,
    Panels,
    insert_key,
    key_of,
    lists_of,
    read_only,
    score_of,
    update_lists,
)
from tamis.native.simd.tile import (
    CHAINS,
    FLOAT_BYTES,
    LANES,
    QUERY_BYTES,
    WORD_QUERIES,
    pair_products,
    tile_products,
)
from tamis.native.simd.tile import QUERIES as TILE_QUERIES
from tamis.native.simd.tile8 import QUERIES, STEP, WORDS, available, tile_reaches
from tamis.native.simd.words import popcount, trailing_zeros

DENSE = 12
"""Pairs of a tile of 8 bits from which it is cheaper to sum up all of them."""


class Rows(NamedTuple):
    """Rows as they are, packed in float32, and packed in 8 bits."""

    data: NDArray[np.float32]  # [n, dimension]
    panels: Panels
    bytes: NDArray[
        np.uint8
    ]  # [panels, steps, LANES, STEP], rounded values plus an offset; no panels: not to be screened
    terms: NDArray[np.float32]  # [panels, 2, LANES], scales, and what rounding and float32 may hide


class Asked(NamedTuple):
    """Queries, their number padded to whole tiles."""

    data: NDArray[np.float32]  # [m, dimension]
    values: NDArray[np.int8]  # [m padded, dimension to whole steps]
    starts: NDArray[np.int32]  # [m padded], what the offset of the rows' bytes adds to a sum, taken off
    factors: NDArray[np.float32]  # [m padded], of the rows' second term
    scale: NDArray[np.float32]  # [m]
    residual: NDArray[np.float32]  # [m]


class Bar(NamedTuple):
    """A block of queries, and their cut-offs."""

    worst: NDArray[np.float32]  # [size], score to be reached
    limits: NDArray[np.float32]  # [size], what that means for the terms of a row


class Waiting(NamedTuple):
    """Pairs to be summed up."""

    pairs: NDArray[np.int64]  # [CHAINS, 2], addresses
    sums: NDArray[np.float32]  # [CHAINS]
    queries: NDArray[np.int32]  # [CHAINS], in the block
    rows: NDArray[np.int32]  # [CHAINS], numbers as `Panels` has them


class Tile(NamedTuple):
    """Room for pairs that are summed up all together."""

    lines: NDArray[np.float32]  # [QUERIES, dimension]
    sums: NDArray[np.float32]  # [TILE_QUERIES, LANES]
    unreached: NDArray[np.float32]  # [TILE_QUERIES], infinite


def pack(rows: NDArray[np.float32], numbers: NDArray[np.int32]) -> Rows:
    """Pack rows.

    Parameters
    ----------
    rows : float32 [n, d]
        Of length 1 at most, up to rounding.
    numbers : int32 [n]
        What each is called in the lists; -1 where it is not to be found.
    """
    data = read_only(rows)
    panels = distances.pack(data, inner=True)
    ids = np.full(panels.ids.size, -1, np.int32)
    ids[: len(data)] = numbers
    panels = panels._replace(ids=ids.reshape(panels.ids.shape))
    if not available():
        return Rows(data, panels, np.empty((0, 1, LANES, STEP), np.uint8), np.empty((0, 2, LANES), np.float32))
    return Rows(data, panels, *pack_bytes(to_bytes(data)))


def ask(queries: NDArray[np.float32]) -> Asked:
    """Round queries, float32 [m, d], of length 1 at most, up to rounding."""
    data = read_only(queries)
    found = to_bytes(data)
    m, width = found.values.shape
    padded = -(-m // QUERIES) * QUERIES
    values, starts = np.zeros((padded, width), np.int8), np.zeros(padded, np.int32)
    factors = np.zeros(padded, np.float32)
    values[:m] = found.values
    starts[:m] = -OFFSET * found.values.sum(axis=1, dtype=np.int32)
    factors[:m] = (1.0 + found.residual.astype(np.float64)) / found.scale * UP
    return Asked(data, values, starts, factors, found.scale, found.residual)


def offer(asked: Asked, rows: Rows, floor: NDArray[np.float32], keys: NDArray[np.int64]) -> None:
    """Offer rows to the lists of queries.

    Parameters
    ----------
    asked : Asked
    rows : Rows
        Offered once only.
    floor : float32 [m]
        Rows with a lower score are not taken.
    keys : int64 [m, k]
        The lists, as `distances.read_keys` reads them; begun with `distances.EMPTY`; updated.
    """
    least = np.ascontiguousarray(floor, np.float32).view()
    least.setflags(write=False)  # one type for all
    if len(rows.bytes):
        _offer(asked, rows, least, keys)
        return
    nobody, everyone = np.full(len(keys), -1, np.int32), np.arange(len(keys), dtype=np.int32)
    update_lists(asked.data, nobody, everyone, rows.panels, 0, len(rows.panels.rows), keys)
    keys[lists_of(keys).scores < least[:, None]] = EMPTY


@piece
def _raise(query, start, asked, reached, bar):
    """Ask what a query asks anew: more than ever before."""
    bar.worst[query] = max(bar.worst[query], reached)
    residual, scale = np.float64(asked.residual[start + query]), np.float64(asked.scale[start + query])
    bar.limits[query] = np.float32((np.float64(bar.worst[query]) - residual * UP) / scale)


@piece
def _take(keys, query, start, total, row, asked, bar):
    insert_key(keys[start + query], key_of(total, row))
    _raise(query, start, asked, score_of(keys[start + query, keys.shape[1] - 1]), bar)


@piece
def _sum_up(waiting, count, dimension, start, asked, bar, keys):
    """Sum up the pairs that wait, and empty the queue."""
    for place in range(count, CHAINS):
        waiting.pairs[place] = waiting.pairs[0]
    pair_products(np.int64(waiting.pairs.ctypes.data), dimension, np.int64(waiting.sums.ctypes.data))
    for place in range(count):
        query, total = waiting.queries[place], waiting.sums[place]
        if total >= bar.worst[query]:
            _take(keys, query, start, total, waiting.rows[place], asked, bar)


@piece
def _whole_tile(tile, panel, rows, span, asked, bar, keys):
    """Sum up all pairs of a panel with the queries of ``span``: first, count, and start of their block."""
    first, count, start = span
    dimension = asked.data.shape[1]
    for query in range(count):
        tile.lines[query] = asked.data[start + first + query]
    for half in range(0, count, TILE_QUERIES):
        tile_products(
            np.int64(tile.lines.ctypes.data) + half * dimension * FLOAT_BYTES,
            np.int64(rows.panels.rows.ctypes.data) + panel * dimension * LANES * FLOAT_BYTES,
            np.int64(rows.panels.bias.ctypes.data) + panel * LANES * FLOAT_BYTES,
            dimension,
            np.int64(tile.unreached.ctypes.data),
            np.int64(tile.sums.ctypes.data),
        )
        for query in range(half, min(half + TILE_QUERIES, count)):
            for lane in range(LANES):
                row, total = rows.panels.ids[panel, lane], tile.sums[query - half, lane]
                if row >= 0 and total >= bar.worst[first + query]:
                    _take(keys, first + query, start, total, row, asked, bar)


@kernel
def _offer(asked, rows, floor, keys):
    m, dimension = asked.data.shape
    width = asked.values.shape[1]
    steps = width // STEP
    size = max(1, QUERY_BYTES // (width * QUERIES)) * QUERIES
    bar = Bar(np.empty(size, np.float32), np.empty(size, np.float32))
    waiting = Waiting(
        np.zeros((CHAINS, 2), np.int64),
        np.empty(CHAINS, np.float32),
        np.empty(CHAINS, np.int32),
        np.empty(CHAINS, np.int32),
    )
    tile = Tile(
        np.zeros((QUERIES, dimension), np.float32),
        np.empty((TILE_QUERIES, LANES), np.float32),
        np.full(TILE_QUERIES, np.inf, np.float32),
    )
    data_at, rows_at = np.int64(asked.data.ctypes.data), np.int64(rows.data.ctypes.data)
    values_at, bytes_at = np.int64(asked.values.ctypes.data), np.int64(rows.bytes.ctypes.data)
    terms_at, limits_at = np.int64(rows.terms.ctypes.data), np.int64(bar.limits.ctypes.data)
    starts_at, factors_at = np.int64(asked.starts.ctypes.data), np.int64(asked.factors.ctypes.data)
    stride = dimension * FLOAT_BYTES
    for start in range(0, m, size):
        n = min(size, m - start)
        bar.worst[:] = -np.inf
        bar.limits[:] = np.inf  # nothing reaches what pads the last tile
        for query in range(n):
            lowest = score_of(keys[start + query, keys.shape[1] - 1])
            _raise(query, start, asked, max(lowest, floor[start + query]), bar)
        count = 0
        for panel in range(len(rows.bytes)):
            for group in range(0, n, QUERIES):
                words = tile_reaches(
                    values_at + (start + group) * width,
                    bytes_at + panel * width * LANES,
                    terms_at + panel * 2 * LANES * FLOAT_BYTES,
                    steps,
                    starts_at + (start + group) * FLOAT_BYTES,
                    factors_at + (start + group) * FLOAT_BYTES,
                    limits_at + group * FLOAT_BYTES,
                )
                met = 0
                for part in range(WORDS):
                    met += popcount(words[part])
                if met >= DENSE:
                    _whole_tile(tile, panel, rows, (group, min(QUERIES, n - group), start), asked, bar, keys)
                    continue
                for part in range(WORDS):
                    word = words[part]
                    while word:
                        bit = trailing_zeros(word)
                        word &= word - np.uint64(1)
                        lane, query = bit % LANES, group + part * WORD_QUERIES + bit // LANES
                        row = rows.panels.ids[panel, lane]
                        if row < 0:
                            continue
                        waiting.pairs[count, 0] = data_at + (start + query) * stride
                        waiting.pairs[count, 1] = rows_at + (panel * LANES + lane) * stride
                        waiting.queries[count], waiting.rows[count] = query, row
                        count += 1
                        if count == CHAINS:
                            _sum_up(waiting, count, dimension, start, asked, bar, keys)
                            count = 0
        if count:
            _sum_up(waiting, count, dimension, start, asked, bar, keys)
