"""How hard every row is: a score column as it is, or scores made of training dynamics or of one snapshot of a model.

What selectors by difficulty share: where the scores come from, which end of them is hard, and which rows have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.learning import dynamics as kernels
from tamis.native.math.norms import squared_lengths
from tamis.selectors.datasets import Dataset, RoleBatch
from tamis.selectors.errors import Invalid
from tamis.selectors.features import dynamics
from tamis.selectors.features.difficulty_params import METRICS, DifficultyParams, HardEnd, Metric, SourceParams
from tamis.selectors.features.dynamics import class_labels, refuse_failure
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost
from tamis.selectors.schema.request import Role
from tamis.selectors.schema.response import Notice
from tamis.selectors.signals.row_columns import UnitColumn
from tamis.selectors.signals.store import metadata_of, with_metadata
from tamis.selectors.signals.task import Task, UnitReader, unit_task

Scores = npt.NDArray[np.float32]

PHASE = "score"
"""The phase in which :func:`scores` runs."""

REASONS = ("eligible", "no-score", "never-visited", "beyond-float32")
REASON_DETAILS: Mapping[str, str] = {
    "no-score": "The row's score is null, NaN or infinite.",
    "never-visited": "The log of training dynamics has no visit of the row.",
    "beyond-float32": "The row's score is finite but does not fit float32, which this selector works in.",
}

LARGEST_EXACT = np.float64(1e300)
"""Magnitude of an exact score, at most: sums of larger ones overflow."""

SCORE_BYTES_PER_SECOND = 1e9
OUTPUT_BYTES_PER_SECOND = 70e6


@dataclass(frozen=True)
class Difficulty:
    """A score for every row, unit by unit; looked at any number of times, memory-mapped while it is."""

    columns: Sequence[Scores]  # float32, or as the dataset has it where asked; NaN or infinite where a row has none
    hard_end: HardEnd | None  # None: a score column whose end the parameters do not tell
    no_score: int  # the code of rows whose score is NaN, an index into REASONS
    notices: list[Notice] = field(default_factory=list)
    infinite: int = REASONS.index("no-score")  # the code of rows whose score is infinite

    def reasons(self, unit: int) -> npt.NDArray[np.uint8]:
        """Return why rows of a unit can't be selected, indices into `REASONS`."""
        column = self.columns[unit]
        reasons = np.zeros(len(column), np.uint8)
        reasons[np.isinf(column)] = self.infinite
        reasons[np.isnan(column)] = self.no_score
        return reasons


# -- what it takes


def needs(params: SourceParams) -> Needs:
    """Return the roles that :func:`scores` reads."""
    if params.source == "score":
        return Needs(roles=("score",), target=False)
    if params.source == "dynamics":
        return Needs(roles=(), target=False, dynamics=dynamics.ROLES)
    return Needs(roles=_SNAPSHOTS[_given(params)].roles, target=False)


def check(params: SourceParams, job: Job) -> None:
    """Refuse datasets whose columns can't be what they should.

    Raises
    ------
    Invalid
        With the pointer of the column: labels that are no class numbers, outputs for a single class, more rows than a
        log can name.
    """
    if params.source == "score":
        return
    dataset = job.dynamics if params.source == "dynamics" else job.candidates
    assert dataset is not None
    if dataset.columns.has("label") and "label" in _roles(params):
        _check_labels(dataset)
    if dataset.columns["logits"].dimension == 1:
        raise Invalid(
            "The logits column has one output a row; class probabilities need two at least.",
            pointer=f"{dataset.pointer}/columns/logits",
        )
    if params.source == "dynamics" and (job.candidates.rows or 0) > dynamics.MAX_ROWS:
        raise Invalid(f"A log can tell {dynamics.MAX_ROWS} rows apart at most.", pointer="/dataset/shards")


def _roles(params: SourceParams) -> tuple[Role, ...]:
    needed = needs(params)
    return needed.dynamics or needed.roles


def _check_labels(dataset: Dataset) -> None:
    name = dataset.columns["label"].source
    assert isinstance(name, str)
    for shard in dataset.shards:
        if shard.schema is None:
            continue
        held = shard.schema.field(name).type
        value = held.value_type if pa.types.is_dictionary(held) else held
        if not (pa.types.is_integer(value) or pa.types.is_boolean(value) or pa.types.is_null(value)):
            raise Invalid(
                f"The column '{name}' holds {held}; labels must be class numbers from 0, in the order of the outputs.",
                pointer=f"{dataset.pointer}/columns/label",
                shard=shard.file.uri,
                column=name,
            )


def costs(params: SourceParams, job: Job) -> list[PhaseCost]:
    """Return the phase in which the scores are made."""
    dataset = job.dynamics if params.source == "dynamics" else job.candidates
    assert dataset is not None
    speed = SCORE_BYTES_PER_SECOND if params.source == "score" else OUTPUT_BYTES_PER_SECOND
    return [PhaseCost(PHASE, len(dataset.units), dataset.bytes, dataset.bytes / speed)]


def memory(params: SourceParams, job: Job) -> int:
    """Return the bytes held while scores are made; those of a score column and of a snapshot are never held."""
    if params.source != "dynamics":
        return 0
    return dynamics.state_bytes(_given(params)) * (job.candidates.rows or 0)


# -- the scores


def scores(
    run: Run, params: SourceParams, *, metric: Metric | None = None, role: Role = "score", exact: bool = False
) -> Difficulty:
    """Return every candidate's score; call within the phase `PHASE`, or one of the selector's own.

    Parameters
    ----------
    run : Run
        The job.
    params : SourceParams
        Where scores come from.
    metric : Metric, optional
        Instead of the parameters' own: of the same source.
    role : {'score', 'cutoff'}
        Which column, where they come from one.
    exact : bool
        A score column in its own precision rather than float32.

    Raises
    ------
    DataError
        When a log or a snapshot holds what can't be measured, or an exact score is beyond :data:`LARGEST_EXACT`; with
        shard, column and place.
    """
    if params.source == "score":
        return _given_scores(run, params, role, exact)
    wanted = metric or _given(params)
    end = METRICS[wanted].hard_end
    if params.source == "snapshot":
        settings = {"outputs": params.outputs, "metric": wanted}
        tables = run.map(_SNAPSHOTS[wanted], run.candidates, params=settings)
        missing = sum(entry["missing"] for entry in tables.metadata())
        return Difficulty(UnitColumn(tables, "score"), end, REASONS.index("no-score"), _without_score(missing))
    folded = dynamics.fold(run, wanted, params.outputs, params.el2n_epochs, params.never_learned)
    assert run.candidates.row_starts is not None
    columns = _Cut(folded.scores, run.candidates.row_starts)
    notices = [*folded.notices, *_without_score(int(np.isinf(folded.scores).sum()))]
    return Difficulty(columns, end, REASONS.index("never-visited"), notices)


def _given_scores(run: Run, params: SourceParams, role: Role, exact: bool) -> Difficulty:
    """Return the scores of a column."""
    end = params.hard_end if isinstance(params, DifficultyParams) else None
    none, beyond = REASONS.index("no-score"), REASONS.index("beyond-float32")
    if exact:
        tables = run.map(read_exact_scores, run.candidates)
        missing = sum(entry["missing"] for entry in tables.metadata())
        return Difficulty(UnitColumn(tables, "score"), end, none, _without_score(missing))
    tables = run.map(read_scores if role == "score" else read_cutoffs, run.candidates)
    entries = list(tables.metadata())
    too_large = sum(entry["beyond"] for entry in entries)
    notices = _without_score(sum(entry["missing"] for entry in entries) - too_large)
    if too_large:
        detail = (
            f"{too_large} rows have a finite {role} that does not fit float32 (3.4e38 at most): they can't be "
            "selected. Scale the column, or take its logarithm."
        )
        notices.append(Notice(code="scores-beyond-float32", detail=detail))
    return Difficulty(UnitColumn(tables, "score"), end, none, notices, infinite=beyond)


def _given(params: SourceParams) -> Metric:
    assert params.chosen is not None
    return params.chosen


class _Cut(Sequence[Scores]):
    """One column of all rows, unit by unit."""

    def __init__(self, column: Scores, starts: npt.NDArray[np.int64]) -> None:
        self._column = column
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, unit: Any) -> Any:
        return self._column[self._starts[unit] : self._starts[unit + 1]]


def _without_score(missing: int) -> list[Notice]:
    if missing == 0:
        return []
    detail = f"{missing} rows have a score that is null, NaN or infinite: they can't be selected."
    return [Notice(code="rows-without-score", detail=detail)]


# -- unit tasks


def _scored(parts: Iterator[Scores]) -> pa.Table:
    listed = list(parts)
    column = np.concatenate(listed) if listed else np.empty(0, np.float32)
    missing = len(column) - int(np.count_nonzero(np.isfinite(column)))
    return with_metadata(pa.table({"score": column}), {"missing": missing})


def _narrowed(reader: UnitReader, role: Role) -> pa.Table:
    """Return a column as float32, NaN where it is null or infinite, and infinite where it does not fit."""

    def parts() -> Iterator[Scores]:
        for batch in reader.batches():
            given = batch.floats(role)
            with np.errstate(over="ignore"):
                narrow = given.astype(np.float32)
            narrow[np.isinf(given)] = np.nan
            yield narrow

    table = _scored(parts())
    beyond = int(np.count_nonzero(np.isinf(table.column("score").to_numpy())))
    return with_metadata(table, {**metadata_of(table), "beyond": beyond})


@unit_task("difficulty.read_scores", revision=2, roles=("score",))
def read_scores(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read the score column as float32: column ``score``; how many rows have none, or one beyond, in the metadata."""
    return _narrowed(reader, "score")


@unit_task("difficulty.read_cutoffs", revision=2, roles=("cutoff",))
def read_cutoffs(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read the cut-off column, as :data:`read_scores` does the scores."""
    return _narrowed(reader, "cutoff")


@unit_task("difficulty.read_exact_scores", revision=1, roles=("score",))
def read_exact_scores(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read the score column in its own precision: column ``score``; the number of rows without one in the metadata."""

    def parts() -> Iterator[Scores]:
        for batch in reader.batches():
            given = batch.floats("score")
            large = np.isfinite(given) & (np.abs(given) > LARGEST_EXACT)
            if large.any():
                row = int(np.argmax(large))
                detail = f"The score is {given[row]}; {LARGEST_EXACT:g} is the most that can be summed."
                raise reader.dataset.refuse(reader.unit.index, batch.start + row, "score", detail)
            yield given.copy()  # a view may point into a mapped file

    return _scored(parts())


def _measured(
    reader: UnitReader, params: Mapping[str, Any], score: Callable[[RoleBatch, kernels.Visits], Any]
) -> pa.Table:
    def parts() -> Iterator[Scores]:
        for batch in reader.batches():
            labelled = "label" in batch.columns
            labels = class_labels(reader, batch) if labelled else np.zeros(batch.rows, np.int64)
            visits = kernels.measure(batch.vectors("logits"), labels, params["outputs"])
            if isinstance(visits, kernels.Failure):
                raise refuse_failure(reader, batch, visits)
            yield np.asarray(score(batch, visits), np.float32)

    return _scored(parts())


@unit_task("difficulty.score_outputs", revision=1, roles=("logits",))
def score_outputs(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Score rows by their outputs alone: entropy, least confidence."""
    if params["metric"] == "entropy":
        return _measured(reader, params, lambda batch, visits: visits.entropy)
    return _measured(reader, params, lambda batch, v: kernels.least_confidence(v.loss, v.margin, v.correct))


@unit_task("difficulty.score_labelled", revision=1, roles=("logits", "label"))
def score_labelled(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Score rows by their outputs and labels: loss, margin, EL2N of one visit."""
    column = {"loss": "loss", "margin": "margin", "el2n": "error"}[params["metric"]]
    return _measured(reader, params, lambda batch, visits: getattr(visits, column))


@unit_task("difficulty.score_gradients", revision=1, roles=("logits", "label", "embedding"))
def score_gradients(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Score rows by the norm of the gradient of the last layer's weights and biases, which is an outer product."""

    def norms(batch: RoleBatch, visits: kernels.Visits) -> Any:
        return visits.error * np.sqrt(1.0 + squared_lengths(batch.vectors("embedding").astype(np.float32)))

    return _measured(reader, params, norms)


_SNAPSHOTS: Mapping[Metric, Task] = {
    "entropy": score_outputs,
    "least_confidence": score_outputs,
    "loss": score_labelled,
    "margin": score_labelled,
    "el2n": score_labelled,
    "grand": score_gradients,
}
