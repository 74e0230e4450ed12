"""Register tiles and the lists of nearest rows made of them, against loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.native.naive import distances as naive

from tamis.native.neighbours import panels as distances
from tamis.native.neighbours.panels import Panels

Matrix = NDArray[np.float32]

_DATA = np.random.default_rng(7)


def integers(n: int, d: int, low: int = -4, high: int = 5) -> Matrix:
    """Whole numbers: every product is exact in float32, so that ties are ties."""
    return _DATA.integers(low, high, (n, d)).astype(np.float32)


@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 33])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 3), (6, 16), (7, 17), (40, 50)])
def test_nearest_rows_are_those_of_a_loop(n: int, m: int, d: int) -> None:
    queries, rows = integers(n, d), integers(m, d)
    for k in (1, 3, m, m + 2):
        found = distances.best_rows(queries, distances.pack(rows), k)
        expected = naive.nearest(queries, rows, k)
        assert [[row for row in line if row >= 0] for line in found.rows.tolist()] == expected
        assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()


@pytest.mark.parametrize("d", [1, 5, 16])
def test_inner_products_rank_largest_first(d: int) -> None:
    queries, rows = integers(13, d), integers(37, d)
    found = distances.best_rows(queries, distances.pack(rows, inner=True), 4)
    assert found.rows.tolist() == naive.largest_products(queries, rows, 4)
    assert np.array_equal(found.scores[:, 0], (queries @ rows.T).max(axis=1))


@pytest.mark.parametrize(("n", "k", "d"), [(1, 1, 1), (100, 1, 3), (100, 33, 3), (50, 20, 70)])
def test_assignment_goes_to_the_nearest_and_lower_centre(n: int, k: int, d: int) -> None:
    rows, centres = integers(n, d, -2, 3), integers(k, d, -2, 3)
    index, squared = distances.assign(rows, centres)
    expected = naive.nearest(rows, centres, 1)
    assert index.tolist() == [line[0] for line in expected]
    assert squared.tolist() == [naive.squared(row, centres[line[0]]) for row, line in zip(rows, expected, strict=True)]
    assert index.dtype == np.int32
    assert squared.dtype == np.float32


def test_equal_centres_give_the_first() -> None:
    centres = np.repeat(_DATA.standard_normal((1, 19)).astype(np.float32), 40, axis=0)
    index, squared = distances.assign(_DATA.standard_normal((30, 19)).astype(np.float32), centres)
    assert (index == 0).all()
    index, squared = distances.assign(centres, centres)
    assert (index == 0).all()
    assert (squared == 0).all()


def test_data_far_from_zero_keep_their_neighbours() -> None:
    near = _DATA.standard_normal((200, 8)).astype(np.float32)
    far = near + np.float32(4096)  # a few bits of every coordinate are lost, and no more than those
    index, _ = distances.assign(far, far)
    assert index.tolist() == list(range(200))
    found = distances.best_rows(far, distances.pack(far), 5)
    assert found.rows.tolist() == naive.nearest(far, far, 5)


def test_origin_leaves_data_around_zero_alone() -> None:
    rows = _DATA.standard_normal((500, 6)).astype(np.float32)
    assert (distances.common_origin(rows) == 0).all()
    assert (distances.common_origin(rows[:0]) == 0).all()
    assert np.array_equal(distances.common_origin(np.full((3, 2), 7, np.float32)), [7, 7])


def _grouped(rows: Matrix, codes: NDArray[np.int64], groups: int) -> tuple[Panels, NDArray[np.int64]]:
    order = np.argsort(codes, kind="stable").astype(np.int32)
    starts = np.searchsorted(codes[order], np.arange(groups + 1))
    return distances.pack_groups(rows, order, starts)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_lists_do_not_depend_on_the_order_of_offers(n: int, groups: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.integers(-1, 2, (n, 2)).astype(np.float32)  # nine places at most: many duplicates
    panels, first = _grouped(rows, random.integers(0, groups, n), groups)
    queries, own, outcomes = distances.read_only(rows), np.arange(n, dtype=np.int32), []
    for order in itertools.islice(itertools.permutations(range(groups)), 7):
        keys = np.full((n, k), distances.EMPTY)
        for group in order:
            members = random.permutation(n).astype(np.int32)
            for part in (members[: n // 2], members[n // 2 :]):
                distances.update_lists(queries, own, part, panels, first[group], first[group + 1], keys)
        lists = distances.lists_of(keys)
        outcomes.append((lists.rows.tobytes(), lists.scores.tobytes()))
    assert len(set(outcomes)) == 1
    expected = naive.nearest(rows, rows, k, others_only=True)
    assert [[row for row in line if row >= 0] for line in lists.rows.tolist()] == expected


@pytest.mark.parametrize("d", [1, 8, 15, 64])
def test_pair_distances_have_float64_sums(d: int) -> None:
    queries = (_DATA.standard_normal((4, d)) + 100).astype(np.float32)
    rows = (_DATA.standard_normal((6, d)) + 100).astype(np.float32)
    pairs = _DATA.integers(0, 6, (3, 5)).astype(np.int32)
    found = distances.pair_distances(queries, rows, np.array([3, 0, 3]), pairs)
    for k, member in enumerate((3, 0, 3)):
        for j in range(5):
            assert found[k, j] == pytest.approx(naive.squared(queries[member], rows[pairs[k, j]]), rel=2e-7)


def test_bad_input_is_refused() -> None:
    rows = integers(5, 3)
    for bad in (np.nan, np.inf, 3e19):
        with pytest.raises(ValueError, match="finite"):
            distances.pack(np.full((2, 3), bad, np.float32) * np.array([[1], [-1]], np.float32))
    with pytest.raises(ValueError, match="as many columns"):
        distances.best_rows(rows[:, :2], distances.pack(rows), 1)
    with pytest.raises(ValueError, match="one centre"):
        distances.assign(rows, rows[:0])
    with pytest.raises(ValueError, match="k must be"):
        distances.best_rows(rows, distances.pack(rows), 0)
    with pytest.raises(ValueError, match="row numbers must be 0 to 4"):
        distances.pair_distances(rows, rows, np.array([0]), np.array([[5]], np.int32))
    with pytest.raises(ValueError, match="one column"):
        distances.read_only(np.zeros(3, np.float32))
    assert distances.best_rows(rows[:0], distances.pack(rows), 2).rows.shape == (0, 2)
