"""Small labelled clouds of points with a known answer, for tests of whole jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq


def cloud(rows: int, seed: int, classes: int = 3, dimension: int = 5) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Return points around two centres a class, the same for every seed, and their classes' names."""
    centres = np.random.default_rng(12).normal(size=(2 * classes, dimension)) * 2.0
    random = np.random.default_rng(seed)
    of = random.integers(0, 2 * classes, rows)
    points = (centres[of] + random.normal(size=(rows, dimension))).astype(np.float32)
    return points, [f"c{number % classes}" for number in of]


def table(points: npt.NDArray[Any], labels: Sequence[Any], first: int = 0) -> pa.Table:
    """Return columns embedding, label, id, group and size."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(points.reshape(-1)), points.shape[1])
    rows = np.arange(first, first + len(points))
    return pa.table(
        {
            "embedding": vectors,
            "label": pa.array(labels),
            "id": pa.array(rows),
            "group": pa.array([f"g{row % 4}" for row in rows]),
            "size": pa.array(rows % 7 + 1),
        }
    )


def write(folder: Path, shards: int = 3, rows: int = 300, classes: int = 3) -> dict[str, Any]:
    """Write shards; return a job for them as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        points, labels = cloud(rows, shard, classes)
        pq.write_table(table(points, labels, shard * rows), folder / f"{shard}.parquet", row_group_size=110)
    return job(folder)


def job(folder: Path) -> dict[str, Any]:
    """Return a job for all shards of a folder."""
    return {
        "dataset": {"shards": [str(folder / "*.parquet")]},
        "selector": {"name": "gais", "params": {"steps": 24, "batch": 256, "neighbors": 8}},
        "budget": {"rows": 60},
        "seed": 3,
        "output": {"scores": "all"},
    }
