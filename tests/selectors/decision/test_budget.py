"""Budgets and quotas as integers, and what can't be met."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tamis.selectors.decision.budget import (
    NO_MAX,
    Amount,
    Bounds,
    Supply,
    check_request,
    check_supply,
    feasibility,
    resolve_bounds,
    resolve_budget,
    unbound,
)
from tamis.selectors.errors import Infeasible
from tamis.selectors.schema.request import Budget, Quota, Strata

TEN = Amount("rows", 10, "/budget/rows")


def supply(available: list[int], preselected: list[int] | None = None, losses: dict[str, int] | None = None) -> Supply:
    kept = preselected or [0] * len(available)
    return Supply(np.array(available, np.int64), np.array(kept, np.int64), losses or {})


@pytest.mark.parametrize(
    ("fraction", "rows", "expected"),
    [(0.1, 30, 3), (0.7, 10, 7), (0.29, 100, 29), (0.57, 100, 57), (1e-5, 10, 1), (1.0, 7, 7), (0.3, 10, 3)],
)
def test_a_fraction_is_the_decimal_the_caller_wrote(fraction: float, rows: int, expected: int) -> None:
    assert resolve_budget(Budget(fraction=fraction), rows).value == expected


@given(st.integers(1, 10**4), st.integers(1, 10**6))
def test_a_fraction_never_takes_more_than_its_share(parts: int, rows: int) -> None:
    fraction = parts / 10**4
    value = resolve_budget(Budget(fraction=fraction), rows).value
    assert value == max(1, parts * rows // 10**4)


def test_rows_and_size_stay_as_asked() -> None:
    assert resolve_budget(Budget(rows=5), 5) == Amount("rows", 5, "/budget/rows")
    assert resolve_budget(Budget(size=3e9), 5) == Amount("size", 3_000_000_000, "/budget/size")
    assert resolve_budget(Budget(size=2.9), 5).value == 2


@pytest.mark.parametrize(
    ("budget", "rows", "pointer", "words"),
    [
        (Budget(rows=6), 5, "/budget/rows", ["6", "5"]),
        (Budget(size=0.5), 5, "/budget/size", ["0.5"]),
        (Budget(rows=1), 0, "/dataset/shards", ["no rows"]),
    ],
)
def test_a_budget_no_data_can_meet(budget: Budget, rows: int, pointer: str, words: list[str]) -> None:
    with pytest.raises(Infeasible) as caught:
        resolve_budget(budget, rows)
    assert caught.value.pointer == pointer
    assert all(word in caught.value.detail for word in words)


def test_without_strata_there_is_one_free_stratum() -> None:
    bounds = resolve_bounds(None, TEN, ["a", "b"])
    assert bounds.names == ("",)
    assert bounds.lower.tolist() == [0]
    assert bounds.upper.tolist() == [NO_MAX]


def test_the_stricter_of_absolute_and_share_holds_and_shares_round_inwards() -> None:
    strata = Strata(
        quotas={
            "a": Quota(min=1, min_share=0.25, max_share=0.37),
            "b": Quota(min=3, min_share=0.1, max=5, max_share=0.9),
        },
        default=Quota(max=2),
    )
    bounds = resolve_bounds(strata, TEN, ["a", "b", "c"])
    assert bounds.lower.tolist() == [3, 3, 0]
    assert bounds.upper.tolist() == [3, 5, 2]


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 10**6))
def test_shares_are_exact(low: int, high: int, value: int) -> None:
    low, high = sorted((low, high))
    strata = Strata(quotas={"a": Quota(min_share=low / 1000, max_share=high / 1000)}, default=Quota())
    amount = Amount("rows", value, "/budget/rows")
    expected = (math.ceil(Fraction(low, 1000) * value), math.floor(Fraction(high, 1000) * value))
    if expected[0] > expected[1]:
        with pytest.raises(Infeasible, match="'a'"):
            resolve_bounds(strata, amount, ["a", "b"])
    else:
        bounds = resolve_bounds(strata, amount, ["a", "b"])
        assert (bounds.lower[0], bounds.upper[0]) == expected


@pytest.mark.parametrize(
    ("strata", "names", "pointer", "words"),
    [
        ({"quotas": {"a": {"min": 6}, "b": {"min_share": 0.5}}}, ["a", "b"], "/strata/quotas", ["11", "a 6", "b 5"]),
        ({"default": {"min": 4}}, ["a", "b", "c"], "/strata/default", ["12", "10 rows"]),
        ({"default": {"max": 3}}, ["a", "b", "c"], "/strata/default", ["9", "a 3", "b 3"]),
        ({"quotas": {"a": {"max": 4}}, "default": {"max": 5}}, ["a", "b"], "/strata/quotas", ["9", "a 4", "b 5"]),
        ({"quotas": {"a": {"min_share": 0.11, "max": 1}}}, ["a"], "/strata/quotas/a", ["'a'", "2", "1"]),
        ({"default": {"min": 2, "max_share": 0.19}}, ["a"], "/strata/default", ["default", "at most 1"]),
        ({"quotas": {"wikki": {"min": 1}}}, ["web", "wiki"], "/strata/quotas/wikki", ["wikki", "did you mean 'wiki'"]),
        ({"quotas": {"x/y~z": {"min": 1}}}, ["web"], "/strata/quotas/x~1y~0z", ["x/y~z", "'web'"]),
    ],
)
def test_quotas_that_contradict(strata: dict[str, Any], names: list[str], pointer: str, words: list[str]) -> None:
    with pytest.raises(Infeasible) as caught:
        resolve_bounds(Strata.model_validate(strata), TEN, names)
    assert caught.value.pointer == pointer
    assert all(word in caught.value.detail for word in words), caught.value.detail


def test_an_unknown_stratum_without_a_minimum_only_warns() -> None:
    bounds = resolve_bounds(Strata(quotas={"wikki": Quota(max=3)}), TEN, ["web", "wiki"])
    assert [notice.code for notice in bounds.warnings] == ["unknown-stratum"]
    assert "did you mean 'wiki'" in bounds.warnings[0].detail


def test_an_unknown_stratum_with_a_minimum_only_warns_when_shortfalls_are_redistributed() -> None:
    strata = Strata(quotas={"wikki": Quota(min=3)}, on_shortfall="redistribute")
    bounds = resolve_bounds(strata, TEN, ["web", "wiki"])
    assert bounds.lower.tolist() == [0, 0]
    assert [notice.code for notice in bounds.warnings] == ["unknown-stratum"]


def test_what_only_the_request_decides_is_refused_before_anything_is_read() -> None:
    check_request(None, TEN)
    check_request(Strata(quotas={"a": Quota(min=5), "b": Quota(min=5)}), TEN)
    with pytest.raises(Infeasible, match="sum to 11"):
        check_request(Strata(quotas={"a": Quota(min=6), "b": Quota(min=5)}), TEN)
    with pytest.raises(Infeasible, match="default quota"):
        check_request(Strata(default=Quota(min=2, max_share=0.1)), TEN)


def test_too_few_eligible_rows_are_told_with_what_was_left_out() -> None:
    with pytest.raises(Infeasible) as caught:
        check_supply(
            resolve_bounds(None, TEN, []),
            TEN,
            None,
            supply([9], losses={"too-few-tokens": 60, "excluded": 40, "other": 0}),
        )
    assert caught.value.pointer == "/budget/rows"
    for words in ("10 rows", "only 9 rows", "60 too-few-tokens", "40 excluded"):
        assert words in caught.value.detail
    assert "other" not in caught.value.detail


def test_a_quota_and_eligibility_together_can_bind() -> None:
    strata = Strata(quotas={"web": Quota(max=4)})
    bounds = resolve_bounds(strata, TEN, ["web", "wiki"])
    assert check_supply(bounds, TEN, strata, supply([50, 6])) is bounds
    with pytest.raises(Infeasible, match=r"9 can be taken.*55 rows.*limit strata to web 4"):
        check_supply(bounds, TEN, strata, supply([50, 5]))


def test_a_shortfall_is_an_error_or_redistributed() -> None:
    strata = Strata(quotas={"wiki": Quota(min=4)})
    bounds = resolve_bounds(strata, TEN, ["web", "wiki"])
    with pytest.raises(Infeasible, match="wiki 4 asked, wiki 3 eligible") as caught:
        check_supply(bounds, TEN, strata, supply([50, 3]))
    assert caught.value.pointer == "/strata/quotas/wiki"
    relaxed = strata.model_copy(update={"on_shortfall": "redistribute"})
    lowered = check_supply(bounds, TEN, relaxed, supply([50, 3]))
    assert lowered.lower.tolist() == [0, 3]
    assert [notice.code for notice in lowered.warnings] == ["quota-shortfall"]


@pytest.mark.parametrize(
    ("quotas", "kept", "words"),
    [
        ({}, [8, 3], ["already make 11"]),
        ({"web": {"max": 3}}, [4, 0], ["web 4", "web 3"]),
        ({"wiki": {"min": 5}}, [8, 1], ["wiki 4", "only 1 are left"]),
    ],
)
def test_preselected_rows_can_leave_no_room(quotas: dict[str, Any], kept: list[int], words: list[str]) -> None:
    strata = Strata.model_validate({"quotas": quotas})
    bounds = resolve_bounds(strata, TEN, ["web", "wiki"])
    with pytest.raises(Infeasible) as caught:
        check_supply(bounds, TEN, strata, supply([50, 50], kept))
    assert all(word in caught.value.detail for word in words), caught.value.detail


def test_a_sentence_does_not_list_a_thousand_strata() -> None:
    names = [f"s{index:04d}" for index in range(1000)]
    with pytest.raises(Infeasible) as caught:
        resolve_bounds(Strata(default=Quota(min=1)), TEN, names)
    assert "and 992 more" in caught.value.detail
    assert len(caught.value.detail) < 300


def test_feasibility_lists_what_is_asked_of_each_stratum() -> None:
    strata = Strata(quotas={"web": Quota(max_share=0.5), "wiki": Quota(min=2)})
    assert feasibility(None, TEN, None) == []
    asked = feasibility(strata, TEN, None)
    assert [(entry.stratum, entry.available, entry.min, entry.max) for entry in asked] == [
        ("web", None, 0, 5),
        ("wiki", None, 2, None),
    ]
    known = feasibility(strata, TEN, ["books", "web", "wiki"], [7, 8, 9])
    assert [(entry.stratum, entry.available, entry.min, entry.max) for entry in known] == [
        ("books", 7, 0, None),
        ("web", 8, 0, 5),
        ("wiki", 9, 2, None),
    ]


def test_bounds_of_an_empty_stratum_list_are_refused_not_crashed() -> None:
    with pytest.raises(Infeasible):
        resolve_bounds(Strata(), TEN, [])
    assert isinstance(resolve_bounds(Strata(), TEN, ["a"]), Bounds)


def test_a_stratum_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(ValidationError, match="surrogate"):
        Strata.model_validate({"quotas": {"\ud800": {"min": 1}}})


def test_strata_without_bounds_are_said() -> None:
    assert [notice.code for notice in unbound(Strata(by="label"))] == ["strata-without-bounds"]
    assert unbound(None) == unbound(Strata(default=Quota(max=3))) == unbound(Strata(quotas={"a": Quota(min=1)})) == []
