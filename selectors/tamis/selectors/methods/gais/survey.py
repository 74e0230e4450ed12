"""The survey of GAIS: labels, moments of the features, rows to train on, and the cut of the data into blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.math import rng
from tamis.native.math.moments import Moments, moments_of, standardise
from tamis.selectors.datasets import RoleBatch
from tamis.selectors.errors import Invalid
from tamis.selectors.features.embeddings import check_finite
from tamis.selectors.signals.row_columns import MAX_NAMES
from tamis.selectors.signals.store import Mapped, metadata_of, with_metadata
from tamis.selectors.signals.task import UnitReader, unit_task

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Matrix = npt.NDArray[np.float32]

BLOCK_ROWS = 16_384
"""Consecutive units are joined until they hold so many rows: what one task scores, and what a hash looks over."""

SAMPLE_STREAM = "gais.sample"


class Block(NamedTuple):
    """Consecutive units scored together."""

    first: int
    last: int  # behind the last unit


def plan_blocks(rows: Sequence[int]) -> list[Block]:
    """Join consecutive units until each block has `BLOCK_ROWS` rows; what is left at the end joins the last one.

    Parameters
    ----------
    rows : sequence of int
        Rows of every unit.
    """
    blocks: list[Block] = []
    first = held = 0
    for unit, count in enumerate(rows):
        held += count
        if held >= BLOCK_ROWS:
            blocks.append(Block(first, unit + 1))
            first, held = unit + 1, 0
    if first < len(rows):
        start = blocks.pop().first if blocks else first
        blocks.append(Block(start, len(rows)))
    return blocks


def vectors_of(reader: UnitReader, batch: RoleBatch) -> Matrix:
    """Return a batch's features as float32, checked to be finite."""
    given = batch.vectors("embedding")
    with np.errstate(over="ignore"):  # found below, as infinite
        vectors = np.ascontiguousarray(given, np.float32)
    check_finite(vectors, given, reader.dataset, reader.unit.index, batch.start, "embedding")
    return vectors


@unit_task("gais.survey_unit", revision=1, roles=("embedding", "label"), numbered=True)
def survey_unit(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read a unit once: one row of lists.

    ``codes`` int32: each row's label, an index into the metadata's ``names``, -1 for null. ``mean`` and ``squares``
    float64: moments of the features. ``sample`` float32 and ``sample_codes`` int32: labelled rows whose uniform number
    is below ``share``.
    """
    key = rng.stream_key(params["seed"], SAMPLE_STREAM)
    names: dict[str, int] = {}
    codes: list[Codes] = []
    sample: list[Matrix] = []
    sample_codes: list[Codes] = []
    moments: Moments | None = None
    for batch in reader.batches():
        vectors = vectors_of(reader, batch)
        own, found = batch.categories("label")
        place = np.array([names.setdefault(name, len(names)) for name in found] + [-1], np.int32)
        codes.append(place[own])
        part = moments_of(vectors)
        moments = part if moments is None else moments.merged(part)
        drawn = rng.uniform(key, reader.first_row + batch.start, batch.rows) < params["share"]
        drawn &= codes[-1] >= 0
        sample.append(vectors[drawn])
        sample_codes.append(codes[-1][drawn])
    if moments is None:
        moments = moments_of(np.empty((0, reader.dataset.dimension("embedding")), np.float32))
    columns: dict[str, npt.NDArray[Any]] = {
        "codes": np.concatenate(codes) if codes else np.empty(0, np.int32),
        "mean": moments.mean,
        "squares": moments.squares,
        "sample": np.concatenate(sample).reshape(-1) if sample else np.empty(0, np.float32),
        "sample_codes": np.concatenate(sample_codes) if sample_codes else np.empty(0, np.int32),
    }
    lists = {name: pa.LargeListArray.from_arrays(pa.array([0, len(v)], pa.int64()), v) for name, v in columns.items()}
    return with_metadata(pa.table(lists), {"rows": moments.rows, "names": list(names)})


def one_list(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a column of one list as an array, without a copy."""
    values: npt.NDArray[Any] = table.column(name).chunk(0).flatten().to_numpy(zero_copy_only=True)
    return values


@dataclass(frozen=True)
class Scaling:
    """How features are standardised; columns that are constant are left out."""

    columns: Ints  # (m,)
    mean: npt.NDArray[np.float64]  # (m,)
    scale: npt.NDArray[np.float64]  # (m,) one over the standard deviation
    dimension: int  # of the vectors as they are given

    def apply(self, vectors: Matrix, out: Matrix | None = None) -> Matrix:
        """Return standardised features, float32 (n, m), in `out` where that is an array."""
        scaled = np.empty((len(vectors), len(self.columns)), np.float32) if out is None else out
        standardise(vectors, self.columns, self.mean, self.scale, scaled)
        return scaled

    def to_table(self) -> pa.Table:
        """Return it as a table for tasks."""
        columns = {"column": self.columns, "mean": self.mean, "scale": self.scale}
        return with_metadata(pa.table(columns), {"dimension": self.dimension})

    @staticmethod
    def from_table(table: pa.Table) -> Scaling:
        """Read what :meth:`to_table` wrote."""
        columns, mean, scale = (table.column(name).to_numpy().copy() for name in ("column", "mean", "scale"))
        return Scaling(columns, mean, scale, metadata_of(table)["dimension"])

    @staticmethod
    def of(moments: Moments) -> Scaling:
        """Return the scaling that gives every column that varies mean 0 and standard deviation 1."""
        deviation = np.sqrt(moments.squares / max(1, moments.rows))
        # A column of one value has deviations of rounding errors only.
        varies = deviation > np.abs(moments.mean) * np.finfo(np.float32).eps
        columns = np.flatnonzero(varies)
        return Scaling(columns, moments.mean[columns], 1.0 / deviation[columns], len(moments.mean))


@dataclass(frozen=True)
class Surveyed:
    """The results of the first pass."""

    tables: Mapped
    names: list[str]  # classes, sorted
    counts: Ints  # (units, classes) rows
    unlabelled: int
    moments: Moments

    @property
    def totals(self) -> Ints:
        """Rows of every class."""
        totals: Ints = self.counts.sum(axis=0)
        return totals

    def codes(self, unit: int) -> Codes:
        """Return the class of every row of a unit, -1 without a label."""
        table = self.tables[unit]
        codes: Codes = self._global(table)[one_list(table, "codes")]
        return codes

    def _global(self, table: pa.Table) -> Codes:
        number = {name: code for code, name in enumerate(self.names)}
        return np.array([number[name] for name in metadata_of(table)["names"]] + [-1], np.int32)

    def sample(self, dimension: int) -> tuple[Matrix, Codes]:
        """Return the sampled rows of all units, in row order, and their classes."""
        vectors, codes = [], []
        for table in self.tables:
            vectors.append(one_list(table, "sample").reshape(-1, dimension))
            codes.append(self._global(table)[one_list(table, "sample_codes")])
        return np.concatenate(vectors), np.concatenate(codes)


def surveyed(tables: Mapped, pointer: str) -> Surveyed:
    """Put together what every unit's survey found.

    Raises
    ------
    Invalid
        When there are too many classes to be classes, or fewer than two.
    """
    found: set[str] = set()
    for metadata in tables.metadata():
        found.update(metadata["names"])
        if len(found) > MAX_NAMES:
            raise Invalid(
                f"The label column holds more than {MAX_NAMES:,} different values: name a column of classes, not ids.",
                pointer=pointer,
            )
    names = sorted(found)
    if len(names) < 2:
        held = f"only the class '{names[0]}'" if names else "no label at all"
        raise Invalid(
            f"The label column holds {held}: GAIS needs two classes or more to tell them apart.", pointer=pointer
        )
    counts = np.zeros((len(tables), len(names)), np.int64)
    result = Surveyed(tables, names, counts, 0, Moments(0, np.zeros(0), np.zeros(0)))
    moments: Moments | None = None
    unlabelled = 0
    for unit, table in enumerate(tables):
        codes = result.codes(unit)
        labelled = codes[codes >= 0]
        counts[unit] = np.bincount(labelled, minlength=len(names))
        unlabelled += len(codes) - len(labelled)
        part = Moments(metadata_of(table)["rows"], one_list(table, "mean"), one_list(table, "squares"))
        moments = part if moments is None else moments.merged(part)
    assert moments is not None
    return Surveyed(tables, names, counts, unlabelled, moments)
