"""What selectors that compare vectors must bear: JSON lines, no rows, sizes no row fits, lengths beyond float32."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tamis.native.neighbours import knn, similarities
from tamis.selectors.errors import Infeasible, Invalid, OutOfLimits, TamisError
from tamis.selectors.features.neighbours import MAX_SQUARED_LENGTH, MIN_SQUARED_LENGTH, PAIR_BYTES
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.jobs.plan import plan
from tamis.selectors.methods import d2
from tamis.selectors.schema.request import JobSpec

from ..vector_shards import write_vectors
from ..vectors import blobs, run

MakeEnvironment = Callable[..., Environment]

GREEDY: dict[str, dict[str, Any]] = {
    "kcenter": {},
    "facility_location": {},
    "graph_cut": {},
    "saturated_coverage": {},
    "d2": {"hard_end": "low"},
    "semdedup": {},
}
FAMILY: dict[str, dict[str, Any]] = {**GREEDY, "moderate": {}}

MEASURED_PAIR_BYTES = 41
"""Growth of the peak memory of whole jobs from 32 to 256 neighbours a row, the lists of 8 bytes taken off."""

ROWS = 120
VECTORS = blobs(ROWS, 4)
COLUMNS: dict[str, Any] = {
    "score": np.random.default_rng(3).random(ROWS).astype(np.float32),
    "label": [("cat", "dog")[row % 2] for row in range(ROWS)],
    "group": [("a", "b", "c", "d")[row % 4] for row in range(ROWS)],
}


def write_lines(path: Path, vectors: npt.NDArray[np.float32], columns: dict[str, Any] = COLUMNS) -> dict[str, Any]:
    """Write the same rows as `write_vectors` to one JSON-lines shard; return its manifest."""
    wide = {"embedding": vectors.astype(np.float64).tolist()}
    wide |= {name: np.asarray(values).tolist() for name, values in columns.items()}
    lines = [json.dumps(dict(zip(wide, values, strict=True))) for values in zip(*wide.values(), strict=True)]
    path.write_text("\n".join(lines))
    return {"shards": [str(path)], "columns": {name: name for name in wide}}


@pytest.mark.parametrize("name", FAMILY)
def test_json_lines_are_planned_and_run_like_parquet(name: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", VECTORS)
    job = {"dataset": lines, "selector": {"name": name, "params": FAMILY[name]}, "budget": {"rows": 20}}
    assert plan(JobSpec.model_validate(job), environment()).rows is None
    parquet = write_vectors(tmp_path / "data", VECTORS, **COLUMNS)
    expected, _, _ = run(parquet, name, FAMILY[name], {"rows": 20}, environment(), tmp_path / "a")
    found, _, _ = run(lines, name, FAMILY[name], {"rows": 20}, environment(), tmp_path / "b")
    assert found == expected
    assert len(found) == 20


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("kind", ["lines", "parquet"])
def test_no_rows_are_refused(name: str, kind: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    empty: dict[str, Any] = {role: np.asarray(values)[:0] for role, values in COLUMNS.items()}
    empty["label"] = empty["group"] = np.empty(0, np.str_)
    if kind == "parquet":
        dataset = write_vectors(tmp_path / "data", VECTORS[:0], shards=1, **empty)
    else:
        dataset = write_lines(tmp_path / "rows.jsonl", VECTORS[:0], empty)
    job = {"dataset": dataset, "selector": {"name": name, "params": FAMILY[name]}, "budget": {"rows": 1}}
    with pytest.raises(TamisError) as refused:
        execute(JobSpec.model_validate(job), tmp_path / "out", environment())
    assert refused.value.code != "internal"


@pytest.mark.parametrize("name", FAMILY)
def test_sizes_that_no_row_fits_are_infeasible(name: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS, **COLUMNS, size=np.full(ROWS, 50))
    with pytest.raises(Infeasible, match="larger than the budget") as refused:
        run(dataset, name, FAMILY[name], {"size": 10}, environment(), tmp_path / "out")
    assert refused.value.pointer == "/budget/size"


@pytest.mark.parametrize("name", GREEDY)
def test_minimums_that_whole_rows_miss_are_infeasible(name: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS, **COLUMNS, size=np.full(ROWS, 7))
    strata = {"by": "group", "quotas": {group: {"min": 25} for group in "abcd"}}
    with pytest.raises(Infeasible, match="whole rows of stratum") as refused:
        run(dataset, name, GREEDY[name], {"size": 100}, environment(), tmp_path / "out", strata=strata)
    assert refused.value.pointer == "/strata/quotas"


@pytest.mark.parametrize("name", GREEDY)
def test_preselected_rows_may_be_all_that_fit(name: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS, **COLUMNS, size=np.full(ROWS, 50))
    first, _, _ = run(dataset, "random", {}, {"rows": 2}, environment(), tmp_path / "first")
    kept = str(tmp_path / "first" / "selection.parquet")
    rows, _, _ = run(dataset, name, GREEDY[name], {"size": 120}, environment(), tmp_path / "out", preselected=kept)
    assert rows == first


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("scale", [1e30, 1e-25])
def test_lengths_beyond_float32_are_refused(
    name: str, scale: float, tmp_path: Path, environment: MakeEnvironment
) -> None:
    vectors = VECTORS * np.float32(scale)
    dataset = write_vectors(tmp_path / "data", vectors, **COLUMNS)
    if name == "semdedup":  # compares directions: lengths do not matter
        rows, _, _ = run(dataset, name, FAMILY[name], {"rows": 5}, environment(), tmp_path / "out")
        assert len(rows) == 5
        return
    with pytest.raises(Invalid, match=r"in float32.*Scale them") as refused:
        run(dataset, name, FAMILY[name], {"rows": 5}, environment(), tmp_path / "out")
    assert refused.value.pointer == "/dataset/columns/embedding"


@pytest.mark.parametrize("name", ["kcenter", "facility_location", "moderate"])
def test_lengths_just_within_float32_are_compared(name: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    longest = float(np.linalg.norm(VECTORS.astype(np.float64), axis=1).max())
    plain = write_vectors(tmp_path / "plain", VECTORS, **COLUMNS)
    expected, _, _ = run(plain, name, FAMILY[name], {"rows": 5}, environment(), tmp_path / "a")
    for power in (56, -46):
        vectors = (VECTORS.astype(np.float64) * 2.0**power).astype(np.float32)
        assert MIN_SQUARED_LENGTH < (longest * 2.0**power) ** 2 < MAX_SQUARED_LENGTH
        dataset = write_vectors(tmp_path / str(power), vectors, **COLUMNS)
        rows, _, _ = run(dataset, name, FAMILY[name], {"rows": 5}, environment(), tmp_path / f"out{power}")
        assert rows == expected


@pytest.mark.parametrize("name", ["kcenter", "semdedup"])
def test_the_memory_limit_holds_for_rows_counted_late(name: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", blobs(3000, 8), {})
    counted = write_vectors(tmp_path / "data", blobs(3000, 8))
    job: dict[str, Any] = {"dataset": lines, "selector": {"name": name}, "budget": {"rows": 20}}
    before = plan(JobSpec.model_validate(job), environment()).peak_memory_bytes
    needed = plan(JobSpec.model_validate(job | {"dataset": counted}), environment()).peak_memory_bytes
    assert before < needed
    limited = job | {"limits": {"memory_bytes": (before + needed) // 2}}
    with pytest.raises(OutOfLimits) as refused:
        execute(JobSpec.model_validate(limited), tmp_path / "out", environment())
    assert refused.value.pointer == "/limits/memory_bytes"
    assert not (tmp_path / "out" / "work").exists()
    execute(JobSpec.model_validate(job | {"limits": {"memory_bytes": needed}}), tmp_path / "out", environment())


@pytest.mark.parametrize("name", ["d2", "facility_location"])
def test_the_memory_of_pairs_is_planned(name: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS, **COLUMNS)

    def planned(neighbors: int) -> int:
        params = {**FAMILY[name], "neighbors": neighbors}
        job = {"dataset": dataset, "selector": {"name": name, "params": params}, "budget": {"rows": 5}}
        return plan(JobSpec.model_validate(job), environment()).peak_memory_bytes

    lists = 8 * (256 - 64)
    assert planned(256) - planned(64) >= ROWS * ((256 - 64) * MEASURED_PAIR_BYTES + lists)


def test_relating_neighbours_takes_no_more_than_planned() -> None:
    graph = knn.exact_graph(blobs(2000, 4), 64)
    tracemalloc.start()
    pairs = similarities.of_neighbours(graph)
    assert tracemalloc.get_traced_memory()[1] <= PAIR_BYTES * graph.rows.size + 60 * len(graph.rows)
    tracemalloc.reset_peak()
    held = tracemalloc.get_traced_memory()[0]
    d2.D2(d2.D2Params(hard_end="low"))._weak(pairs)
    assert tracemalloc.get_traced_memory()[1] - held <= 5 * len(pairs.squared)  # no copy in float64
    tracemalloc.stop()
