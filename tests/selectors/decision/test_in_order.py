"""Choices in an order that a selector gives: exactly these rows, in this order, or a defect that is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.selectors.decision.choice import Choice, Feasibility, check_feasible, choose_in_order
from tamis.selectors.decision.in_order import Ordered
from tamis.selectors.decision.ranking import Layout
from tamis.selectors.decision.request import Request
from tamis.selectors.errors import Infeasible, TamisError
from tamis.selectors.schema.request import Budget, Quota, Strata
from tamis.selectors.schema.response import Notice

ROWS = 10
LAYOUT = Layout(
    starts=np.array([0, 4, 4, ROWS]),
    names=("a", "b"),
    codes=[np.array([0, 1, 0, 1], np.int32), np.empty(0, np.int32), np.array([0, 1, 0, 1, 0, 1], np.int32)],
    sizes=[np.array([1, 2, 3, 4]), np.empty(0, np.int64), np.array([5, 6, 7, 8, 9, 10])],
)
SCORES = np.arange(ROWS, dtype=np.float64)


def found(
    rows: list[int],
    budget: Budget,
    strata: Strata | None = None,
    reasons: np.ndarray | None = None,
    preselected: tuple[int, ...] = (),
    excluded: tuple[int, ...] = (),
) -> Feasibility:
    ranked = Ordered(LAYOUT, np.array(rows, np.int64), SCORES, reasons)
    return check_feasible(
        Request(
            LAYOUT, budget, strata, preselected=np.array(preselected, np.int64), excluded=np.array(excluded, np.int64)
        ),
        ranked,
        ("eligible", "odd"),
    )


def taken(rows: list[int], budget: Budget, strata: Strata | None = None, **more: Any) -> Choice:
    stopped = more.pop("stopped", None)
    weights = more.pop("weights", None)
    return choose_in_order(
        found(rows, budget, strata, **more), np.array(rows, np.int64), stopped=stopped, weights=weights
    )


def in_order(choice: Choice) -> list[int]:
    assert choice.ranks is not None
    order: list[int] = choice.rows[np.argsort(choice.ranks)].tolist()
    return order


@given(st.permutations(range(ROWS)), st.integers(0, 3), st.integers(1, 6))
def test_the_order_is_the_rank(order: list[int], kept: int, count: int) -> None:
    preselected, rows = tuple(order[:kept]), order[kept : kept + count]
    choice = taken(rows, Budget(rows=kept + count), preselected=preselected)
    assert in_order(choice) == [*preselected, *rows]
    assert choice.scores.tolist() == choice.rows.tolist()
    fresh = ~choice.preselected
    assert (choice.weights == 1).all()
    assert dict(zip(choice.rows[fresh].tolist(), choice.keys[fresh].tolist(), strict=True)) == {
        row: -float(place) for place, row in enumerate(rows)
    }
    assert choice.totals.eligible == ROWS  # those not taken could have been


def test_rows_not_taken_come_behind_all_taken_ones() -> None:
    ranked = Ordered(LAYOUT, np.array([9, 0]), SCORES, None)
    assert ranked(0).keys.tolist() == [-1, -2, -2, -2]
    assert ranked(1).keys.tolist() == []
    assert ranked(2).keys.tolist() == [-2, -2, -2, -2, -2, 0]


def test_weights_follow_their_rows() -> None:
    weights = np.array([10.0, 20.0, 1.0, 2.0])
    choice = taken([9, 0], Budget(rows=4), preselected=(7, 3), weights=weights)
    assert dict(zip(choice.rows.tolist(), choice.weights.tolist(), strict=True)) == {7: 10, 3: 20, 9: 1, 0: 2}


def test_bounds_are_checked() -> None:
    strata = Strata(quotas={"a": Quota(max=1), "b": Quota(min=2)})
    assert in_order(taken([1, 0, 3], Budget(rows=3), strata)) == [1, 0, 3]
    for rows in ([0, 2, 1], [0, 1, 2]):  # over the maximum of a, and under the minimum of b
        with pytest.raises(TamisError, match="broke its bounds"):
            taken(rows, Budget(rows=3), strata)
    with pytest.raises(TamisError, match="not as many rows as asked"):
        taken([1, 3], Budget(rows=3), strata)
    with pytest.raises(Infeasible):
        found([], Budget(rows=3), Strata(quotas={"a": Quota(max=1), "b": Quota(max=1)}))


def test_rows_that_may_not_be_taken_are_a_defect() -> None:
    reasons = np.zeros(ROWS, np.uint8)
    reasons[5] = 1
    for rows in ([5, 0], [2, 0], [3, 0], [0, 0]):
        with pytest.raises(TamisError):
            taken(rows, Budget(rows=3), reasons=reasons, excluded=(2,), preselected=(3,))
    choice = taken([6, 0], Budget(rows=3), reasons=reasons, excluded=(2,), preselected=(3,))
    assert (choice.totals.eligible, choice.totals.excluded) == (8, 1)


def test_a_selector_may_stop_by_its_own_rule() -> None:
    notice = Notice(code="stopped-early", detail="No row is farther than 3.")
    choice = taken([4, 1], Budget(rows=8), Strata(quotas={"b": Quota(min=3)}), stopped=notice)
    assert in_order(choice) == [4, 1]
    assert choice.warnings == [notice]
    assert (choice.totals.asked_rows, choice.totals.rows) == (8, 2)


def test_sizes_count() -> None:
    choice = taken([0, 1, 2], Budget(size=6.5))
    assert choice.totals.size == 6
    with pytest.raises(TamisError, match="broke its bounds"):
        taken([0, 1, 3], Budget(size=6.5))
