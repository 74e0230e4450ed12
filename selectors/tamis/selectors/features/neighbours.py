"""The k nearest neighbours of every row: a signal of the whole dataset, computed once for all who ask for it.

Its name covers the dataset, the metric and how it is computed, not the job's seed or budget. Small datasets have the
exact graph; larger ones that of :func:`tamis.native.neighbours.knn.cell_graph`, which finds some 19 of 20 neighbours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tamis.native.greedy import farthest_first
from tamis.native.math import rng
from tamis.native.math.norms import squared_lengths
from tamis.native.neighbours import knn
from tamis.native.neighbours.knn import Graph
from tamis.selectors.errors import Invalid
from tamis.selectors.features.embeddings import Matrix, matrix_bytes, normalized, read_matrix
from tamis.selectors.run.parallel import in_threads
from tamis.selectors.schema.request import Shape

if TYPE_CHECKING:
    from tamis.selectors.datasets import Dataset
    from tamis.selectors.run.run import Run

Metric = Literal["euclidean", "cosine"]

EXACT_ROWS = 4096
"""Datasets of so many rows at most have an exact graph: it costs little more than cells do."""

CELLS_PER_ROOT = 2.0
"""Cells are so many times the square root of the rows: fewer compare more rows, more compare more centres."""

PROBES = 12
"""Cells that each row's neighbours are sought in. Measured on mixtures of 12 dimensions in 64 at 10k, 100k and 1M rows:
32 neighbours with a recall of 0.93 to 0.96."""

LEAST_NEIGHBOURS = 32
"""The graph holds this many neighbours, or twice as many, and so on: whoever needs fewer shares it."""

PASSES = knn.TRAINING_STEPS + 2
"""Over the data, that progress is counted in."""

PAIRS_PER_SECOND = 3e8
"""Rows compared with others in 64 dimensions, a CPU second; for estimates."""


PAIR_BYTES = 42
"""Bytes a neighbour in the graph's lists costs who relates both directions of each pair (`similarities.of_neighbours`),
beside the lists themselves. Measured as peak memory, from 32 to 256 neighbours a row: 41."""

MAX_SQUARED_LENGTH = 0.2 * farthest_first.MAX_SQUARED_LENGTH
"""Of a row: from any other row, and from the mean, it is then within what float32 kernels can tell."""

MIN_SQUARED_LENGTH = 1e-28
"""Of the longest row: of shorter ones, squares vanish in float32 or have few digits left."""


class MetricParams(Shape):
    """How far rows are from each other."""

    metric: Metric = Field(
        "euclidean",
        description="'cosine' scales every vector to length 1 first: a squared distance is then 2 (1 - cosine).",
    )


Neighbours = Annotated[int, Field(ge=1, le=1024)]


def read_vectors(run: Run, dataset: Dataset, metric: Metric) -> Matrix:
    """Read the embeddings of a dataset, scaled as the metric asks.

    Parameters
    ----------
    run : Run
        The job.
    dataset : Dataset
        With counted rows.
    metric : str
        'cosine' scales every row to length 1.

    Returns
    -------
    ndarray, shape (n, d), float32
        Of which float32 kernels can compare any two rows.

    Raises
    ------
    DataError
        When a value is not finite.
    Invalid
        When a row is all zeros and the metric is 'cosine', or rows are too long or too short for float32.
    """
    data = read_matrix(run, dataset, "embedding")
    if metric == "cosine":
        return normalized(data, dataset)
    _check_lengths(data, dataset)
    return data


def _check_lengths(data: Matrix, dataset: Dataset) -> None:
    if len(data) == 0:
        return
    squared = squared_lengths(data)
    row = int(np.argmax(squared))
    longest = float(squared[row])
    if longest > MAX_SQUARED_LENGTH:
        why = f"beyond {MAX_SQUARED_LENGTH**0.5:.2g}, where squared distances overflow. Scale them down"
    elif 0 < longest < MIN_SQUARED_LENGTH:
        why = f"the longest, below {MIN_SQUARED_LENGTH**0.5:.2g}, where squared distances vanish. Scale them up"
    else:
        return
    raise Invalid(
        f"The vectors can't be compared in float32: row {row} has a length of {longest**0.5:.3g}, {why}, or use the "
        "cosine metric, which looks at directions only.",
        pointer=f"{dataset.pointer}/columns/embedding",
        row=row,
    )


def cells_of(n: int) -> int:
    """Return how many cells a graph of `n` rows has; 0: it is exact."""
    return 0 if n <= EXACT_ROWS else round(CELLS_PER_ROOT * math.sqrt(n))


def stored_neighbours(k: int) -> int:
    """Return how many neighbours the graph holds that k are taken of."""
    return LEAST_NEIGHBOURS * (1 << max(0, math.ceil(math.log2(k / LEAST_NEIGHBOURS))))


def graph_bytes(dataset: Dataset, k: int) -> int:
    """Return the memory that :func:`neighbour_graph` takes beside the vectors; 0 while the rows are not counted."""
    return matrix_bytes(dataset, "embedding") + (dataset.rows or 0) * (8 * stored_neighbours(k) + 4 * PROBES + 8)


def graph_seconds(dataset: Dataset) -> float:
    """Estimate the CPU seconds of :func:`neighbour_graph`."""
    n = dataset.rows or 0
    cells = cells_of(n)
    pairs = n * (2 * cells + PROBES * n / cells) if cells else n * n
    return pairs / PAIRS_PER_SECOND * max(1.0, dataset.dimension("embedding") / 64) + 1e-5 * n


def neighbour_graph(run: Run, dataset: Dataset, data: Matrix, metric: Metric, k: int) -> Graph:
    """Return k neighbours of every row of a dataset, from the cache where an earlier job left them.

    Parameters
    ----------
    run : Run
        The job, in a phase begun with :func:`passes`.
    dataset : Dataset
        With counted rows.
    data : ndarray, shape (n, d), float32
        Its vectors, of :func:`read_vectors`.
    metric : str
        What they were read with.
    k : int
        Neighbours wanted.

    Returns
    -------
    Graph
        Memory-mapped. Of fewer than k columns where there are no more than k rows.
    """
    n = len(data)
    cells = cells_of(n)
    stored = min(stored_neighbours(k), max(1, n - 1))
    params = {
        "metric": metric,
        "k": stored,
        "cells": cells,
        "probes": PROBES,
        "steps": knn.TRAINING_STEPS,
        "sample": knn.SAMPLE_PER_CELL,
    }

    def compute() -> pa.Table:
        each = in_threads(run, rows=n)
        if cells:
            found = knn.cell_graph(data, stored, cells, PROBES, rng.stream_key(0, "neighbours"), each=each)
        else:
            found = knn.exact_graph(data, stored, each=each)
        lists = (pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), stored) for part in found[:2])
        return pa.table([*lists, pa.array(found.cells)], names=Graph._fields)

    table = run.derive("neighbours/1", dataset, ("embedding",), params, compute)
    rows, squared = (_matrix(table.column(name), stored)[:, :k] for name in Graph._fields[:2])
    return Graph(rows, squared, table.column("cells").to_numpy())


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    flat: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(-1, width)


def passes(dataset: Dataset) -> list[Dataset]:
    """Return the datasets that a phase which builds the graph begins with: `dataset`, once a pass."""
    return [dataset] * (PASSES if cells_of(dataset.rows or 0) else 1)
