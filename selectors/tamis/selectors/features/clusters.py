"""The cluster of every row: as a column tells, or by k-means on embeddings.

k-means is trained on a sample of the rows and assigns the others as they stream by, so that memory does not depend on
their number. Neither depends on the job's seed: the centres, and each unit's clusters, are signals of the dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tamis.native.math import rng
from tamis.native.math.norms import squared_lengths
from tamis.native.neighbours import kmeans
from tamis.native.neighbours import panels as distances
from tamis.selectors.errors import Invalid
from tamis.selectors.features.embeddings import check_finite
from tamis.selectors.features.neighbours import Metric
from tamis.selectors.run.parallel import in_threads
from tamis.selectors.signals.row_columns import MAX_NAMES
from tamis.selectors.signals.store import with_metadata
from tamis.selectors.signals.task import UnitReader, unit_task

if TYPE_CHECKING:
    from tamis.selectors.datasets import Dataset
    from tamis.selectors.run.run import Run

Codes = npt.NDArray[np.int32]
Matrix = npt.NDArray[np.float32]

SAMPLE_PER_CLUSTER = 64
"""Rows a cluster that its centre is trained on: an inertia 2 % above that of training on all rows (quad.md, 4.4)."""

TRAINING_STEPS = 10

INTEGER_DIGITS = 20
"""Of a 64-bit number, its sign included; Python refuses to read numbers of thousands of digits."""

NO_CLUSTER = -1
"""Code of rows whose cluster is null."""


@dataclass(frozen=True)
class Clusters:
    """Every row's cluster."""

    codes: Codes  # (n,) NO_CLUSTER or an index into the clusters
    count: int
    names: list[str] | None  # of a column's clusters, in the order of their codes; None: k-means numbered them
    centres: Matrix | None  # (count, d) of k-means

    def name(self, code: int) -> str:
        """Return what a cluster is called."""
        return str(code) if self.names is None else self.names[code]


def given_clusters(run: Run) -> Clusters:
    """Read the cluster column: whole numbers in their order, or else names in that of text.

    Raises
    ------
    Invalid
        When there are more than :data:`~tamis.selectors.signals.row_columns.MAX_NAMES` clusters, or no row has one.
    """
    dataset = run.candidates
    assert dataset.row_starts is not None
    tables = run.map(read_clusters, dataset)
    found: set[str] = set()
    for table in tables:
        found.update(table.column("cluster").combine_chunks().dictionary.to_pylist())
        if len(found) > MAX_NAMES:
            raise Invalid(
                f"The cluster column holds more than {MAX_NAMES:,} different values: name a column of clusters, not of "
                "ids.",
                pointer="/dataset/columns/cluster",
            )
    if not found:
        raise Invalid("No row has a cluster: the column holds nulls only.", pointer="/dataset/columns/cluster")
    names = sorted(found, key=int) if all(map(_is_whole, found)) else sorted(found)
    number = {name: code for code, name in enumerate(names)}
    codes = np.empty(dataset.row_starts[-1], np.int32)
    for unit, table in enumerate(tables):
        column = table.column("cluster").combine_chunks()
        own = np.array([*(number[name] for name in column.dictionary.to_pylist()), NO_CLUSTER], np.int32)
        at = pc.fill_null(column.indices, len(own) - 1).to_numpy()
        codes[dataset.row_starts[unit] : dataset.row_starts[unit + 1]] = own[at]
    return Clusters(codes, len(names), names, None)


def _is_whole(name: str) -> bool:
    """Whether a name is a number as integers are written, so that no two names are the same number."""
    return len(name) <= INTEGER_DIGITS and name.removeprefix("-").isdecimal() and str(int(name)) == name


@unit_task("clusters.read_clusters", revision=1, roles=("cluster",))
def read_clusters(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read the cluster column as a dictionary of text, nulls as null."""
    parts = [batch.strings("cluster") for batch in reader.batches()]
    return pa.table({"cluster": pc.dictionary_encode(pa.chunked_array(parts, pa.string()).combine_chunks())})


# -- k-means


def found_clusters(run: Run, count: int, metric: Metric) -> Clusters:
    """Cluster the embeddings by k-means.

    Parameters
    ----------
    run : Run
        The job, in a phase begun with :func:`passes`.
    count : int
        k, at most the number of rows.
    metric : str
        'cosine' scales every embedding to length 1 first.

    Raises
    ------
    DataError
        When a value is not finite, or, for 'cosine', a vector has no direction.
    """
    dataset = run.candidates
    assert dataset.row_starts is not None
    params = {"clusters": count, "metric": metric, "sample": SAMPLE_PER_CLUSTER, "steps": TRAINING_STEPS}
    table = run.derive("clusters/1", dataset, ("embedding",), params, lambda: _trained(run, count, metric))
    key = run.share("centres", table)
    parts = run.map(assign_rows, dataset, params={"metric": metric}, shared={"centres": key})
    codes = np.empty(dataset.row_starts[-1], np.int32)
    for unit in range(len(parts)):
        codes[dataset.row_starts[unit] : dataset.row_starts[unit + 1]] = parts.column(unit, "cluster")
    return Clusters(codes, count, None, _matrix(table))


def _trained(run: Run, count: int, metric: Metric) -> pa.Table:
    """Train centres on a sample of the rows."""
    dataset = run.candidates
    assert dataset.row_starts is not None
    n, key = int(dataset.row_starts[-1]), rng.stream_key(0, "clusters")
    rows = kmeans.sample_rows(key, n, SAMPLE_PER_CLUSTER * count)
    shared = {"rows": run.share("rows", pa.table({"row": rows}), scratch=True)}
    parts = run.map(gather_rows, dataset, params={"metric": metric}, shared=shared, scratch=True)
    sample = np.concatenate([_matrix(part) for part in parts])
    start = sample[np.searchsorted(rows, kmeans.sample_rows(key, n, count))]
    found = kmeans.means(kmeans.in_blocks(sample), start, TRAINING_STEPS, each=in_threads(run, rows=len(rows)))
    flat = pa.array(found.centres.reshape(-1))
    return pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, found.centres.shape[1])})


def _matrix(table: pa.Table) -> Matrix:
    column = table.column("vector").combine_chunks()
    matrix: Matrix = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return matrix


def _embeddings(reader: UnitReader, metric: Metric) -> Iterator[tuple[int, Matrix]]:
    """Yield the embeddings of a unit as float32, with the number of the first in the unit."""
    for batch in reader.batches():
        given = batch.vectors("embedding")
        with np.errstate(over="ignore"):  # found below, as infinite
            vectors = given.astype(np.float32)
        check_finite(vectors, given, reader.dataset, reader.unit.index, batch.start, "embedding")
        if metric == "cosine":
            lengths = np.sqrt(squared_lengths(vectors))
            if len(lengths) and not lengths.min() > 0:
                row = batch.start + int(np.argmin(lengths))
                detail = "The vector is all zeros, which has no direction: use the euclidean metric."
                raise reader.dataset.refuse(reader.unit.index, row, "embedding", detail)
            vectors /= lengths[:, None]
        yield batch.start, vectors


@unit_task("clusters.gather_rows", revision=1, roles=("embedding",), numbered=True)
def gather_rows(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read the embeddings of the rows that are listed in the shared ``rows``: column ``vector``."""
    listed = shared["rows"].column("row").to_numpy() - reader.first_row
    parts = [np.empty(0, np.float32)]
    dimension = reader.dataset.dimension("embedding")
    for start, vectors in _embeddings(reader, params["metric"]):
        inside = slice(*np.searchsorted(listed, [start, start + len(vectors)]).tolist())
        parts.append(vectors[listed[inside] - start].reshape(-1))
    return pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(parts)), dimension)})


@unit_task("clusters.assign_rows", revision=1, roles=("embedding",))
def assign_rows(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Find the nearest of the shared ``centres`` for every row: column ``cluster``; the inertia in the metadata."""
    centres = np.array(_matrix(shared["centres"]))
    panels = distances.pack(centres)
    codes, inertia = [np.empty(0, np.int32)], 0.0
    for _, vectors in _embeddings(reader, params["metric"]):
        nearest, squared = distances.assign(vectors, centres, panels)
        codes.append(nearest)
        inertia += float(np.cumsum(squared, dtype=np.float64)[-1]) if len(squared) else 0.0
    return with_metadata(pa.table({"cluster": np.concatenate(codes)}), {"inertia": inertia})


def passes(dataset: Dataset) -> list[Dataset]:
    """Return the datasets that a phase which clusters begins with: read for the sample, trained on, read again."""
    return [dataset] * (TRAINING_STEPS + 2)


def training_bytes(dataset: Dataset, count: int, threads: int) -> int:
    """Return the memory that :func:`found_clusters` takes beside the codes; 0 while the rows are not counted."""
    d = dataset.dimension("embedding")
    sample = min(dataset.rows or 0, SAMPLE_PER_CLUSTER * count)
    return 2 * 4 * d * sample + (threads + 2) * 12 * count * d + 4 * (dataset.rows or 0)
