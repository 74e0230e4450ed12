"""`Choice`: the selected rows, the constraints they were chosen under, and their validation.

A choice is made in one of two ways: of the best rows by key (:mod:`tamis.selectors.decision.by_key`), or of rows in an
order that a selector made step by step (:func:`choose_in_order`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tamis.selectors.decision.budget import NO_MAX, Amount, Bounds, check_supply, resolve_bounds
from tamis.selectors.decision.ranking import (
    PRESELECTED,
    Candidates,
    Census,
    Codes,
    Floats,
    Layout,
    Ranked,
    Rows,
    Selected,
)
from tamis.selectors.decision.request import Request
from tamis.selectors.errors import Invalid, TamisError
from tamis.selectors.schema.response import Notice, StratumOutcome, Totals

SIZE_SHORTFALL = 0.01
"""A size budget that is missed by more than this share of it is worth a warning."""


@dataclass(frozen=True)
class Thresholds:
    """The last row in order that was taken of every stratum, and the threshold that all strata share."""

    keys: Floats  # (strata,)
    rows: Rows  # (strata,) -1 where none was taken
    common: tuple[float, int] | None = None  # (key, row) that a row of a stratum within its maximum had to reach


@dataclass(frozen=True)
class Choice:
    """The selected rows, the bounds they were chosen under, and the outcome by stratum.

    Attributes
    ----------
    selected : Selected
        The rows, ascending, with their columns; its attributes are attributes of the choice, too.
    amount : Amount
        The budget.
    bounds : Bounds
        By stratum.
    excluded : ndarray, shape (m,), int64
        Rows that the request kept away, ascending.
    thresholds : Thresholds
        Of the last ranking.
    outcomes : list of StratumOutcome
        Bounds, rows and threshold of every stratum.
    totals : Totals
        Of the request and of the selection.
    warnings : list of Notice
        About bounds and budget.
    """

    selected: Selected
    amount: Amount
    bounds: Bounds
    excluded: Rows
    thresholds: Thresholds
    outcomes: list[StratumOutcome]
    totals: Totals
    warnings: list[Notice] = field(default_factory=list)

    @property
    def rows(self) -> Rows:
        """Row numbers, ascending, shape (k,)."""
        return self.selected.rows

    @property
    def scores(self) -> Floats:
        """The selector's scores, shape (k,)."""
        return self.selected.scores

    @property
    def keys(self) -> Floats:
        """The keys that decided, shape (k,)."""
        return self.selected.keys

    @property
    def weights(self) -> Floats:
        """Sampling weights, shape (k,)."""
        return self.selected.weights

    @property
    def turns(self) -> Codes:
        """The ranking that took each row, shape (k,); -1: preselected."""
        return self.selected.turns

    @property
    def ranks(self) -> Rows:
        """Order of the rows, 0 first, shape (k,); preselected rows come first, in their own order."""
        return self.selected.ranks

    @property
    def codes(self) -> Codes | None:
        """Strata, indices into `bounds.names`, shape (k,); None without strata."""
        return self.selected.codes

    @property
    def sizes(self) -> Rows | None:
        """Sizes, shape (k,); None without a size column."""
        return self.selected.sizes

    @property
    def preselected(self) -> npt.NDArray[np.bool_]:
        """Mask of the preselected rows, shape (k,)."""
        return np.equal(self.turns, PRESELECTED)

    def weighted(self, weights: Floats) -> Choice:
        """Return the same choice with other sampling weights, shape (k,)."""
        return replace(self, selected=replace(self.selected, weights=weights))


@dataclass(frozen=True)
class Feasibility:
    """A request and the supply of the data, checked against each other before anything is chosen."""

    request: Request
    layout: Layout  # of the request; without strata where the request has none
    bounds: Bounds
    preselected: Rows  # in their own order
    excluded: Rows  # ascending
    census: Census
    candidates: Candidates  # of the ranking that the supply was counted with

    @property
    def amount(self) -> Amount:
        """The budget as a whole number."""
        return self.request.amount

    @property
    def unavailable(self) -> Rows:
        """Preselected and excluded rows, ascending."""
        return np.union1d(self.preselected, self.excluded)


def check_feasible(request: Request, ranked: Ranked, reason_names: Sequence[str] = ("eligible",)) -> Feasibility:
    """Resolve budget and bounds, count the rows eligible by `ranked`, and refuse a request that can't be met.

    Parameters and errors are those of :func:`tamis.selectors.decision.by_key.choose`.
    """
    layout = request.layout
    preselected = _checked_rows(request.preselected, layout.rows, "/preselected")
    excluded = np.sort(_checked_rows(request.excluded, layout.rows, "/exclude"))
    both = np.intersect1d(preselected, excluded)
    if both.size:
        raise Invalid(
            f"{both.size} rows (row {both[0]} first) are to be kept by 'preselected' and kept away by 'exclude'.",
            pointer="/exclude",
        )
    if request.strata is None:
        layout = replace(layout, names=(), codes=None)
    amount = request.amount
    if amount.unit == "size" and layout.sizes is None:
        raise Invalid("A budget in size needs a size column.", pointer="/dataset/columns/size")
    bounds = resolve_bounds(request.strata, amount, layout.names)
    unavailable = np.union1d(preselected, excluded)
    candidates = Candidates(ranked, layout, amount.unit, unavailable, request.keys_in_memory)
    census = candidates.census(np.sort(preselected), excluded, reason_names)
    bounds = check_supply(bounds, amount, request.strata, census.supply)
    return Feasibility(request, layout, bounds, preselected, excluded, census, candidates)


def choose_in_order(
    feasibility: Feasibility, rows: Rows, *, stopped: Notice | None = None, weights: Floats | None = None
) -> Choice:
    """Choose exactly `rows`, in their order.

    Parameters
    ----------
    feasibility : Feasibility
        Made with the ranking that scores the rows.
    rows : ndarray, shape (k,), int64
        Eligible rows in the order they were taken, without the preselected ones.
    stopped : Notice, optional
        Why the selector ended before its budget, where it did by a rule of its own; minimums may then be open.
    weights : ndarray, shape (preselected + k,), float64, optional
        Weights of the preselected rows in their order, then of `rows`; those of the ranking when left out.

    Raises
    ------
    TamisError
        When the rows break budget or bounds: a defect of the selector.
    """
    order = np.argsort(rows, kind="stable")
    first = preselection(feasibility)
    second = replace(feasibility.candidates.gather(rows[order], 0), ranks=order.astype(np.int64))
    if weights is not None:
        count = len(feasibility.preselected)
        first = replace(first, weights=weights[:count][np.argsort(feasibility.preselected)])
        second = replace(second, weights=weights[count:][order])
    amount, bounds, strata = feasibility.amount, feasibility.bounds, feasibility.layout.strata
    have = first.tally(amount.unit, strata) + second.tally(amount.unit, strata)
    short = have < bounds.lower
    if int(have.sum()) > amount.value or (have > bounds.upper).any() or (stopped is None and short.any()):
        raise TamisError(f"The selector broke its bounds: {have.tolist()} for {amount}.")
    return assemble(feasibility, [first, second], common=None, stopped=stopped)


def assemble(
    feasibility: Feasibility,
    takings: Sequence[Selected],
    *,
    common: tuple[float, int] | None,
    stopped: Notice | None = None,
) -> Choice:
    """Assemble a choice from the preselection and what each turn took.

    Raises
    ------
    TamisError
        When the rows are no sound choice: a defect of the decision.
    """
    thresholds = _last_taken(takings[-1], feasibility.layout.strata, common)
    merged = _interleaved(takings)
    reached = int(merged.tally(feasibility.amount.unit, feasibility.layout.strata).sum())
    choice = Choice(
        selected=merged,
        amount=feasibility.amount,
        bounds=feasibility.bounds,
        excluded=feasibility.excluded,
        thresholds=thresholds,
        outcomes=_outcomes(merged, feasibility.bounds, feasibility.census, thresholds),
        totals=Totals(
            candidates=feasibility.layout.rows,
            eligible=int(feasibility.census.eligible.sum()),
            asked_rows=feasibility.amount.value if feasibility.amount.unit == "rows" else None,
            asked_size=feasibility.request.budget.size,
            rows=len(merged.rows),
            size=None if merged.sizes is None else int(merged.sizes.sum()),
            preselected=len(feasibility.preselected),
            excluded=len(feasibility.excluded),
        ),
        warnings=[
            *feasibility.bounds.warnings,
            *([stopped] if stopped is not None else _size_shortfall(reached, feasibility.amount)),
        ],
    )
    _check_choice(choice, feasibility.layout, feasibility.preselected, whole=stopped is None)
    return choice


def preselection(feasibility: Feasibility) -> Selected:
    """Return the preselected rows, ranked in their own order."""
    order = np.argsort(feasibility.preselected)
    taking = feasibility.candidates.gather(feasibility.preselected[order], PRESELECTED)
    return replace(taking, ranks=order.astype(np.int64))


def _checked_rows(rows: Rows, total: int, pointer: str) -> Rows:
    rows = np.asarray(rows, np.int64)
    if rows.size and not 0 <= rows.min() <= rows.max() < total:
        wrong = rows[(rows < 0) | (rows >= total)][0]
        raise Invalid(f"An earlier selection holds row {wrong}, but the dataset has {total} rows.", pointer=pointer)
    if len(np.unique(rows)) != len(rows):
        raise Invalid("An earlier selection holds a row twice.", pointer=pointer)
    return rows


def _size_shortfall(reached: int, amount: Amount) -> list[Notice]:
    if amount.unit == "rows" or amount.value - reached <= SIZE_SHORTFALL * amount.value:
        return []
    detail = (
        f"The selection has a size of {reached}, {amount.value - reached} below the budget of {amount.value}: the next "
        "row in order, or of every stratum that is still open, would exceed a bound."
    )
    return [Notice(code="budget-not-reached", detail=detail)]


def _last_taken(taking: Selected, strata: int, common: tuple[float, int] | None) -> Thresholds:
    """Return, for every stratum, the key and the row of the last one taken."""
    thresholds = Thresholds(np.full(strata, np.inf), np.full(strata, -1, np.int64), common)
    order = np.argsort(taking.ranks)
    codes = np.zeros(len(order), np.int64) if taking.codes is None else taking.codes[order]
    thresholds.keys[codes] = taking.keys[order]  # the last assignment to an index stays
    thresholds.rows[codes] = taking.rows[order]
    return thresholds


def _interleaved(takings: Sequence[Selected]) -> Selected:
    """Return the preselection (which comes first) and the turns as one; a prefix holds the same share of every turn."""
    turns = np.concatenate([taking.turns for taking in takings])
    ranks = np.concatenate([taking.ranks for taking in takings])
    shares = np.concatenate([(taking.ranks + 1) / max(1, len(taking.ranks)) for taking in takings])
    shares[turns == PRESELECTED] = 0.0
    merged = np.empty(len(turns), np.int64)
    merged[np.lexsort((ranks, turns, shares))] = np.arange(len(turns))
    rows = np.concatenate([taking.rows for taking in takings])
    order = np.argsort(rows)
    codes = [taking.codes for taking in takings if taking.codes is not None]
    sizes = [taking.sizes for taking in takings if taking.sizes is not None]
    return Selected(
        rows=rows[order],
        scores=np.concatenate([taking.scores for taking in takings])[order],
        keys=np.concatenate([taking.keys for taking in takings])[order],
        weights=np.concatenate([taking.weights for taking in takings])[order],
        turns=turns[order],
        ranks=merged[order],
        codes=np.concatenate(codes)[order] if codes else None,
        sizes=np.concatenate(sizes)[order] if sizes else None,
    )


def _outcomes(taking: Selected, bounds: Bounds, census: Census, thresholds: Thresholds) -> list[StratumOutcome]:
    strata = len(bounds.names)
    rows = taking.tally("rows", strata)
    sizes = taking.tally("size", strata) if taking.sizes is not None else None
    return [
        StratumOutcome(
            stratum=name,
            candidates=int(census.candidates[s]),
            eligible=int(census.eligible[s]),
            asked_min=int(bounds.lower[s]),
            asked_max=None if bounds.upper[s] == NO_MAX else int(bounds.upper[s]),
            rows=int(rows[s]),
            size=None if sizes is None else int(sizes[s]),
            threshold=float(thresholds.keys[s]) if thresholds.rows[s] >= 0 and rows[s] < census.eligible[s] else None,
        )
        for s, name in enumerate(bounds.names)
    ]


def _check_choice(choice: Choice, layout: Layout, preselected: Rows, *, whole: bool) -> None:
    """Raise `TamisError` when the choice is not sound: a defect of this package, never of a request."""
    rows, ranks = choice.rows, choice.ranks
    wrong = [
        ("rows are not ascending and unique", bool((np.diff(rows) <= 0).any())),
        ("rows are out of range", bool(rows.size and (rows[0] < 0 or rows[-1] >= layout.rows))),
        ("excluded rows are among them", bool(np.isin(choice.excluded, rows, assume_unique=True).any())),
        ("preselected rows are missing", not bool(np.isin(preselected, rows, assume_unique=True).all())),
        ("ranks are not 0 to k - 1", not np.array_equal(np.sort(ranks), np.arange(len(rows)))),
        ("a row is not eligible", bool((choice.keys[~choice.preselected] == -np.inf).any())),
        ("not as many rows as asked", whole and choice.amount.unit == "rows" and len(rows) != choice.amount.value),
    ]
    found = [what for what, is_so in wrong if is_so]
    if found:
        raise TamisError(f"The decision is not sound: {'; '.join(found)}.")
