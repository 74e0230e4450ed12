"""The best rows by key within budget and bounds, exactly, in a few passes over the keys.

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

import numpy as np

from tamis.native.sampling.topk import CutOffs
from tamis.selectors.decision.budget import NO_MAX, STRATA_NAMED_IN_ERRORS, Amount, Bounds
from tamis.selectors.decision.choice import Choice, assemble, check_feasible, preselection
from tamis.selectors.decision.cuts import Chunk, Chunks, before, cut_reaching, cut_within, everything, nothing
from tamis.selectors.decision.ranking import Candidates, Ranked, Rows
from tamis.selectors.decision.request import NO_ROWS, Request
from tamis.selectors.errors import Infeasible, TamisError

NO_COMMON_THRESHOLD = (-np.inf, -1)
"""When nothing but the maximums of the strata stops a row: every key is above it."""


def choose(request: Request, ranked: Ranked, reason_names: Sequence[str] = ("eligible",)) -> Choice:
    """Choose the best rows by key within budget and bounds: exactly the budget, or an error that says why not.

    Parameters
    ----------
    request : Request
        Budget, bounds and earlier selections.
    ranked : Ranked
        The ranking.
    reason_names : sequence of str
        Names of the codes in :attr:`RankedUnit.reasons`, for error messages.

    Returns
    -------
    Choice
        Exactly the budget, within its bounds.

    Raises
    ------
    Infeasible
        When budget, bounds, eligible, preselected and excluded rows can't be satisfied together.
    Invalid
        When preselected or excluded rows are not rows of the dataset, or are both.
    DataError
        When a size is negative.
    """
    return choose_by_target(request, [ranked], lambda left: [left], reason_names)


def choose_by_target(
    request: Request,
    rankings: Sequence[Ranked],
    split: Callable[[int], Sequence[int]],
    reason_names: Sequence[str] = ("eligible",),
) -> Choice:
    """Choose by several rankings in turn, one for each target, each within its part of one budget.

    A row taken in one turn is unavailable in later ones. The bounds of the strata hold for the whole selection; a turn
    leaves as much of the budget as the minimums still open need. What a turn with a size budget leaves over goes to the
    next. Ranks interleave the turns, so that every prefix holds about the same share of each.

    Parameters
    ----------
    request : Request
        Budget, bounds and earlier selections.
    rankings : sequence of Ranked
        One for every turn. They agree on which rows are eligible.
    split : callable
        Given what the preselected rows leave of the budget, returns the part of every turn; the parts sum to it.
    reason_names : sequence of str
        As for :func:`choose`, as are the errors.
    """
    feasibility = check_feasible(request, rankings[0], reason_names)
    amount, bounds, layout = feasibility.amount, feasibility.bounds, feasibility.layout
    candidates, removed = feasibility.candidates, feasibility.unavailable
    takings = [preselection(feasibility)]
    have = feasibility.census.supply.preselected
    common: tuple[float, int] | None = None
    for turn, goal in enumerate(_goals(split, len(rankings), int(have.sum()), amount)):
        if turn > 0:
            candidates = Candidates(rankings[turn], layout, amount.unit, removed, request.keys_in_memory)
        rows, common = _take_turn(candidates, amount, bounds, have, goal)
        takings.append(candidates.gather(rows, turn))
        have = have + takings[-1].tally(amount.unit, layout.strata)
        removed = np.union1d(removed, rows)
    _check_reached(have, amount, bounds, sum(len(taking.rows) for taking in takings))
    return assemble(feasibility, takings, common=common)


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

    bounded = bool(lower.any() or (upper != NO_MAX).any())

    def between() -> Iterator[Chunk]:
        for chunk in candidates.chunks():
            if not bounded:
                yield chunk._replace(codes=None)
                continue
            free = before(most, chunk) & ~before(least, chunk)
            yield chunk._replace(keys=np.where(free, chunk.keys, -np.inf), codes=None)

    left = amount.value - taken - int(least.sizes.sum())
    rest = cut_within(between, np.array([left], np.int64), by_size=by_size)

    def passing() -> Iterator[Chunk]:
        if not bounded:
            for chunk in between():
                yield chunk._replace(keys=np.where(before(rest, chunk), chunk.keys, -np.inf))
            return
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
            pointer=bounds.pointer,
        )
    if int(amounts.sum()) > left:
        parts = ", ".join(f"{bounds.names[s]} {amounts[s]}" for s in np.flatnonzero(amounts)[:STRATA_NAMED_IN_ERRORS])
        raise Infeasible(
            f"The first rows that reach the minimums add {int(amounts.sum())} ({parts}), but of the budget of {amount} "
            f"only {left} are left: rows are taken whole, so leave some room above the minimums.",
            pointer=amount.pointer,
        )


# -- before and after the turns


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
