"""Jobs on small datasets of vectors, for tests of the selectors that compare rows with each other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.results.result import SELECTION, read_selection
from tamis.selectors.schema.request import JobSpec


def blobs(n: int, d: int = 6, seed: int = 11) -> npt.NDArray[np.float32]:
    """Return points around twelve centres."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((12, d)) * 4
    return (centres[random.integers(0, 12, n)] + random.standard_normal((n, d))).astype(np.float32)


def write(
    folder: Path, data: npt.NDArray[np.float32], groups: Sequence[str] | None = None, cuts: Sequence[int] = ()
) -> dict[str, Any]:
    """Write vectors, and groups, to Parquet shards cut at `cuts`; return the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(data.reshape(-1)), data.shape[1]),
        "id": pa.array([str(row) for row in range(len(data))]),
    }
    if groups is not None:
        columns["group"] = pa.array(groups)
    table = pa.table(columns)
    edges = [0, *cuts, len(data)]
    for shard, (first, last) in enumerate(itertools.pairwise(edges)):
        pq.write_table(table.slice(first, last - first), folder / f"{shard}.parquet", row_group_size=300)
    return {"shards": [str(folder / f"{shard}.parquet") for shard in range(len(edges) - 1)]}


def run(
    dataset: dict[str, Any],
    selector: str,
    params: dict[str, Any],
    budget: dict[str, Any],
    environment: Environment,
    out: Path,
    **more: Any,
) -> tuple[list[int], pa.Table, dict[str, Any]]:
    """Run a job; return the rows by rank, the selection, and the report."""
    job = {"dataset": dataset, "selector": {"name": selector, "params": params}, "budget": budget, **more}
    execute(JobSpec.model_validate(job), out, environment)
    table = read_selection(out / SELECTION)[0]
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    by_rank = np.argsort(table.column("rank").to_numpy())
    rows: list[int] = table.column("row").to_numpy()[by_rank].tolist()
    return rows, table, report
