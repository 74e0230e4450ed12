"""Budgets and quotas as exact integers, and every reason why they can't be met together.

A budget is counted in rows or in units of the size column; so are all its bounds. What only the request decides is
refused before anything is read, what the data decides as soon as the counts are known.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from typing import Literal

import numpy as np
import numpy.typing as npt

from tamis.selectors.errors import Infeasible
from tamis.selectors.schema.request import Budget, Quota, Strata
from tamis.selectors.schema.response import Notice, StratumFeasibility
from tamis.selectors.schema.validation import escape

NO_MAX = int(np.iinfo(np.int64).max)
"""The upper bound of a stratum that has none."""

STRATA_NAMED_IN_ERRORS = 8
"""A sentence names at most so many strata; it counts the others."""

Unit = Literal["rows", "size"]


@dataclass(frozen=True)
class Amount:
    """How much to take: a whole number of rows, or of units of the size column (never exceeded)."""

    unit: Unit
    value: int
    pointer: str  # JSON Pointer to the field of the request it comes from

    def __str__(self) -> str:
        return f"{self.value} {'rows' if self.unit == 'rows' else 'units of size'}"


@dataclass(frozen=True)
class Bounds:
    """Integer bounds of every stratum, in the unit of the budget.

    Without strata there is one stratum, named '', that has no bound.
    """

    names: tuple[str, ...]
    lower: npt.NDArray[np.int64]  # (strata,)
    upper: npt.NDArray[np.int64]  # (strata,), NO_MAX where there is none
    warnings: tuple[Notice, ...] = ()
    pointer: str = "/strata"  # JSON Pointer to the field of the request that they come from


@dataclass(frozen=True)
class Supply:
    """The supply of the data by stratum, in the unit of the budget."""

    available: npt.NDArray[np.int64]  # (strata,) what is eligible, what is preselected included
    preselected: npt.NDArray[np.int64]  # (strata,) the part of it that must be kept
    losses: Mapping[str, int]  # rows that can't be taken, by reason


def exact(value: float) -> Fraction:
    """Return the decimal number a caller wrote, exactly: 0.1 is one tenth, not the nearest binary fraction."""
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def resolve_budget(budget: Budget, rows_total: int) -> Amount:
    """Return the budget as a whole number.

    Parameters
    ----------
    budget : Budget
        Rows are taken as they are; a fraction is of all rows, rounded down and at least 1 (exactly: 0.1 of 30 rows is
        3); a size is rounded down, since it is never exceeded.
    rows_total : int
        Rows of the dataset, eligible or not.

    Raises
    ------
    Infeasible
        When there are no rows, fewer rows than asked, or the size is below one unit.
    """
    if rows_total == 0:
        raise Infeasible("The dataset has no rows: nothing can be selected from it.", pointer="/dataset/shards")
    if budget.rows is not None:
        if budget.rows > rows_total:
            raise Infeasible(
                f"The budget asks {budget.rows} rows, but the dataset has {rows_total}.", pointer="/budget/rows"
            )
        return Amount("rows", budget.rows, "/budget/rows")
    if budget.fraction is not None:
        return Amount("rows", max(1, floor(exact(budget.fraction) * rows_total)), "/budget/fraction")
    assert budget.size is not None
    if budget.size < 1:
        raise Infeasible(
            f"The budget asks a size of {budget.size}, but sizes are whole numbers: ask 1 or more.",
            pointer="/budget/size",
        )
    return Amount("size", floor(exact(budget.size)), "/budget/size")


def resolve_bounds(strata: Strata | None, amount: Amount, names: Sequence[str]) -> Bounds:
    """Return the bounds of every stratum of the data.

    Shares are of the budget asked: `min_share` is rounded up and `max_share` down, so that a bound given as a share is
    kept whatever the rounding. Of an absolute bound and a share the stricter holds. A stratum without a quota of its
    own gets the default one.

    Parameters
    ----------
    strata : Strata, optional
        The request's bounds.
    amount : Amount
        The budget.
    names : sequence of str
        All strata that occur in the data; ignored without `strata`.

    Raises
    ------
    Infeasible
        When a stratum's bounds contradict each other, a minimum is asked of a stratum that does not occur (unless
        shortfalls are to be redistributed: then a warning), the minimums exceed the budget, or the maximums stay below
        it.
    """
    if strata is None:
        return Bounds(("",), np.zeros(1, np.int64), np.full(1, NO_MAX, np.int64))
    known = set(names)
    resolved = {name: _resolve_quota(quota, amount, name) for name, quota in strata.quotas.items()}
    default = _resolve_quota(strata.default, amount, None) if strata.default is not None else (0, NO_MAX)
    unknown = [name for name in sorted(resolved) if name not in known]
    warnings = (*unbound(strata), *(_unknown_stratum(name, resolved[name][0], strata, names) for name in unknown))
    pairs = [resolved.get(name, default) for name in names]
    pointer = _pointer(strata)
    _refuse_minimums_over_budget(amount, {name: low for name, (low, _) in zip(names, pairs, strict=True)}, pointer)
    reach = sum(min(high, amount.value) for _, high in pairs)
    if reach < amount.value:
        highs = {name: high for name, (_, high) in zip(names, pairs, strict=True)}
        raise Infeasible(
            f"The budget asks {amount}, but the maximums of the strata allow {reach} in all: {_listed(highs)}.",
            pointer=pointer,
        )
    low, high = np.array(pairs, np.int64).reshape(-1, 2).T
    return Bounds(tuple(names), low.copy(), high.copy(), warnings, pointer)


def unbound(strata: Strata | None) -> list[Notice]:
    """Return a warning where strata have no bound, so that they do not change the selection."""
    if strata is None or strata.quotas or strata.default is not None:
        return []
    detail = (
        "No stratum has a bound, so that strata only label the rows: give 'quotas' by stratum, or a 'default' for all, "
        'such as {"max_share": 0.2}.'
    )
    return [Notice(code="strata-without-bounds", detail=detail)]


def check_request(strata: Strata | None, amount: Amount) -> None:
    """Refuse bounds that no data could satisfy, before the strata of the data are known.

    Raises
    ------
    Infeasible
        When a stratum's bounds contradict each other, or the minimums that are named exceed the budget.
    """
    if strata is None:
        return
    if strata.default is not None:
        _resolve_quota(strata.default, amount, None)
    lows = {name: _resolve_quota(quota, amount, name)[0] for name, quota in strata.quotas.items()}
    if strata.on_shortfall == "error":  # else a minimum of a stratum that may not even occur binds nothing yet
        _refuse_minimums_over_budget(amount, lows, _pointer(strata))


def check_supply(bounds: Bounds, amount: Amount, strata: Strata | None, supply: Supply) -> Bounds:
    """Compare the bounds with the supply of the data.

    Returns
    -------
    Bounds
        The same, but with minimums lowered to what there is where `on_shortfall` is 'redistribute'.

    Raises
    ------
    Infeasible
        When rows already preselected exceed the budget or a stratum's maximum, a stratum has less than its minimum, or
        all that bounds and eligibility allow stays below the budget.
    """
    kept = int(supply.preselected.sum())
    if kept > amount.value:
        raise Infeasible(
            f"The budget asks {amount}, but the preselected rows, which are kept, already make {kept}: "
            "ask more, or preselect less.",
            pointer="/preselected",
        )
    over = np.flatnonzero(supply.preselected > bounds.upper)
    if over.size:
        parts = {bounds.names[s]: int(supply.preselected[s]) for s in over}
        raise Infeasible(
            f"The preselected rows, which are kept, exceed the maximum of their strata: {_listed(parts)} preselected, "
            f"at most {_listed({bounds.names[s]: int(bounds.upper[s]) for s in over})} allowed.",
            pointer="/preselected",
        )
    bounds = _meet_shortfalls(bounds, amount, strata, supply)
    reach = np.minimum(bounds.upper, supply.available)
    total = int(reach.sum())
    if total < amount.value:
        raise Infeasible(_shortage(bounds, amount, supply, reach), pointer=amount.pointer)
    # A preselection heavy in one stratum can leave too little of the budget for the minimums of the others.
    outstanding = np.maximum(bounds.lower - supply.preselected, 0)
    if int(outstanding.sum()) > amount.value - kept:
        parts = {bounds.names[s]: int(outstanding[s]) for s in np.flatnonzero(outstanding)}
        raise Infeasible(
            f"The minimums that the preselected rows leave open ({_listed(parts)}) need {int(outstanding.sum())}, but "
            f"of the budget of {amount} only {amount.value - kept} are left.",
            pointer=bounds.pointer,
        )
    return bounds


def feasibility(
    strata: Strata | None, amount: Amount, names: Sequence[str] | None, available: Sequence[int] | None = None
) -> list[StratumFeasibility]:
    """Return the bounds of every stratum beside its supply, for a plan.

    Parameters
    ----------
    strata, amount
        The request's bounds and budget.
    names : sequence of str, optional
        The strata of the data; those the quotas name when nothing has been read yet.
    available : sequence of int, optional
        What each has, in the unit of the budget.
    """
    if strata is None:
        return []
    if names is None:
        resolved = {name: _resolve_quota(quota, amount, name) for name, quota in sorted(strata.quotas.items())}
        pairs = list(resolved.items())
    else:
        bounds = resolve_bounds(strata, amount, names)
        pairs = [(name, (int(bounds.lower[s]), int(bounds.upper[s]))) for s, name in enumerate(bounds.names)]
    return [
        StratumFeasibility(
            stratum=name,
            available=None if available is None else int(available[index]),
            min=low,
            max=None if high == NO_MAX else high,
        )
        for index, (name, (low, high)) in enumerate(pairs)
    ]


def _resolve_quota(quota: Quota, amount: Amount, name: str | None) -> tuple[int, int]:
    low = max(quota.min or 0, ceil(exact(quota.min_share or 0.0) * amount.value))
    high = NO_MAX if quota.max is None else quota.max
    if quota.max_share is not None:
        high = min(high, floor(exact(quota.max_share) * amount.value))
    if low > high:
        who = "The default quota" if name is None else f"The quota of stratum '{name}'"
        raise Infeasible(
            f"{who} can't be met with a budget of {amount}: at least {low} and at most {high} "
            "(a minimum share is rounded up, a maximum share down).",
            pointer="/strata/default" if name is None else f"/strata/quotas/{escape(name)}",
        )
    return low, high


def _pointer(strata: Strata) -> str:
    return "/strata/quotas" if strata.quotas or strata.default is None else "/strata/default"


def _refuse_minimums_over_budget(amount: Amount, lows: Mapping[str, int], pointer: str) -> None:
    total = sum(lows.values())
    if total > amount.value:
        parts = {name: low for name, low in lows.items() if low}
        raise Infeasible(
            f"The minimums of the strata sum to {total}, but the budget is {amount}: {_listed(parts)}.",
            pointer=pointer,
        )


def _unknown_stratum(name: str, low: int, strata: Strata, names: Sequence[str]) -> Notice:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are {_named(sorted(names))}."
    if low > 0 and strata.on_shortfall == "error":
        raise Infeasible(
            f"A minimum of {low} is asked of stratum '{name}', which does not occur in the data; {hint}",
            pointer=f"/strata/quotas/{escape(name)}",
        )
    return Notice(
        code="unknown-stratum",
        detail=f"The quota of stratum '{name}' has no effect: it does not occur in the data; {hint}",
    )


def _meet_shortfalls(bounds: Bounds, amount: Amount, strata: Strata | None, supply: Supply) -> Bounds:
    short = np.flatnonzero(supply.available < bounds.lower)
    if not short.size:
        return bounds
    asked = _listed({bounds.names[s]: int(bounds.lower[s]) for s in short})
    has = _listed({bounds.names[s]: int(supply.available[s]) for s in short})
    if strata is None or strata.on_shortfall == "error":
        pointer = f"/strata/quotas/{escape(bounds.names[short[0]])}"
        named = strata is not None and bounds.names[short[0]] in strata.quotas
        raise Infeasible(
            f"The minimum of some strata is more than they have: {asked} asked, {has} eligible"
            f"{_lost(supply.losses)}; lower it, or set on_shortfall to 'redistribute'.",
            pointer=pointer if named else "/strata/default",
        )
    notice = Notice(
        code="quota-shortfall",
        detail=f"Some strata have less than their minimum, all they have is taken: {asked} asked, {has} eligible.",
    )
    return replace(bounds, lower=np.minimum(bounds.lower, supply.available), warnings=(*bounds.warnings, notice))


def _shortage(bounds: Bounds, amount: Amount, supply: Supply, reach: npt.NDArray[np.int64]) -> str:
    available = int(supply.available.sum())
    unit = "rows" if amount.unit == "rows" else "units of size"
    if available < amount.value:
        return f"The budget asks {amount}, but only {available} {unit} are eligible{_lost(supply.losses)}."
    capped = np.flatnonzero(bounds.upper < supply.available)
    limits = _listed({bounds.names[s]: int(bounds.upper[s]) for s in capped})
    return (
        f"The budget asks {amount}, but {int(reach.sum())} can be taken: {available} {unit} are eligible"
        f"{_lost(supply.losses)}, and quotas limit strata to {limits}."
    )


def _lost(losses: Mapping[str, int]) -> str:
    parts = [f"{count} {reason}" for reason, count in losses.items() if count]
    return f" (rows left out: {', '.join(parts)})" if parts else ""


def _listed(parts: Mapping[str, int]) -> str:
    shown = [f"{name or repr(name)} {count}" for name, count in list(parts.items())[:STRATA_NAMED_IN_ERRORS]]
    return ", ".join(shown) + _others(len(parts))


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:STRATA_NAMED_IN_ERRORS]) + _others(len(names))


def _others(count: int) -> str:
    return f" and {count - STRATA_NAMED_IN_ERRORS} more" if count > STRATA_NAMED_IN_ERRORS else ""
