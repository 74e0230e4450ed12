"""What the fingerprint and the names of signals cover, and what a folder with an earlier result gives back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tamis.selectors.errors import Invalid
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment, open_job
from tamis.selectors.jobs.plan import plan
from tamis.selectors.schema.request import JobSpec

from ..corpus import table, write

MakeEnvironment = Callable[..., Environment]


def fingerprint(job: dict[str, Any], environment: Environment) -> str:
    return open_job(JobSpec.model_validate(job), environment).fingerprint


def test_other_proportions_are_another_result(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = write(tmp_path / "data")
    pq.write_table(table(60, 98, ["kitchen"]), tmp_path / "data" / "kitchen.parquet")

    def mixed(*shares: float | None) -> dict[str, Any]:
        names = ("target", "kitchen")
        return job | {
            "target": {
                "datasets": [
                    {"shards": [str(tmp_path / "data" / f"{name}.parquet")], "proportion": share}
                    for name, share in zip(names, shares, strict=True)
                ]
            }
        }

    found = [fingerprint(mixed(*shares), environment()) for shares in ((None, None), (0.5, 0.5), (0.95, 0.05))]
    assert len(set(found)) == 3
    first = execute(JobSpec.model_validate(mixed(0.95, 0.05)), tmp_path / "out", environment())
    second = execute(JobSpec.model_validate(mixed(0.05, 0.95)), tmp_path / "out", environment())
    assert first.files[0].sha256 != second.files[0].sha256


def test_a_selection_to_keep_is_not_one_to_keep_away_from(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = write(tmp_path / "data")
    execute(JobSpec.model_validate(job | {"budget": {"rows": 30}}), tmp_path / "earlier", environment())
    earlier = str(tmp_path / "earlier" / "selection.parquet")
    kept, away = job | {"preselected": earlier}, job | {"exclude": [earlier]}
    assert fingerprint(kept, environment()) != fingerprint(away, environment())


def test_training_dynamics_that_nobody_reads_are_refused(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = write(tmp_path / "data")
    with pytest.raises(Invalid) as refused:
        fingerprint(job | {"dynamics": job["dataset"]}, environment())
    assert refused.value.pointer == "/dynamics"


def test_a_missing_earlier_selection_is_named_with_its_field(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = write(tmp_path / "data")
    for path in (str(tmp_path / "none"), "a\0b"):
        with pytest.raises(Invalid) as refused:
            fingerprint(job | {"exclude": [path]}, environment())
        assert refused.value.pointer == "/exclude/0"


def test_a_shard_that_reads_otherwise_next_to_another_has_signals_of_its_own(
    tmp_path: Path, environment: MakeEnvironment
) -> None:
    job = write(tmp_path / "data")
    for name, number in (("a", 10**17), ("b", 1.5)):
        lines = [json.dumps({"text": f"ship wave {row}", "n": number + row}) for row in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))

    def run(out: str, cache: str, *names: str) -> bytes:
        shards = [str(tmp_path / f"{name}.jsonl") for name in names]
        dataset = {"shards": shards, "columns": {"text": {"template": "{text} {n}"}}}
        spec = JobSpec.model_validate(job | {"dataset": dataset, "budget": {"rows": 20}})
        execute(spec, tmp_path / out, environment(cache=cache))
        return (tmp_path / out / "selection.parquet").read_bytes()

    run("alone", "used", "a")
    assert run("both", "used", "a", "b") == run("fresh", "empty", "a", "b")


def test_a_finished_result_is_given_back_unless_other_files_are_asked_or_it_is_damaged(
    tmp_path: Path, environment: MakeEnvironment
) -> None:
    spec = JobSpec.model_validate(write(tmp_path / "data"))
    more = JobSpec.model_validate(spec.model_dump() | {"output": {"scores": "all"}})
    out, selection = tmp_path / "out", tmp_path / "out" / "selection.parquet"
    first = execute(spec, out, environment())
    written = selection.stat().st_mtime_ns
    assert execute(spec, out, environment()) == first
    assert selection.stat().st_mtime_ns == written
    assert "scores.parquet" in {file.name for file in execute(more, out, environment()).files}
    assert "scores.parquet" not in {file.name for file in execute(spec, out, environment()).files}
    whole = selection.read_bytes()
    for damaged in (selection, out / "result.json"):
        damaged.write_bytes(b"half")
        assert execute(spec, out, environment()) == first
        assert selection.read_bytes() == whole


def test_the_rows_that_are_selected_take_memory_too(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = write(tmp_path / "data")
    few, all_ = (
        plan(JobSpec.model_validate(job | {"budget": {"rows": rows}}), environment()).peak_memory_bytes
        for rows in (1, 1200)
    )
    assert all_ - few > 1199 * 100


def test_ids_are_no_strata(tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.selectors.run.run.MAX_NAMES", 50)
    job = write(tmp_path / "data")
    job["dataset"]["columns"]["group"] = "id"
    with pytest.raises(Invalid, match="not of ids") as refused:
        execute(JobSpec.model_validate(job | {"strata": {"default": {"max": 1}}}), tmp_path / "strata", environment())
    assert refused.value.pointer == "/dataset/columns/group"
    warned = execute(JobSpec.model_validate(job), tmp_path / "report", environment()).warnings
    assert "no-composition" in [warning.code for warning in warned]


def test_an_earlier_selection_of_another_selector_can_be_excluded(tmp_path: Path, environment: MakeEnvironment) -> None:
    job = write(tmp_path / "data")
    drawn = {key: value for key, value in job.items() if key != "target"} | {"selector": {"name": "random"}}
    drawn["dataset"] = {"shards": job["dataset"]["shards"]}  # other roles: the rows are the same
    execute(JobSpec.model_validate(drawn), tmp_path / "random", environment())
    earlier = str(tmp_path / "random" / "selection.parquet")
    execute(JobSpec.model_validate(job | {"exclude": [earlier]}), tmp_path / "out", environment())
    taken = pq.read_table(tmp_path / "random" / "selection.parquet")["row"].to_pylist()
    rest = pq.read_table(tmp_path / "out" / "selection.parquet")["row"].to_pylist()
    assert len(rest) == 100
    assert not set(taken) & set(rest)


def test_earlier_selections_that_leave_no_room_are_refused_beforehand(
    tmp_path: Path, environment: MakeEnvironment
) -> None:
    job = write(tmp_path / "data")
    execute(JobSpec.model_validate(job | {"budget": {"rows": 700}}), tmp_path / "first", environment())
    earlier = str(tmp_path / "first" / "selection.parquet")
    for change, pointer, words in (
        ({"preselected": earlier, "budget": {"rows": 699}}, "/preselected", "700 already"),
        ({"exclude": [earlier], "budget": {"rows": 501}}, "/budget/rows", "700 are excluded"),
        ({"preselected": earlier, "exclude": [earlier], "budget": {"rows": 500}}, "/preselected", "700 already"),
        ({"preselected": earlier, "exclude": [earlier], "budget": {"rows": 1200}}, "/budget/rows", "are excluded"),
    ):
        with pytest.raises(Invalid, match=words) as refused:
            plan(JobSpec.model_validate(job | change), environment())
        assert refused.value.pointer == pointer
