"""Data in memory, as people hold it: every kind selects the same rows as the shards it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tamis.selectors import select
from tamis.selectors.errors import Invalid

datasets = pytest.importorskip("datasets")

ROWS = 90


def table() -> pa.Table:
    draw = np.random.default_rng(1)
    words = [["sail tide", "keel mast tide"], ["oven salt", "loaf soup salt"]]
    kinds = draw.integers(0, 2, ROWS)
    return pa.table(
        {
            "text": [" ".join(draw.permutation(words[kind] * 3)) for kind in kinds],
            "id": [f"r{row}" for row in range(ROWS)],
            "size": draw.integers(1, 9, ROWS),
        }
    )


TABLE = table()
TARGET = pa.table({"text": ["sail tide keel mast tide sail"] * 20})


class Stream:
    """Has an Arrow stream, and nothing else."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._rows.__arrow_c_stream__(requested_schema)


class RowsOfDicts:
    """Iterates over dictionaries, has a length, and nothing else."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(TABLE.to_pylist())

    def __len__(self) -> int:
        return ROWS


def hugging_face(shuffled: bool) -> Any:
    whole = datasets.Dataset(TABLE)
    if not shuffled:
        return whole
    reverse = datasets.Dataset(TABLE.take(pa.array(range(ROWS))[::-1]))
    return reverse.select(range(ROWS - 1, -1, -1))  # the rows of TABLE, through a table of indices


KINDS: dict[str, Callable[[Path], Any]] = {
    "pyarrow table": lambda folder: TABLE,
    "record batch": lambda folder: TABLE.combine_chunks().to_batches()[0],
    "record batch reader": lambda folder: TABLE.to_reader(20),
    "arrow stream": lambda folder: Stream(TABLE),
    "pandas": lambda folder: TABLE.to_pandas(),
    "pandas with an index": lambda folder: TABLE.to_pandas().set_index(pd.Index(range(100, 100 + ROWS))),
    "polars": lambda folder: pl.from_arrow(TABLE),
    "polars lazy": lambda folder: pl.from_arrow(TABLE).lazy(),  # type: ignore[union-attr]
    "duckdb relation": lambda folder: duckdb.from_arrow(TABLE),
    "datasets": lambda folder: hugging_face(False),
    "datasets by indices": lambda folder: hugging_face(True),
    "pyarrow dataset": lambda folder: pyarrow.dataset.dataset(folder / "pool.parquet"),
    "list of dictionaries": lambda folder: TABLE.to_pylist(),
    "generator of dictionaries": lambda folder: (row for row in TABLE.to_pylist()),
    "rows of dictionaries": lambda folder: RowsOfDicts(),
    "path": lambda folder: folder / "pool.parquet",
    "path in bytes": lambda folder: str(folder / "pool.parquet").encode(),
    "list of paths": lambda folder: [folder / "pool.parquet"],
    "tuple of paths": lambda folder: (str(folder / "pool.parquet"),),
    "generator of paths": lambda folder: (path for path in [str(folder / "pool.parquet")]),
    "manifest": lambda folder: {"shards": [str(folder / "pool.parquet")]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    pq.write_table(TABLE, folder / "pool.parquet", row_group_size=40)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[int]:
    rows: list[int] = select(folder / "pool.parquet", TARGET, "dsir", 12).rows.tolist()
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_selects_the_same_rows(kind: str, folder: Path, expected: list[int]) -> None:
    assert select(KINDS[kind](folder), TARGET, "dsir", 12).rows.tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_target(kind: str, folder: Path) -> None:
    assert len(select(TABLE, KINDS[kind](folder), "dsir", 12).rows) == 12


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_targets(kind: Any) -> None:
    several = select(TABLE, kind([TARGET, pl.from_arrow(TARGET)]), "dsir", 12)
    assert len(several.rows) == 12
    assert len(several.manifest.provenance.target_digests) == 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint8])
def test_an_array_is_a_column_of_embeddings(dtype: Any) -> None:
    vectors = (np.random.default_rng(0).normal(size=(50, 4)) * 10).astype(dtype)
    assert len(select(vectors, selector="kcenter", budget=5).rows) == 5


@pytest.mark.parametrize(
    ("budget", "rows"), [(5, 5), (np.int64(5), 5), (np.float64(0.1), 9), (np.float32(0.5), 45), ({"rows": 4}, 4)]
)
def test_numbers_of_numpy(budget: Any, rows: int) -> None:
    seeds = [select(TABLE, selector="random", budget=budget, seed=seed) for seed in (np.int64(3), 3)]  # type: ignore[arg-type]
    assert [len(selection.rows) for selection in seeds] == [rows, rows]
    assert seeds[0].rows.tolist() == seeds[1].rows.tolist()


class Foreign:
    """Belongs to a package whose frames live in other processes."""


REFUSED: list[tuple[Any, str]] = [
    (3, "The data is of type int, which can't be read; taken are a manifest"),
    (None, "The data is of type NoneType"),
    ([1, 2], "The data holds an item of type int"),
    (np.zeros(5), r"An array of shape \(5,\) and type float64 is no dataset"),
    (np.zeros((5, 2), object), "is no dataset"),
    ([{"text": "a"}, {"text": 3}], "The rows don't make a table"),
    (datasets.DatasetDict({"train": datasets.Dataset(TABLE)}), r"A DatasetDict holds several datasets \(train\)"),
]


@pytest.mark.parametrize(("data", "sentence"), REFUSED)
def test_what_is_none_of_these_is_refused(data: Any, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence) as refused:
        select(data, TARGET, "dsir", 5)
    assert refused.value.pointer == "/dataset"


@pytest.mark.parametrize("package", ["pyspark", "dask", "ray", "modin"])
def test_frames_in_other_processes_are_told_how_to_write_shards(package: str) -> None:
    foreign = type("Frame", (), {"__module__": f"{package}.dataframe"})()
    with pytest.raises(Invalid, match=rf"A {package} frame lives in other processes: write shards with \w+\.\w+"):
        select(foreign, selector="random", budget=5)


@pytest.mark.parametrize(
    ("name", "value"), [("budget", True), ("budget", "5"), ("budget", np.bool_(True)), ("seed", "42"), ("seed", False)]
)
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(Invalid, match=rf"{name} is .*; give a number") as refused:
        select(TABLE, selector="random", **{"budget": 5, name: value})
    assert refused.value.pointer == f"/{name}"


def test_an_empty_frame_is_an_empty_dataset() -> None:
    for empty in (TABLE.slice(0, 0), pl.from_arrow(TABLE.slice(0, 0)).lazy(), hugging_face(False).select([])):  # type: ignore[union-attr]
        with pytest.raises(Invalid, match="The dataset has no rows"):
            select(empty, selector="random", budget=5)


def test_the_manifest_names_the_file_that_was_written(tmp_path: Path) -> None:
    selection = select(TABLE, selector="random", budget=5, out=tmp_path / "out")
    shards = json.loads((tmp_path / "out" / "result.json").read_text())["shards"]
    assert [Path(shard["uri"]).name for shard in shards] == ["table-0.arrow"]
    assert selection.rows.max() < ROWS
