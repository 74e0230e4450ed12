"""The decision: the best rows by key within budget and bounds, exactly, in a few passes over the keys.

Rows are in *order* by key, larger first, ties by lower row number. Three cuts in that order make the selection:

1. in every stratum, the first rows that reach its minimum;
2. in every stratum, the first rows that stay within its maximum;
3. over all strata, of the rows between those two, the first that stay within what 1. leaves of the budget.

With a budget in rows this is the greedy choice in order, which has the largest sum of keys that the bounds allow:
bounds on disjoint strata form a matroid. With a budget in units of size the same three cuts define it: a minimum is
reached (the row that reaches it may go beyond), a maximum and the budget are never exceeded, and the first row that
would exceed one ends what that one bounds: no later, smaller row slips in. So what is taken of a stratum always comes
before what is not, and without strata a smaller budget takes a prefix.

Rows kept from an earlier selection count against budget and bounds. Several rankings can take turns (separate targets):
each takes its part from what the earlier ones left, under the bounds of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tamis.native.topk import CutOffs
from tamis.selectors.budgets import (
    NO_MAX,
    STRATA_NAMED_IN_ERRORS,
    Amount,
    Bounds,
    check_supply,
    resolve_bounds,
    resolve_budget,
)
from tamis.selectors.cuts import Chunk, Chunks, before, cut_reaching, cut_within, everything, nothing
from tamis.selectors.errors import Infeasible, Invalid, TamisError
from tamis.selectors.outcome import Notice, StratumOutcome, Totals
from tamis.selectors.ranking import (
    PRESELECTED,
    Candidates,
    Census,
    Codes,
    Floats,
    Layout,
    Ranked,
    RankedUnit,
    Rows,
    Taking,
)
from tamis.selectors.spec import Budget, Strata

__all__ = ["NO_ROWS", "Choice", "Layout", "Ranked", "RankedUnit", "Rows", "Thresholds", "choose", "choose_in_turns"]

KEYS_IN_MEMORY = 2**30
"""Bytes of keys (8 a row) kept from one pass to the next; with more rows than that, every pass asks for them again."""

SIZE_SHORTFALL = 0.01
"""A size budget that is missed by more than this share of it is worth a warning."""

NO_COMMON_THRESHOLD = (-np.inf, -1)
"""When nothing but the maximums of the strata stops a row: every key is above it."""

NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass(frozen=True)
class Thresholds:
    """Of every stratum, the last row in order that was taken."""

    keys: Floats  # (strata,)
    rows: Rows  # (strata,) -1 where none was taken


@dataclass(frozen=True)
class Choice:
    """The selected rows, ascending, and how they came to be selected."""

    rows: Rows  # (k,)
    scores: Floats  # (k,)
    keys: Floats  # (k,)
    weights: Floats  # (k,)
    turns: Codes  # (k,) which ranking took the row; -1: preselected
    ranks: Rows | None  # (k,) 0 is the first; preselected rows come first, in their own order
    codes: Codes | None  # (k,) strata, indices into `bounds.names`; None without strata
    sizes: Rows | None  # (k,)
    amount: Amount
    bounds: Bounds
    excluded: Rows  # (m,) ascending
    thresholds: Thresholds  # of the last ranking
    common: tuple[float, int] | None  # (key, row) that a row of a stratum within its maximum had to reach
    outcomes: list[StratumOutcome]
    totals: Totals
    warnings: list[Notice] = field(default_factory=list)

    @property
    def preselected(self) -> npt.NDArray[np.bool_]:
        """Which rows were kept from an earlier selection, (k,)."""
        return np.equal(self.turns, PRESELECTED)


def choose(
    ranked: Ranked,
    layout: Layout,
    budget: Budget,
    strata: Strata | None = None,
    *,
    preselected: Rows = NO_ROWS,
    excluded: Rows = NO_ROWS,
    reason_names: Sequence[str] = ("eligible",),
    keys_in_memory: int = KEYS_IN_MEMORY,
) -> Choice:
    """Choose the best rows by key within budget and bounds: exactly what was asked, or an error that says why not.

    Parameters
    ----------
    ranked : Ranked
        The ranking.
    layout : Layout
        Units, strata and sizes.
    budget, strata
        As in the request.
    preselected : ndarray of int64
        Rows kept from an earlier selection, eligible or not, in their own order. They count against the budget and the
        bounds, and take the first ranks.
    excluded : ndarray of int64
        Rows never to be taken.
    reason_names : sequence of str
        What the codes of :attr:`RankedUnit.reasons` mean, for error messages.
    keys_in_memory : int
        Bytes of keys to keep between passes; decides speed and memory, never the result.

    Raises
    ------
    Infeasible
        When budget, bounds, eligible, preselected and excluded rows can't be satisfied together.
    Invalid
        When preselected or excluded rows are not rows of the dataset, or are both.
    DataError
        When a size is negative.
    """
    return choose_in_turns(
        [ranked],
        lambda left: [left],
        layout,
        budget,
        strata,
        preselected=preselected,
        excluded=excluded,
        reason_names=reason_names,
        keys_in_memory=keys_in_memory,
    )


def choose_in_turns(
    rankings: Sequence[Ranked],
    split: Callable[[int], Sequence[int]],
    layout: Layout,
    budget: Budget,
    strata: Strata | None = None,
    *,
    preselected: Rows = NO_ROWS,
    excluded: Rows = NO_ROWS,
    reason_names: Sequence[str] = ("eligible",),
    keys_in_memory: int = KEYS_IN_MEMORY,
) -> Choice:
    """Let several rankings take their parts of one budget in turns; a row taken is gone for the later ones.

    The bounds of the strata hold for the whole selection; a turn leaves as much of the budget as the minimums still
    open need. What a turn with a size budget leaves over goes to the next. Ranks interleave the turns, so that every
    prefix holds about the same share of each.

    Parameters
    ----------
    rankings : sequence of Ranked
        One for every turn. They agree on which rows are eligible.
    split : callable
        Given what the preselected rows leave of the budget, returns the part of every turn; the parts sum to it.

    Other parameters, and errors, are those of :func:`choose`.
    """
    kept = _checked_rows(preselected, layout.rows, "/preselected")
    banned = np.sort(_checked_rows(excluded, layout.rows, "/exclude"))
    both = np.intersect1d(kept, banned)
    if both.size:
        raise Invalid(
            f"{both.size} rows (row {both[0]} first) are to be kept by 'preselected' and kept away by 'exclude'.",
            pointer="/exclude",
        )
    if strata is None:
        layout = replace(layout, names=(), codes=None)
    amount = resolve_budget(budget, layout.rows)
    if amount.unit == "size" and layout.sizes is None:
        raise Invalid("A budget in size needs a size column.", pointer="/dataset/columns/size")
    bounds = resolve_bounds(strata, amount, layout.names)

    removed = np.union1d(kept, banned)
    candidates = Candidates(rankings[0], layout, amount.unit, removed, keys_in_memory)
    census = candidates.census(np.sort(kept), banned, reason_names)
    bounds = check_supply(bounds, amount, strata, census.supply)
    takings = [_preselection(candidates, kept)]
    have = census.supply.preselected
    common: tuple[float, int] | None = None
    for turn, goal in enumerate(_goals(split, len(rankings), int(have.sum()), amount)):
        if turn > 0:
            candidates = Candidates(rankings[turn], layout, amount.unit, removed, keys_in_memory)
        rows, common = _take_turn(candidates, amount, bounds, have, goal)
        takings.append(candidates.gather(rows, turn))
        have = have + takings[-1].tally(amount.unit, layout.strata)
        removed = np.union1d(removed, rows)
    _check_reached(have, amount, bounds, sum(len(taking.rows) for taking in takings))

    thresholds = _last_taken(takings[-1], layout.strata)
    merged = _interleaved(takings)
    choice = Choice(
        rows=merged.rows,
        scores=merged.scores,
        keys=merged.keys,
        weights=merged.weights,
        turns=merged.turns,
        ranks=merged.ranks,
        codes=merged.codes,
        sizes=merged.sizes,
        amount=amount,
        bounds=bounds,
        excluded=banned,
        thresholds=thresholds,
        common=common,
        outcomes=_outcomes(merged, bounds, census, thresholds),
        totals=Totals(
            candidates=layout.rows,
            eligible=int(census.eligible.sum()),
            asked_rows=amount.value if amount.unit == "rows" else None,
            asked_size=budget.size,
            rows=len(merged.rows),
            size=None if merged.sizes is None else int(merged.sizes.sum()),
            preselected=len(kept),
            excluded=len(banned),
        ),
        warnings=[*bounds.warnings, *_size_shortfall(int(have.sum()), amount)],
    )
    _check_choice(choice, layout, kept)
    return choice


# -- one turn


def _take_turn(
    candidates: Candidates, amount: Amount, bounds: Bounds, have: Rows, goal: int
) -> tuple[Rows, tuple[float, int] | None]:
    """Return the rows that one ranking takes, ascending, and the (key, row) that all but minimums had to reach.

    Parameters
    ----------
    have : ndarray, shape (strata,)
        Taken so far, in the unit of the budget.
    goal : int
        What shall have been taken after this turn, at most; the budget in the last one.
    """
    strata = len(bounds.names)
    taken = int(have.sum())
    lower = np.maximum(bounds.lower - have, 0)
    upper = np.where(bounds.upper == NO_MAX, NO_MAX, bounds.upper - have)

    by_size = amount.unit == "size"
    least, most = nothing(strata), everything(strata)
    if lower.any():
        least = cut_reaching(candidates.chunks, lower, by_size=by_size)
        _check_minimums(least.sizes, upper, bounds, amount, amount.value - taken)
    if (upper != NO_MAX).any():
        most = cut_within(candidates.chunks, upper, by_size=by_size)

    def between() -> Iterator[Chunk]:
        for chunk in candidates.chunks():
            free = before(most, chunk) & ~before(least, chunk)
            yield chunk._replace(keys=np.where(free, chunk.keys, -np.inf), codes=None)

    left = amount.value - taken - int(least.sizes.sum())
    rest = cut_within(between, np.array([left], np.int64), by_size=by_size)

    def passing() -> Iterator[Chunk]:
        for chunk, free in zip(candidates.chunks(), between(), strict=True):
            passes = before(least, chunk) | before(rest, free)
            yield chunk._replace(keys=np.where(passes, chunk.keys, -np.inf), codes=None)

    part = everything(1)
    if goal < amount.value:  # a later turn follows: of what would pass, only the first rows within this turn's part
        part = cut_within(passing, np.array([goal - taken], np.int64), by_size=by_size)
    rows = [chunk.start + np.flatnonzero(before(part, chunk)) for chunk in passing()]
    if int(rest.sizes[0]) < left and int(rest.counts[0]) == int(rest.eligible[0]):
        common: tuple[float, int] | None = NO_COMMON_THRESHOLD
    else:
        common = _last_before(between, rest)
    return np.concatenate([NO_ROWS, *rows], dtype=np.int64), common


def _last_before(chunks: Chunks, cuts: CutOffs) -> tuple[float, int] | None:
    """Return key and number of the last row, in order, before the cut of the one stratum; None when there is none."""
    last: tuple[float, int] | None = None
    for chunk in chunks():
        at = np.flatnonzero(before(cuts, chunk))
        if at.size:
            key = float(chunk.keys[at].min())
            row = chunk.start + int(at[chunk.keys[at] == key][-1])
            if last is None or (-key, row) > (-last[0], last[1]):
                last = (key, row)
    return last


def _check_minimums(amounts: Rows, upper: Rows, bounds: Bounds, amount: Amount, left: int) -> None:
    """Refuse minimums in units of size that whole rows can't reach within the maximum or the budget."""
    over = np.flatnonzero(amounts > upper)
    if over.size:
        stratum = over[0]
        raise Infeasible(
            f"No whole rows of stratum '{bounds.names[stratum]}' fit its bounds: its first rows that reach the minimum "
            f"of {bounds.lower[stratum]} add {amounts[stratum]}, but only {upper[stratum]} may be added.",
            pointer="/strata/quotas",
        )
    if int(amounts.sum()) > left:
        parts = ", ".join(f"{bounds.names[s]} {amounts[s]}" for s in np.flatnonzero(amounts)[:STRATA_NAMED_IN_ERRORS])
        raise Infeasible(
            f"The first rows that reach the minimums add {int(amounts.sum())} ({parts}), but of the budget of {amount} "
            f"only {left} are left: rows are taken whole, so leave some room above the minimums.",
            pointer=amount.pointer,
        )


# -- before and after the turns


def _checked_rows(rows: Rows, total: int, pointer: str) -> Rows:
    rows = np.asarray(rows, np.int64)
    if rows.size and not 0 <= rows.min() <= rows.max() < total:
        wrong = rows[(rows < 0) | (rows >= total)][0]
        raise Invalid(f"An earlier selection holds row {wrong}, but the dataset has {total} rows.", pointer=pointer)
    if len(np.unique(rows)) != len(rows):
        raise Invalid("An earlier selection holds a row twice.", pointer=pointer)
    return rows


def _preselection(candidates: Candidates, kept: Rows) -> Taking:
    order = np.argsort(kept)
    return replace(candidates.gather(kept[order], PRESELECTED), ranks=order.astype(np.int64))


def _goals(split: Callable[[int], Sequence[int]], turns: int, have: int, amount: Amount) -> list[int]:
    """Return what shall have been taken after each turn, in all."""
    parts = list(split(amount.value - have))
    if len(parts) != turns or min(parts) < 0 or sum(parts) != amount.value - have:
        raise TamisError(f"The {amount.value - have} left of the budget were split into {parts} for {turns} rankings.")
    goals: list[int] = (have + np.cumsum(np.array(parts, np.int64))).tolist()
    return goals


def _check_reached(have: Rows, amount: Amount, bounds: Bounds, rows: int) -> None:
    total = int(have.sum())
    if rows == 0:
        raise Infeasible(
            f"The first row in order is larger than the budget of {amount}: nothing can be taken.",
            pointer=amount.pointer,
        )
    if amount.unit == "rows" and total < amount.value:
        raise Infeasible(
            f"The budget asks {amount}, but the rankings have only {total} rows to give that differ.",
            pointer=amount.pointer,
        )
    short = np.flatnonzero(have < bounds.lower)
    if total > amount.value or short.size or (have > bounds.upper).any():
        raise TamisError(f"The decision broke its bounds: {total} of {amount}, strata {have.tolist()}.")


def _size_shortfall(reached: int, amount: Amount) -> list[Notice]:
    if amount.unit == "rows" or amount.value - reached <= SIZE_SHORTFALL * amount.value:
        return []
    detail = (
        f"The selection has a size of {reached}, {amount.value - reached} below the budget of {amount.value}: the next "
        "row in order, or of every stratum that is still open, would exceed a bound."
    )
    return [Notice(code="budget-not-reached", detail=detail)]


def _last_taken(taking: Taking, strata: int) -> Thresholds:
    """Return, for every stratum, the key and the row of the last one taken."""
    thresholds = Thresholds(np.full(strata, np.inf), np.full(strata, -1, np.int64))
    order = np.argsort(taking.ranks)
    codes = np.zeros(len(order), np.int64) if taking.codes is None else taking.codes[order]
    thresholds.keys[codes] = taking.keys[order]  # the last assignment to an index stays
    thresholds.rows[codes] = taking.rows[order]
    return thresholds


def _interleaved(takings: Sequence[Taking]) -> Taking:
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
    return Taking(
        rows=rows[order],
        scores=np.concatenate([taking.scores for taking in takings])[order],
        keys=np.concatenate([taking.keys for taking in takings])[order],
        weights=np.concatenate([taking.weights for taking in takings])[order],
        turns=turns[order],
        ranks=merged[order],
        codes=np.concatenate(codes)[order] if codes else None,
        sizes=np.concatenate(sizes)[order] if sizes else None,
    )


def _outcomes(taking: Taking, bounds: Bounds, census: Census, thresholds: Thresholds) -> list[StratumOutcome]:
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


def _check_choice(choice: Choice, layout: Layout, kept: Rows) -> None:
    """Raise `TamisError` when the choice is not one: a defect of this module, never of a request."""
    rows, ranks = choice.rows, choice.ranks
    wrong = [
        ("rows are not ascending and unique", bool((np.diff(rows) <= 0).any())),
        ("rows are out of range", bool(rows.size and (rows[0] < 0 or rows[-1] >= layout.rows))),
        ("excluded rows are among them", bool(np.isin(choice.excluded, rows, assume_unique=True).any())),
        ("preselected rows are missing", not bool(np.isin(kept, rows, assume_unique=True).all())),
        ("ranks are not 0 to k - 1", ranks is not None and not np.array_equal(np.sort(ranks), np.arange(len(rows)))),
        ("a row is not eligible", bool((choice.keys[~choice.preselected] == -np.inf).any())),
        ("not as many rows as asked", choice.amount.unit == "rows" and len(rows) != choice.amount.value),
    ]
    found = [what for what, is_so in wrong if is_so]
    if found:
        raise TamisError(f"The decision is not sound: {'; '.join(found)}.")
