"""Rows in an order that a selector made step by step: what a greedy selector needs before, and hands over after.

A greedy choice can't be told as one key a row beforehand: every step depends on the rows taken. So the selector asks
what it must respect (:class:`Terms`), takes rows one after the other, and hands over their order (:class:`Ordered`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tamis.selectors.decision.budget import Amount
from tamis.selectors.decision.ranking import Codes, Floats, Layout, RankedUnit, Rows
from tamis.selectors.errors import Infeasible

if TYPE_CHECKING:
    from tamis.selectors.run.run import Run

Reasons = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Terms:
    """What a choice must respect, flat over all rows.

    A row may be taken while the amount taken stays within the budget, its stratum within `upper`, and what is left of
    the budget covers the minimums still open in the other strata. With a budget in units of size the first row that
    would exceed one of these ends what that one bounds, as everywhere in Tamis
    (:mod:`tamis.selectors.decision.by_key`).
    """

    amount: Amount
    names: Sequence[str]  # strata; one, named '', without strata
    lower: Rows  # (strata,) minimums in the unit of the budget, the preselected rows' part included
    upper: Rows  # (strata,) maximums, likewise; NO_MAX where there is none
    pointer: str  # JSON Pointer to the field of the request that gives these bounds
    codes: Codes | None  # (n,) stratum of every row; None: all rows are of the only one
    sizes: Rows | None  # (n,) what a row counts; None: 1, the budget is in rows
    preselected: Rows  # kept from an earlier selection, in their own order; they count against all of the above
    free: npt.NDArray[np.bool_]  # (n,) rows that may be taken: eligible, neither excluded nor preselected

    @property
    def most_rows(self) -> int:
        """How many rows can be taken at most, the preselected ones left out."""
        free = int(np.count_nonzero(self.free))
        return free if self.amount.unit == "size" else min(free, self.amount.value - len(self.preselected))


def terms(run: Run, reasons: Reasons | None = None, reason_names: Sequence[str] = ("eligible",)) -> Terms:
    """Return what a choice of this job must respect.

    Parameters
    ----------
    run : Run
        The job.
    reasons : ndarray, shape (n,), uint8, optional
        0 for rows that can be taken, else an index into `reason_names`.

    Raises
    ------
    Infeasible
        When budget, bounds, eligible, preselected and excluded rows can't be satisfied together: before any work.
    """
    layout = run.layout()
    nothing = Ordered(layout, np.empty(0, np.int64), np.zeros(layout.rows), reasons)
    found = run.survey(nothing, reason_names)
    free = np.ones(layout.rows, np.bool_) if reasons is None else np.equal(reasons, 0)
    free[found.gone] = False
    by_size = found.amount.unit == "size"
    return Terms(
        amount=found.amount,
        names=found.bounds.names,
        lower=found.bounds.lower,
        upper=found.bounds.upper,
        pointer=found.bounds.pointer,
        codes=_flat(found.layout.codes),
        sizes=_flat(layout.sizes) if by_size else None,
        preselected=found.kept,
        free=free,
    )


def check_taken(asked: Terms, rows: Rows) -> None:
    """Refuse a request whose budget or minimums whole rows can't meet: for a choice that no rule of its own has ended.

    Parameters
    ----------
    asked : Terms
        What the choice respected.
    rows : ndarray, shape (k,), int64
        All rows taken, the preselected ones included.

    Raises
    ------
    Infeasible
        When no row was taken, or fewer of a stratum than its minimum.
    """
    have = np.zeros(len(asked.lower), np.int64)
    codes = np.zeros(len(rows), np.int64) if asked.codes is None else asked.codes[rows]
    np.add.at(have, codes, 1 if asked.sizes is None else asked.sizes[rows])
    if (short := np.flatnonzero(have < asked.lower)).size:
        stratum = int(short[0])
        raise Infeasible(
            f"No whole rows of stratum '{asked.names[stratum]}' fit: {int(have[stratum])} of its minimum of "
            f"{int(asked.lower[stratum])} were taken when the next row exceeded a bound. Leave some room above the "
            "minimums.",
            pointer=asked.pointer,
        )
    if len(rows) == 0:
        raise Infeasible(
            f"The first row in order is larger than the budget of {asked.amount} and the bounds allow: nothing can be "
            "taken.",
            pointer=asked.amount.pointer,
        )


def _flat(parts: Sequence[npt.NDArray[Any]] | None) -> npt.NDArray[Any] | None:
    """Return the columns of all units as one."""
    return None if parts is None else np.concatenate([parts[unit] for unit in range(len(parts))])


class Ordered:
    """A ranking by an explicit order: the rows taken have the keys 0, -1, -2, …, all others a key below them.

    Parameters
    ----------
    layout : Layout
        Of the dataset.
    rows : ndarray, shape (k,), int64
        Rows in the order they were taken, without the preselected ones.
    scores : ndarray, shape (n,), float64
        The selector's scores, larger is better; of a taken row, as it was when it was taken.
    reasons : ndarray, shape (n,), uint8, optional
        0 for rows that could be taken.
    """

    def __init__(self, layout: Layout, rows: Rows, scores: Floats, reasons: Reasons | None = None) -> None:
        self._starts = layout.starts
        self._scores = scores
        self._reasons = reasons
        self._places = np.argsort(rows, kind="stable")
        self._taken = rows[self._places]

    def __call__(self, unit: int) -> RankedUnit:
        """Rank one unit."""
        start, stop = self._starts[unit : unit + 2].tolist()
        inside = slice(*np.searchsorted(self._taken, [start, stop]).tolist())
        keys = np.full(stop - start, -float(len(self._taken)))
        keys[self._taken[inside] - start] = -self._places[inside].astype(np.float64)
        reasons = None if self._reasons is None else self._reasons[start:stop]
        return RankedUnit(keys, self._scores[start:stop], None, reasons)
