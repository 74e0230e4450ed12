"""Transport: the released schedule against a loop, the exact distance, bounds, and hard cases."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from tests.native.naive import transport as naive

from tamis.selectors.features.transport import exact, problem, sinkhorn
from tamis.selectors.features.transport.problem import Costs, Transport
from tamis.selectors.features.transport.sinkhorn import temperatures
from tamis.selectors.features.transport.solve import solve

Matrix = npt.NDArray[np.float32]

_DATA = np.random.default_rng(17)


def unit(n: int, d: int, clusters: int = 0) -> Matrix:
    rows = _DATA.normal(size=(n, d))
    if clusters:
        rows = 0.05 * rows + _DATA.normal(size=(clusters, d))[_DATA.integers(0, clusters, n)]
    result: Matrix = (rows / np.sqrt((rows**2).sum(axis=1))[:, None]).astype(np.float32)
    return result


def uniform(n: int) -> npt.NDArray[np.float64]:
    return np.full(n, 1 / n)


def solved(rows: Matrix, targets: Matrix, solver: problem.Solver = "released") -> Transport:
    return solve(Costs(rows, targets), uniform(len(rows)), uniform(len(targets)), solver, bounds=True)


@pytest.mark.parametrize(("n", "m", "d", "clusters"), [(1, 1, 3, 0), (9, 4, 5, 0), (30, 21, 6, 3)])
def test_the_released_schedule_is_that_of_a_loop(n: int, m: int, d: int, clusters: int) -> None:
    rows, targets = unit(n, d, clusters), unit(m, d, clusters)
    costs = Costs(rows, targets)
    value, f, g = naive.released_sinkhorn(costs.block(0).tolist(), costs.diameter())
    found = solved(rows, targets)
    assert found.value == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(found.rows, f, atol=2e-6)
    np.testing.assert_allclose(found.targets, g, atol=2e-6)


def test_temperatures_are_those_of_the_schedule() -> None:
    schedule = temperatures(2.0, 0.01, 0.5)
    assert schedule[:3] == pytest.approx([4, 4, 1]) and schedule[-1] == pytest.approx(1e-4)
    assert len(schedule) == 10 and all(a >= b for a, b in itertools.pairwise(schedule))


def test_the_exact_distance_of_an_assignment() -> None:
    rows, targets = unit(6, 3), unit(6, 3)
    costs = Costs(rows, targets).block(0).astype(float)
    best = min(sum(costs[i, j] for i, j in enumerate(order)) / 6 for order in itertools.permutations(range(6)))
    found = solved(rows, targets, "exact")
    assert found.value == pytest.approx(best, abs=1e-9)
    assert found.converged and found.upper is not None and found.lower is not None
    assert found.lower <= best + 1e-6 and found.upper == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("clusters", [0, 4])
@pytest.mark.parametrize("solver", ["released", "converged"])
def test_the_exact_distance_lies_between_the_bounds(solver: problem.Solver, clusters: int) -> None:
    rows, targets = unit(90, 8, clusters), unit(35, 8, clusters)
    exact = solved(rows, targets, "exact").value
    found = solved(rows, targets, solver)
    assert found.lower is not None and found.upper is not None
    assert found.lower - 1e-5 <= exact <= found.upper + 1e-5
    if solver == "converged":
        assert found.upper - found.lower < 0.05
        assert found.value == pytest.approx(exact, rel=2e-2)
        assert found.converged == (found.marginal_error <= sinkhorn.MARGINAL_TOLERANCE)
    else:
        assert found.value < exact and not found.converged  # by design: one sweep a temperature


def test_a_sparse_graph_finds_what_the_dense_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, targets = unit(60, 6, 2), unit(40, 6, 3)
    dense = solved(rows, targets, "exact")
    monkeypatch.setattr(exact, "GRAPH_NEIGHBOURS", 1)  # most pairs have to be found by their reduced cost
    sparse = solved(rows, targets, "exact")
    assert sparse.sweeps > dense.sweeps
    assert sparse.value == pytest.approx(dense.value, abs=1e-9)


def test_weights_of_targets_count() -> None:
    rows = np.eye(3, dtype=np.float32)[:2]
    targets = np.eye(3, dtype=np.float32)[:2]
    b = np.array([0.75, 0.25])
    for solver in ("converged", "exact"):
        found = solve(Costs(rows, targets), uniform(2), b, solver)
        assert found.value == pytest.approx(0.25 * np.sqrt(2), rel=2e-2)
    released = solve(Costs(rows, targets), uniform(2), b, bounds=True)  # far from converged, and it says so
    assert not released.converged and released.lower is not None and released.upper is not None
    assert released.lower <= 0.25 * np.sqrt(2) <= released.upper


def test_neither_threads_nor_memory_decide_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem, "BLOCK_ROWS", 16)
    rows, targets = unit(75, 5, 3), unit(20, 5, 3)
    alone = solve(Costs(rows, targets), uniform(75), uniform(20), bounds=True)
    with ThreadPoolExecutor(3) as pool:
        for kept in (2**20, 4000, 0):
            again = solve(Costs(rows, targets, pool, kept), uniform(75), uniform(20), bounds=True)
            assert again.value == alone.value and again.upper == alone.upper
            assert np.array_equal(again.rows, alone.rows) and np.array_equal(again.targets, alone.targets)


OTHERWISE = """
import hashlib
import numpy as np
from tamis.native.neighbours import panels, screened
from tamis.native.simd import tile8
from tamis.selectors.features.transport.solve import solve
from tamis.selectors.features.transport.problem import Costs

assert not tile8.available()
draw = np.random.default_rng(5)
rows, targets = (draw.standard_normal((n, 24)) for n in (70, 30))
rows, targets = ((side / np.sqrt((side**2).sum(axis=1))[:, None]).astype(np.float32) for side in (rows, targets))
found = solve(Costs(rows, targets), np.full(70, 1 / 70), np.full(30, 1 / 30), bounds=True)
keys = np.full((30, 9), panels.EMPTY)
numbers = np.arange(70, dtype=np.int32)
screened.offer(screened.ask(targets), screened.pack(rows, numbers), np.full(30, 0.05, np.float32), keys)
parts = (found.rows, found.targets, np.array([found.value, found.lower, found.upper, found.marginal_error]), keys)
print(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of another kind")
def test_a_processor_with_narrower_vectors_finds_the_same_bits(capsys: pytest.CaptureFixture[str]) -> None:
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "", "OPENBLAS_CORETYPE": "Haswell"}
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OTHERWISE],
        env=os.environ | narrow | {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR AVX512_SKX"},
        capture_output=True,
        text=True,
        check=True,
    )
    exec(OTHERWISE.replace("assert not tile8.available()", ""), {})
    assert other.stdout == capsys.readouterr().out


def test_the_first_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem, "BLOCK_ROWS", 16)
    rows, targets = unit(50, 4), unit(10, 4)
    whole = Costs(rows, targets)
    for n in (1, 16, 17, 33):
        expected = solve(Costs(rows[:n], targets), uniform(n), uniform(10))
        found = solve(whole.first(n), uniform(n), uniform(10))
        assert found.value == expected.value and np.array_equal(found.rows, expected.rows)


def test_rows_far_apart_do_not_overflow() -> None:
    """Two tight clusters on one side, one on the other: most terms vanish at the last temperatures."""
    near, far = unit(1, 4)[0], -unit(1, 4)[0]
    rows = np.stack([near] * 5 + [far] * 4).astype(np.float32)
    targets = np.stack([near] * 7).astype(np.float32)
    for solver in ("released", "converged", "exact"):
        found = solved(rows, targets, solver)
        assert np.isfinite(found.rows).all() and np.isfinite(found.targets).all()
        cost = Costs(rows, targets).block(0).astype(float).mean()
        assert found.value == pytest.approx(cost, rel=2e-2)


def test_nothing_to_transport_is_refused() -> None:
    with pytest.raises(ValueError, match="one row"):
        solve(Costs(unit(2, 2), unit(2, 2)), uniform(3), uniform(2))
