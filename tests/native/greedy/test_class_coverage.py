"""Greedy coverage against a loop that looks at every row in every step; batches and their quotas."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.native.naive import gais as naive

from tamis.native.greedy import class_coverage as coverage
from tamis.native.math import rng
from tamis.native.math.moments import moments_of, standardise
from tamis.native.neighbours.small_sets import NO_NEIGHBOUR
from tamis.native.sampling.interleave import cumulative_quotas, slices, stratified_order


def related(
    neighbours: list[list[int]], ties: list[list[int]], labels: list[int], limit: int
) -> list[list[tuple[int, int]]]:
    result: list[list[tuple[int, int]]] = [[] for _ in labels]
    for i, row in enumerate(neighbours):
        result[i].append((i, coverage.FULL))
        own = [(j, tie) for j, tie in zip(row, ties[i], strict=True) if j >= 0 and labels[j] == labels[i]][:limit]
        for j, tie in own:
            result[j].append((i, tie))
    return result


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], list[int], int]:
    n = draw(st.integers(1, 14))
    k = draw(st.integers(1, 4))
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    neighbours = []
    for i in range(n):
        others = draw(st.permutations([j for j in range(n) if j != i]))[: draw(st.integers(0, k))]
        neighbours.append([*others, *[-1] * (k - len(others))])
    ties = draw(st.lists(st.lists(st.sampled_from([1, 512, 1024]), min_size=k, max_size=k), min_size=n, max_size=n))
    return neighbours, ties, labels, draw(st.integers(1, 4))


@settings(max_examples=150, deadline=None)
@given(problems(), st.data())
def test_picks_are_those_of_the_loop(
    problem: tuple[list[list[int]], list[list[int]], list[int], int], data: st.DataObject
) -> None:
    neighbours, ties, labels, limit = problem
    n = len(labels)
    keys = np.array([[j if j >= 0 else NO_NEIGHBOUR for j in row] for row in neighbours], np.int64)
    codes = np.array(labels, np.int32)
    relation = coverage.relation_of(keys, np.array(ties, np.int32), codes, limit)
    expected = related(neighbours, ties, labels, limit)
    for j in range(n):
        part = slice(relation.starts[j], relation.starts[j + 1])
        listed = list(zip(relation.rows[part].tolist(), relation.strengths[part].tolist(), strict=True))
        assert listed == sorted(expected[j])
    mass = data.draw(st.lists(st.sampled_from([1, 100]), min_size=n, max_size=n))
    state = data.draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=n, max_size=n))
    least = data.draw(st.sampled_from([0, 1, 102_400, 204_800]))
    quotas = data.draw(st.lists(st.integers(0, n + 1), min_size=3, max_size=3))
    found = coverage.cover_batch(
        relation, codes, np.array(quotas), np.array(mass, np.int32), np.array(state, np.int8), least
    )
    for code in range(3):
        members = [i for i in range(n) if labels[i] == code]
        picks, gains = naive.greedy_cover(
            expected,
            members,
            quotas[code],
            mass,
            {i for i in members if state[i] == 1},
            {i for i in members if state[i] == 2},
            least,
        )
        order = {int(found.order[i]): i for i in members if found.order[i] >= 0}
        assert [order[place] for place in range(len(order))] == picks
        assert [int(found.gains[i]) for i in picks] == gains


def test_rows_in_doubt_are_not_represented_before_others() -> None:
    # Rows 0 to 2 stand for each other, rows 3 to 6 too, but the network holds those for wrongly labelled.
    neighbours = [[1, 2, -1], [0, 2, -1], [0, 1, -1], [4, 5, 6], [3, 5, 6], [3, 4, 6], [3, 4, 5]]
    keys = np.array([[j if j >= 0 else NO_NEIGHBOUR for j in row] for row in neighbours], np.int64)
    labels = np.zeros(7, np.int32)
    relation = coverage.relation_of(keys, np.full((7, 3), coverage.FULL, np.int32), labels, 3)

    def first(mass: list[int]) -> int:
        state = np.zeros(7, np.int8)
        found = coverage.cover_batch(relation, labels, np.array([1]), np.array(mass, np.int32), state, 0)
        return int(np.argmax(found.order))

    assert first([100] * 7) == 3
    assert first([100] * 3 + [1] * 4) == 0


def test_the_share_of_neighbours_with_the_own_label() -> None:
    keys = np.array([[1, 2, NO_NEIGHBOUR], [0, 2, 3], [NO_NEIGHBOUR] * 3, [1, 0, NO_NEIGHBOUR]], np.int64)
    shares = np.empty(4, np.float32)
    coverage.own_share(keys, np.array([0, 0, 1, 1], np.int32), shares)
    assert shares == pytest.approx([1 / 2, 1 / 3, 1.0, 0.0])


def test_ties_by_attention_are_shares_of_the_most_that_is_paid() -> None:
    alpha2 = np.array([[0.4, 0.3, 0.15, 0.15]], np.float32)
    alpha1 = np.repeat(alpha2[:, :, None], 4, axis=2)
    ties = np.empty((1, 3), np.int32)
    coverage.attention_strengths(alpha1, alpha2, ties)
    assert ties.tolist() == [[1024, 512, 512]]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.integers(1, 60), st.integers(0, 9))
def test_every_slice_has_the_class_mix(labels: list[int], rows: int, seed: int) -> None:
    codes = np.array(labels, np.int32)
    n = len(codes)
    words = rng.random_bits(rng.stream_key(seed, "order"), 0, np.empty(n, np.uint64))
    order = stratified_order(codes, words)
    assert sorted(order.tolist()) == list(range(n))
    bounds = slices(n, rows)
    assert bounds[0] == 0 and bounds[-1] == n and (np.diff(bounds) > 0).all()
    totals = np.bincount(codes, minlength=5)
    for begin, end in pairwise(bounds.tolist()):
        mix = np.bincount(codes[order[begin:end]], minlength=5)
        fair = totals * (end - begin) / n
        assert (np.abs(mix - fair) < 1 + 5 * 2).all()  # every class is spread to within a row; slices shift by others'


def test_quotas_along_any_cut_add_up() -> None:
    quotas, totals = np.array([7, 0, 3, 1]), np.array([100, 50, 3, 0])
    seen = np.array([[0, 0, 0, 0], [13, 50, 1, 0], [14, 50, 2, 0], [100, 50, 3, 0]])
    along = cumulative_quotas(quotas, totals, seen)
    assert along[0].tolist() == [0, 0, 0, 0]
    assert along[-1].tolist() == [7, 0, 3, 0]
    assert (np.diff(along, axis=0) >= 0).all()


def test_moments_of_parts_merge_to_those_of_the_whole() -> None:
    rows = (np.random.default_rng(0).normal(size=(50, 3)) * [1, 1e-3, 0] + [1e4, 5, 7]).astype(np.float32)
    merged = moments_of(rows[:0]).merged(moments_of(rows[:20])).merged(moments_of(rows[20:]))
    assert merged.rows == 50
    assert merged.mean == pytest.approx(rows.astype(np.float64).mean(axis=0), rel=1e-12)
    assert merged.squares == pytest.approx(((rows - rows.astype(np.float64).mean(axis=0)) ** 2).sum(axis=0), rel=1e-9)
    out = np.empty((50, 1), np.float32)
    standardise(rows, np.array([0]), merged.mean[:1], 1 / np.sqrt(merged.squares[:1] / 50), out)
    assert abs(out.mean()) < 1e-5 and out.std() == pytest.approx(1.0, abs=1e-5)
