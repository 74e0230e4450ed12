"""Datasets of vectors in shards, for selectors that compare rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq


def write_vectors(
    folder: Path,
    vectors: npt.NDArray[np.floating],
    *,
    shards: int = 2,
    row_group: int = 100,
    **columns: Sequence[Any] | npt.NDArray[Any],
) -> dict[str, Any]:
    """Write a dataset with an embedding and further columns, each of its own role; return its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = np.ascontiguousarray(vectors, np.float32)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
    table = pa.table({"embedding": embedding, **{name: pa.array(values) for name, values in columns.items()}})
    paths = []
    for shard, cuts in enumerate(np.array_split(np.arange(len(flat)), shards)):
        paths.append(str(folder / f"{shard}.parquet"))
        start = int(cuts[0]) if len(cuts) else 0
        pq.write_table(table.slice(start, len(cuts)), paths[-1], row_group_size=row_group)
    return {"shards": paths, "columns": {name: name for name in table.column_names}}
