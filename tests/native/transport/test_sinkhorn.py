"""Costs on the sphere, sweeps of Sinkhorn and merged lists, against loops."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.native.naive import transport as naive

from tamis.native.neighbours import merge
from tamis.native.neighbours.panels import pack
from tamis.native.transport import sinkhorn
from tamis.native.transport.costs import sphere_costs

_DATA = np.random.default_rng(3)


def unit(n: int, d: int) -> NDArray[np.float32]:
    rows = _DATA.normal(size=(n, d))
    result: NDArray[np.float32] = (rows / np.sqrt((rows**2).sum(axis=1))[:, None]).astype(np.float32)
    return result


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (3, 5, 2), (7, 17, 9), (100, 33, 64)])
def test_costs_are_those_of_a_loop(n: int, m: int, d: int) -> None:
    rows, targets = unit(n, d), unit(m, d)
    found = sphere_costs(rows, pack(targets, inner=True))
    assert found.shape[0] % sinkhorn.ROWS == 0 and found.shape[1] % sinkhorn.STEP_COLUMNS == 0
    expected = [[naive.cost(row, target) for target in targets.tolist()] for row in rows.tolist()]
    np.testing.assert_allclose(found[:n, :m] ** 2, np.array(expected) ** 2, atol=1e-6)


def test_a_row_costs_nothing_next_to_itself() -> None:
    rows = np.eye(5, dtype=np.float32)
    costs = sphere_costs(rows, pack(rows, inner=True))[:5, :5]
    assert (np.diag(costs) == 0).all()
    assert (costs[~np.eye(5, dtype=bool)] == np.float32(math.sqrt(2))).all()


@pytest.mark.parametrize(
    ("kind", "kernel", "tolerance"),
    [
        (np.float32, sinkhorn.sweep_narrow, 2e-5),
        (np.float64, sinkhorn.sweep_wide, 1e-13),
    ],
)
@pytest.mark.parametrize("epsilon", [4.0, 0.05, 0.01])
def test_sums_of_a_sweep_are_those_of_a_loop(kind: Any, kernel: Any, tolerance: float, epsilon: float) -> None:
    n, m = 72, 32  # more rows than a block, padding on both sides
    costs = _DATA.uniform(0, 2, (n, m)).astype(np.float32)
    f, g = _DATA.uniform(0, 0.3, n), _DATA.uniform(0, 0.3, m)
    weights = _DATA.uniform(0.5, 1, n)
    weights[-3:] = 0.0
    real = m - 5
    shifts = np.full(m, sinkhorn.NO_COLUMN)
    shifts[:real] = g[:real] / epsilon * sinkhorn.PER_OCTAVE
    steps = (
        np.stack([f / epsilon * sinkhorn.PER_OCTAVE, weights])
        .astype(kind)
        .reshape(2, -1, sinkhorn.ROWS)
        .swapaxes(0, 1)
        .copy()
    )
    row_sums, column_sums = np.empty(n), np.zeros(m)
    kernel(
        costs,
        steps,
        np.stack([shifts, np.zeros(m)]).astype(kind),
        -sinkhorn.PER_OCTAVE / epsilon,
        row_sums,
        column_sums,
    )
    plan = [[math.exp((f[i] + g[j] - float(costs[i, j])) / epsilon) for j in range(real)] for i in range(n)]
    np.testing.assert_allclose(row_sums, [math.fsum(line) for line in plan], rtol=tolerance * max(1, 1 / epsilon))
    expected = [math.fsum(weights[i] * plan[i][j] for i in range(n)) for j in range(real)]
    np.testing.assert_allclose(column_sums[:real], expected, rtol=tolerance * max(1, 1 / epsilon))


def test_exponents_beyond_the_range_are_told_by_their_sums() -> None:
    for kind, kernel, (low, high) in (
        (np.float32, sinkhorn.sweep_narrow, sinkhorn.NARROW_RANGE),
        (np.float64, sinkhorn.sweep_wide, sinkhorn.WIDE_RANGE),
    ):
        for shift, outside in ((-2000.0, True), (2000.0, True), (-10.0, False), (10.0, False)):
            steps = np.zeros((1, 2, sinkhorn.ROWS), kind)
            steps[0, 0], steps[0, 1] = shift, 1.0
            sums, columns = np.empty(sinkhorn.ROWS), np.zeros(sinkhorn.STEP_COLUMNS)
            costs = np.ones((sinkhorn.ROWS, sinkhorn.STEP_COLUMNS), np.float32)
            kernel(costs, steps, np.zeros((2, sinkhorn.STEP_COLUMNS), kind), -1.0, sums, columns)
            for total in (*sums, *columns):
                assert (low < total < high) is not outside


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=9), st.floats(1e-4, 10))
@settings(max_examples=50, deadline=None)
def test_a_softmin_from_its_largest_term(values: list[float], epsilon: float) -> None:
    costs = np.array(values, np.float32)
    shifts = np.linspace(-3, 3, len(values))
    found = sinkhorn.row_potential(costs, shifts, epsilon)
    expected = naive.softmin(shifts.tolist(), costs.tolist(), epsilon)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.integers(1, 5), st.lists(st.integers(0, 6), min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_merged_lists_are_the_best_of_all(k: int, sizes: list[int], random: Any) -> None:
    scores, rows = merge.list_arrays(1, k)
    offered: list[tuple[list[float], list[int]]] = []
    first = 0
    for size in sizes:
        part = sorted((-float(random.randint(0, 3)), row) for row in range(size))
        values, numbers = [-score for score, _ in part], [row for _, row in part]
        offered.append((values, [first + row for row in numbers]))
        more_scores = np.full((1, size + 1), -np.inf, np.float32)
        more_rows = np.full((1, size + 1), -1, np.int32)
        more_scores[0, :size], more_rows[0, :size] = values, numbers
        for array in (more_scores, more_rows):
            array.setflags(write=False)
        merge.merge_lists(scores, rows, more_scores, more_rows, first)
        first += size
    expected = naive.merged(offered, k)
    assert [(s, r) for s, r in zip(scores[0].tolist(), rows[0].tolist(), strict=True) if r >= 0] == expected
