"""Names of tasks, and what a task or its parameters are refused for."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors.datasets import Dataset, LocalStorage
from tamis.selectors.features.ngrams import count_ngrams
from tamis.selectors.schema.request import Manifest
from tamis.selectors.signals.row_columns import read_groups
from tamis.selectors.signals.task import Call, Task, UnitReader, unit_task


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    pq.write_table(pa.table({"group": ["a", "b"]}), tmp_path / "pool.parquet")
    manifest = Manifest.model_validate({"shards": [str(tmp_path / "pool.parquet")]})
    return Dataset.open(manifest, LocalStorage(), needs={"group"}, pointer="/dataset")


def result(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    return pa.table({})


def task_at(location: str, name: str = "tests.some", revision: int = 1) -> Task:
    return Task(name, revision, ("group",), False, location, result)


def test_a_renamed_module_keeps_its_results(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.selectors.signals.task._LOCATIONS", {})
    before = Call(task_at("old.place:result"), dataset, 0, {}, {}).key
    monkeypatch.setattr("tamis.selectors.signals.task._LOCATIONS", {})
    assert Call(task_at("new.place:renamed"), dataset, 0, {}, {}).key == before
    assert Call(task_at("new.place:renamed", revision=2), dataset, 0, {}, {}).key != before


def test_two_tasks_of_one_name_are_refused() -> None:
    task_at("some.module:first", name="tests.twice")
    with pytest.raises(
        ValueError, match=r"Two tasks are named 'tests.twice' \(some.module:first and other.module:second"
    ):
        task_at("other.module:second", name="tests.twice")


def test_a_task_travels_by_its_location() -> None:
    assert pickle.loads(pickle.dumps(count_ngrams)) is count_ngrams


def test_what_is_no_task_is_not_found_as_one() -> None:
    with pytest.raises(TypeError, match=r"pathlib:Path is not a task"):
        Task.find("pathlib:Path")


def test_a_task_in_a_closure_is_refused() -> None:
    def closure(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
        return pa.table({})

    with pytest.raises(TypeError, match=r"must be a function at the top level of its module"):
        unit_task("tests.closure", revision=1, roles=())(closure)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.int64(3), "numpy.int64"),
        (np.float64(0.5), "numpy.float64"),
        ([1, [np.float32(2)]], "numpy.float32"),
        ({"inner": {1, 2}}, "set"),
        (np.arange(3), "numpy.ndarray"),
        (Path("x"), "pathlib"),
    ],
)
def test_parameters_that_are_no_json_are_refused(dataset: Dataset, value: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"The parameter 'k.*' of the task 'rows.read_groups' is of type {kind}"):
        Call(read_groups, dataset, 0, {"k": value}, {})


@pytest.mark.parametrize("convert", [int, float, str, lambda value: [value], lambda value: {"a": (value, None, True)}])
def test_json_parameters_are_taken(dataset: Dataset, convert: Callable[[int], Any]) -> None:
    assert len(Call(read_groups, dataset, 0, {"k": convert(3)}, {}).key) == 64
