"""k-center and the coverage in the report: the conformance orders, what the request asks, the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from tamis.selectors.errors import Cancelled, DataError, Infeasible, Invalid
from tamis.selectors.features import coverage
from tamis.selectors.features.coverage import represented
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.jobs.plan import plan
from tamis.selectors.library import Selection
from tamis.selectors.methods import kcenter
from tamis.selectors.results.explain import explain
from tamis.selectors.run.observer import Unobserved
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.schema.response import Progress

from ..runs import opened_run
from ..vector_shards import write_vectors

MakeEnvironment = Callable[..., Environment]
SETS = ["clusters_2000x32", "digits_1795x64"]

GENERATOR = np.random.default_rng(11)
CLUSTERS = (GENERATOR.normal(size=(8, 6)) * 4)[GENERATOR.integers(8, size=500)]
VECTORS: npt.NDArray[np.float32] = (CLUSTERS + GENERATOR.normal(size=(500, 6))).astype(np.float32)
GROUPS = [("a", "b", "b", "c")[row % 4] for row in range(500)]


def job(dataset: dict[str, Any], rows: int, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    selector = {"name": "kcenter", "params": {"start": 7} if params is None else params}
    return {"dataset": dataset, "selector": selector, "budget": {"rows": rows}, **more}


def run(document: dict[str, Any], out: Path, environment: Environment) -> Selection:
    return Selection(out, execute(JobSpec.model_validate(document), out, environment))


def in_order(selection: Selection) -> list[int]:
    table = selection.table()
    order = np.argsort(table.column("rank").to_numpy())
    rows: list[int] = table.column("row").to_numpy()[order].tolist()
    return rows


def plain(vectors: npt.NDArray[np.floating], start: list[int], count: int, may: npt.NDArray[np.bool_]) -> list[int]:
    """Rows in greedy order."""
    wide = vectors.astype(np.float64)
    nearest = np.min([((wide - wide[row]) ** 2).sum(axis=1) for row in start], axis=0)
    order = list(start)
    while len(order) < count:
        free = may.copy()
        free[order] = False
        row = int(np.argmax(np.where(free, nearest, -1)))
        order.append(row)
        nearest = np.minimum(nearest, ((wide - wide[row]) ** 2).sum(axis=1))
    return order


EVERY = np.ones(500, np.bool_)


@pytest.mark.parametrize("name", SETS)
def test_conformance(name: str, conformance: Path, tmp_path: Path, environment: MakeEnvironment) -> None:
    folder = conformance / "coverage"
    case = next(c for c in json.loads((folder / "cases.json").read_text())["sets"] if c["set"] == name)
    dataset = {"shards": [str(folder / f"{name}.parquet")], "columns": {"embedding": "embedding"}}
    expected = pq.read_table(folder / f"{name}.kcenter.parquet").column("row").to_pylist()
    for count in (10, 100):
        document = job(dataset, count, {"start": case["kcenter"]["start_row"]})
        selection = run(document, tmp_path / f"{count}", environment())
        assert in_order(selection) == expected[:count]
        found = selection.report()["coverage"]
        assert found["rows_measured"] == case["rows"]
        assert found["selection"]["mean_distance"] == pytest.approx(case["auc_pr"]["kcenter"][str(count)], rel=1e-5)
    radius = case["covering_radius_at_100"]["kcenter"]
    assert found["selection"]["largest_distance"] == pytest.approx(radius, rel=1e-5)
    assert selection.report()["evidence"]["covering_radius"] == pytest.approx(radius, rel=1e-5)


@pytest.mark.parametrize("name", SETS)
def test_auc_pr_of_other_selections(name: str, conformance: Path, tmp_path: Path, environment: MakeEnvironment) -> None:
    folder = conformance / "coverage"
    case = next(c for c in json.loads((folder / "cases.json").read_text())["sets"] if c["set"] == name)
    column = pq.read_table(folder / f"{name}.parquet").column("embedding").combine_chunks()
    data = np.stack(column.to_numpy(zero_copy_only=False))
    with opened_run(job(write_vectors(tmp_path, data[:10]), 1), environment()) as opened:
        for kind, values in case["auc_pr"].items():
            rows = pq.read_table(folder / f"{name}.{kind}.parquet").column("row").to_numpy()
            kept = case["kcenter_preselected"]["preselected_rows"] if kind == "kcenter_preselected" else []
            for count, value in values.items():
                _, distances = represented(opened, data, data[np.concatenate([kept, rows[: int(count)]]).astype(int)])
                assert distances.mean() == pytest.approx(value, rel=1e-5)
            radius = case["covering_radius_at_100"].get(kind)
            assert radius is None or distances.max() == pytest.approx(radius, rel=1e-5)


def test_the_same_bytes_whatever_the_threads_and_shards(tmp_path: Path, environment: MakeEnvironment) -> None:
    orders, files = [], []
    for shards, threads in ((1, 1), (1, 2), (1, 7), (3, 2)):
        dataset = write_vectors(tmp_path / f"data-{shards}", VECTORS, shards=shards)
        out = tmp_path / f"{shards}-{threads}"
        selection = run(job(dataset, 60, {}), out, environment(threads, f"cache-{shards}-{threads}"))
        orders.append((in_order(selection), selection.table().column("weight").to_pylist()))
        files.append(selection.path.read_bytes())
    assert all(order == orders[0] for order in orders)
    assert files[0] == files[1] == files[2]
    assert orders[0][0] == plain(VECTORS, orders[0][0][:1], 60, EVERY)


def test_starts(tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS, group=GROUPS)
    wide = VECTORS.astype(np.float64)
    central = int(np.argmin(((wide - wide.mean(axis=0)) ** 2).sum(axis=1)))
    assert in_order(run(job(dataset, 5, {"start": "central"}), tmp_path / "c", environment()))[0] == central
    first = {in_order(run(job(dataset, 3, {}, seed=seed), tmp_path / f"{seed}", environment()))[0] for seed in range(4)}
    assert len(first) > 1
    # A start is one that may be taken.
    closed = {"by": "group", "quotas": {"b": {"max": 0}}}
    for seed in range(4):
        rows = in_order(run(job(dataset, 3, {}, seed=seed, strata=closed), tmp_path / f"s{seed}", environment()))
        assert all(GROUPS[row] != "b" for row in rows)
    with pytest.raises(Invalid, match="row 500") as refused:
        run(job(dataset, 3, {"start": 500}), tmp_path / "x", environment())
    assert refused.value.pointer == "/selector/params/start"
    with pytest.raises(Invalid, match="may not be taken"):
        run(job(dataset, 3, {"start": 1}, strata=closed), tmp_path / "y", environment())


def test_what_a_row_represents(tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS)
    selection = run(job(dataset, 25, output={"scores": "all"}), tmp_path / "out", environment())
    table = selection.table()
    rows = table.column("row").to_numpy()
    apart = np.linalg.norm(VECTORS[:, None].astype(np.float64) - VECTORS[rows][None], axis=2)
    np.testing.assert_array_equal(table.column("weight"), np.bincount(apart.argmin(axis=1), minlength=25))
    evidence = selection.report()["evidence"]
    assert evidence["mean_distance"] == pytest.approx(apart.min(axis=1).mean(), rel=1e-6)
    assert evidence["covering_radius"] == pytest.approx(apart.min(axis=1).max(), rel=1e-6)
    # A row's score is its distance when it was taken; that of the others, their distance in the end.
    by_rank = table.column("score").to_numpy()[np.argsort(table.column("rank").to_numpy())]
    assert (np.diff(by_rank[1:]) <= 0).all()
    assert by_rank[1:].tolist() == [distance for _, distance in evidence["distance_when_taken"]]
    scores = pq.read_table(tmp_path / "out" / "scores.parquet").column("score").to_numpy()
    others = np.setdiff1d(np.arange(500), rows)
    np.testing.assert_allclose(scores[others], apart.min(axis=1)[others], rtol=1e-6)
    told = explain(tmp_path / "out", row=int(others[0]))
    assert (told.selected, told.reason) == (False, "below-threshold")
    assert explain(tmp_path / "out", row=7).rank == 0

    bare = run(job(dataset, 25, {"start": 7, "weighted": False}), tmp_path / "bare", environment())
    assert in_order(bare) == in_order(selection)
    assert set(bare.table().column("weight").to_pylist()) == {1.0}
    assert bare.report()["evidence"]["covering_radius"] is None


def test_earlier_selections(tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS)
    first = run(job(dataset, 20), tmp_path / "first", environment())
    more = job(dataset, 50, {}, preselected=str(first.path))
    assert in_order(run(more, tmp_path / "more", environment())) == in_order(
        run(job(dataset, 50), tmp_path / "whole", environment())
    )
    others = EVERY.copy()
    others[first.rows] = False
    apart = run(job(dataset, 20, {"start": 9}, exclude=[str(first.path)]), tmp_path / "apart", environment())
    assert in_order(apart) == plain(VECTORS, [9], 20, others)
    with pytest.raises(Invalid, match="may not be taken"):
        run(job(dataset, 20, exclude=[str(first.path)]), tmp_path / "none", environment())


def test_strata(tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS, group=GROUPS)
    strata = {"by": "group", "quotas": {"a": {"max": 5}, "c": {"min": 15}}}
    selection = run(job(dataset, 40, strata=strata), tmp_path / "out", environment())
    counts = {outcome.stratum: outcome.rows for outcome in selection.manifest.strata}
    assert counts["a"] <= 5
    assert counts["c"] >= 15
    assert sum(counts.values()) == 40
    order = in_order(selection)
    free = in_order(run(job(dataset, 40), tmp_path / "free", environment()))
    same = next(step for step in range(40) if order[step] != free[step])
    assert GROUPS[free[same]] == "a"  # the first that differs is one more than the maximum


def test_a_budget_in_size(tmp_path: Path, environment: MakeEnvironment) -> None:
    sizes = (np.arange(500) * 7919) % 13
    document = job(write_vectors(tmp_path / "data", VECTORS, size=sizes), 1)
    document["budget"] = {"size": 100}
    selection = run(document, tmp_path / "out", environment())
    order = in_order(selection)
    expected = plain(VECTORS, [7], len(order) + 1, EVERY)
    assert order == expected[:-1]  # the first row that does not fit ends it
    assert sizes[order].sum() <= 100 < sizes[expected].sum()
    document["budget"] = {"size": 1}
    document["selector"] = {"name": "kcenter", "params": {"start": "central"}}
    assert sizes[in_order(run(document, tmp_path / "small", environment()))].sum() <= 1


def test_a_size_that_no_row_fits(tmp_path: Path, environment: MakeEnvironment) -> None:
    document = job(write_vectors(tmp_path / "data", VECTORS, size=np.full(500, 9)), 1, {})
    document["budget"] = {"size": 5}
    with pytest.raises(Infeasible, match="larger than the budget"):
        run(document, tmp_path / "out", environment())


def test_min_distance_ends_the_selection(tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS)
    whole = run(job(dataset, 200), tmp_path / "whole", environment())
    least = 3.0
    selection = run(job(dataset, 200, {"start": 7, "min_distance": least}), tmp_path / "out", environment())
    order = in_order(selection)
    assert order == in_order(whole)[: len(order)]
    apart = np.linalg.norm(VECTORS[order][:, None] - VECTORS[order][None], axis=2) + 99 * np.eye(len(order))
    assert apart.min() >= least
    assert selection.report()["evidence"]["covering_radius"] < least
    assert [notice.code for notice in selection.manifest.warnings] == ["stopped-at-min-distance"]
    assert f"{len(order)} rows" in selection.manifest.warnings[0].detail


def test_cosine(tmp_path: Path, environment: MakeEnvironment) -> None:
    lengths = np.linspace(0.5, 40, 500)[:, None].astype(np.float32)
    unit = (VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)).astype(np.float32)
    dataset = write_vectors(tmp_path / "data", unit * lengths)
    selection = run(job(dataset, 30, {"start": 7, "metric": "cosine"}), tmp_path / "out", environment())
    assert in_order(selection) == plain(unit, [7], 30, EVERY)
    found = selection.report()["coverage"]
    assert found["metric"] == "cosine"
    assert found["selection"]["largest_distance"] < 2
    zero = unit.copy()
    zero[44] = 0
    with pytest.raises(Invalid, match="row 44"):
        run(job(write_vectors(tmp_path / "zero", zero), 3, {"metric": "cosine"}), tmp_path / "z", environment())


def test_bad_vectors(tmp_path: Path, environment: MakeEnvironment) -> None:
    bad = VECTORS.copy()
    bad[123, 2] = np.nan
    dataset = write_vectors(tmp_path / "nan", bad)
    with pytest.raises(DataError, match="Value 2 of the vector is nan"):
        run(job(dataset, 3), tmp_path / "a", environment())
    with pytest.raises(Invalid, match="float32"):
        run(job(write_vectors(tmp_path / "long", VECTORS * np.float32(1e25)), 3), tmp_path / "b", environment())
    # A selector that does not read the vectors does its work; the report says what it could not measure.
    random = {"dataset": dataset, "selector": {"name": "random"}, "budget": {"rows": 400}}
    selection = run(random, tmp_path / "c", environment())
    assert selection.report()["coverage"] is None
    assert "row 123" in next(w.detail for w in selection.manifest.warnings if w.code == "no-coverage")


def test_duplicates_and_all_rows(tmp_path: Path, environment: MakeEnvironment) -> None:
    twice = np.concatenate([VECTORS[:30], VECTORS[:30]])
    selection = run(job(write_vectors(tmp_path / "data", twice, shards=1), 60), tmp_path / "out", environment())
    order = in_order(selection)
    assert sorted(order) == list(range(60))
    assert set(order[:30]) == set(range(30))  # of equal rows the lower one first
    assert order[30:] == list(range(30, 60))
    assert selection.table().column("weight").to_pylist() == [1.0] * 60


def test_a_sample_measures_the_coverage_of_large_selections(
    tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS)
    whole = run(job(dataset, 40), tmp_path / "whole", environment()).report()["coverage"]
    monkeypatch.setattr(coverage, "LEAST_SAMPLE", 10)
    monkeypatch.setattr(coverage, "COORDINATES", 250 * 40 * 6)
    part = run(job(dataset, 40), tmp_path / "part", environment()).report()["coverage"]
    assert part["rows"] == 500
    assert 150 < part["rows_measured"] <= 250
    for name in ("selection", "random"):
        assert part[name]["mean_distance"] == pytest.approx(whole[name]["mean_distance"], rel=0.1)
        assert part[name]["largest_distance"] <= whole[name]["largest_distance"]
    monkeypatch.setattr(coverage, "VALUES_IN_MEMORY", 100)
    selection = run(job(dataset, 40), tmp_path / "none", environment())
    assert selection.report()["coverage"] is None
    assert "no-coverage" in [notice.code for notice in selection.manifest.warnings]


def test_a_cancelled_job_stops(tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(Unobserved):
        asked = 0

        def progress(self, progress: Progress) -> None:
            self.asked += progress.phase == "choose"

        def cancelled(self) -> bool:
            return self.asked > 5

    monkeypatch.setattr(kcenter, "WORK_A_CALL", 1000)
    document = JobSpec.model_validate(job(write_vectors(tmp_path / "data", VECTORS), 400))
    with pytest.raises(Cancelled):
        execute(document, tmp_path / "out", environment(), Impatient())
    assert not (tmp_path / "out" / "result.json").exists()


def test_the_plan_holds_the_vectors(tmp_path: Path, environment: MakeEnvironment) -> None:
    small = plan(JobSpec.model_validate(job(write_vectors(tmp_path / "a", VECTORS[:100]), 10)), environment())
    large = plan(JobSpec.model_validate(job(write_vectors(tmp_path / "b", VECTORS), 10)), environment())
    assert large.peak_memory_bytes - small.peak_memory_bytes >= 400 * (6 * 4 + 16)
    assert [phase.name for phase in large.phases] == ["read", "choose", "represent", "report"]
