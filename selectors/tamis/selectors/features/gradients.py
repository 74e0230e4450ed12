"""The vectors that TAROT compares: projected gradients or their substitutes, whitened and of length 1.

The tasks of this module read a unit's rows from one of four sources: a gradient column; an embedding column as it is;
the last layer's gradients of a classifier on embeddings (:mod:`tamis.selectors.features.last_layer_gradients`); or the
gradients of a unigram model of text, in closed form (:mod:`tamis.selectors.features.unigram_gradients`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.math import second_moments
from tamis.native.neighbours import panels as distances
from tamis.native.neighbours import screened
from tamis.native.neighbours.merge import merge_lists
from tamis.selectors.datasets import RoleBatch
from tamis.selectors.errors import Invalid
from tamis.selectors.features import last_layer_gradients, unigram_gradients
from tamis.selectors.features.whitening import Whitener
from tamis.selectors.schema.request import Role
from tamis.selectors.signals.store import metadata_of, with_metadata
from tamis.selectors.signals.task import Task, UnitReader

if TYPE_CHECKING:
    from tamis.selectors.datasets import Dataset
    from tamis.selectors.run.run import Run
    from tamis.selectors.signals.store import Mapped

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]
Source = Literal["gradient", "embedding", "last_layer", "text"]

ROLES: Mapping[Source, tuple[Role, ...]] = {
    "gradient": ("gradient",),
    "embedding": ("embedding",),
    "last_layer": ("embedding", "label"),
    "text": ("text",),
}

MEANING: Mapping[Source, str] = {
    "gradient": "influence: cosines of whitened gradients",
    "embedding": "similarity, not influence: cosines of whitened embeddings",
    "last_layer": "influence on a linear classifier of the embeddings: cosines of whitened last-layer gradients",
    "text": "influence on a unigram model of the text: cosines of whitened Fisher vectors",
}

SHIFT_ROWS = 1024
"""First rows whose mean the second moments are measured from."""

OFFERED_ROWS = 4096
"""Rows whitened and packed at a time."""
OFFERED_BYTES = 24 * OFFERED_ROWS
"""What that takes a dimension: whitened in float64, then thrice in float32 and twice in 8 bits."""
FIRST_WAVE_ROWS = 16_384
"""Candidates whose neighbours are sought first: they tell what others must reach to be among the nearest."""
WAVE_GROWTH = 3
"""Candidates of each further wave, of those before it: more to a wave, less to learn for it."""


@dataclass(frozen=True)
class Features:
    """A source with what its vectors are made with."""

    source: Source
    params: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)  # names of tables the source's vectors need

    def call(self, **more: Any) -> dict[str, Any]:
        """Return the parameters of a task on these features."""
        return {"source": self.source, "features": dict(self.params), **more}


# -- vectors of a unit


def _vectors(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> Iterator[_Part]:
    source: Source = params["source"]
    make: Callable[[RoleBatch], npt.NDArray[np.floating[Any]]]
    match source:
        case "gradient" | "embedding":
            make = lambda batch: batch.vectors(source)  # noqa: E731
        case "last_layer":
            make = last_layer_gradients.Gradients(reader, shared["classifier"])
        case "text":
            make = unigram_gradients.Vectors(params["features"], shared["unigrams"])
    for batch in reader.batches():
        vectors = make(batch)
        _check_finite(reader, batch.start, vectors, source)
        yield _Part(batch.start, vectors)


@dataclass(frozen=True)
class _Part:
    start: int
    vectors: npt.NDArray[np.floating[Any]]


def _check_finite(reader: UnitReader, start: int, vectors: npt.NDArray[np.floating[Any]], source: Source) -> None:
    finite = np.isfinite(vectors)
    if finite.all():
        return
    row, place = np.argwhere(~finite)[0].tolist()
    role = ROLES[source][0]
    raise reader.dataset.refuse(
        reader.unit.index, start + row, role, f"Value {place} of the vector is {vectors[row, place]}."
    )


# -- tasks


def _tasks(name: str, function: Any, *, numbered: bool = False) -> tuple[Task, ...]:
    """Make one task of a function for every source, since a task names the roles that it reads."""
    return tuple(
        Task(f"gradients.{name}_{source}", 1, roles, numbered, f"{__name__}:{name}_{source}", function)
        for source, roles in ROLES.items()
    )


def _sum_unit(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Sum a unit's vectors and their outer products, measured from the shared ``shift``."""
    shift = shared["shift"].column("shift").to_numpy()
    total = second_moments.second_moments((part.vectors for part in _vectors(reader, params, shared)), shift)
    table = pa.table({"sums": _one_list(total.sums), "products": _one_list(total.products.ravel())})
    return with_metadata(table, {"rows": total.rows})


def _nearest_unit(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Find a unit's k rows most similar to each target: lists of ``score`` and ``row`` (in the unit), best first.

    Rows below a target's ``floor`` are left out.
    """
    whitener, targets = Whitener.of(shared["whitening"]), _matrix(shared["targets"])
    gone = shared["gone"].column("row").to_numpy() - reader.first_row if "gone" in shared else np.empty(0, np.int64)
    keys = np.full((len(targets), min(params["k"], reader.unit.rows or params["k"])), distances.EMPTY)
    floor, asked = shared["floor"].column("score").to_numpy(), screened.ask(targets)
    for part in _vectors(reader, params, shared):
        numbers = np.arange(part.start, part.start + len(part.vectors), dtype=np.int32)
        numbers[np.isin(numbers, gone)] = -1
        for first in range(0, len(numbers), OFFERED_ROWS):
            some = slice(first, first + OFFERED_ROWS)
            screened.offer(asked, screened.pack(whitener(part.vectors[some]), numbers[some]), floor, keys)
    lists, k = distances.lists_of(keys), keys.shape[1]
    return with_metadata(
        pa.table({"score": lists.scores.ravel(), "row": lists.rows.ravel()}), {"k": k, "targets": len(targets)}
    )


def _gather_unit(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Whiten the rows of a unit that are listed (column ``row``, ascending), or all of them."""
    whitener = Whitener.of(shared["whitening"])
    listed = shared["rows"].column("row").to_numpy() - reader.first_row if "rows" in shared else None
    parts: list[Matrix] = []
    for part in _vectors(reader, params, shared):
        vectors = part.vectors
        if listed is not None:
            low, high = np.searchsorted(listed, [part.start, part.start + len(vectors)])
            vectors = vectors[listed[low:high] - part.start]
        if len(vectors):
            parts.append(whitener(vectors))
    d = (len(whitener.centre) if whitener.matrix is None else whitener.matrix.shape[1]) or 1
    flat = np.concatenate(parts).ravel() if parts else np.empty(0, np.float32)
    return pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), d)})


def _best_unit(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Find the most similar target of every row of a unit: ``score`` and ``target``."""
    whitener, targets = Whitener.of(shared["whitening"]), _matrix(shared["targets"])
    panels = distances.pack(targets, inner=True)
    scores, numbers = [np.empty(0, np.float32)], [np.empty(0, np.int32)]
    for part in _vectors(reader, params, shared):
        lists = distances.best_rows(whitener(part.vectors), panels, 1)
        scores.append(lists.scores[:, 0])
        numbers.append(lists.rows[:, 0])
    return pa.table({"score": np.concatenate(scores), "target": np.concatenate(numbers)})


sum_gradient, sum_embedding, sum_last_layer, sum_text = _SUMS = _tasks("sum", _sum_unit)
nearest_gradient, nearest_embedding, nearest_last_layer, nearest_text = _NEAREST = _tasks(
    "nearest", _nearest_unit, numbered=True
)
gather_gradient, gather_embedding, gather_last_layer, gather_text = _GATHER = _tasks(
    "gather", _gather_unit, numbered=True
)
best_gradient, best_embedding, best_last_layer, best_text = _BEST = _tasks("best", _best_unit)

_ORDER = list(ROLES)


def _one_list(values: npt.NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values), len(values))


def _matrix(table: pa.Table) -> Matrix:
    column = table.column("vector").combine_chunks()
    matrix: Matrix = column.flatten().to_numpy().reshape(len(column), -1)
    return matrix


# -- over a dataset


def pooled_moments(
    run: Run, features: Features, dimension: int, datasets: Sequence[Dataset] | None = None
) -> second_moments.Moments:
    """Sum the second moments of some datasets (candidates and targets when left out), in their order and their units'.

    All are measured from the same point, whatever datasets are asked for: their parts are kept for the next who asks.
    """
    shift = np.zeros(dimension)
    if features.source in ("gradient", "embedding"):
        shift = _first_mean(run.candidates, features.source, dimension)
    shared = {**features.shared, "shift": run.share("shift", pa.table({"shift": shift}))}
    total = second_moments.Moments(0, shift, np.zeros(dimension), np.zeros((dimension, dimension)))
    for dataset in (run.candidates, *run.targets) if datasets is None else datasets:
        mapped = run.map(_SUMS[_ORDER.index(features.source)], dataset, params=features.call(), shared=shared)
        for unit, metadata in enumerate(mapped.metadata()):
            table = mapped[unit]
            total = second_moments.add_moments(
                total,
                second_moments.Moments(
                    metadata["rows"],
                    shift,
                    table.column("sums").combine_chunks().flatten().to_numpy(),
                    table.column("products").combine_chunks().flatten().to_numpy().reshape(dimension, dimension),
                ),
            )
    return total


def _first_mean(dataset: Dataset, role: Role, dimension: int) -> Floats:
    """Return the mean of the first rows: a point near the data, whatever is measured from it."""
    for unit in dataset.units:
        for batch in dataset.read(unit, (role,)):
            rows = batch.vectors(role)[:SHIFT_ROWS].astype(np.float64)
            if len(rows) and np.isfinite(rows).all():
                return np.array([sum(column) / len(rows) for column in rows.T.tolist()])
    return np.zeros(dimension)


def _waves(starts: Ints) -> Iterator[range]:
    """Cut the units into waves, so that each wave knows from earlier ones which scores still matter.

    The first has `FIRST_WAVE_ROWS` or more, each other one `WAVE_GROWTH` times what came before.
    """
    units, first, reach = len(starts) - 1, 0, FIRST_WAVE_ROWS
    while first < units:
        last = max(first + 1, int(np.searchsorted(starts[:-1], reach)))
        yield range(first, last)
        first, reach = last, (1 + WAVE_GROWTH) * int(starts[last])


@dataclass(frozen=True)
class Space:
    """Whitened vectors of a job: its features, its whitening and its targets."""

    run: Run
    features: Features
    whitening: str  # key of the shared table
    targets: Matrix  # (m, d)
    target_table: str  # key of it as a shared table

    @classmethod
    def make(cls, run: Run, features: Features, whitener: Whitener) -> Space:
        """Whiten the targets."""
        whitening_key = run.share("whitening", whitener.to_table())
        shared = {**features.shared, "whitening": whitening_key}
        task = _GATHER[_ORDER.index(features.source)]
        parts = [
            _matrix(table)
            for target in run.targets
            for table in run.map(task, target, params=features.call(), shared=shared)
        ]
        matrix = np.concatenate(parts)
        column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
        return cls(run, features, whitening_key, matrix, run.share("targets", pa.table({"vector": column})))

    def _shared(self, **more: str) -> dict[str, str]:
        return {**self.features.shared, "whitening": self.whitening, **more}

    def neighbours(self, k: int, gone: Ints) -> tuple[npt.NDArray[np.int64], Matrix]:
        """Return the k candidates most similar to each target, best first, equal ones by lower row.

        Parameters
        ----------
        k : int
            1 or more.
        gone : ndarray of int64
            Rows to leave out, ascending.

        Returns
        -------
        ndarray (m, k) int64, ndarray (m, k) float32
            Rows, -1 where there are no more, and their similarities.
        """
        run = self.run
        shared = self._shared(targets=self.target_table)
        if len(gone):
            shared["gone"] = run.share("gone", pa.table({"row": gone}))
        task = _NEAREST[_ORDER.index(self.features.source)]
        starts = run.candidates.row_starts
        assert starts is not None
        rows = np.full((len(self.targets), k), -1, np.int64)
        scores = np.full((len(self.targets), k), -np.inf, np.float32)
        for wave in _waves(starts):
            shared["floor"] = run.share("floor", pa.table({"score": scores[:, -1]}))
            mapped = run.map(task, run.candidates, params=self.features.call(k=k), shared=shared, units=wave)
            for unit, table in zip(wave, mapped, strict=True):
                width = metadata_of(table)["k"]
                found = table.column("row").to_numpy().reshape(-1, width)
                merge_lists(scores, rows, table.column("score").to_numpy().reshape(-1, width), found, int(starts[unit]))
        return rows, scores

    def vectors(self, rows: Ints) -> Matrix:
        """Return the whitened vectors of candidates, float32 (n, d), in the order of `rows`, which are unique."""
        run = self.run
        order = np.argsort(rows, kind="stable")
        listed = rows[order]
        starts = run.candidates.row_starts
        assert starts is not None
        units = np.unique(np.searchsorted(starts, listed, side="right") - 1).tolist()
        shared = self._shared(rows=run.share("rows", pa.table({"row": listed}), scratch=True))
        shared = {name: self._scratched(key) for name, key in shared.items()}
        task = _GATHER[_ORDER.index(self.features.source)]
        mapped = run.map(task, run.candidates, params=self.features.call(), shared=shared, units=units, scratch=True)
        out = np.empty((len(rows), self.targets.shape[1]), np.float32)
        at = 0
        for unit in range(len(mapped)):
            part = _matrix(mapped[unit])
            out[order[at : at + len(part)]] = part
            at += len(part)
        return out

    def _scratched(self, key: str) -> str:
        """Make a shared table readable by tasks whose results are this job's own."""
        if not self.run.scratch.has(key):
            self.run.scratch.publish(key, self.run.store.read(key))
        return key

    def best(self) -> Mapped:
        """Return every candidate's most similar target: columns ``score`` and ``target`` of each unit."""
        task = _BEST[_ORDER.index(self.features.source)]
        shared = self._shared(targets=self.target_table)
        return self.run.map(task, self.run.candidates, params=self.features.call(), shared=shared)


def source_dimension(features: Features, datasets: Sequence[Dataset], projected: int) -> int:
    """Return the length of the vectors, the same for all datasets.

    Raises
    ------
    Invalid
        When a target's vectors have another length than the candidates'.
    """
    if features.source in ("last_layer", "text"):
        return projected
    role: Role = ROLES[features.source][0]
    lengths = [dataset.dimension(role) for dataset in datasets]
    for dataset, length in zip(datasets, lengths, strict=True):
        if length != lengths[0]:
            raise Invalid(
                f"The vectors have {length} values, those of the candidates {lengths[0]}: both must come from the same "
                "model and projection.",
                pointer=f"{dataset.pointer}/columns/{role}",
            )
    return lengths[0]
