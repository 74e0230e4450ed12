"""Whole GAIS jobs: what is picked, that it is the same bytes, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors.errors import Cancelled, DataError, Infeasible, Invalid, TamisError
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.jobs.plan import plan
from tamis.selectors.methods.gais.quotas import class_quotas
from tamis.selectors.methods.gais.survey import BLOCK_ROWS, Block, plan_blocks
from tamis.selectors.run.observer import Unobserved
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.schema.response import ResultManifest

from .. import clouds

MakeEnvironment = Callable[..., Environment]
GRAPHS = ("minibatch", "lsh", "lsh_multilevel", "lsh_multiview")


def changed(job: dict[str, Any], **params: Any) -> dict[str, Any]:
    return job | {"selector": {"name": "gais", "params": job["selector"]["params"] | params}}


def run(job: dict[str, Any], out: Path, environment: Environment, **watch: Any) -> ResultManifest:
    return execute(JobSpec.model_validate(job), out, environment, **watch)


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def selected(out: Path) -> pa.Table:
    return pq.read_table(out / "selection.parquet")


def labels_of(folder: Path) -> list[Any]:
    column: list[Any] = pq.read_table(folder)["label"].to_pylist()
    return column


def refused(kind: type[TamisError], job: dict[str, Any], tmp_path: Path, environment: Environment) -> TamisError:
    with pytest.raises(kind) as error:
        run(job, tmp_path / "refused", environment)
    return error.value


def test_every_score_and_graph_meets_budget_and_quotas(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = clouds.write(tmp_path / "data")
    totals = Counter(labels_of(tmp_path / "data"))
    chosen = {}
    for score in ("coverage", "attention", "confidence"):
        for graph in GRAPHS if score == "coverage" else ("lsh_multiview",):
            out = tmp_path / f"{score}-{graph}"
            run(changed(job, score=score, graph=graph), out, environment())
            rows = selected(out)["row"].to_numpy()
            chosen[score, graph] = rows.tobytes()
            labels = labels_of(tmp_path / "data")
            got = Counter(labels[row] for row in rows)
            assert len(rows) == 60
            assert all(abs(got[name] - 60 * count / 900) < 1 for name, count in totals.items())
            evidence = report(out)["evidence"]
            assert {entry["class"]: entry["selected"] for entry in evidence["classes"]["classes"]} == got
            for name in ("margin", "attention_received"):
                assert sum(evidence[name]["raw"]) == 900
                assert sum(evidence[name]["selected"]) == 60
            nearest = evidence["nearest_neighbour_on_the_rest"]
            assert 0.5 < nearest["random"] <= 1.0
            if score == "coverage":
                assert nearest["selected"] > 0.8
    assert len(set(chosen.values())) == 6


@pytest.mark.parametrize("params", [{}, {"score": "attention", "graph": "minibatch", "passes": 2}])
def test_the_same_bytes_for_any_number_of_threads_and_after_a_stop(
    params: dict[str, Any], tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tamis.selectors.methods.gais.survey.BLOCK_ROWS", 256)  # several blocks
    job = changed(clouds.write(tmp_path / "data", shards=5, rows=200), **params)

    class StopLater(Unobserved):
        asked = 0

        def cancelled(self) -> bool:
            self.asked += 1
            return self.asked > 24

    with pytest.raises(Cancelled):
        run(job, tmp_path / "stopped", environment(2, "stopped"), observer=StopLater())
    assert any((tmp_path / "stopped").rglob("*.arrow"))  # it got somewhere
    digests = set()
    for threads, cache in ((1, "one"), (2, "two"), (8, "eight"), (2, "stopped")):
        out = tmp_path / f"out-{cache}"
        run(job, out, environment(threads, cache))
        digests.add(tuple((out / name).read_bytes() for name in ("selection.parquet", "scores.parquet")))
    assert len(digests) == 1


def test_the_same_bytes_after_a_kill(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = clouds.write(tmp_path / "data", shards=6)
    program = (
        "import json, sys; from pathlib import Path; from tamis.selectors.jobs.execute import execute; "
        "from tamis.selectors.jobs.open import Environment; "
        "from tamis.selectors.datasets import LocalStorage; "
        "from tamis.selectors.schema.request import JobSpec; "
        "execute(JobSpec.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]), "
        "Environment(LocalStorage(), Path(sys.argv[3]), 2))"
    )
    cache = tmp_path / "killed-cache"
    with subprocess.Popen([sys.executable, "-c", program, json.dumps(job), tmp_path / "killed", cache]) as process:
        while process.poll() is None and not any(cache.rglob("*.arrow")):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    run(job, tmp_path / "killed", environment(2, "killed-cache"))
    run(job, tmp_path / "whole", environment(1, "whole-cache"))
    for name in ("selection.parquet", "scores.parquet", "report.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_coverage_avoids_rows_with_wrong_labels(tmp_path: Path, environment: MakeEnvironment) -> None:
    points, labels = clouds.cloud(900, 0)
    wrong = np.random.default_rng(1).random(900) < 0.15
    noisy = [f"c{(int(name[1]) + 1) % 3}" if flip else name for name, flip in zip(labels, wrong, strict=True)]
    (tmp_path / "data").mkdir()
    pq.write_table(clouds.table(points, noisy), tmp_path / "data" / "0.parquet")
    job = clouds.job(tmp_path / "data") | {"budget": {"rows": 150}}
    share = {}
    for doubt in ("none", "neighbours", "gate", "probability", "attention"):
        out = tmp_path / doubt
        run(changed(job, doubt=doubt, gate=0.3, steps=80), out, environment())
        share[doubt] = wrong[selected(out)["row"].to_numpy()].mean()
        assert ("margin" in report(out)["evidence"]) == (doubt not in ("none", "neighbours"))
    assert all(share[doubt] < 0.5 * share["none"] for doubt in share if doubt != "none")


def test_a_minimum_score_makes_the_reduction_an_output(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = clouds.write(tmp_path / "data") | {"budget": {"fraction": 1.0}}
    sizes = []
    for least in (2.0, 4.0):
        out = tmp_path / f"{least}"
        run(changed(job, min_score=least), out, environment())
        table = selected(out)
        sizes.append(len(table))
        assert min(table["score"].to_pylist()) >= least
        told = report(out)
        assert [warning["code"] for warning in told["warnings"]] == ["min-score"]
        assert sum(entry["random"] for entry in told["evidence"]["classes"]["classes"]) == len(table)
    assert 900 > sizes[0] > sizes[1] > 3
    run(changed(job, min_score=0.9, score="confidence"), tmp_path / "confident", environment())
    scores = pq.read_table(tmp_path / "confident" / "scores.parquet")["score"].to_numpy()
    assert len(selected(tmp_path / "confident")) == (scores >= 0.9).sum()

    capped = changed(job | {"budget": {"rows": 20}}, min_score=2.0)
    run(capped, tmp_path / "capped", environment())
    assert len(selected(tmp_path / "capped")) == 20
    error = refused(Infeasible, changed(job, min_score=1e6), tmp_path, environment())
    assert error.pointer == "/selector/params/min_score"
    strata = {"by": "group", "quotas": {"g0": {"min": 1}}}
    assert (
        refused(Invalid, changed(job, min_score=2.0) | {"strata": strata}, tmp_path, environment()).pointer == "/strata"
    )
    sized = changed(job, min_score=2.0) | {"budget": {"size": 100}}
    assert refused(Invalid, sized, tmp_path, environment()).pointer == "/budget/size"


def test_earlier_selections_strata_and_sizes_are_respected(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = clouds.write(tmp_path / "data")
    run(job, tmp_path / "first", environment())
    first = set(selected(tmp_path / "first")["row"].to_pylist())
    earlier = str(tmp_path / "first" / "selection.parquet")
    more = job | {"budget": {"rows": 90}, "preselected": earlier}
    run(more, tmp_path / "more", environment())
    assert first < set(selected(tmp_path / "more")["row"].to_pylist())
    run(job | {"exclude": [earlier]}, tmp_path / "other", environment())
    assert not first & set(selected(tmp_path / "other")["row"].to_pylist())

    strata = {"by": "group", "quotas": {"g0": {"min": 40}}}
    run(job | {"strata": strata}, tmp_path / "strata", environment())
    assert sum(row % 4 == 0 for row in selected(tmp_path / "strata")["row"].to_pylist()) >= 40
    columns = job["dataset"] | {"columns": {"size": "size"}}
    run(job | {"dataset": columns, "budget": {"size": 200}}, tmp_path / "size", environment())
    sizes = [row % 7 + 1 for row in selected(tmp_path / "size")["row"].to_pylist()]
    assert 190 < sum(sizes) <= 200


def test_json_lines_give_the_same_rows(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = clouds.write(tmp_path / "data", shards=1)
    rows = pq.read_table(tmp_path / "data" / "0.parquet").to_pylist()
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in rows))
    other = job | {"dataset": {"shards": [str(lines)]}}
    run(job, tmp_path / "parquet", environment())
    run(other, tmp_path / "lines", environment())
    assert selected(tmp_path / "parquet")["row"].equals(selected(tmp_path / "lines")["row"])
    known, unknown = (plan(spec, environment()).peak_memory_bytes for spec in map(JobSpec.model_validate, (job, other)))
    assert 0.5 < unknown / known < 2.0


def test_ranks_keep_every_prefix_balanced(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = changed(clouds.write(tmp_path / "data"), passes=2, graph="minibatch", relation="attention")
    run(job, tmp_path / "out", environment())
    table = selected(tmp_path / "out").sort_by("rank")
    labels = labels_of(tmp_path / "data")
    half = Counter(labels[row] for row in table["row"].to_pylist()[:30])
    whole = Counter(labels[row] for row in table["row"].to_pylist())
    assert all(abs(half[name] - whole[name] / 2) <= 1 for name in whole)


def test_awkward_data_are_taken_with_a_word(
    tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, labels = clouds.cloud(400, 0)
    points[:, 1] = 7.5
    named: list[Any] = [*labels]
    named[5], named[6] = "alone", None
    (tmp_path / "data").mkdir()
    pq.write_table(clouds.table(points, named), tmp_path / "data" / "0.parquet")
    run(clouds.job(tmp_path / "data"), tmp_path / "out", environment())
    told = {warning["code"]: warning["detail"] for warning in report(tmp_path / "out")["warnings"]}
    assert set(told) == {"constant-columns", "no-label", "class-of-one-row"}
    assert "'alone'" in told["class-of-one-row"]
    rows = selected(tmp_path / "out")["row"].to_pylist()
    assert 5 in rows and 6 not in rows
    reasons = pq.read_table(tmp_path / "out" / "scores.parquet")["reason"].to_pylist()
    assert reasons[6] == "no-label"

    pq.write_table(clouds.table(points[:20], pa.nulls(20, pa.string())), tmp_path / "data" / "1.parquet")
    with monkeypatch.context() as patched:
        patched.setattr("tamis.selectors.methods.gais.survey.BLOCK_ROWS", 10)  # a block of its own, without a label
        run(clouds.job(tmp_path / "data"), tmp_path / "unlabelled", environment())
    assert max(selected(tmp_path / "unlabelled")["row"].to_pylist()) < 400

    ids = clouds.table(points[:, :3], [row % 30 for row in range(400)])  # 30 classes, whole numbers as labels
    (tmp_path / "many").mkdir()
    pq.write_table(ids, tmp_path / "many" / "0.parquet")
    many = changed(clouds.job(tmp_path / "many"), graph="minibatch", batch=64)
    run(many, tmp_path / "many-out", environment())
    assert "few-rows-a-class" in {warning["code"] for warning in report(tmp_path / "many-out")["warnings"]}


def test_shards_sorted_by_class_are_told(
    tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tamis.selectors.methods.gais.survey.BLOCK_ROWS", 100)
    points, labels = clouds.cloud(900, 0)
    (tmp_path / "data").mkdir()
    for name in sorted(set(labels)):
        own = np.array([label == name for label in labels])
        pq.write_table(clouds.table(points[own], [name] * int(own.sum())), tmp_path / "data" / f"{name}.parquet")
    run(clouds.job(tmp_path / "data"), tmp_path / "out", environment())
    assert [warning["code"] for warning in report(tmp_path / "out")["warnings"]] == ["sorted-by-class"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_place(
    value: float, tmp_path: Path, environment: MakeEnvironment
) -> None:
    job = clouds.write(tmp_path / "data", shards=1)
    points, labels = clouds.cloud(300, 1)
    points[217, 3] = value
    pq.write_table(clouds.table(points, labels), tmp_path / "data" / "9.parquet", row_group_size=100)
    error = refused(DataError, job, tmp_path, environment())
    assert error.where["column"] == "embedding" and error.where["row"] == 217 and error.where["row_group"] == 2
    assert str(error.where["shard"]).endswith("9.parquet")


def test_what_can_not_work_is_refused(tmp_path: Path, environment: MakeEnvironment) -> None:
    points, labels = clouds.cloud(120, 0)

    def of(name: str, points: Any, labels: Any, **params: Any) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        pq.write_table(clouds.table(points, labels), tmp_path / name / "0.parquet")
        return changed(clouds.job(tmp_path / name), **params)

    one = refused(Invalid, of("one", points, ["a"] * 120), tmp_path, environment())
    assert one.pointer == "/dataset/columns/label" and "'a'" in one.detail
    nothing = refused(Invalid, of("none", points, pa.nulls(120, pa.string())), tmp_path, environment())
    assert nothing.pointer == "/dataset/columns/label"
    flat = refused(Invalid, of("flat", np.ones((120, 3), np.float32), labels), tmp_path, environment())
    assert flat.pointer == "/dataset/columns/embedding"
    floors = refused(Infeasible, of("floors", points, labels, min_per_class=30), tmp_path, environment())
    assert floors.pointer == "/budget/rows" and "90" in floors.detail
    ids = of("ids", points, list(range(120)), graph="minibatch", batch=64, min_per_class=0)
    crowded = refused(Invalid, ids, tmp_path, environment())
    assert crowded.pointer == "/selector/params/batch" and "120 classes" in crowded.detail
    wide = of("wide", points, labels, neighbors=32, batch=32)
    assert "neighbors = 32" in refused(Invalid, wide, tmp_path, environment()).detail
    unlabelled = of("unlabelled", points, labels)
    pq.write_table(pq.read_table(tmp_path / "unlabelled").drop(["label"]), tmp_path / "unlabelled" / "0.parquet")
    assert refused(Invalid, unlabelled, tmp_path, environment()).pointer == "/dataset/columns/label"


def test_a_second_job_with_another_budget_finds_survey_and_network(
    tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = clouds.write(tmp_path / "data")
    run(job, tmp_path / "out", environment())
    monkeypatch.setattr("tamis.selectors.methods.gais.selector.train", None)  # would be called in vain
    other = job | {"budget": {"rows": 30}}
    planned = plan(JobSpec.model_validate(other), environment())
    assert planned.phases[0].name == "survey" and planned.phases[0].cached_units == 3
    run(other, tmp_path / "other", environment())
    assert len(selected(tmp_path / "other")) == 30


def test_blocks_join_units_until_they_are_full() -> None:
    half = BLOCK_ROWS // 2
    assert plan_blocks([]) == []
    assert plan_blocks([10, 0, 5]) == [Block(0, 3)]
    assert plan_blocks([half, half, 3 * half, 7]) == [Block(0, 2), Block(2, 4)]
    assert plan_blocks([BLOCK_ROWS, BLOCK_ROWS]) == [Block(0, 1), Block(1, 2)]


def test_quotas_share_the_budget_out_exactly() -> None:
    totals = np.array([900, 90, 9, 1])
    zero = np.zeros(4, np.int64)

    def shared(rows: int, sharing: Any, floor: int = 0, available: Any = totals, kept: Any = zero) -> list[int]:
        quotas = class_quotas(rows, totals, available, kept, sharing, floor, "/budget/rows")
        assert quotas.sum() == min(rows, available.sum())
        listed: list[int] = quotas.tolist()
        return listed

    assert shared(100, "proportional") == [90, 9, 1, 0]
    assert shared(100, "proportional", 2) == [88, 9, 2, 1]
    assert shared(40, "equal") == [15, 15, 9, 1]
    assert shared(44, "square_root") == [30, 10, 3, 1]
    assert shared(1000, "equal", 5) == [900, 90, 9, 1]
    assert shared(100, "proportional", 0, np.array([50, 90, 9, 1]))[0] == 50
    assert shared(100, "proportional", 0, totals, np.array([0, 40, 0, 0]))[1] == 40
    with pytest.raises(Infeasible):
        shared(6, "proportional", 2)
