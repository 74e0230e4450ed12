"""Rows ordered by coverage-centric strata: streamed, or in memory where classes, quotas or earlier rows matter.

The allocation of Coverage-centric Coreset Selection is nested in the budget
(:func:`tamis.native.sampling.strata.turns`): strata give a row each, round after round. So one order of all rows holds
the coreset of every budget as its first rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tamis.native.math import rng
from tamis.native.sampling import cutoffs, draws, strata
from tamis.selectors.decision.apportion import apportion, proportional_positions
from tamis.selectors.decision.ranking import RankedUnit
from tamis.selectors.errors import DataError, Invalid
from tamis.selectors.features.difficulty import REASON_DETAILS as SCORE_DETAILS
from tamis.selectors.features.difficulty import REASONS as SCORE_REASONS
from tamis.selectors.features.difficulty import Difficulty
from tamis.selectors.features.difficulty_params import HardEnd

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]

REASONS = (*SCORE_REASONS, "no-cutoff", "too-hard")
NO_CUTOFF, TOO_HARD = (REASONS.index(name) for name in ("no-cutoff", "too-hard"))
REASON_DETAILS = {
    **SCORE_DETAILS,
    "no-cutoff": "The row's cut-off value is null, NaN or infinite, or does not fit float32.",
    "too-hard": "The row is among the hardest, which the cut-off beta drops.",
}

NO_STRATUM = -1
"""The stratum of a row that has none."""

HELD_ROW_BYTES = 84
"""Bytes a row takes at the peak while all rows are held."""


@dataclass(frozen=True)
class Columns:
    """Scores and cut-off values of the rows, unit by unit."""

    difficulty: Difficulty
    cutoff: Difficulty  # the same where the score itself is cut off
    starts: Ints  # (units + 1,)
    excluded: Ints  # ascending; they count for nothing
    check_cancelled: Callable[[], None]  # asked before every unit

    @property
    def hard_end(self) -> HardEnd:
        """Which end of the cut-off values is dropped."""
        assert self.cutoff.hard_end is not None
        return self.cutoff.hard_end

    @property
    def units(self) -> int:
        return len(self.starts) - 1

    def chunk(self, unit: int) -> strata.Chunk:
        """Return a unit's rows as the kernels take them; an excluded row has no score."""
        start, stop = self.starts[unit : unit + 2].tolist()
        scores = self.difficulty.columns[unit]
        away = self.excluded[slice(*np.searchsorted(self.excluded, [start, stop]).tolist())] - start
        if len(away):
            scores = scores.copy()
            scores[away] = np.nan
        return start, scores, None if self.cutoff is self.difficulty else self.cutoff.columns[unit]

    def chunks(self) -> Iterator[strata.Chunk]:
        """Yield every unit's rows."""
        for unit in range(self.units):
            self.check_cancelled()
            yield self.chunk(unit)

    def reasons(self, unit: int) -> npt.NDArray[np.uint8]:
        """Return why a unit's rows can't be selected, indices into `REASONS`; nothing of the cut-off yet."""
        reasons = self.difficulty.reasons(unit)
        if self.cutoff is not self.difficulty:
            lacking = (self.cutoff.reasons(unit) != 0) & (reasons == 0)
            reasons[lacking] = NO_CUTOFF
        return reasons


class Part(NamedTuple):
    """The strata of one class, or of all rows."""

    name: str  # of the class; '' for all rows
    cut_off: strata.CutOff
    edges: Scores  # [strata + 1]
    populations: Ints  # [strata]
    highest: np.float32  # score


@dataclass(frozen=True)
class Streamed:
    """How rows rank where only those that are drawn have a place of their own."""

    columns: Columns
    part: Part
    strata: strata.Strata
    rows: Ints  # ascending
    keys: Floats

    def __call__(self, unit: int) -> RankedUnit:
        """Rank one unit: rows that are not drawn come behind all that are."""
        start, stop = self.columns.starts[unit : unit + 2].tolist()
        codes = strata.codes_of(self.columns.chunk(unit), self.part.cut_off, self.strata)
        reasons = self.columns.reasons(unit)
        np.copyto(reasons, TOO_HARD, where=(codes == len(self.part.populations)) & (reasons == 0))
        inside = slice(*np.searchsorted(self.rows, [start, stop]).tolist())
        keys = np.full(stop - start, self.keys.min(initial=0.0) - 1.0)
        keys[self.rows[inside] - start] = self.keys[inside]
        return RankedUnit(keys, self.columns.difficulty.columns[unit].astype(np.float64), None, reasons)


@dataclass(frozen=True)
class Held:
    """How rows rank where every one has its place in the order, in memory."""

    columns: Columns
    parts: Sequence[Part]
    keys: Floats  # (n,)
    codes: Codes  # (n,) stratum, counted over all parts; NO_STRATUM for none

    def __call__(self, unit: int) -> RankedUnit:
        """Rank one unit."""
        rows = slice(*self.columns.starts[unit : unit + 2].tolist())
        reasons = self.columns.reasons(unit)
        np.copyto(reasons, TOO_HARD, where=(self.codes[rows] == NO_STRATUM) & (reasons == 0))
        keys = np.where(reasons == 0, self.keys[rows], -np.inf)
        return RankedUnit(keys, self.columns.difficulty.columns[unit].astype(np.float64), None, reasons)


def _stratified(
    chunks: strata.Chunks, sample: strata.Sample, beta: float, hard_end: HardEnd, count: int
) -> tuple[strata.CutOff, strata.Strata]:
    """Cut off the hardest rows and cut the range of the others into strata."""
    cut_off = cutoffs.cut_hardest(chunks, sample, beta, hard_end)
    lowest, highest = strata.extremes(chunks, cut_off)
    if lowest > highest:  # a class without a usable row
        lowest = highest = np.float32(0)
    try:
        return cut_off, strata.equal_width(lowest, highest, count)
    except ValueError as error:
        raise DataError(f"The scores can't be cut into strata: {error}.") from error


def _check_usable(rows: int) -> None:
    if rows == 0:
        raise Invalid(
            "No row has a score (and cut-off value) that is a finite number: nothing can be selected.",
            pointer="/dataset/columns/score",
        )


def stream(
    columns: Columns, beta: float, count: int, key: Any, budget: Callable[[strata.CutOff], int]
) -> tuple[Streamed, npt.NDArray[np.uint16]]:
    """Draw a coreset in passes over the units.

    Parameters
    ----------
    columns : Columns
        What the strata are made of.
    beta : float
        Share to cut off.
    count : int
        Strata.
    key : ndarray
        Of the random stream.
    budget : callable
        Told of the cut-off, returns how many rows to draw, or refuses.

    Returns
    -------
    Streamed, ndarray of uint16
        The ranking with the rows drawn, and the strata of those.
    """
    sample = strata.sample(columns.chunks, int(columns.starts[-1]))
    cut_off, own = _stratified(columns.chunks, sample, beta, columns.hard_end, count)
    _check_usable(cut_off.usable)
    drawn, populations, _ = draws.draw(columns.chunks, sample, cut_off, own, budget(cut_off), key)
    keys = -_positions(drawn.codes, drawn.words, populations).astype(np.float64)
    return Streamed(columns, Part("", cut_off, own.edges, populations, own.highest), own, drawn.rows, keys), drawn.codes


def _positions(codes: npt.NDArray[np.uint16], words: npt.NDArray[np.uint64], populations: Ints) -> Ints:
    """Return every row's place in the order: rounds, and in a round the strata in their turn."""
    return draws.places(codes, words, len(populations)) * len(populations) + strata.turns(populations)[codes]


@dataclass(frozen=True)
class Classes:
    """A class for every row, where each is to have its share of the coreset."""

    names: Sequence[str]
    codes: Codes  # (n,)


def hold(
    columns: Columns,
    beta: float,
    count: int,
    key: Any,
    *,
    classes: Classes | None = None,
    preselected: Ints | None = None,
    budget: int | None = None,
) -> Held:
    """Order all rows, in memory.

    Parameters
    ----------
    columns, beta, count, key
        As for :func:`stream`; without classes and preselected rows the order begins with what that draws.
    classes : Classes, optional
        Each class gets its own cut-off, range and strata (Class-Proportional Coreset Selection, arXiv 2507.10904), and
        its share of the budget in proportion to its usable rows, by largest remainder.
    preselected : ndarray of int64, optional
        Rows that are kept: the first of their strata.
    budget : int, optional
        Rows that the classes' shares are of; without one every class is taken from in proportion.

    Raises
    ------
    Invalid
        When no row is usable.
    Cancelled
        When the job was cancelled; asked before every class.
    """
    scores, ranked = _flat(columns)
    rows = len(scores)
    words = rng.shuffled_at(key, np.arange(rows))
    if preselected is not None:
        words[preselected] = np.arange(len(preselected), dtype=np.uint64)
    codes, keys = np.full(rows, NO_STRATUM, np.int32), np.full(rows, -np.inf)
    parts: list[Part] = []
    places: list[tuple[Ints, Ints]] = []
    for name, own in _members(classes, rows):
        columns.check_cancelled()
        own_scores, own_ranked = scores[own], None if ranked is None else ranked[own]

        def chunks(a: Scores = own_scores, b: Scores | None = own_ranked) -> Iterator[strata.Chunk]:
            yield 0, a, b

        sample = strata.sample(chunks, len(own_scores))
        cut_off, bins = _stratified(chunks, sample, beta, columns.hard_end, count)
        local = strata.codes_of((0, own_scores, own_ranked), cut_off, bins)
        kept = np.flatnonzero(local < count)
        populations = np.bincount(local[kept], minlength=count)
        members = kept if own is _ALL else own[kept]
        codes[members] = local[kept].astype(np.int64) + count * len(parts)  # uint16 holds those of one class only
        parts.append(Part(name, cut_off, bins.edges, populations, bins.highest))
        places.append((members, _positions(local[kept], words[members], populations)))
    _check_usable(sum(part.cut_off.usable for part in parts))
    if classes is None:
        members, positions = places[0]
        keys[members] = -positions
    else:
        usable = np.array([part.cut_off.usable for part in parts], np.int64)
        shares = (
            usable if budget is None else apportion(usable, np.array([len(members) for members, _ in places]), budget)
        )
        for (members, positions), share in zip(places, shares.tolist(), strict=True):
            keys[members] = -proportional_positions(positions, share)
    return Held(columns, parts, keys, codes)


_ALL = slice(None)


def _members(classes: Classes | None, rows: int) -> Iterator[tuple[str, Any]]:
    if classes is None:
        yield "", _ALL
        return
    order = np.argsort(classes.codes, kind="stable")
    ends = np.cumsum(np.bincount(classes.codes, minlength=len(classes.names)))
    for code, name in enumerate(classes.names):
        yield name, order[ends[code - 1] if code else 0 : ends[code]]


def _flat(columns: Columns) -> tuple[Scores, Scores | None]:
    parts = list(columns.chunks())
    scores = np.concatenate([np.empty(0, np.float32), *(scores for _, scores, _ in parts)])
    if columns.cutoff is columns.difficulty:
        return scores, None
    ranked = [cut for _, _, cut in parts if cut is not None]
    return scores, np.concatenate([np.empty(0, np.float32), *ranked])
