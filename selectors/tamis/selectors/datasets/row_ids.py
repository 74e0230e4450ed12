"""Ids of rows, read from the dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.selectors.errors import TamisError

if TYPE_CHECKING:
    from tamis.selectors.datasets import Dataset


def read_ids(dataset: Dataset, rows: npt.NDArray[np.int64]) -> pa.ChunkedArray:
    """Return the ids of `rows` (ascending, at least one), in the type that the dataset has them in."""
    starts = dataset.row_starts
    if starts is None:
        raise TamisError("The ids were asked for before the rows were counted.")
    parts: list[pa.Array] = []
    cuts = np.searchsorted(rows, starts)
    for index in np.flatnonzero(np.diff(cuts)).tolist():
        local = rows[cuts[index] : cuts[index + 1]] - starts[index]
        for batch in dataset.read(dataset.units[index], ["id"]):
            low, high = np.searchsorted(local, [batch.start, batch.start + batch.rows])
            if high > low:
                parts.append(batch.column("id").take(pa.array(local[low:high] - batch.start)))
            if high == len(local):
                break
    return pa.chunked_array(parts)
