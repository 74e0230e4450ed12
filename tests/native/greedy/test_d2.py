"""D2 pruning against dense matrices and an argmax a step."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.native.greedy import d2
from tamis.native.greedy.limits import begin_limits
from tamis.native.neighbours import knn, similarities


def pairs_of(data: NDArray[np.float32], k: int, cells: int = 1) -> similarities.Similarities:
    """Pairs of neighbours, rows in any order of cells."""
    own = np.random.default_rng(9).integers(cells, size=len(data)).astype(np.int32)
    return similarities.of_neighbours(knn.exact_graph(data, k)._replace(cells=own))


def dense(pairs: similarities.Similarities) -> NDArray[np.float64]:
    """Distances of neighbours, inf for all other pairs."""
    n = len(pairs.starts) - 1
    out = np.full((n, n), np.inf)
    for place, row in enumerate(pairs.ids):
        for pair in range(pairs.starts[place], pairs.starts[place + 1]):
            out[row, pairs.ids[pairs.rows[pair]]] = math.sqrt(pairs.squared[pair])
    return out


def naive(
    apart: NDArray[np.float64],
    scores: NDArray[np.float64],
    free: NDArray[np.bool_],
    first: list[int],
    budget: int,
    forward: float,
    reverse: float,
    codes: NDArray[np.int32] | None = None,
    upper: list[int] | None = None,
) -> list[int]:
    n = len(scores)
    near = np.isfinite(apart)
    priorities = [
        scores[i] + sum(math.exp(-forward * apart[i, j]) * scores[j] for j in range(n) if near[i, j]) for i in range(n)
    ]
    counts = [0] * (1 if upper is None else len(upper))
    order: list[int] = []

    def take(row: int) -> None:
        order.append(row)
        counts[0 if codes is None else codes[row]] += 1
        for j in range(n):
            if near[row, j] and j != row:
                priorities[j] -= math.exp(-reverse * apart[row, j]) * priorities[row]

    for row in first:
        take(row)
    while len(order) < budget:
        fit = [
            r
            for r in range(n)
            if free[r] and r not in order and (codes is None or upper is None or counts[codes[r]] < upper[codes[r]])
        ]
        if not fit:
            break
        take(max(fit, key=lambda r: (priorities[r], -r)))
    return order


def run(
    pairs: similarities.Similarities,
    scores: NDArray[np.float64],
    budget: int,
    *,
    free: NDArray[np.bool_] | None = None,
    first: list[int] | None = None,
    forward: float = 1.0,
    reverse: float = 1.0,
    work: int = 10**6,
    codes: NDArray[np.int32] | None = None,
    upper: list[int] | None = None,
) -> tuple[list[int], NDArray[np.float64]]:
    bounds = begin_limits(budget, codes=codes, upper=None if upper is None else np.array(upper))
    state = d2.begin(
        pairs,
        scores,
        bounds,
        free=np.ones(len(scores), np.bool_) if free is None else free,
        first=np.array(first or [], np.int64),
        gamma_forward=forward,
        gamma_reverse=reverse,
    )
    while d2.advance(state, work) == d2.WORKING:
        pass
    rows, values = d2.taken(state)
    return rows.tolist(), values


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_against_an_argmax_a_step(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 40))
    seed = data.draw(st.integers(0, 10**6))
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(n, 3)).astype(np.float32)
    # Sums of these are exact in any order, so that equal ones, as without distances, are equal in the reference too.
    scores = generator.integers(0, 1 << 20, n) / (1 << 20)
    pairs = pairs_of(points, data.draw(st.integers(1, 6)), data.draw(st.sampled_from([1, 4])))
    free = generator.random(n) < 0.8
    first = generator.permutation(n)[: data.draw(st.integers(0, 2))].tolist()
    strata = data.draw(st.integers(1, 3))
    codes = generator.integers(strata, size=n).astype(np.int32)
    upper = [len(first) + data.draw(st.integers(0, n)) for _ in range(strata)]
    budget = data.draw(st.integers(max(1, len(first)), n))
    forward, reverse = data.draw(st.sampled_from([(1.0, 1.0), (0.0, 0.0), (0.3, 2.0)]))
    rows, _ = run(
        pairs,
        scores,
        budget,
        free=free,
        first=first,
        forward=forward,
        reverse=reverse,
        codes=codes,
        upper=upper,
        work=data.draw(st.sampled_from([1, 7, 10**6])),
    )
    assert rows == naive(dense(pairs), scores, free, first, budget, forward, reverse, codes, upper)


def test_without_messages_the_hardest_rows_are_taken() -> None:
    points = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    scores = np.random.default_rng(1).random(50)
    rows, values = run(pairs_of(points, 5), scores, 50, forward=1e6, reverse=1e6)
    assert rows == np.argsort(-scores, kind="stable").tolist()
    np.testing.assert_array_equal(values, np.sort(scores)[::-1])


def test_ties_go_to_the_lower_row() -> None:
    points = np.arange(0, 600, 100, dtype=np.float32)[:, None]
    for cells in (1, 3):
        rows, _ = run(pairs_of(points, 1, cells), np.array([1.0, 2, 1, 2, 1, 2]), 6, forward=1e3, reverse=1e3)
        assert rows == [1, 3, 5, 0, 2, 4]


def test_a_dense_place_gives_one_row_first() -> None:
    # Three rows in one place and two far away: with reverse messages the second of the place comes late.
    points = np.array([[0.0], [0.01], [0.02], [50], [90]], np.float32)
    scores = np.array([0.5, 0.6, 0.5, 0.3, 0.2])
    rows, _ = run(pairs_of(points, 2), scores, 3)
    assert rows == [1, 3, 4]


def test_spread_is_the_sum_over_neighbours() -> None:
    points = np.random.default_rng(3).normal(size=(60, 5)).astype(np.float32)
    scores = np.random.default_rng(4).random(60)
    pairs = pairs_of(points, 4, 5)
    apart = dense(pairs)
    expected = scores + np.where(np.isfinite(apart), np.exp(-0.7 * np.where(np.isfinite(apart), apart, 0)), 0) @ scores
    found = d2.spread(scores, pairs, 0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2])
def test_few_rows(n: int) -> None:
    points = np.zeros((n, 2), np.float32)
    assert run(pairs_of(points, 1), np.ones(n), n)[0] == list(range(n))
