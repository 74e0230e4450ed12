"""Cut-off, strata, budgets and draws against loops and full sorts, over ties, NaN and infinities."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.native.math import rng
from tamis.native.sampling import cutoffs, draws, strata

Column = NDArray[np.float32]

NASTY = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 1.0 + 2.0**-23, 200.0]
values = st.one_of(st.sampled_from(NASTY), st.integers(-3, 3).map(float), st.floats(width=32))
columns = st.lists(values, max_size=40).map(lambda listed: np.array(listed, np.float32))
plain = st.one_of(st.integers(-3, 3).map(float), st.floats(-1000, 1000, width=32))
ends = st.sampled_from(["low", "high"])


def cut(scores: Column, ranked: Column | None = None, bounds: list[int] | None = None) -> strata.Chunks:
    edges = [0, *sorted(min(bound, len(scores)) for bound in bounds or []), len(scores)]

    def chunks() -> Iterator[strata.Chunk]:
        for first, last in pairwise(edges):
            yield first, scores[first:last], None if ranked is None else ranked[first:last]

    return chunks


def cut_off(scores: Column, ranked: Column | None, beta: float, end: str, bounds: list[int]) -> strata.CutOff:
    """Cut off by both ways, which must agree."""
    chunks = cut(scores, ranked, bounds)
    sample = strata.sample(chunks, len(scores))
    found = cutoffs.cut_hardest(chunks, sample, beta, end)
    counted = cutoffs.cut_by_radix(chunks, beta, end)
    assert dropped_by(scores, ranked, found) == dropped_by(scores, ranked, counted)
    return found


def usable_rows(scores: Column, ranked: Column | None) -> NDArray[np.int64]:
    fit = np.isfinite(scores) & np.isfinite(scores if ranked is None else ranked)
    rows: NDArray[np.int64] = np.flatnonzero(fit)
    return rows


def naive_dropped(scores: Column, ranked: Column | None, beta: float, end: str) -> set[int]:
    """Order by hardness, ties by row, and drop the first."""
    values = scores if ranked is None else ranked
    rows = usable_rows(scores, ranked).tolist()
    hardest = sorted(rows, key=lambda row: ((1 if end == "low" else -1) * float(values[row]), row))
    return set(hardest[: int(beta * len(rows))])


def dropped_by(scores: Column, ranked: Column | None, found: strata.CutOff) -> set[int]:
    one = strata.Strata(np.array([-np.inf, np.inf], np.float32), np.float32(np.inf), np.float32(0), False)
    codes = strata.codes_of((0, scores, ranked), found, one)
    return set(usable_rows(scores, ranked).tolist()) - set(np.flatnonzero(codes == 0).tolist())


def naive_code(score: float, edges: Column) -> int:
    """Walk through the half-open strata; the last one is closed."""
    for k in range(len(edges) - 2, -1, -1):
        if score >= edges[k]:
            return k
    return 0


def naive_water(populations: list[int], budget: int) -> list[int]:
    """Visit by population, take the smaller of the population and an equal part of what is left."""
    budgets = [0] * len(populations)
    left, rest = len(populations), budget
    for population, k in sorted((population, k) for k, population in enumerate(populations)):
        budgets[k] = min(population, rest // left)
        rest, left = rest - budgets[k], left - 1
    return budgets


@settings(deadline=None)  # the first example compiles
@given(columns, st.data(), st.floats(0, 0.99), ends, st.lists(st.integers(0, 40), max_size=4))
def test_the_hardest_are_cut_off(scores: Column, data: st.DataObject, beta: float, end: str, bounds: list[int]) -> None:
    given_ranked = data.draw(st.none() | st.lists(values, min_size=len(scores), max_size=len(scores)))
    ranked = None if given_ranked is None else np.array(given_ranked, np.float32)
    found = cut_off(scores, ranked, beta, end, bounds)
    expected = naive_dropped(scores, ranked, beta, end)
    assert dropped_by(scores, ranked, found) == expected
    assert (found.dropped, found.usable) == (len(expected), len(usable_rows(scores, ranked)))


def test_a_bracket_that_fails_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted rows, a misleading sample, and room for too few rows: the slower way finds the same."""
    scores = np.sort(np.random.default_rng(0).standard_normal(5000).astype(np.float32))
    chunks = cut(scores, None, [777, 3000])
    right = cutoffs.cut_hardest(chunks, strata.sample(chunks, len(scores)), 0.3, "low")
    assert right.value == scores[1499]
    wrong = strata.Sample(scores[-100:], scores[-100:], len(scores))
    found = cutoffs.cut_hardest(chunks, wrong, 0.3, "low")
    assert (found.value, found.dropped) == (right.value, 1500)
    monkeypatch.setattr(cutoffs, "GATHERED_ROWS", 0)
    ties = np.repeat(np.array([1, 2, 3], np.float32), 1000)
    found = cutoffs.cut_hardest(cut(ties), strata.sample(cut(ties), 3000), 0.5, "high")
    assert (float(found.value), found.last_row, found.dropped) == (-2.0, 1499, 1500)


@settings(deadline=None)  # the first example compiles
@given(columns, st.integers(1, 60), st.floats(0, 0.9), ends, st.lists(st.integers(0, 40), max_size=4))
def test_strata_hold_every_row_that_is_kept(
    scores: Column, count: int, beta: float, end: str, bounds: list[int]
) -> None:
    chunks = cut(scores, None, bounds)
    found = cut_off(scores, None, beta, end, bounds)
    kept = sorted(set(usable_rows(scores, None).tolist()) - dropped_by(scores, None, found))
    low, high = strata.extremes(chunks, found)
    if not kept:
        assert low > high
        return
    assert (low, high) == (scores[kept].min(), scores[kept].max())
    try:
        own = strata.equal_width(low, high, count)
    except ValueError as error:
        assert "more than float32 holds" in str(error)
        assert float(high) - float(low) > 1e38 or high > 3.4e38
        return
    expected = np.full(len(scores), count)
    expected[kept] = [naive_code(float(score), own.edges) for score in scores[kept]]
    assert strata.codes_of((0, scores, None), found, own).tolist() == expected.tolist()
    counted = strata.populations(chunks, found, own)
    assert counted.tolist() == np.bincount(expected, minlength=count + 1)[:-1].tolist()


@settings(max_examples=50, deadline=None)
@given(st.floats(-(2.0**100), 2.0**100, width=32), st.integers(0, 400), st.integers(1, 300))
def test_edges_that_float32_hardly_tells_apart(low: float, ulps: int, count: int) -> None:
    """A range of a few representable numbers, cut into more strata than there are numbers."""
    scores = np.array([low] * (ulps + 1), np.float32)
    for k in range(1, ulps + 1):
        scores[k] = np.nextafter(scores[k - 1], np.float32(np.inf))
    own = strata.equal_width(scores.min(), scores.max(), count)
    codes = strata.codes_of((0, scores, None), strata.no_cut_off(), own)
    assert codes.tolist() == [naive_code(float(score), own.edges) for score in scores]


def test_negative_and_constant_scores_lose_nothing() -> None:
    """The reference's factor on the highest score moves the last edge below it where that score is not positive."""
    negative = -np.random.default_rng(1).uniform(5, 10, 1000).astype(np.float32)
    for scores in (negative, np.zeros(7, np.float32), np.full(7, 3, np.float32), np.full(7, -3, np.float32)):
        own = strata.equal_width(scores.min(), scores.max(), 50)
        assert strata.populations(cut(scores), strata.no_cut_off(), own).sum() == len(scores)


def test_negative_scores_are_cut_into_strata_that_hold_them() -> None:
    """Between -3.0001 and -3 the reference's last edge is below the first one."""
    scores = np.linspace(-3.0001, -3, 400).astype(np.float32)
    own = strata.equal_width(scores.min(), scores.max(), 10)
    assert (np.diff(own.edges) > 0).all()
    assert own.edges[-1] == scores.max()
    assert np.count_nonzero(strata.populations(cut(scores), strata.no_cut_off(), own)) == 10


def test_wrong_arguments_are_refused() -> None:
    chunks = cut(np.ones(3, np.float32))
    sample = strata.sample(chunks, 3)
    with pytest.raises(ValueError, match="hard_end"):
        cutoffs.cut_hardest(chunks, sample, 0.1, "left")
    for beta in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="beta"):
            cutoffs.cut_hardest(chunks, sample, beta, "low")
    for count in (0, strata.MAX_STRATA + 1):
        with pytest.raises(ValueError, match="strata must be"):
            strata.equal_width(np.float32(0), np.float32(1), count)
    with pytest.raises(ValueError, match="one cut-off value a score"):
        list(strata.parts(cut(np.ones(3, np.float32), np.ones(2, np.float32)), strata.no_cut_off()))
    with pytest.raises(ValueError, match="hold 3 rows"):
        strata.allocate(np.array([1, 2]), 4)
    own = strata.equal_width(np.float32(1), np.float32(1), 2)
    with pytest.raises(ValueError, match="hold 3 rows"):
        draws.draw(chunks, sample, strata.no_cut_off(), own, 4, rng.stream_key(0, "x"))


# -- budgets


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.data())
def test_water_filling_is_nested(populations: list[int], data: st.DataObject) -> None:
    """Rows taken in rounds, one of every stratum in its turn, are for every budget what the rule gives."""
    counts = np.array(populations, np.int64)
    turns = strata.turns(counts).tolist()
    order = sorted((place, turns[k], k) for k, count in enumerate(populations) for place in range(count))
    budget = data.draw(st.integers(0, sum(populations)))
    taken = np.bincount([k for _, _, k in order[:budget]], minlength=len(populations))
    assert taken.tolist() == strata.allocate(counts, budget).tolist() == naive_water(populations, budget)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=12), st.data())
def test_proportional_shares_are_exact(populations: list[int], data: st.DataObject) -> None:
    total = sum(populations)
    budget = data.draw(st.integers(0, total))
    shares = strata.apportion(np.array(populations, np.int64), budget).tolist()
    assert sum(shares) == budget
    remainders = []
    for share, population in zip(shares, populations, strict=True):
        assert share in (budget * population // max(1, total), -(-budget * population // max(1, total)))
        assert share <= population
        remainders.append((share * total - budget * population, population))
    up = [-over for over, _ in remainders if over > 0]
    down = [-over for over, _ in remainders if over <= 0]
    if up and down:  # whoever got one more had a remainder at least as large as whoever did not
        assert min(total + over for over in up) >= max(down)


# -- draws


def naive_draw(codes: NDArray[np.uint16], budgets: list[int], key: NDArray[np.uint64]) -> list[int]:
    rows = []
    for k, budget in enumerate(budgets):
        own = np.flatnonzero(codes == k)
        words = rng.shuffled_at(key, own)
        rows += own[np.argsort(words)][:budget].tolist()
    return sorted(rows)


def prepared(n: int, seed: int) -> tuple[Column, strata.CutOff, strata.Strata]:
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal(n).astype(np.float32)
    scores[generator.random(n) < 0.01] = np.nan
    found = cutoffs.cut_hardest(cut(scores), strata.sample(cut(scores), n), 0.1, "low")
    return scores, found, strata.equal_width(*strata.extremes(cut(scores), found), 50)


@pytest.mark.parametrize("budget", [0, 1, 49, 50, 999, 12000, 17820])
def test_a_draw_takes_the_smallest_words(budget: int) -> None:
    scores, found, own = prepared(20_000, 0)
    codes = strata.codes_of((0, scores, None), found, own)
    key = rng.stream_key(5, "draw")
    for bounds in ([], [1, 5000, 5001]):
        chunks = cut(scores, None, bounds)
        got = draws.draw(chunks, strata.sample(chunks, len(scores)), found, own, budget, key)
        assert got.budgets.tolist() == naive_water(got.populations.tolist(), budget)
        assert got.drawn.rows.tolist() == naive_draw(codes, got.budgets.tolist(), key)
        assert got.drawn.codes.tolist() == codes[got.drawn.rows].tolist()
        assert got.drawn.words.tolist() == rng.shuffled_at(key, got.drawn.rows).tolist()


def test_no_sample_changes_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, found, own = prepared(20_000, 1)
    key, chunks = rng.stream_key(5, "draw"), cut(scores)
    right = draws.draw(chunks, strata.sample(chunks, len(scores)), found, own, 3000, key)
    easy = np.sort(scores[np.isfinite(scores)])
    for part in (easy[-200:], easy[:200], easy[:0], easy[2500:2501]):
        got = draws.draw(chunks, strata.Sample(part, part, len(scores)), found, own, 3000, key)
        assert got.drawn.rows.tolist() == right.drawn.rows.tolist()
    monkeypatch.setattr(draws, "DEVIATIONS", 0.01)
    got = draws.draw(chunks, strata.sample(chunks, len(scores)), found, own, 3000, key)
    assert got.drawn.rows.tolist() == right.drawn.rows.tolist()


def test_a_draw_is_uniform_and_follows_its_key() -> None:
    """Over many keys every row of a stratum is drawn equally often."""
    scores = np.arange(100, dtype=np.float32)
    own, chunks = strata.equal_width(scores.min(), scores.max(), 5), cut(scores)
    sample = strata.sample(chunks, 100)
    times = np.zeros(100)
    for seed in range(400):
        key = rng.stream_key(seed, "draw")
        times[draws.draw(chunks, sample, strata.no_cut_off(), own, 25, key).drawn.rows] += 1
    expected = 400 * 0.25
    assert np.sum((times - expected) ** 2 / (expected * 0.75)) < 150  # chi square with 95 degrees of freedom: 1 in 3000


def test_places_are_the_order_of_the_words() -> None:
    codes = np.array([1, 0, 1, 1, 0], np.uint16)
    words = np.array([30, 5, 10, 20, 4], np.uint64)
    assert draws.places(codes, words, 3).tolist() == [2, 1, 0, 1, 0]
    assert draws.places(codes[:0], words[:0], 3).tolist() == []


def test_words_differ_from_row_to_row_and_key_to_key() -> None:
    rows = np.arange(100_000)
    words = rng.shuffled_at(rng.stream_key(0, "a"), rows)
    assert len(np.unique(words)) == len(rows)
    other = rng.shuffled_at(rng.stream_key(1, "a"), rows)
    assert not np.any(words == other)
    assert abs(np.corrcoef(words.astype(float), other.astype(float))[0, 1]) < 0.02
    assert abs(np.corrcoef(words[1:].astype(float), words[:-1].astype(float))[0, 1]) < 0.02
    bits = np.unpackbits(words.view(np.uint8)).reshape(len(rows), 64).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 0.01
