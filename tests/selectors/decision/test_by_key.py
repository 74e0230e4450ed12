"""The decision: exactly what was asked, whatever the keys, the bounds and the chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tamis.selectors.decision.by_key import choose, choose_by_target
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.ranking import Layout, RankedUnit
from tamis.selectors.decision.request import Request
from tamis.selectors.errors import DataError, Infeasible, Invalid, TamisError
from tamis.selectors.schema.request import Budget, Quota, Strata

INF = float("inf")


class Rows:
    """Keys cut into units, as a selector hands them over."""

    def __init__(self, keys: Sequence[float], cuts: Sequence[int] = (), reasons: Sequence[int] | None = None) -> None:
        self.keys = np.array(keys, np.float64)
        self.starts = np.array([0, *sorted(cuts), len(keys)], np.int64)
        self.reasons = None if reasons is None else np.array(reasons, np.uint8)

    def split(self, values: Sequence[int], dtype: type) -> list[Any]:
        return np.split(np.array(values, dtype), self.starts[1:-1])

    def layout(
        self, names: Sequence[str] = (), codes: Sequence[int] | None = None, sizes: Sequence[int] | None = None
    ) -> Layout:
        return Layout(
            starts=self.starts,
            names=names,
            codes=None if codes is None else self.split(codes, np.int32),
            sizes=None if sizes is None else self.split(sizes, np.int64),
        )

    def __call__(self, unit: int) -> RankedUnit:
        here = slice(self.starts[unit], self.starts[unit + 1])
        reasons = None if self.reasons is None else self.reasons[here]
        keys = self.keys[here]
        keys.setflags(write=False)  # as a memory-mapped signal is
        return RankedUnit(keys=keys, scores=keys / 2, weights=np.arange(here.start, here.stop) + 0.5, reasons=reasons)


def in_rank_order(choice: Choice) -> list[int]:
    assert choice.ranks is not None
    rows: list[int] = choice.rows[np.argsort(choice.ranks)].tolist()
    return rows


# -- against a reference that goes row by row


@dataclass
class Problem:
    """Everything that decides, in plain lists."""

    keys: list[float]  # -inf: not eligible
    codes: list[int]
    lower: list[int]
    upper: list[int | None]
    budget: int
    sizes: list[int] | None = None  # a budget in size, when given
    preselected: Sequence[int] = ()
    excluded: Sequence[int] = ()
    redistribute: bool = False


@dataclass
class Outcome:
    """The rows in rank order, or why there are none."""

    order: list[int] = field(default_factory=list)
    infeasible: str | None = None


def choose_by_hand(problem: Problem) -> Outcome:
    """Take preselected rows, then minimums, then rows in order while nothing closes: one row at a time."""
    size = problem.sizes or [1] * len(problem.keys)
    strata = range(len(problem.lower))
    lower = list(problem.lower)
    upper = [float("inf") if bound is None else bound for bound in problem.upper]
    gone = {*problem.preselected, *problem.excluded}
    order = sorted(
        (row for row, key in enumerate(problem.keys) if key > float("-inf") and row not in gone),
        key=lambda row: (-problem.keys[row], row),
    )
    if sum(lower) > problem.budget:
        return Outcome(infeasible="the minimums asked exceed the budget")
    have = [sum(size[row] for row in problem.preselected if problem.codes[row] == s) for s in strata]
    available = [have[s] + sum(size[row] for row in order if problem.codes[row] == s) for s in strata]
    if any(available[s] < lower[s] for s in strata):
        if not problem.redistribute:
            return Outcome(infeasible="a stratum has less than its minimum")
        lower = [min(low, there) for low, there in zip(lower, available, strict=True)]
    if sum(have) > problem.budget or any(have[s] > upper[s] for s in strata):
        return Outcome(infeasible="preselected rows exceed a bound")
    if sum(min(upper[s], available[s]) for s in strata) < problem.budget:
        return Outcome(infeasible="bounds and eligible rows stay below the budget")

    taken: list[int] = []
    for row in order:
        stratum = problem.codes[row]
        if have[stratum] < lower[stratum]:
            taken.append(row)
            have[stratum] += size[row]
    if sum(have) > problem.budget or any(have[s] > upper[s] for s in strata):
        return Outcome(infeasible="the minimums exceed a bound")
    first = set(taken)
    closed: set[int] = set()
    for row in order:
        stratum = problem.codes[row]
        if row in first or stratum in closed:
            continue
        if have[stratum] + size[row] > upper[stratum]:
            closed.add(stratum)
            continue
        if sum(have) + size[row] > problem.budget:
            break
        taken.append(row)
        have[stratum] += size[row]
    if not taken and not problem.preselected:
        return Outcome(infeasible="the first row exceeds the budget")
    assert problem.sizes is not None or sum(have) == problem.budget
    return Outcome(order=[*problem.preselected, *sorted(taken, key=lambda row: (-problem.keys[row], row))])


nasty_keys = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 2**-52, -1.0, 1e308, -1e308, 5e-324, -5e-324, 2.0, 3.0, -INF])


@st.composite
def problems(draw: st.DrawFn, *, by_size: bool) -> tuple[Problem, list[int]]:
    rows = draw(st.integers(1, 30))
    strata = draw(st.integers(1, 4))
    keys = draw(st.lists(nasty_keys, min_size=rows, max_size=rows))
    codes = draw(st.lists(st.integers(0, strata - 1), min_size=rows, max_size=rows))
    sizes = draw(st.lists(st.integers(0, 6), min_size=rows, max_size=rows)) if by_size else None
    most = sum(sizes) if sizes else rows
    assume(most > 0)
    budget = draw(st.integers(1, max(1, most)))
    quotas = st.tuples(st.integers(0, max(1, budget // strata)), st.none() | st.integers(0, budget + 1))
    pairs = draw(st.lists(quotas, min_size=strata, max_size=strata))
    flags = draw(st.lists(st.sampled_from("......pe"), min_size=rows, max_size=rows))
    problem = Problem(
        keys=keys,
        codes=codes,
        lower=[low if high is None else min(low, high) for low, high in pairs],
        upper=[high for _, high in pairs],
        budget=budget,
        sizes=sizes,
        preselected=draw(st.permutations([row for row in range(rows) if flags[row] == "p"])),
        excluded=[row for row in range(rows) if flags[row] == "e"],
        redistribute=draw(st.booleans()),
    )
    cuts = draw(st.lists(st.integers(0, rows), max_size=4))  # equal cuts make empty units
    return problem, cuts


def decide(problem: Problem, cuts: Sequence[int], **options: Any) -> Choice:
    names = [f"s{code}" for code in range(len(problem.lower))]
    quotas = {
        name: Quota(min=low, max=high) for name, low, high in zip(names, problem.lower, problem.upper, strict=True)
    }
    rows = Rows(problem.keys, cuts)
    return choose(
        Request(
            rows.layout(names, problem.codes, problem.sizes),
            Budget(size=problem.budget) if problem.sizes else Budget(rows=problem.budget),
            Strata(quotas=quotas, on_shortfall="redistribute" if problem.redistribute else "error"),
            preselected=np.array(problem.preselected, np.int64),
            excluded=np.array(problem.excluded, np.int64),
            **options,
        ),
        rows,
    )


def check_against_reference(problem: Problem, cuts: Sequence[int], **options: Any) -> None:
    expected = choose_by_hand(problem)
    if expected.infeasible is not None:
        with pytest.raises(Infeasible):
            decide(problem, cuts, **options)
        return
    choice = decide(problem, cuts, **options)
    assert in_rank_order(choice) == expected.order
    assert choice.rows.tolist() == sorted(expected.order)
    assert choice.scores.tolist() == [problem.keys[row] / 2 for row in choice.rows]
    assert choice.weights.tolist() == [row + 0.5 for row in choice.rows]
    assert choice.codes is not None
    assert choice.codes.tolist() == [problem.codes[row] for row in choice.rows]
    assert choice.rows[choice.turns < 0].tolist() == sorted(problem.preselected)
    size = problem.sizes or [1] * len(problem.keys)
    reached = sum(size[row] for row in choice.rows)
    assert reached == problem.budget if problem.sizes is None else reached <= problem.budget
    for code, outcome in enumerate(choice.outcomes):
        own = [row for row in expected.order if problem.codes[row] == code]
        assert outcome.rows == len(own)
        assert outcome.candidates == problem.codes.count(code)
        if problem.sizes is not None:
            assert outcome.size == sum(size[row] for row in own)
        assert outcome.asked_max is None or sum(size[row] for row in own) <= outcome.asked_max
        assert sum(size[row] for row in own) >= outcome.asked_min


@settings(max_examples=600, deadline=None)
@given(problems(by_size=False))
def test_rows_equal_the_reference(case: tuple[Problem, list[int]]) -> None:
    check_against_reference(*case)


@settings(max_examples=600, deadline=None)
@given(problems(by_size=True))
def test_sizes_equal_the_reference(case: tuple[Problem, list[int]]) -> None:
    check_against_reference(*case)


@settings(max_examples=100, deadline=None)
@given(problems(by_size=True))
def test_keys_asked_for_again_give_the_same(case: tuple[Problem, list[int]]) -> None:
    check_against_reference(*case, keys_in_memory=0)


@settings(max_examples=100, deadline=None)
@given(problems(by_size=False), st.lists(st.integers(0, 30), max_size=6))
def test_units_do_not_matter(case: tuple[Problem, list[int]], other: list[int]) -> None:
    problem, cuts = case
    try:
        one = decide(problem, cuts)
    except Infeasible as error:
        with pytest.raises(Infeasible) as caught:
            decide(problem, [cut for cut in other if cut <= len(problem.keys)])
        assert caught.value.detail == error.detail
        return
    two = decide(problem, [cut for cut in other if cut <= len(problem.keys)])
    assert one.rows.tolist() == two.rows.tolist()
    assert in_rank_order(one) == in_rank_order(two)
    assert (one.outcomes, one.totals) == (two.outcomes, two.totals)
    assert one.thresholds.common == two.thresholds.common
    assert one.thresholds.rows.tolist() == two.thresholds.rows.tolist()


@pytest.mark.parametrize("distinct", [3, 10**9])
def test_many_rows_equal_the_greedy_choice(distinct: int) -> None:
    generator = np.random.default_rng(7)
    count, names = 200_000, ["a", "b", "c"]
    keys = generator.integers(0, distinct, count).astype(np.float64)
    codes = generator.choice(3, count, p=[0.8, 0.19, 0.01]).astype(np.int32)
    rows = Rows(keys.tolist(), [1, 50_000, 50_001, 199_999])
    strata = Strata(quotas={"a": Quota(max_share=0.5), "c": Quota(min_share=0.05)})
    choice = choose(Request(rows.layout(names, codes.tolist()), Budget(rows=30_000), strata), rows)
    assert len(choice.rows) == 30_000
    order = np.lexsort((np.arange(count), -keys))
    # The greedy choice in plain Python: the smallest minimum first, then in order, nobody beyond a maximum.
    taken = [0, 0, 0]
    minimum, maximum = [0, 0, 1500], [15_000, count, count]
    reserved = {int(row) for code in range(3) for row in order[codes[order] == code][: minimum[code]]}
    left = 30_000 - len(reserved)
    for row in reserved:
        taken[codes[row]] += 1
    for row in order.tolist():
        if left and row not in reserved and taken[codes[row]] < maximum[codes[row]]:
            taken[codes[row]] += 1
            left -= 1
    assert [outcome.rows for outcome in choice.outcomes] == taken
    for code in range(3):
        own = order[codes[order] == code][: taken[code]]
        assert choice.rows[choice.codes == code].tolist() == sorted(own.tolist())


# -- what a choice tells


def test_without_strata_it_is_the_top_and_a_smaller_budget_is_a_prefix() -> None:
    rows = Rows([0.5, 3.0, -INF, 3.0, 1.0, 2.0], [2, 4])
    order = []
    for budget in range(1, 6):
        choice = choose(Request(rows.layout(), Budget(rows=budget)), rows)
        order.append(in_rank_order(choice))
        assert choice.codes is None
    assert order[-1] == [1, 3, 5, 4, 0]
    assert all(order[-1][: len(prefix)] == prefix for prefix in order)


def test_thresholds_totals_and_outcome() -> None:
    rows = Rows([5, 4, 3, 2, 1, -INF, 9, 0], reasons=[0, 0, 0, 0, 0, 0, 1, 0])
    choice = choose(Request(rows.layout(sizes=[10] * 8), Budget(fraction=0.5), preselected=np.array([7, 6])), rows)
    assert in_rank_order(choice) == [7, 6, 0, 1]
    assert choice.keys.tolist() == [5, 4, -INF, 0]
    assert choice.thresholds.common == (4.0, 1)
    assert choice.totals.model_dump() == {
        "candidates": 8,
        "eligible": 7,  # all but row 5; row 6 was kept, eligible or not
        "asked_rows": 4,
        "asked_size": None,
        "rows": 4,
        "size": 40,
        "preselected": 2,
        "excluded": 0,
    }
    (outcome,) = choice.outcomes
    assert (outcome.stratum, outcome.threshold, outcome.size, outcome.asked_max) == ("", 4.0, 40, None)


def test_a_stratum_taken_whole_has_no_threshold() -> None:
    rows = Rows([5, 4, 3, 2])
    layout = rows.layout(["a", "b", "c"], [0, 1, 1, 2])
    choice = choose(Request(layout, Budget(rows=2), Strata()), rows)
    assert [outcome.threshold for outcome in choice.outcomes] == [None, 4.0, None]


def test_a_request_without_strata_ignores_those_of_the_layout() -> None:
    rows = Rows([5, 4, 3, 2])
    choice = choose(Request(rows.layout(["a", "b"], [0, 1, 1, 0]), Budget(rows=2)), rows)
    assert choice.codes is None
    assert [outcome.stratum for outcome in choice.outcomes] == [""]


def test_what_is_missing_is_told_with_reasons() -> None:
    rows = Rows([1, 2, 3, -INF, 5, 6], [3], reasons=[0, 1, 1, 0, 0, 2])
    names = ("eligible", "too-few-tokens", "not-a-number")
    with pytest.raises(Infeasible) as caught:
        choose(Request(rows.layout(), Budget(rows=3), excluded=np.array([4])), rows, names)
    assert caught.value.pointer == "/budget/rows"
    for words in ("asks 3 rows", "only 1 rows", "2 too-few-tokens", "1 not-a-number", "1 no-key", "1 excluded"):
        assert words in caught.value.detail


def test_a_first_row_larger_than_the_budget_is_refused() -> None:
    rows = Rows([2, 1])
    with pytest.raises(Infeasible, match="larger than the budget of 5"):
        choose(Request(rows.layout(sizes=[6, 1]), Budget(size=5)), rows)


def test_a_size_budget_far_from_reached_warns() -> None:
    rows = Rows([3, 2, 1])
    choice = choose(Request(rows.layout(sizes=[5, 90, 5]), Budget(size=50)), rows)
    assert choice.rows.tolist() == [0]
    assert [notice.code for notice in choice.warnings] == ["budget-not-reached"]
    assert "45 below the budget of 50" in choice.warnings[0].detail
    exact = choose(Request(rows.layout(sizes=[5, 45, 5]), Budget(size=50)), rows)
    assert exact.warnings == []


def test_whole_rows_that_reach_a_minimum_must_fit_its_maximum_and_the_budget() -> None:
    rows = Rows([4, 3, 2, 1])
    layout = rows.layout(["a", "b"], [0, 0, 1, 1], [7, 7, 7, 7])
    with pytest.raises(Infeasible, match=r"stratum 'a'.*minimum of 8 add 14, but only 10"):
        choose(Request(layout, Budget(size=20), Strata(quotas={"a": Quota(min=8, max=10)})), rows)
    with pytest.raises(Infeasible, match=r"add 28 \(a 14, b 14\)"):
        choose(Request(layout, Budget(size=20), Strata(default=Quota(min=8))), rows)


@pytest.mark.parametrize(
    ("options", "pointer", "words"),
    [
        ({"preselected": [0, 4]}, "/preselected", "row 4"),
        ({"preselected": [-1]}, "/preselected", "row -1"),
        ({"preselected": [1, 1]}, "/preselected", "twice"),
        ({"excluded": [9]}, "/exclude", "row 9"),
        ({"excluded": [1, 2], "preselected": [2]}, "/exclude", "1 rows"),
    ],
)
def test_earlier_selections_that_do_not_fit(options: dict[str, list[int]], pointer: str, words: str) -> None:
    rows = Rows([1, 2, 3, 4])
    arrays = {name: np.array(value, np.int64) for name, value in options.items()}
    with pytest.raises(Invalid, match=words) as caught:
        choose(Request(rows.layout(), Budget(rows=2), **arrays), rows)  # type: ignore[arg-type]
    assert caught.value.pointer == pointer


def test_a_size_budget_needs_sizes_that_are_not_negative() -> None:
    rows = Rows([1, 2, 3], [1])
    with pytest.raises(Invalid, match="size column"):
        choose(Request(rows.layout(), Budget(size=2)), rows)
    with pytest.raises(DataError, match="row 2 is negative") as caught:
        choose(Request(rows.layout(sizes=[1, 1, -1]), Budget(size=2)), rows)
    assert caught.value.where == {"row": 2}


def test_sizes_whose_sum_is_no_64_bit_number_are_refused() -> None:
    rows = Rows([1, 2, 3, 4], [1])
    for size in (2**62, 2**63 - 1):
        for budget in (Budget(size=3), Budget(rows=2)):
            with pytest.raises(DataError, match="larger unit"):
                choose(Request(rows.layout(sizes=[size] * 3 + [1]), budget), rows)


@pytest.mark.parametrize("key", [float("nan"), INF])
def test_a_key_that_is_no_number_is_the_selectors_defect(key: float) -> None:
    rows = Rows([1, 2, key], [1])
    with pytest.raises(TamisError, match="row 2") as caught:
        choose(Request(rows.layout(), Budget(rows=1)), rows)
    assert caught.value.code == "internal"


def test_columns_of_the_wrong_length_are_the_selectors_defect() -> None:
    rows = Rows([1, 2, 3])
    with pytest.raises(TamisError, match="shape"):
        choose(Request(Layout(np.array([0, 4])), Budget(rows=1)), rows)
    with pytest.raises(TamisError, match="strata of shape"):
        choose(Request(Layout(rows.starts, ["a"], [np.zeros(2, np.int32)]), Budget(rows=1), Strata()), rows)
    with pytest.raises(TamisError, match=r"outside 0\.\.0"):
        choose(Request(rows.layout(["a"], [0, 0, 1]), Budget(rows=1), Strata()), rows)


# -- turns


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_turns_take_their_parts_from_what_is_left(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 25))
    turns = data.draw(st.integers(1, 3))
    column = st.lists(st.integers(0, 5), min_size=count, max_size=count)
    keys = [data.draw(column) for _ in range(turns)]
    budget = data.draw(st.integers(1, count))
    cuts = data.draw(st.lists(st.integers(0, budget), min_size=turns - 1, max_size=turns - 1).map(sorted))
    parts = np.diff([0, *cuts, budget]).tolist()
    rankings = [Rows(list(map(float, column)), [count // 2]) for column in keys]
    choice = choose_by_target(Request(rankings[0].layout(), Budget(rows=budget)), rankings, lambda left: parts)
    gone: set[int] = set()
    for turn, part in enumerate(parts):
        order = sorted(set(range(count)) - gone, key=lambda row: (-keys[turn][row], row))
        assert choice.rows[choice.turns == turn].tolist() == sorted(order[:part])
        assert choice.keys[choice.turns == turn].tolist() == [keys[turn][row] for row in sorted(order[:part])]
        gone.update(order[:part])
    assert choice.ranks is not None
    for taken in range(1, budget + 1):  # every prefix holds its share of every turn, but for one row
        counts = np.bincount(choice.turns[choice.ranks < taken], minlength=turns)
        assert (np.abs(counts - np.array(parts) * taken / budget) <= 1 + 1e-9).all() or turns > 2


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_turns_keep_the_bounds_of_the_whole_and_room_for_the_minimums(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 25))
    codes = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    column = st.lists(st.integers(0, 5).map(float), min_size=count, max_size=count)
    rankings = [Rows(data.draw(column), [count // 3]) for _ in range(2)]
    budget = data.draw(st.integers(1, count))
    first = data.draw(st.integers(0, budget))
    lower, upper = [], []
    for code in range(3):
        high = data.draw(st.integers(0, count))
        lower.append(data.draw(st.integers(0, min(high, codes.count(code)))))
        upper.append(high)
    feasible = sum(lower) <= budget <= sum(min(high, codes.count(code)) for code, high in enumerate(upper))
    quotas = {name: Quota(min=low, max=high) for name, low, high in zip("abc", lower, upper, strict=True)}
    layout = rankings[0].layout(list("abc"), codes)

    def run() -> Choice:
        return choose_by_target(
            Request(layout, Budget(rows=budget), Strata(quotas=quotas)), rankings, lambda left: [first, left - first]
        )

    if not feasible:
        with pytest.raises(Infeasible):
            run()
        return
    choice = run()
    assert len(choice.rows) == budget
    assert int((choice.turns == 0).sum()) == first
    counts = np.bincount([codes[row] for row in choice.rows], minlength=3)
    assert all(low <= got <= high for low, got, high in zip(lower, counts, upper, strict=True))


def test_turns_give_what_they_leave_of_a_size_to_the_next() -> None:
    one, two = Rows([4, 3, 2, 1]), Rows([1, 2, 3, 4])
    layout = one.layout(sizes=[3, 3, 3, 3])
    choice = choose_by_target(Request(layout, Budget(size=9)), [one, two], lambda left: [5, left - 5])
    assert choice.rows.tolist() == [0, 2, 3]
    assert choice.turns.tolist() == [0, 1, 1]


def test_parts_must_sum_to_the_budget() -> None:
    rows = Rows([1, 2, 3])
    with pytest.raises(TamisError, match="split into"):
        choose_by_target(Request(rows.layout(), Budget(rows=3)), [rows, rows], lambda left: [1, 1])


def test_preselected_rows_lead_whatever_the_turns() -> None:
    rows = Rows([1, 2, 3, 4, 5, 6])
    choice = choose_by_target(
        Request(rows.layout(), Budget(rows=5), preselected=np.array([1, 0])), [rows, rows], lambda left: [left - 1, 1]
    )
    assert in_rank_order(choice) == [1, 0, 5, 4, 3]
    assert choice.turns.tolist() == [-1, -1, 1, 0, 0]
