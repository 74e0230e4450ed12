"""Vectors of a whole dataset: the same whatever the shards, their types and the threads; bad values are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tamis.selectors.errors import Cancelled, DataError, Invalid
from tamis.selectors.features.embeddings import matrix_bytes, normalized, read_matrix
from tamis.selectors.jobs.open import Environment
from tamis.selectors.run.observer import Unobserved

from ..runs import opened_run

MakeEnvironment = Callable[..., Environment]

VECTORS = np.random.default_rng(5).normal(size=(300, 6))


def vectors_of(values: npt.NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def write(folder: Path, dtype: type = np.float32) -> dict[str, Any]:
    """Three shards: Parquet of fixed lists, Arrow of lists, JSON lines."""
    values: npt.NDArray[Any] = VECTORS.astype(dtype)
    pq.write_table(pa.table({"v": vectors_of(values[:120])}), folder / "a.parquet", row_group_size=37)
    lists = pc.cast(vectors_of(values[120:200]), pa.list_(pa.from_numpy_dtype(dtype)))
    with pa.ipc.new_file(folder / "b.arrow", pa.schema([("v", lists.type)])) as writer:
        writer.write_table(pa.table({"v": lists}), max_chunksize=11)
    (folder / "c.jsonl").write_text("".join(json.dumps({"v": row}) + "\n" for row in values[200:].tolist()))
    return job([folder / name for name in ("a.parquet", "b.arrow", "c.jsonl")])


def job(shards: list[Path]) -> dict[str, Any]:
    return {
        "dataset": {"shards": [str(shard) for shard in shards], "columns": {"embedding": "v"}},
        "selector": {"name": "random"},
        "budget": {"rows": 1},
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_shard_and_type(tmp_path: Path, environment: MakeEnvironment, dtype: type) -> None:
    for threads in (1, 7):
        with opened_run(write(tmp_path, dtype), environment(threads)) as run:
            matrix = read_matrix(run, run.candidates, "embedding")
            assert matrix_bytes(run.candidates, "embedding") == matrix.nbytes
            assert matrix.dtype == np.float32
            np.testing.assert_array_equal(matrix, VECTORS.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_bad_value_is_named_with_its_place(tmp_path: Path, environment: MakeEnvironment, bad: float) -> None:
    values = VECTORS.copy()
    values[83, 4] = bad
    pq.write_table(pa.table({"v": vectors_of(values)}), tmp_path / "a.parquet", row_group_size=40)
    with opened_run(job([tmp_path / "a.parquet"]), environment()) as run, pytest.raises(DataError) as refused:
        read_matrix(run, run.candidates, "embedding")
    where = refused.value.where
    assert (where["column"], where["row_group"], where["row"]) == ("v", 2, 83)
    assert "Value 4 of the vector" in refused.value.detail


def test_no_rows(tmp_path: Path, environment: MakeEnvironment) -> None:
    pq.write_table(pa.table({"v": vectors_of(VECTORS[:0])}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"v": vectors_of(VECTORS[:3])}), tmp_path / "b.parquet")
    with opened_run(job([tmp_path / "a.parquet", tmp_path / "b.parquet"]), environment()) as run:
        assert read_matrix(run, run.candidates, "embedding").shape == (3, 6)


def test_a_cancelled_job_stops_reading(tmp_path: Path, environment: MakeEnvironment) -> None:
    class Impatient(Unobserved):
        asked = 0

        def cancelled(self) -> bool:
            self.asked += 1
            return self.asked > 4

    with opened_run(write(tmp_path), environment(1), Impatient()) as run, pytest.raises(Cancelled):
        read_matrix(run, run.candidates, "embedding")


def test_directions(tmp_path: Path, environment: MakeEnvironment) -> None:
    with opened_run(write(tmp_path), environment()) as run:
        matrix = normalized(read_matrix(run, run.candidates, "embedding"), run.candidates)
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(matrix * np.linalg.norm(VECTORS, axis=1)[:, None], VECTORS, atol=1e-5)
        matrix[7] = 0
        with pytest.raises(Invalid, match="row 7") as refused:
            normalized(matrix, run.candidates)
        assert refused.value.pointer == "/dataset/columns/embedding"


def test_a_signal_of_the_whole_dataset_is_computed_once(tmp_path: Path, environment: MakeEnvironment) -> None:
    made = []

    def compute() -> pa.Table:
        made.append(1)
        return pa.table({"x": [len(made)]})

    whole = write(tmp_path)
    for _ in range(2):
        with opened_run(whole, environment()) as run:
            for params in ({"k": 1}, {"k": 2}, {"k": 1}):
                run.derive("test/1", run.candidates, ("embedding",), params, compute)
    assert len(made) == 2
    pq.write_table(pa.table({"v": vectors_of(VECTORS[:120] * 2)}), tmp_path / "a.parquet", row_group_size=37)
    shards = [tmp_path / name for name in ("a.parquet", "b.arrow", "c.jsonl")]
    with opened_run(job(shards), environment()) as run:
        table = run.derive("test/1", run.candidates, ("embedding",), {"k": 1}, compute)
    assert table.column("x").to_pylist() == [3]
