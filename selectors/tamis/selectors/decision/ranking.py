"""Rows as a selector ranked them, unit by unit: the decision streams over them any number of times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tamis.selectors.decision.budget import Supply, Unit
from tamis.selectors.decision.cuts import Chunk
from tamis.selectors.errors import DataError, TamisError

Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

ELIGIBLE = 0
"""The code, among a ranked unit's reasons, of a row that can be selected."""

MAX_TOTAL_SIZE = 2**62
"""Of all rows: sums of sizes, and of a sum and a budget, stay whole numbers of 64 bits."""

REASONS = 256
"""A reason is one byte a row."""

NO_KEY = "no-key"
"""The reason of a row that has the key -inf and that the selector gave no reason for."""

EXCLUDED = "excluded"
"""The reason of a row that the request keeps away."""

PRESELECTED = -1
"""The turn of rows kept from an earlier selection."""

Column = TypeVar("Column", Rows, Codes)


@dataclass(frozen=True)
class Layout:
    """Where the units lie, and what stratum and size their rows have.

    Attributes
    ----------
    starts : ndarray, shape (units + 1,), int64
        First row of every unit over the whole dataset, then the number of rows.
    names : sequence of str
        The strata; empty without strata.
    codes : sequence of ndarray of int32, optional
        For every unit, the stratum of every row, an index into `names`.
    sizes : sequence of ndarray of int64, optional
        For every unit, the size of every row.
    """

    starts: Rows
    names: Sequence[str] = ()
    codes: Sequence[Codes] | None = None
    sizes: Sequence[Rows] | None = None

    @property
    def units(self) -> int:
        return len(self.starts) - 1

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    @property
    def strata(self) -> int:
        return max(1, len(self.names))


@dataclass(frozen=True)
class RankedUnit:
    """How the rows of one unit rank.

    Attributes
    ----------
    keys : ndarray, shape (n,), float64
        What decides, larger first; -inf: the row can't be selected. Never NaN or +inf.
    scores : ndarray, shape (n,), float64
        The selector's scores.
    weights : ndarray, shape (n,), float64, optional
        Sampling weights; 1 when left out.
    reasons : ndarray, shape (n,), uint8, optional
        0: eligible; else why not, an index into the selector's reason names.
    """

    keys: Floats
    scores: Floats
    weights: Floats | None = None
    reasons: npt.NDArray[np.uint8] | None = None

    def eligible_keys(self) -> Floats:
        """Return the keys as a new array, -inf for every row that can't be selected."""
        keys = np.array(self.keys, np.float64)
        if self.reasons is not None:
            np.copyto(keys, -np.inf, where=self.reasons != ELIGIBLE)
        return keys


class Ranked(Protocol):
    """A selector's ranking: returns the ranked rows of any unit, any number of times, always the same."""

    def __call__(self, unit: int) -> RankedUnit: ...


@dataclass(frozen=True)
class Census:
    """Counts of rows by stratum."""

    candidates: Rows  # (strata,) rows
    eligible: Rows  # (strata,) rows that could be selected, the preselected ones included
    supply: Supply


@dataclass(frozen=True)
class Selected:
    """Rows taken in one turn, or in all, ascending, with their columns."""

    rows: Rows  # (k,)
    scores: Floats  # (k,)
    keys: Floats  # (k,)
    weights: Floats  # (k,)
    turns: Codes  # (k,) the ranking that took the row; -1: preselected
    ranks: Rows  # (k,) 0 is the first
    codes: Codes | None  # (k,)
    sizes: Rows | None  # (k,)

    def tally(self, unit: Unit, strata: int) -> Rows:
        """Return what was taken of every stratum, in the unit of the budget."""
        return tally(self.codes, self.sizes if unit == "size" else None, strata, len(self.rows))


class Candidates:
    """The rows of a ranking that are still available.

    Parameters
    ----------
    ranked : Ranked
        The ranking.
    layout : Layout
        Units, strata and sizes.
    unit : {'rows', 'size'}
        The unit of the budget.
    removed : ndarray of int64
        Rows that are not available, ascending.
    keys_in_memory : int
        Keys are kept from one pass to the next when they fit in this many bytes, and computed again when not.
    """

    def __init__(self, ranked: Ranked, layout: Layout, unit: Unit, removed: Rows, keys_in_memory: int) -> None:
        self.ranked = ranked
        self.layout = layout
        self.unit = unit
        self.removed = removed
        self._keep = layout.rows * np.dtype(np.float64).itemsize <= keys_in_memory
        self._keys: dict[int, Floats] = {}

    def read(self, unit: int) -> RankedUnit:
        """Return one unit's ranking, checked.

        Raises
        ------
        TamisError
            When it is not one number for every row, or a key is NaN or +inf: a defect of the selector.
        """
        part = self.ranked(unit)
        rows = int(self.layout.starts[unit + 1] - self.layout.starts[unit])
        for name in ("keys", "scores", "weights", "reasons"):
            column = getattr(part, name)
            if column is not None and column.shape != (rows,):
                raise TamisError(f"The selector ranked unit {unit} with {name} of shape {column.shape}, not ({rows},).")
        sound = part.keys < np.inf  # not so for NaN either
        if not sound.all():
            row = int(self.layout.starts[unit]) + int(np.argmin(sound))
            raise TamisError(f"The selector gave row {row} the key {part.keys[np.argmin(sound)]}.", row=row)
        return part

    def chunks(self) -> Iterator[Chunk]:
        """Yield every unit's rows with their keys, -inf for those that can't be taken."""
        for unit in range(self.layout.units):
            keys = self._keys[unit] if unit in self._keys else self._remaining(unit, self.read(unit))
            codes, sizes = self._columns(unit)
            yield Chunk(int(self.layout.starts[unit]), keys, codes, sizes if self.unit == "size" else None)

    def census(self, kept: Rows, excluded: Rows, reason_names: Sequence[str]) -> Census:
        """Count the eligible rows, and the others by reason.

        Parameters
        ----------
        kept, excluded : ndarray of int64
            Preselected and excluded rows, ascending.
        reason_names : sequence of str
            Names of the ranked units' reasons.

        Raises
        ------
        DataError
            When a size is negative, or all together are too large to be counted.
        """
        strata = self.layout.strata
        candidates, eligible, available, preselected = (np.zeros(strata, np.int64) for _ in range(4))
        reasons = np.zeros(REASONS, np.int64)
        whole = 0.0
        for unit in range(self.layout.units):
            part = self.read(unit)
            self._remaining(unit, part)
            codes, sizes = self._columns(unit)
            self._check_columns(unit, codes, sizes)
            whole += 0.0 if sizes is None else float(sizes.sum(dtype=np.float64))
            if whole > MAX_TOTAL_SIZE:
                raise DataError(
                    f"The sizes sum to more than 2**62 by row {int(self.layout.starts[unit + 1]) - 1}: give them in a "
                    "larger unit.",
                    row=int(self.layout.starts[unit]),
                )
            here, away = self._mask(kept, unit), self._mask(excluded, unit)
            fit = ((part.eligible_keys() > -np.inf) & ~away) | here
            weights = sizes if self.unit == "size" else None
            candidates += tally(codes, None, strata, len(fit))
            eligible += tally(_part(codes, fit), None, strata, int(fit.sum()))
            available += tally(_part(codes, fit), _part(weights, fit), strata, int(fit.sum()))
            preselected += tally(_part(codes, here), _part(weights, here), strata, int(here.sum()))
            lost = ~fit & ~away
            why = np.zeros(len(fit), np.uint8) if part.reasons is None else part.reasons
            reasons += np.bincount(why[lost], minlength=REASONS)
        losses = {reason_name(reason_names, code): int(reasons[code]) for code in np.flatnonzero(reasons).tolist()}
        losses[EXCLUDED] = len(excluded)
        return Census(candidates, eligible, Supply(available, preselected, losses))

    def gather(self, rows: Rows, turn: int) -> Selected:
        """Return `rows` (ascending) with their columns, ranked by key, ties by row."""
        count, layout = len(rows), self.layout
        scores, keys, weights = np.empty(count), np.empty(count), np.ones(count)
        codes = None if layout.codes is None else np.empty(count, np.int32)
        sizes = None if layout.sizes is None else np.empty(count, np.int64)
        for unit in self._units_of(rows):
            part = self.read(unit)
            here = slice(*np.searchsorted(rows, layout.starts[unit : unit + 2]).tolist())
            local = rows[here] - layout.starts[unit]
            scores[here] = part.scores[local]
            keys[here] = part.eligible_keys()[local]
            if part.weights is not None:
                weights[here] = part.weights[local]
            if codes is not None and layout.codes is not None:
                codes[here] = layout.codes[unit][local]
            if sizes is not None and layout.sizes is not None:
                sizes[here] = layout.sizes[unit][local]
        ranks = np.empty(count, np.int64)
        ranks[np.lexsort((rows, -keys))] = np.arange(count)
        return Selected(rows, scores, keys, weights, np.full(count, turn, np.int32), ranks, codes, sizes)

    def _remaining(self, unit: int, part: RankedUnit) -> Floats:
        keys = part.eligible_keys()
        keys[self._mask(self.removed, unit)] = -np.inf
        if self._keep:
            self._keys[unit] = keys
        return keys

    def _mask(self, rows: Rows, unit: int) -> npt.NDArray[np.bool_]:
        """Return which rows of `unit` are among `rows` (ascending)."""
        start, stop = self.layout.starts[unit : unit + 2]
        low, high = np.searchsorted(rows, [start, stop])
        mask = np.zeros(int(stop - start), np.bool_)
        mask[rows[low:high] - start] = True
        return mask

    def _units_of(self, rows: Rows) -> list[int]:
        if not len(rows):
            return []
        found: list[int] = np.unique(np.searchsorted(self.layout.starts, rows, side="right") - 1).tolist()
        return found

    def _columns(self, unit: int) -> tuple[Codes | None, Rows | None]:
        codes = None if self.layout.codes is None else self.layout.codes[unit]
        sizes = None if self.layout.sizes is None else self.layout.sizes[unit]
        return codes, sizes

    def _check_columns(self, unit: int, codes: Codes | None, sizes: Rows | None) -> None:
        rows = int(self.layout.starts[unit + 1] - self.layout.starts[unit])
        for name, column in (("strata", codes), ("sizes", sizes)):
            if column is not None and column.shape != (rows,):
                raise TamisError(f"Unit {unit} has {rows} rows, but {name} of shape {column.shape}.")
        if codes is not None and rows and not 0 <= codes.min() <= codes.max() < self.layout.strata:
            raise TamisError(f"Unit {unit} has rows of strata outside 0..{self.layout.strata - 1}.")
        if sizes is not None and rows and sizes.min() < 0:
            row = int(self.layout.starts[unit]) + int(np.argmax(sizes < 0))
            raise DataError(f"The size of row {row} is negative; sizes are 0 or more.", row=row)


def tally(codes: Codes | None, weights: Rows | None, strata: int, rows: int) -> Rows:
    """Return the number of rows of every stratum, or the sum of their weights: exact integers.

    Parameters
    ----------
    codes : ndarray, shape (rows,), int32, optional
        Strata; all rows are of stratum 0 when left out.
    weights : ndarray, shape (rows,), int64, optional
        1 each when left out.
    """
    if codes is None:
        total = np.zeros(strata, np.int64)
        total[0] = rows if weights is None else weights.sum()
        return total
    if weights is None:
        return np.bincount(codes, minlength=strata).astype(np.int64)
    total = np.zeros(strata, np.int64)
    np.add.at(total, codes, weights)
    return total


def reason_name(reason_names: Sequence[str], code: int) -> str:
    """Return the name of a reason's code.

    Raises
    ------
    TamisError
        When the selector did not name it.
    """
    if code == ELIGIBLE:
        return NO_KEY
    if code >= len(reason_names):
        raise TamisError(f"The selector gave the reason {code}, but named only {len(reason_names)}.")
    return reason_names[code]


def _part(column: Column | None, mask: npt.NDArray[np.bool_]) -> Column | None:
    return None if column is None else column[mask]
