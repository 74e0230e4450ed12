"""A log of training dynamics: its visits measured unit by unit, then folded, in their order, into a score a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.learning import dynamics as kernels
from tamis.native.learning import dynamics_folds
from tamis.selectors.datasets import RoleBatch
from tamis.selectors.errors import DataError
from tamis.selectors.schema.request import Role
from tamis.selectors.schema.response import Notice
from tamis.selectors.signals.store import metadata_of, with_metadata
from tamis.selectors.signals.task import UnitReader, unit_task

if TYPE_CHECKING:
    from tamis.selectors.run.run import Run
    from tamis.selectors.signals.store import Mapped

Floats = npt.NDArray[np.float32]

ROLES: tuple[Role, ...] = ("epoch", "row", "logits", "label")

MAX_ROWS = 2**32
MAX_EPOCH = 2**31 - 2

_VISIT_COLUMNS = {
    "row": pa.uint32(),
    "epoch": pa.int32(),
    "margin": pa.float32(),
    "error": pa.float32(),
    "entropy": pa.float32(),
    "loss": pa.float32(),
    "correct": pa.uint8(),
    "label": pa.int32(),
}
"""29 bytes a visit, whatever the number of classes."""


NO_LABEL = -1
"""The logged label of a row that was never visited."""

NULL_LABEL = -(2**63)
"""Stands for a label of the candidates that is no number."""

LABELS_DIFFER_WARNED = 0.01
"""More rows than this share, whose label in the log is not the dataset's, are worth a warning."""


class Folded(NamedTuple):
    """The state of every row after a log."""

    scores: Floats  # (n,) NaN for rows never visited
    notices: list[Notice]


# -- measuring


def class_labels(reader: UnitReader, batch: RoleBatch) -> npt.NDArray[np.int64]:
    """Return a batch's class numbers, int64 (rows,).

    Raises
    ------
    DataError
        When one is null, no whole number, or does not fit.
    """
    array = batch.columns["label"]
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count:
        row = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise reader.dataset.refuse(reader.unit.index, batch.start + row, "label", "The label is null.")
    if not (pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        detail = f"The label {array[0].as_py()!r} is no class number."
        raise reader.dataset.refuse(reader.unit.index, batch.start, "label", detail)
    labels: npt.NDArray[np.int64] = np.asarray(array.cast(pa.int64(), safe=False).to_numpy(zero_copy_only=False))
    return labels


def refuse_failure(reader: UnitReader, batch: RoleBatch, failure: kernels.Failure) -> DataError:
    """Return the error of a visit, or a row, that can't be measured."""
    role: Role = "label" if failure.of_label else "logits"
    return reader.dataset.refuse(reader.unit.index, batch.start + failure.visit, role, failure.detail)


def _bounded(reader: UnitReader, batch: RoleBatch, role: Role, end: int, detail: str) -> npt.NDArray[np.int64]:
    values = batch.ints(role)
    if len(values) and values.max() >= end:
        at = int(np.argmax(values >= end))
        raise reader.dataset.refuse(reader.unit.index, batch.start + at, role, detail.format(value=int(values[at])))
    return values


@unit_task("dynamics.measure_visits", revision=2, roles=ROLES)
def measure_visits(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Measure a unit's visits, in order: the columns of :data:`_VISIT_COLUMNS`; the first epoch in the metadata.

    ``params["rows"]`` is the number of candidates: a visit of another row is refused.
    """
    n = params["rows"]
    names = f"the dataset's rows are 0 to {n - 1}. Row numbers are positions in the whole dataset, unshuffled."
    parts: list[pa.RecordBatch] = []
    first_epoch = MAX_EPOCH
    for batch in reader.batches():
        rows = _bounded(reader, batch, "row", n, "The log visits row {value}, but " + names)
        epochs = _bounded(reader, batch, "epoch", MAX_EPOCH, "The epoch is {value}: epochs count from 0.")
        labels = class_labels(reader, batch)
        visits = kernels.measure(batch.vectors("logits"), labels, params["outputs"])
        if isinstance(visits, kernels.Failure):
            raise refuse_failure(reader, batch, visits)
        first_epoch = min(first_epoch, int(epochs.min()))
        own = {"row": rows.astype(np.uint32), "epoch": epochs.astype(np.int32), "label": labels.astype(np.int32)}
        columns = own | visits._asdict()
        parts.append(pa.record_batch({name: columns[name] for name in _VISIT_COLUMNS}))
    return with_metadata(pa.Table.from_batches(parts, pa.schema(_VISIT_COLUMNS)), {"first_epoch": first_epoch})


@unit_task("dynamics.read_class_numbers", revision=1, roles=("label",))
def read_class_numbers(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read the candidates' labels as int64; :data:`NULL_LABEL` where one is null or no whole number."""
    parts = []
    for batch in reader.batches():
        array = batch.columns["label"]
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if not pa.types.is_integer(array.type):
            array = pa.nulls(batch.rows, pa.int64())
        parts.append(array.cast(pa.int64(), safe=False).fill_null(NULL_LABEL))
    return pa.table({"label": pa.chunked_array(parts, pa.int64()).combine_chunks()})


# -- folding

Visits = Mapping[str, npt.NDArray[Any]]
"""Columns of a unit's visits by name."""


class _Sum:
    """Sum of a column over the visits before an epoch."""

    bytes_a_row = 8

    def __init__(self, n: int, column: str, end: int) -> None:
        self._column, self._end = column, end
        self._sums = np.zeros(n)

    def add(self, visits: Visits) -> None:
        dynamics_folds.fold_sum(visits["row"], visits["epoch"], visits[self._column], self._end, self._sums)

    def scores(self, counts: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        return self._sums


class _Confidence:
    """Mean or standard deviation of p[y]."""

    bytes_a_row = 16

    def __init__(self, n: int, metric: str) -> None:
        self._metric = metric
        self._sums, self._squares = np.zeros(n), np.zeros(n)

    def add(self, visits: Visits) -> None:
        dynamics_folds.fold_confidence(visits["row"], visits["loss"], self._sums, self._squares)

    def scores(self, counts: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        visited = np.maximum(counts, 1)
        mean = self._sums / visited
        if self._metric == "confidence":
            return mean
        return np.sqrt(np.maximum(self._squares / visited - mean * mean, 0.0))


class _Learning:
    """How often a row was right, and how often that was forgotten."""

    bytes_a_row = 9

    def __init__(self, n: int, metric: str, never_learned: str) -> None:
        self._metric, self._never_learned = metric, never_learned
        self._last = np.zeros(n, np.uint8)
        self._learned, self._forgotten = np.zeros(n, np.int32), np.zeros(n, np.int32)

    def add(self, visits: Visits) -> None:
        dynamics_folds.fold_correct(visits["row"], visits["correct"], self._last, self._learned, self._forgotten)

    def scores(self, counts: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        if self._metric == "correctness":
            return self._learned
        if self._metric == "last_correctness":
            return self._last
        if self._never_learned == "as_counted" or not len(self._learned):
            return self._forgotten
        return np.where(self._learned == 0, self._forgotten.max() + 1, self._forgotten)


class _Last:
    """The last visit of every row."""

    bytes_a_row = 4

    def __init__(self, n: int, metric: str) -> None:
        self._metric = metric
        self._latest = np.zeros(n, np.float32)

    def add(self, visits: Visits) -> None:
        dynamics_folds.fold_latest(visits["row"], self._values(visits), self._latest)

    def _values(self, visits: Visits) -> npt.NDArray[Any]:
        if self._metric == "least_confidence":
            return kernels.least_confidence(visits["loss"], visits["margin"], visits["correct"])
        return visits[self._metric]

    def scores(self, counts: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        return self._latest


class _Labels:
    """The label of each row's last visit, and whether it was another one before."""

    bytes_a_row = 5

    def __init__(self, n: int) -> None:
        self.last = np.full(n, NO_LABEL, np.int32)
        self.changed = np.zeros(n, np.bool_)

    def add(self, visits: Visits) -> None:
        rows, labels = visits["row"], visits["label"]
        before = self.last[rows]
        self.changed[rows[(before != NO_LABEL) & (before != labels)]] = True
        self.last[rows] = labels  # of several visits of a row the last one stays
        self.changed[rows[self.last[rows] != labels]] = True


_State = _Sum | _Confidence | _Learning | _Last

_KINDS: Mapping[str, type[_State]] = {
    "aum": _Sum,
    "el2n": _Sum,
    "confidence": _Confidence,
    "variability": _Confidence,
    "forgetting": _Learning,
    "correctness": _Learning,
    "last_correctness": _Learning,
    "entropy": _Last,
    "loss": _Last,
    "margin": _Last,
    "least_confidence": _Last,
}


def state_bytes(metric: str) -> int:
    """Return the bytes a row of folding a log: the metric's own, visits and latest epoch, labels, and the score."""
    return _KINDS[metric].bytes_a_row + 8 + _Labels.bytes_a_row + 4


def _state(n: int, metric: str, window: int, never_learned: str) -> _State:
    """Return the empty state of a metric; `window` is the epoch before which 'el2n' sums."""
    if metric == "aum":
        return _Sum(n, "margin", MAX_EPOCH + 1)
    if metric == "el2n":
        return _Sum(n, "error", window)
    if _KINDS[metric] is _Confidence:
        return _Confidence(n, metric)
    if _KINDS[metric] is _Learning:
        return _Learning(n, metric, never_learned)
    return _Last(n, metric)


def fold(run: Run, metric: str, outputs: str, el2n_epochs: int, never_learned: str) -> Folded:
    """Return every candidate's score by a metric over the job's log, computed once and stored.

    Visits count in the order of the log: shard by shard, from the first line to the last.

    Raises
    ------
    DataError
        When the log holds what can't be measured, or a row's epochs go back.
    """
    log = run.dynamics
    assert log is not None and run.candidates.rows is not None
    n = run.candidates.rows
    settings: dict[str, Any] = {"metric": metric, "outputs": outputs, "rows": n}
    if metric == "el2n":
        settings["epochs"] = el2n_epochs
    if metric == "forgetting":
        settings["never_learned"] = never_learned

    def compute() -> pa.Table:
        tables = run.map(measure_visits, log, params={"outputs": outputs, "rows": n})
        window = min((entry["first_epoch"] for entry in tables.metadata()), default=0) + el2n_epochs
        state, labels = _state(n, metric, min(window, MAX_EPOCH + 1), never_learned), _Labels(n)
        counts = _fold_units(run, tables, n, state, labels)
        visited = counts > 0
        column = np.where(visited, state.scores(counts), np.nan).astype(np.float32)
        few = int(counts[visited].min()) if visited.any() else 0
        visits = {"unvisited": n - int(np.count_nonzero(visited)), "fewest": few, "most": int(counts.max(initial=0))}
        visits["relabelled"] = int(np.count_nonzero(labels.changed))
        return with_metadata(pa.table({"score": column, "label": labels.last}), visits)

    table = run.derive("dynamics/2", log, ROLES, settings, compute)
    notices = [*_notices(metadata_of(table), n), *_labels_differ(run, _array(table.column("label")))]
    return Folded(_array(table.column("score")), notices)


def _labels_differ(run: Run, logged: npt.NDArray[np.int32]) -> list[Notice]:
    """Return a warning where the candidates' labels, whole numbers, differ from those of the log."""
    dataset = run.candidates
    if not dataset.columns.has("label"):
        return []
    assert dataset.row_starts is not None
    both = differ = 0
    tables = run.map(read_class_numbers, dataset)
    for unit, start in enumerate(dataset.row_starts[:-1].tolist()):
        own = tables.column(unit, "label")
        said = logged[start : start + len(own)]
        compared = (said != NO_LABEL) & (own != NULL_LABEL)
        both += int(np.count_nonzero(compared))
        differ += int(np.count_nonzero(compared & (said != own)))
    if differ <= LABELS_DIFFER_WARNED * both:
        return []
    detail = (
        f"{differ / both:.1%} of the {both} rows that were visited have another label in the log than in the dataset. "
        "Is 'row' the position in the dataset, unshuffled? If not, rows get the scores of others. (If the dataset only "
        "numbers its classes otherwise, all is well.)"
    )
    return [Notice(code="labels-differ", detail=detail)]


def _fold_units(run: Run, tables: Mapped, n: int, state: _State, labels: _Labels) -> npt.NDArray[np.int32]:
    """Add every unit's visits to the state, in unit order; return how often each row was visited."""
    latest, counts = np.full(n, kernels.NO_EPOCH, np.int32), np.zeros(n, np.int32)
    for unit in range(len(tables)):
        run.check_cancelled()
        table = tables[unit]
        visits = {name: _array(table.column(name)) for name in _VISIT_COLUMNS}
        back = dynamics_folds.fold_visits(visits["row"], visits["epoch"], latest, counts)
        if back >= 0:
            assert run.dynamics is not None
            row, epoch = int(visits["row"][back]), int(visits["epoch"][back])
            raise run.dynamics.refuse(
                unit,
                back,
                "epoch",
                f"Row {row} is visited in epoch {epoch} after epoch {latest[row]}: the log must be in the order of the "
                "visits. List its shards in the order they were written.",
            )
        state.add(visits)
        labels.add(visits)
    return counts


def _array(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    chunks = column.chunks or [pa.array([], column.type)]
    array: npt.NDArray[Any] = chunks[0].to_numpy(zero_copy_only=True)
    return array


def _notices(visits: Mapping[str, int], n: int) -> list[Notice]:
    notices = []
    if visits["unvisited"]:
        detail = f"The log has no visit of {visits['unvisited']} of {n} rows: they can't be selected."
        notices.append(Notice(code="rows-never-visited", detail=detail))
    if visits["fewest"] < visits["most"]:
        detail = (
            f"Some rows were visited {visits['fewest']} times, others {visits['most']} times: sums and counts over "
            "visits compare them all the same."
        )
        notices.append(Notice(code="uneven-visits", detail=detail))
    if visits["relabelled"]:
        detail = (
            f"{visits['relabelled']} rows have different labels at different visits of the log. Is 'row' the position "
            "in the dataset at every visit, and not in an epoch's shuffled order?"
        )
        notices.append(Notice(code="labels-change", detail=detail))
    return notices
