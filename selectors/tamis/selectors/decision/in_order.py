"""Rows in an order that a selector makes step by step: the constraints it respects, and the ranking it hands over.

A greedy choice is no single key a row: every step depends on the rows taken before. So the selector reads its
:class:`Constraints`, takes rows one after the other, and hands over their order (:class:`Ordered`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.native.greedy.limits import Limits, begin_limits, take_all, take_fitting
from tamis.selectors.decision.budget import Amount
from tamis.selectors.decision.choice import check_feasible
from tamis.selectors.decision.ranking import Codes, Floats, Layout, RankedUnit, Rows
from tamis.selectors.decision.request import NO_ROWS, Request
from tamis.selectors.errors import Infeasible

Reasons = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Constraints:
    """Budget, bounds and eligible rows of a choice, flat over all rows.

    A row may be taken while the amount taken stays within the budget, its stratum within `upper`, and what is left of
    the budget covers the minimums still open in the other strata. With a budget in units of size the first row that
    would exceed one of these ends what that one bounds, as everywhere in Tamis
    (:mod:`tamis.selectors.decision.by_key`).

    Attributes
    ----------
    amount : Amount
        The budget.
    names : sequence of str
        The strata; one, named '', without strata.
    lower, upper : ndarray, shape (strata,), int64
        Minimums and maximums in the unit of the budget, the preselected rows' part included; `NO_MAX` where a stratum
        has no maximum.
    pointer : str
        JSON Pointer to the field of the request that gives the bounds.
    codes : ndarray, shape (n,), int32, optional
        Stratum of every row; None: all rows are of the only one.
    sizes : ndarray, shape (n,), int64, optional
        What a row counts; None: 1, the budget is in rows.
    preselected : ndarray of int64
        Rows kept from an earlier selection, in their own order; they count against all of the above.
    eligible : ndarray, shape (n,), bool
        Rows that may be taken: neither excluded nor preselected nor refused by the selector.
    """

    amount: Amount
    names: Sequence[str]
    lower: Rows
    upper: Rows
    pointer: str
    codes: Codes | None
    sizes: Rows | None
    preselected: Rows
    eligible: npt.NDArray[np.bool_]

    @staticmethod
    def of(
        request: Request, reasons: Reasons | None = None, reason_names: Sequence[str] = ("eligible",)
    ) -> Constraints:
        """Return the constraints of a request, checked against what the data can give.

        Parameters
        ----------
        request : Request
            Budget, bounds and earlier selections.
        reasons : ndarray, shape (n,), uint8, optional
            0 for rows that can be taken, else an index into `reason_names`.

        Raises
        ------
        Infeasible
            When budget, bounds, eligible, preselected and excluded rows can't be satisfied together: before any work.
        """
        layout = request.layout
        unranked = Ordered(layout, NO_ROWS, np.zeros(layout.rows), reasons)
        feasibility = check_feasible(request, unranked, reason_names)
        eligible = np.ones(layout.rows, np.bool_) if reasons is None else np.equal(reasons, 0)
        eligible[feasibility.unavailable] = False
        return Constraints(
            amount=request.amount,
            names=feasibility.bounds.names,
            lower=feasibility.bounds.lower,
            upper=feasibility.bounds.upper,
            pointer=feasibility.bounds.pointer,
            codes=_flat(feasibility.layout.codes),
            sizes=_flat(layout.sizes) if request.amount.unit == "size" else None,
            preselected=feasibility.preselected,
            eligible=eligible,
        )

    @property
    def max_rows(self) -> int:
        """The largest number of rows that can be taken, the preselected ones left out."""
        eligible = int(np.count_nonzero(self.eligible))
        return eligible if self.amount.unit == "size" else min(eligible, self.amount.value - len(self.preselected))

    @property
    def remaining(self) -> int:
        """The part of the budget that the preselected rows leave."""
        return self.amount.value - int(self.sizes_of(self.preselected).sum())

    def limits(self) -> Limits:
        """Return these bounds as the greedy kernels take them, with nothing taken yet."""
        return begin_limits(self.amount.value, codes=self.codes, lower=self.lower, upper=self.upper, sizes=self.sizes)

    def sizes_of(self, rows: Rows) -> Rows:
        """Return the amount of budget that each of `rows` takes, shape (k,), int64."""
        return np.ones(len(rows), np.int64) if self.sizes is None else self.sizes[rows]

    def count_fitting(self, ordered: Rows) -> int:
        """Return the length of the longest prefix of `ordered` that fits the remaining budget; strata are ignored."""
        return int(np.searchsorted(np.cumsum(self.sizes_of(ordered)), self.remaining, side="right"))

    def is_filled_by(self, ordered: Rows) -> bool:
        """Whether `ordered` fills the remaining budget, or holds every eligible row."""
        if int(self.sizes_of(ordered).sum()) >= self.remaining:
            return True
        return len(ordered) == int(np.count_nonzero(self.eligible))

    def take(self, ordered: Rows) -> Rows:
        """Return the rows of `ordered` that can be taken one after the other, as budget and bounds allow.

        What the minimums of other strata still need is left for them.

        Parameters
        ----------
        ordered : ndarray, shape (k,), int64
            Eligible rows, best first, without the preselected ones.
        """
        limits = self.limits()
        take_all(limits, self.preselected)
        taken: Rows = take_fitting(limits, ordered)
        return taken

    def take_within_maximums(self, ordered: Rows) -> Rows:
        """Return the rows of `ordered` that fit the budget and the strata's maximums; minimums are ignored.

        Rows that would exceed a maximum are passed over; without strata the result is a prefix.
        """
        if self.codes is None:
            return ordered[: self.count_fitting(ordered)]
        left, counts = self.remaining, self.sizes_of(ordered)
        have = np.zeros(len(self.names), np.int64)
        np.add.at(have, self.codes[self.preselected], self.sizes_of(self.preselected))
        taken: list[int] = []
        pairs: Iterable[tuple[int, int]] = zip(ordered.tolist(), counts.tolist(), strict=True)
        for row, size in pairs:
            code = int(self.codes[row])
            if size <= left and have[code] + size <= self.upper[code]:
                taken.append(row)
                have[code] += size
                left -= size
        return np.array(taken, np.int64)

    def check_taken(self, rows: Rows) -> None:
        """Refuse a request whose budget or minimums whole rows can't meet.

        For a choice that no rule of the selector's own has ended.

        Parameters
        ----------
        rows : ndarray, shape (k,), int64
            All rows taken, the preselected ones included.

        Raises
        ------
        Infeasible
            When no row was taken, or fewer of a stratum than its minimum.
        """
        have = np.zeros(len(self.lower), np.int64)
        codes = np.zeros(len(rows), np.int64) if self.codes is None else self.codes[rows]
        np.add.at(have, codes, 1 if self.sizes is None else self.sizes[rows])
        if (short := np.flatnonzero(have < self.lower)).size:
            stratum = int(short[0])
            raise Infeasible(
                f"No whole rows of stratum '{self.names[stratum]}' fit: {int(have[stratum])} of its minimum of "
                f"{int(self.lower[stratum])} were taken when the next row exceeded a bound. Leave some room above the "
                "minimums.",
                pointer=self.pointer,
            )
        if len(rows) == 0:
            raise Infeasible(
                f"The first row in order is larger than the budget of {self.amount} and the bounds allow: nothing can "
                "be taken.",
                pointer=self.amount.pointer,
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
