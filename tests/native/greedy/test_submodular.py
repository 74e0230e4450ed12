"""Lazy greedy choices against functions evaluated by definition, and the conformance data of the coverage family."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.native.naive import distances
from tests.native.naive import submodular as naive

from tamis.native.greedy import limits, submodular
from tamis.native.greedy.limits import Limits
from tamis.native.neighbours import knn, similarities
from tamis.native.neighbours.similarities import Similarities

NO_MAX = limits.NO_MAX


def dense(pairs: Similarities) -> NDArray[np.float64]:
    """The similarity matrix that pairs stand for."""
    n = len(pairs.starts) - 1
    matrix = np.zeros((n, n))
    np.fill_diagonal(matrix, pairs.largest)
    for row in range(n):
        part = slice(pairs.starts[row], pairs.starts[row + 1])
        others = pairs.ids[pairs.rows[part]]
        matrix[pairs.ids[row], others] = pairs.largest - pairs.squared[part].astype(np.float64)
    return matrix


def run(state: submodular.Greedy, work: int = 10**9) -> list[int]:
    while submodular.advance(state, work) == submodular.WORKING:
        pass
    rows: list[int] = submodular.taken(state)[0].tolist()
    return rows


def points(seed: int, n: int, places: int = 4) -> NDArray[np.float32]:
    """Few whole places: duplicates, and ties everywhere."""
    return np.random.default_rng(seed).integers(0, places, (n, 2)).astype(np.float32)


@pytest.mark.parametrize("name", ["clusters_2000x32", "digits_1795x64"])
def test_facility_location_has_the_order_and_gains_of_brute_force(name: str, conformance: Path) -> None:
    folder = conformance / "coverage"
    column = pq.read_table(folder / f"{name}.parquet").column("embedding").combine_chunks()
    data = column.flatten().to_numpy().reshape(len(column), -1)
    expected = pq.read_table(folder / f"{name}.facility_location.parquet")
    pairs = similarities.of_all_pairs(data)
    state = submodular.begin(pairs, limits.begin_limits(100))
    assert run(state) == expected.column("row").to_pylist()
    gains = submodular.taken(state)[1]
    assert gains == pytest.approx(expected.column("gain").to_numpy(), rel=1e-6)
    assert np.cumsum(gains) == pytest.approx(expected.column("objective").to_numpy(), rel=1e-7)
    # The sparse matrix: at least 99.5% of the objective, as soon as the lists of the rows taken can reach every row.
    everything = dense(pairs)
    for k, steps in ((250, 10), (64, 50), (64, 100)):
        sparse = similarities.of_neighbours(knn.exact_graph(data, k))
        rows = run(submodular.begin(sparse, limits.begin_limits(steps)))
        best = float(expected.column("objective").to_numpy()[steps - 1])
        reached = float(everything[:, rows].max(axis=1).sum())
        whole = pairs.largest * len(data)
        assert reached >= 0.995 * best
        assert whole - reached <= 1.05 * (whole - best)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 14),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]),
    st.booleans(),
    st.integers(1, 100),
)
def test_lazy_choices_are_those_of_the_definition(
    seed: int, n: int, function: int, tradeoff: float, sparse: bool, work: int
) -> None:
    random = np.random.default_rng(seed)
    data = points(seed, n)
    pairs = similarities.of_neighbours(knn.exact_graph(data, 3)) if sparse else similarities.of_all_pairs(data)
    codes = random.integers(0, 3, n)
    free = random.random(n) < 0.8
    first = random.permutation(n)[: random.integers(0, 3)]
    free[first] = False
    supply = np.bincount(codes[free], minlength=3)
    have = np.bincount(codes[first], minlength=3)
    upper = have + random.integers(0, supply + 1)
    lower = np.minimum(random.integers(0, have + supply + 1), upper)
    budget = max(int(np.maximum(lower, have).sum()), int(random.integers(0, n + 1)))
    bounds = limits.begin_limits(budget, codes=codes.astype(np.int32), lower=lower, upper=upper)
    state = submodular.begin(pairs, bounds, function=function, tradeoff=tradeoff, free=free, first=first)
    chosen = run(state, work)
    rows, gains = submodular.taken(state)
    assert chosen == naive.greedy(
        function,
        dense(pairs),
        budget,
        tradeoff,
        free.tolist(),
        first.tolist(),
        codes.tolist(),
        lower.tolist(),
        upper.tolist(),
    )
    assert gains.sum() == pytest.approx(naive.FUNCTIONS[function](dense(pairs), rows.tolist(), tradeoff), abs=1e-5)
    counts = np.bincount(codes[rows], minlength=3)
    assert (counts >= lower).all() or len(rows) == free.sum() + len(first)
    assert (counts <= upper).all()


def test_a_row_that_does_not_fit_ends_what_it_exceeds() -> None:
    data = points(1, 6)
    pairs = similarities.of_all_pairs(data)

    def chosen(bounds: Limits) -> list[int]:
        return run(submodular.begin(pairs, bounds))

    order = chosen(limits.begin_limits(6))
    sizes = np.ones(6, np.int64)
    sizes[order[2]] = 10
    assert chosen(limits.begin_limits(5, sizes=sizes)) == order[:2]
    codes = np.zeros(6, np.int32)
    codes[order[4]] = 1
    # What is left goes to an open minimum only, and its row may come later.
    bounds = limits.begin_limits(5, sizes=sizes, codes=codes, lower=np.array([0, 1]), upper=np.array([NO_MAX, NO_MAX]))
    assert chosen(bounds) == [*order[:2], order[4]]


def test_one_row_equal_rows_and_more_budget_than_rows() -> None:
    for n in (1, 5):
        data = np.full((n, 3), 2, np.float32)
        for pairs in (similarities.of_all_pairs(data), similarities.of_neighbours(knn.exact_graph(data, 2))):
            for function in range(3):
                bounds = limits.begin_limits(9)
                assert run(submodular.begin(pairs, bounds, function=function, tradeoff=0.5)) == list(range(n))


def test_pairs_of_neighbours_are_symmetric_and_complete() -> None:
    graph = knn.exact_graph(points(3, 40), 4)
    pairs = similarities.of_neighbours(graph)
    expected = {(k, int(row)) for k in range(40) for row in graph.rows[k]}
    expected |= {(row, k) for k, row in expected}
    found = [(k, int(row)) for k in range(40) for row in pairs.rows[pairs.starts[k] : pairs.starts[k + 1]]]
    assert sorted(found) == sorted(expected)
    assert pairs.largest == graph.squared.max()
    assert np.array_equal(dense(pairs), dense(pairs).T)


@pytest.mark.parametrize("k", [1, 3, 30])
def test_nearest_chosen_rows(k: int) -> None:
    data = points(9, 30)
    chosen = np.array([7, 3, 20, 4])
    pairs = similarities.of_neighbours(knn.exact_graph(data, k))
    places, squared = similarities.nearest_chosen(pairs, data, chosen)
    for row in range(30):
        expected = min((distances.squared(data[row], data[other]), place) for place, other in enumerate(chosen))
        if row in chosen:
            expected = (0, chosen.tolist().index(row))
        assert (squared[row], places[row]) == expected


def test_the_places_of_rows_change_nothing_but_the_order_of_sums() -> None:
    data = points(4, 60, places=30)
    graph = knn.exact_graph(data, 5)
    cells = np.random.default_rng(0).integers(0, 4, 60).astype(np.int32)
    plain, moved = similarities.of_neighbours(graph), similarities.of_neighbours(graph._replace(cells=cells))
    assert not np.array_equal(plain.ids, moved.ids)
    assert np.array_equal(dense(plain), dense(moved))
    first, free = np.array([11, 3]), np.arange(60) % 7 != 0
    found = []
    for pairs in (plain, moved):
        bounds = limits.begin_limits(
            30, codes=(np.arange(60) % 3).astype(np.int32), lower=np.array([0, 12, 0]), upper=np.array([9, 60, 60])
        )
        state = submodular.begin(pairs, bounds, free=free, first=first)
        found.append((run(state), submodular.taken(state)[1].tolist()))
        taken, gains = submodular.taken(state)
        assert submodular.scores(state)[taken[2:]].tolist() == gains[2:].tolist()
        _, squared = similarities.nearest_chosen(pairs, data, taken)
        assert squared.tolist() == [min(distances.squared(row, data[other]) for other in taken) for row in data]
    assert found[0] == found[1]  # whole numbers: sums are exact


def test_too_many_rows_for_all_pairs() -> None:
    with pytest.raises(ValueError, match="at most"):
        similarities.of_all_pairs(np.zeros((similarities.MAX_COMPLETE_ROWS + 1, 1), np.float32))
    with pytest.raises(ValueError, match="stratum of each row"):
        limits.begin_limits(1, lower=np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="same strata"):
        limits.begin_limits(1, codes=np.zeros(1, np.int32), lower=np.zeros(2, np.int64), upper=np.zeros(1, np.int64))
