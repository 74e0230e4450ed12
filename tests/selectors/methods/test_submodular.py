"""Facility location and its kin as jobs: order, weights, bounds, the shared graph, determinism."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tamis.native.greedy import limits, submodular
from tamis.native.neighbours import knn, similarities
from tamis.selectors.errors import Cancelled, Infeasible, Invalid
from tamis.selectors.features import neighbours
from tamis.selectors.jobs.open import Environment
from tamis.selectors.methods import submodular as facility_location
from tamis.selectors.run.observer import Unobserved

from ..runs import opened_run
from ..vectors import blobs, run, write

MakeEnvironment = Callable[..., Environment]

DATA = blobs(700)
FAMILY = [
    ("facility_location", {}, submodular.FACILITY_LOCATION, 0.0),
    ("graph_cut", {"tradeoff": 0.3}, submodular.GRAPH_CUT, 0.3),
    ("saturated_coverage", {"saturation": 0.05}, submodular.SATURATED_COVERAGE, 0.05),
]


def by_kernel(
    data: npt.NDArray[np.float32], function: int, tradeoff: float, k: int | None, budget: int
) -> tuple[list[int], list[float]]:
    pairs = similarities.of_all_pairs(data) if k is None else similarities.of_neighbours(knn.exact_graph(data, k))
    bounds = limits.begin_limits(budget)
    state = submodular.begin(pairs, bounds, function=function, tradeoff=tradeoff)
    while submodular.advance(state, 10**9) == submodular.WORKING:
        pass
    rows, gains = submodular.taken(state)
    return rows.tolist(), gains.tolist()


@pytest.mark.parametrize(("name", "params", "function", "tradeoff"), FAMILY)
@pytest.mark.parametrize("k", [None, 9])
def test_a_job_takes_what_the_kernel_takes(
    name: str,
    params: dict[str, Any],
    function: int,
    tradeoff: float,
    k: int | None,
    tmp_path: Path,
    environment: MakeEnvironment,
) -> None:
    manifest = write(tmp_path / "data", DATA, cuts=(100, 130))
    expected, gains = by_kernel(DATA, function, tradeoff, k, 40)
    asked = params if k is None else {**params, "neighbors": k}
    rows, table, report = run(manifest, name, asked, {"rows": 40}, environment(), tmp_path / "out")
    assert rows == expected
    scores = dict(zip(table.column("row").to_pylist(), table.column("score").to_pylist(), strict=True))
    assert [scores[row] for row in rows] == pytest.approx(gains)
    evidence = report["evidence"]
    assert evidence["objective"] == pytest.approx(sum(gains))
    assert evidence["objective"] >= evidence["objective_random"]
    assert [point[0] for point in evidence["gains"]] == list(range(1, 41))
    # A prefix is the smaller selection.
    fewer, _, _ = run(manifest, name, asked, {"rows": 15}, environment(), tmp_path / "fewer")
    assert fewer == expected[:15]


def test_weights_are_the_rows_represented(tmp_path: Path, environment: MakeEnvironment) -> None:
    manifest = write(tmp_path / "data", DATA)
    rows, table, report = run(
        manifest, "facility_location", {"neighbors": 5}, {"rows": 20}, environment(), tmp_path / "out"
    )
    squared = ((DATA[:, None].astype(np.float64) - DATA[None, rows]) ** 2).sum(axis=2)
    expected = np.bincount(squared.argmin(axis=1), minlength=20)
    weights = dict(zip(table.column("row").to_pylist(), table.column("weight").to_pylist(), strict=True))
    assert [weights[row] for row in rows] == expected.tolist()
    assert [notice["code"] for notice in report["warnings"]].count("few-neighbours") == 1


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_and_shards_change_nothing(
    threads: int, tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 100)
    monkeypatch.setattr(facility_location, "EXACT_ROWS", 100)
    monkeypatch.setattr(knn, "SEARCHED_ROWS", 64)
    outcomes = []
    for name, workers, cuts in (("one", 1, ()), ("many", threads, (1, 300))):
        manifest = write(tmp_path / name, DATA, cuts=cuts)
        rows, table, _ = run(
            manifest, "facility_location", {}, {"rows": 50}, environment(workers, name), tmp_path / f"out-{name}"
        )
        outcomes.append((rows, table.column("score").to_pylist(), table.column("weight").to_pylist()))
    assert outcomes[0] == outcomes[1]
    exact, _ = by_kernel(DATA, submodular.FACILITY_LOCATION, 0.0, 32, 50)
    assert len(set(exact) & set(outcomes[0][0])) >= 35  # the cells miss a few neighbours


def test_one_graph_serves_all(tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write(tmp_path / "data", DATA)
    calls = []
    exact_graph = knn.exact_graph

    def counted(*args: Any, **more: Any) -> knn.Graph:
        calls.append(args[1])
        return exact_graph(*args, **more)

    monkeypatch.setattr(knn, "exact_graph", counted)
    for number, (name, params, _, _) in enumerate(FAMILY):
        for k in (5, 32):
            run(
                manifest,
                name,
                {**params, "neighbors": k},
                {"rows": 3 + number},
                environment(),
                tmp_path / f"{name}{k}",
                seed=number,
            )
    assert calls == [32]
    run(manifest, "graph_cut", {"neighbors": 33}, {"rows": 3}, environment(), tmp_path / "more")
    run(manifest, "graph_cut", {"neighbors": 5, "metric": "cosine"}, {"rows": 3}, environment(), tmp_path / "cosine")
    assert calls == [32, 64, 32]


def test_cosine_ignores_lengths(tmp_path: Path, environment: MakeEnvironment) -> None:
    lengths = np.random.default_rng(0).choice([0.5, 1, 2, 4], (700, 1))  # powers of two: exact
    rows = []
    for name, data in (("plain", DATA), ("scaled", (DATA * lengths).astype(np.float32))):
        manifest = write(tmp_path / name, data)
        chosen, _, _ = run(
            manifest, "facility_location", {"metric": "cosine"}, {"rows": 30}, environment(), tmp_path / f"out-{name}"
        )
        rows.append(chosen)
    assert rows[0] == rows[1]
    data = DATA.copy()
    data[17] = 0
    manifest = write(tmp_path / "zero", data)
    with pytest.raises(Invalid, match="row 17 is all zeros"):
        run(manifest, "graph_cut", {"metric": "cosine"}, {"rows": 30}, environment(), tmp_path / "zero-out")


def test_bounds_preselected_and_excluded_rows(tmp_path: Path, environment: MakeEnvironment) -> None:
    groups = ["rare" if row % 50 == 0 else "common" for row in range(700)]
    manifest = write(tmp_path / "data", DATA, groups)
    first, _, _ = run(manifest, "facility_location", {}, {"rows": 5}, environment(), tmp_path / "first")
    best, _, _ = run(manifest, "facility_location", {}, {"rows": 8}, environment(), tmp_path / "best")
    shutil.copy(tmp_path / "first" / "selection.parquet", tmp_path / "kept.parquet")
    continued, _, report = run(
        manifest,
        "facility_location",
        {},
        {"rows": 8},
        environment(),
        tmp_path / "continued",
        preselected=str(tmp_path / "kept.parquet"),
    )
    assert continued == best  # going on from a prefix is the whole
    assert report["evidence"]["objective_preselected"] > 0
    others, _, _ = run(
        manifest,
        "facility_location",
        {},
        {"rows": 8},
        environment(),
        tmp_path / "others",
        exclude=[str(tmp_path / "kept.parquet")],
    )
    assert not set(first) & set(others)
    bounded, table, _ = run(
        manifest,
        "facility_location",
        {},
        {"rows": 20},
        environment(),
        tmp_path / "bounded",
        strata={"quotas": {"rare": {"min": 9}}},
    )
    assert sum(groups[row] == "rare" for row in bounded) == 9
    assert set(table.column("stratum").to_pylist()) == {"rare", "common"}
    with pytest.raises(Infeasible):
        run(
            manifest,
            "facility_location",
            {},
            {"rows": 20},
            environment(),
            tmp_path / "none",
            strata={"quotas": {"rare": {"min": 15}}},
        )


@pytest.mark.parametrize("n", [1, 3])
def test_few_rows(n: int, tmp_path: Path, environment: MakeEnvironment) -> None:
    manifest = write(tmp_path / "data", np.ones((n, 2), np.float32))
    for name, params, _, _ in FAMILY:
        for more in ({}, {"neighbors": 4}):
            rows, _, _ = run(
                manifest, name, {**params, **more}, {"rows": n}, environment(), tmp_path / f"{name}{len(more)}"
            )
            assert rows == list(range(n))


def test_a_cancelled_job_stops_between_blocks(tmp_path: Path, environment: MakeEnvironment) -> None:
    manifest = write(tmp_path / "data", DATA)
    job = {"dataset": manifest, "selector": {"name": "facility_location"}, "budget": {"rows": 3}}

    class Impatient(Unobserved):
        def __init__(self) -> None:
            self.over = False

        def cancelled(self) -> bool:
            return self.over

    observer = Impatient()
    with opened_run(job, environment(), observer) as running:
        data = neighbours.read_vectors(running, running.candidates, "euclidean")
        observer.over = True
        with pytest.raises(Cancelled):
            neighbours.neighbour_graph(running, running.candidates, data, "euclidean", 3)


def test_a_cancelled_job_stops_between_rows_of_all_pairs(tmp_path: Path, environment: MakeEnvironment) -> None:
    manifest = write(tmp_path / "data", DATA)
    job = {"dataset": manifest, "selector": {"name": "facility_location"}, "budget": {"rows": 3}}

    class Patience(Unobserved):
        """Bears so many looks."""

        def __init__(self) -> None:
            self.looks = 10**9

        def cancelled(self) -> bool:
            self.looks -= 1
            return self.looks < 0

    observer = Patience()
    selector = facility_location.FacilityLocation(facility_location.FacilityLocationParams())
    with opened_run(job, environment(), observer) as running:
        data = neighbours.read_vectors(running, running.candidates, "euclidean")
        blocks = -(-len(data) // similarities.COMPLETE_BLOCK_ROWS)
        assert blocks > 3
        observer.looks = blocks - 1
        with pytest.raises(Cancelled):
            selector._relate(running, data, 0)
        observer.looks = blocks
        selector._relate(running, data, 0)
