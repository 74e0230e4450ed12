"""Cuts in the order of the rows: by key, larger first, ties by lower row; one cut for every stratum.

Finding a cut reads the keys two or three times and holds no more than a fixed number of rows, however many there are
(:mod:`tamis.native.sampling.topk`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tamis.native.sampling.topk import CutOffs, mark_selected, ordered_bits, select_topk


class Chunk(NamedTuple):
    """Consecutive rows."""

    start: int  # row number of the first
    keys: npt.NDArray[np.float64]  # (n,) -inf: can't be taken
    codes: npt.NDArray[np.int32] | None  # (n,) strata; all rows are of one when left out
    sizes: npt.NDArray[np.int64] | None  # (n,) what a row counts; 1 when left out


Chunks = Callable[[], Iterator[Chunk]]
"""Called once a pass; gives the same rows every time."""


def nothing(strata: int) -> CutOffs:
    """Return the cuts before every row."""
    bits = np.full(strata, np.iinfo(np.uint64).max, np.uint64)
    zeros = np.zeros(strata, np.int64)
    return CutOffs(bits, np.full(strata, -1, np.int64), zeros, zeros, zeros)


def everything(strata: int) -> CutOffs:
    """Return the cuts after every row that can be taken."""
    return nothing(strata)._replace(bits=np.full(strata, ordered_bits(-np.inf), np.uint64))


def before(cuts: CutOffs, chunk: Chunk) -> npt.NDArray[np.bool_]:
    """Return which rows of `chunk` can be taken and come before the cut of their stratum."""
    return mark_selected(chunk.start, chunk.keys, chunk.codes, cuts)


def cut_within(chunks: Chunks, amounts: npt.NDArray[np.int64], *, by_size: bool) -> CutOffs:
    """Cut every stratum after the longest prefix whose amount is not above `amounts`.

    Parameters
    ----------
    chunks : callable
        The rows.
    amounts : ndarray, shape (strata,), int64
        In rows, or in units of size.
    by_size : bool
        Which of the two.
    """
    return select_topk(chunks, amounts, by_size=by_size)


def cut_reaching(chunks: Chunks, amounts: npt.NDArray[np.int64], *, by_size: bool) -> CutOffs:
    """Cut every stratum after the shortest prefix whose amount is at least `amounts`, or after all its rows.

    Parameters are those of :func:`cut_within`; in rows, the two are the same.
    """
    if not by_size:
        return select_topk(chunks, amounts)
    # What stays below the amount, and then one row more.
    cuts = select_topk(chunks, np.maximum(amounts - 1, 0), by_size=True)
    wanted, none = amounts > 0, nothing(len(amounts))
    bits, rows = np.where(wanted, cuts.bits, none.bits), np.where(wanted, cuts.rows, none.rows)
    counts, sizes = np.where(wanted, cuts.counts, 0), np.where(wanted, cuts.sizes, 0)
    keys, firsts, first_sizes = _first_behind(chunks, cuts)
    for stratum in np.flatnonzero(wanted & (firsts >= 0)).tolist():
        bits[stratum], rows[stratum] = ordered_bits(keys[stratum]), firsts[stratum]
        counts[stratum] += 1
        sizes[stratum] += first_sizes[stratum]
    return CutOffs(bits, rows, counts, sizes, cuts.eligible)


def _first_behind(
    chunks: Chunks, cuts: CutOffs
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return key, row and size of the first row behind every cut; row -1 where there is none."""
    strata = len(cuts.bits)
    keys, rows, sizes = np.full(strata, -np.inf), np.full(strata, -1, np.int64), np.zeros(strata, np.int64)
    for chunk in chunks():
        behind = np.flatnonzero((chunk.keys > -np.inf) & ~before(cuts, chunk))
        order = behind[np.lexsort((behind, -chunk.keys[behind]))]
        codes = np.zeros(len(order), np.int32) if chunk.codes is None else chunk.codes[order]
        present, first = np.unique(codes, return_index=True)
        for stratum, at in zip(present.tolist(), order[first].tolist(), strict=True):
            better = chunk.keys[at] > keys[stratum]
            if better or (chunk.keys[at] == keys[stratum] and chunk.start + at < rows[stratum]):
                keys[stratum], rows[stratum] = chunk.keys[at], chunk.start + at
                sizes[stratum] = 1 if chunk.sizes is None else chunk.sizes[at]
    return keys, rows, sizes
