"""Farthest-first traversal against plain loops and the conformance data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.native.naive.farthest_first import traversal

from tamis.native.greedy import farthest_first
from tamis.native.greedy.limits import begin_limits

CONFORMANCE = Path(__file__).parents[4] / "shared" / "conformance" / "coverage"
SETS = ["clusters_2000x32", "digits_1795x64"]


def run(
    data: NDArray[np.float32],
    budget: int,
    centres: list[int],
    *,
    free: NDArray[np.bool_] | None = None,
    work: int = 10**9,
    least_distance: float = 0.0,
    **limits: Any,
) -> tuple[list[int], NDArray[np.float64], int]:
    mask = np.ones(len(data), np.bool_) if free is None else free
    state = farthest_first.begin(
        data, mask, np.array(centres, np.int64), begin_limits(budget, **limits), least_distance=least_distance
    )
    for _ in range(10**6):
        status = farthest_first.advance(state, work)
        if status != farthest_first.WORKING:
            break
    rows, distances = farthest_first.taken(state)
    return rows.tolist(), distances, status


def read(name: str) -> NDArray[np.float32]:
    column = pq.read_table(CONFORMANCE / f"{name}.parquet").column("embedding").combine_chunks()
    return np.stack(column.to_numpy(zero_copy_only=False))


@pytest.mark.skipif(not CONFORMANCE.exists(), reason="needs ../shared/conformance")
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", ["kcenter", "kcenter_preselected"])
def test_conformance(name: str, kind: str) -> None:
    data = read(name)
    expected = pq.read_table(CONFORMANCE / f"{name}.{kind}.parquet").to_pydict()
    case = next(c for c in json.loads((CONFORMANCE / "cases.json").read_text())["sets"] if c["set"] == name)
    if kind == "kcenter":
        centres, skip = [case["kcenter"]["start_row"]], 0
    else:
        centres = case["kcenter_preselected"]["preselected_rows"]
        skip = len(centres)
    rows, distances, _ = run(data, skip + 101, centres)
    assert rows[skip : skip + 100] == expected["row"]
    # The radius after a step is the distance at which the next row is taken.
    np.testing.assert_allclose(distances[skip + 1 :], expected["radius"], rtol=1e-12)


values = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, width=32))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_against_plain_loops(data: st.DataObject) -> None:
    n, dimension = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    flat = data.draw(st.lists(values, min_size=n * dimension, max_size=n * dimension))
    matrix = np.array(flat, np.float32).reshape(n, dimension)
    free = np.array(data.draw(st.lists(st.sampled_from([True, True, True, False]), min_size=n, max_size=n)))
    centres = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3, unique=True))
    free[centres] = False
    strata = data.draw(st.integers(1, 3))
    codes = np.array(data.draw(st.lists(st.integers(0, strata - 1), min_size=n, max_size=n)), np.int32)
    by_size = data.draw(st.booleans())
    sizes = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), np.int64) if by_size else None
    weights = np.ones(n, np.int64) if sizes is None else sizes
    start = np.bincount(codes[centres], weights[centres], strata).astype(np.int64)
    budget = int(start.sum()) + data.draw(st.integers(0, 2 * n))
    upper = start + np.array(data.draw(st.lists(st.integers(0, n), min_size=strata, max_size=strata)))
    lower = np.minimum(upper, np.array(data.draw(st.lists(st.integers(0, n), min_size=strata, max_size=strata))))
    if np.maximum(lower, start).sum() > budget:
        lower = np.zeros(strata, np.int64)
    least = data.draw(st.sampled_from([0.0, 0.0, 1.0, 2.5]))
    rows, distances, status = run(
        matrix,
        budget,
        centres,
        free=free,
        codes=codes,
        lower=lower,
        upper=upper,
        sizes=sizes,
        least_distance=least,
        work=data.draw(st.sampled_from([1, 100, 10**9])),
    )
    expected, squared = traversal(
        matrix,
        free.tolist(),
        centres,
        budget,
        lower=lower.tolist(),
        upper=upper.tolist(),
        codes=codes.tolist(),
        sizes=None if sizes is None else sizes.tolist(),
        least_distance=least,
    )
    if len(set(flat)) <= 7 or rows == expected:  # whole numbers: ties are exact, and broken by row
        assert rows == expected
    np.testing.assert_allclose(distances**2, squared, rtol=1e-12)
    assert status in {farthest_first.FINISHED, farthest_first.NEAR}


def brute(data: NDArray[np.float32], budget: int, start: int) -> list[int]:
    wide = data.astype(np.float64)
    nearest = ((wide - wide[start]) ** 2).sum(axis=1)
    order = [start]
    nearest[start] = -1
    while len(order) < budget:
        row = int(np.argmax(nearest))
        order.append(row)
        nearest = np.minimum(nearest, ((wide - wide[row]) ** 2).sum(axis=1))
        nearest[order] = -1
    return order


@pytest.mark.parametrize("scale", [1e-22, 1.0, 1e15])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_what_is_skipped_decides_nothing(scale: float, offset: float) -> None:
    generator = np.random.default_rng(3)
    clusters = generator.normal(size=(12, 20)) * 3
    data = clusters[generator.integers(12, size=1500)] + generator.normal(size=(1500, 20)) * generator.exponential(
        size=(1500, 1)
    )
    matrix = ((data + offset) * scale).astype(np.float32)
    assert run(matrix, 300, [7])[0] == brute(matrix, 300, 7)


def test_chunks_of_work_decide_nothing() -> None:
    data = np.random.default_rng(1).normal(size=(700, 5)).astype(np.float32)
    data[350:] = np.round(data[350:])
    whole, distances, _ = run(data, 500, [0])
    for work in (1, 3000, 10**5):
        rows, apart, _ = run(data, 500, [0], work=work)
        assert rows == whole
        np.testing.assert_array_equal(apart, distances)


def test_a_prefix_is_the_smaller_selection() -> None:
    data = np.random.default_rng(2).normal(size=(400, 3)).astype(np.float32)
    whole, distances, _ = run(data, 400, [5])
    assert sorted(whole) == list(range(400))
    assert (np.diff(distances[1:]) <= 0).all()
    for budget in (1, 2, 17, 200):
        assert run(data, budget, [5])[0] == whole[:budget]


def test_duplicates_follow_by_row() -> None:
    data = np.repeat(np.array([[0.0], [4.0], [1.0]], np.float32), 3, axis=0)
    rows, distances, status = run(data, 9, [4])
    assert rows == [4, 0, 6, 1, 2, 3, 5, 7, 8]
    assert distances.tolist() == [np.inf, 4, 1, 0, 0, 0, 0, 0, 0]
    assert status == farthest_first.FINISHED
    assert run(np.ones((5, 2), np.float32), 5, [2])[0] == [2, 0, 1, 3, 4]


def test_one_row_and_nothing_to_take() -> None:
    one = np.ones((1, 3), np.float32)
    assert run(one, 1, [0])[0] == [0]
    assert run(np.ones((4, 3), np.float32), 3, [1], free=np.zeros(4, np.bool_))[0] == [1]


def test_least_distance_stops() -> None:
    data = np.arange(10, dtype=np.float32)[:, None]
    rows, distances, status = run(data, 10, [0], least_distance=2.0)
    assert (rows, status) == ([0, 9, 4, 2, 6], farthest_first.NEAR)  # 6 and 7 are as far: the lower row first
    assert distances[1:].min() >= 2
    assert run(data, 10, [0], least_distance=100)[0] == [0]


def test_bad_rows_are_refused() -> None:
    data = np.ones((4, 2), np.float32)
    for bad in (np.nan, np.inf, 3e38):
        data[2, 1] = bad
        with pytest.raises(ValueError, match="finite"):
            run(data, 2, [0])
    with pytest.raises(ValueError, match="one centre or more"):
        run(np.ones((4, 2), np.float32), 2, [])


def test_the_central_row() -> None:
    data = np.array([[0, 0], [9, 0], [4, 1], [5, 1], [4, 1]], np.float32)
    assert farthest_first.central_row(data, np.ones(5, np.bool_)) == 2
    assert farthest_first.central_row(data, np.array([True, True, False, False, False])) == 0
    assert farthest_first.central_row(data, np.zeros(5, np.bool_)) == -1
