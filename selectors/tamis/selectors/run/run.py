"""What every selector needs and none should write again: mapping over units with caching, progress and cancellation."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tamis.native.math import rng
from tamis.selectors.datasets import Dataset, RoleBatch
from tamis.selectors.decision.by_key import NO_ROWS, Choice, Layout, Ranked, Rows, choose, choose_in_turns
from tamis.selectors.decision.choice import Survey, choose_given, survey
from tamis.selectors.errors import Cancelled, Invalid
from tamis.selectors.run.observer import Observer, UnitDone
from tamis.selectors.run.questions import Answer, Answered, Question, digest_of
from tamis.selectors.schema.answers import Scores, checked_scores
from tamis.selectors.schema.request import JobSpec, Role
from tamis.selectors.schema.response import Notice, Progress
from tamis.selectors.signals.row_columns import (
    MAX_NAMES,
    StratumCodes,
    UnitColumn,
    count_unit_rows,
    read_groups,
    read_labels,
    read_sizes,
)
from tamis.selectors.signals.store import Mapped, SignalStore, content_key
from tamis.selectors.signals.task import Call, Engine, Task


@dataclass
class _Phase:
    name: str
    weight: float
    units_total: int = 0
    units_done: int = 0
    rows_total: int = 0
    rows_done: int = 0


class _Watch:
    """Counts rows as tasks read them, and passes on what the observer tells and is told."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def read(self, rows: int, size: int) -> None:
        self._run.observer.read(rows, size)
        self._run.advance(rows=rows)

    def unit(self, call: Call, seconds: float) -> None:
        self._run.tell_unit(call, seconds)

    def cancelled(self) -> bool:
        return self._run.observer.cancelled()


class Run:
    """One job under way.

    Parameters
    ----------
    spec : JobSpec
        The request, its references resolved.
    candidates, targets, dynamics : Dataset, sequence of Dataset, Dataset, optional
        Opened; the rows of JSON-lines shards may still be unknown until :meth:`count_rows`.
    phases : sequence of (name, weight)
        In order, with weights that say what share of the work each is.
    store, scratch : SignalStore
        Where signals are kept for later jobs, and where those that only this job can use live until it ends.
    preselected, excluded : ndarray of int64
        Rows of earlier selections, to keep and to keep away from.
    answer : callable, optional
        Scores the rows that the selector asks about; for selectors whose needs say that they ask.
    """

    def __init__(
        self,
        spec: JobSpec,
        candidates: Dataset,
        targets: Sequence[Dataset],
        phases: Sequence[tuple[str, float]],
        *,
        dynamics: Dataset | None = None,
        store: SignalStore,
        scratch: SignalStore,
        engine: Engine,
        observer: Observer,
        preselected: Rows = NO_ROWS,
        excluded: Rows = NO_ROWS,
        answer: Answer | None = None,
    ) -> None:
        self.spec = spec
        self.candidates = candidates
        self.targets = list(targets)
        self.dynamics = dynamics
        self.store = store
        self.scratch = scratch
        self.preselected = preselected
        self.excluded = excluded
        self.engine = engine
        self.observer = observer
        self._answer = answer
        self._answered: list[Answered] = []
        self._phases = [_Phase(name, weight) for name, weight in phases]
        self._current = 0
        self._fraction = 0.0
        self._layout: Layout | None = None
        self._watch = _Watch(self)
        self._lock = threading.Lock()  # progress comes from every thread that reads

    # -- phases and progress

    def begin(self, phase: str, *datasets: Dataset) -> None:
        """Enter `phase`, which will map over `datasets` (once each), and over more where that can't be told yet."""
        self.check_cancelled()
        self._current = next(index for index, known in enumerate(self._phases) if known.name == phase)
        current = self._phases[self._current]
        current.units_total = sum(len(dataset.units) for dataset in datasets)
        current.rows_total = sum(dataset.rows or 0 for dataset in datasets)
        current.units_done = current.rows_done = 0
        self.observer.log("info", f"phase {phase}", phase=phase, units=current.units_total, rows=current.rows_total)
        self.advance()

    def advance(self, *, units: int = 0, rows: int = 0) -> None:
        """Count work done in the current phase and tell the observer; from any thread."""
        with self._lock:
            phase = self._phases[self._current]
            phase.units_done += units
            phase.rows_done += rows
            done = sum(earlier.weight for earlier in self._phases[: self._current])
            part = min(1.0, phase.rows_done / phase.rows_total) if phase.rows_total else 0.0
            whole = sum(known.weight for known in self._phases) or 1.0
            # A phase can turn out larger than it looked; what was told is not taken back.
            self._fraction = max(self._fraction, min(1.0, (done + part * phase.weight) / whole))
            self.observer.progress(
                Progress(
                    phase=phase.name,
                    phases=[known.name for known in self._phases],
                    units_done=phase.units_done,
                    units_total=phase.units_total,
                    rows_done=phase.rows_done,
                    rows_total=phase.rows_total or None,
                    fraction=self._fraction,
                )
            )

    def tell_unit(self, call: Call, seconds: float | None) -> None:
        """Tell the observer of a unit's result; `seconds` is None when it was there already. From any thread."""
        unit = call.dataset.units[call.unit]
        phase, shard = self._phases[self._current].name, call.dataset.shards[unit.shard].file.uri
        self.observer.unit(UnitDone(phase, shard, unit.index, unit.rows, seconds))

    def _expect(self, units: int, rows: int) -> None:
        """Make the current phase at least as large as a map that starts now."""
        phase = self._phases[self._current]
        phase.units_total = max(phase.units_total, phase.units_done + units)
        phase.rows_total = max(phase.rows_total, phase.rows_done + rows)

    def check_cancelled(self) -> None:
        """Raise `Cancelled` when somebody asked for it."""
        if self.observer.cancelled():
            raise Cancelled

    # -- work

    def map(
        self,
        task: Task,
        dataset: Dataset,
        *,
        params: Mapping[str, Any] | None = None,
        shared: Mapping[str, str] | None = None,
        units: Sequence[int] | None = None,
        scratch: bool = False,
    ) -> Mapped:
        """Run `task` over the units of `dataset` (all, or those named) and return the results in that order.

        What an earlier run left is not computed again. With `scratch`, results and shared inputs are this job's own.
        """
        store = self.scratch if scratch else self.store
        wanted = range(len(dataset.units)) if units is None else units
        calls = [Call(task, dataset, unit, params or {}, shared or {}) for unit in wanted]
        keys = [call.key for call in calls]
        self._expect(len(calls), sum(dataset.units[unit].rows or 0 for unit in wanted))
        missing: dict[str, Call] = {}
        for key, call in zip(keys, calls, strict=True):
            if store.use(key) or key in missing:  # the same bytes twice in one dataset are computed once
                self.tell_unit(call, None)
                self.advance(units=1, rows=dataset.units[call.unit].rows or 0)
            else:
                missing[key] = call
        for _ in self.engine.map(list(missing.items()), store, self._watch):
            self.advance(units=1)
        return Mapped(store, keys)

    def read(self, dataset: Dataset, unit: int, roles: Sequence[Role]) -> Iterator[RoleBatch]:
        """Yield a unit's batches for work that is no task; between two of them the job can be stopped."""
        for batch in dataset.read(dataset.units[unit], roles):
            yield batch
            self.observer.read(batch.rows, batch.bytes)
            self.check_cancelled()

    def share(self, name: str, table: pa.Table, *, scratch: bool = False) -> str:
        """Publish `table` for tasks to read as a shared input; return its key, which is made of its content."""
        store = self.scratch if scratch else self.store
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        key = content_key("shared", name, hashlib.sha256(sink.getvalue()).hexdigest())
        if not store.use(key):
            store.publish(key, table)
        return key

    def derive(
        self,
        name: str,
        dataset: Dataset,
        roles: Sequence[Role],
        params: Mapping[str, Any],
        compute: Callable[[], pa.Table],
    ) -> pa.Table:
        """Return a signal of a whole dataset (a graph, clusters), computed only where no job has left it.

        Parameters
        ----------
        name : str
            What it is, with a number that is raised when its computation changes: ``"neighbours/1"``.
        dataset, roles, params
            What it is computed from: all that decides its content.
        compute : callable
            Computes it. What is returned is memory-mapped.
        """
        key = content_key(
            "derived",
            name,
            dataset.digest,
            [shard.file.version for shard in dataset.shards],
            dataset.columns.key(roles),
            dict(params),
        )
        if not self.store.use(key):
            self.store.publish(key, compute())
        return self.store.read(key)

    def ask(self, round: int, rows: Rows) -> Scores:
        """Return the scores of `rows`, which somebody outside gives: the caller of the library, or a client by HTTP.

        Where they are not there yet and nobody can be waited for (in the service), the job ends here as waiting. It is
        started again once they are, from its beginning: what leads here is the same then, asked rounds return at once,
        and whatever is dear before should be kept (:meth:`map`, :meth:`derive`).

        Parameters
        ----------
        round : int
            Number of the question, above that of the question before.
        rows : ndarray, shape (rows,), int64
            Row numbers over the whole dataset, no two the same, in any order.

        Returns
        -------
        ndarray, shape (rows,), float64
            A score for each of `rows`, finite, larger is better; NaN where the answer was that the row has none.

        Raises
        ------
        Waiting
            With the question: not an error of the job's, and not for a selector to catch.
        Invalid
            The answer does not fit the question.
        """
        self.check_cancelled()
        if self._answer is None:
            raise RuntimeError("a selector that asks says so in its needs")
        if self._answered and round <= self._answered[-1].round:
            raise RuntimeError(f"round {round} was asked after round {self._answered[-1].round}")
        if not len(rows):
            return np.empty(0)
        question = Question(round, rows, self.candidates)
        scores = checked_scores(self._answer(question), question.rows)
        self._answered.append(Answered(round, question.rows, scores))
        return scores

    @property
    def answers_digest(self) -> str | None:
        """The sha256 (hex) of all answers so far; None when nothing was asked."""
        return digest_of(self._answered)

    def stream(self, name: str) -> Any:
        """Return the key of the random stream `name` of this job's seed, for :mod:`tamis.native.math.rng`."""
        return rng.stream_key(self.spec.seed, name)

    # -- the decision

    def choose(self, ranked: Ranked, reason_names: Sequence[str]) -> Choice:
        """Choose by `ranked` within this job's budget, strata and earlier selections."""
        return choose(
            ranked,
            self.layout(),
            self.spec.budget,
            self.spec.strata,
            preselected=self.preselected,
            excluded=self.excluded,
            reason_names=reason_names,
        )

    def survey(self, ranked: Ranked, reason_names: Sequence[str]) -> Survey:
        """Return what this job asks and what the rows eligible by `ranked` can give, or refuse what can't be met."""
        return survey(
            ranked,
            self.layout(),
            self.spec.budget,
            self.spec.strata,
            preselected=self.preselected,
            excluded=self.excluded,
            reason_names=reason_names,
        )

    def choose_given(
        self,
        ranked: Ranked,
        rows: Rows,
        reason_names: Sequence[str],
        *,
        stopped: Notice | None = None,
        weights: np.ndarray[Any, np.dtype[np.float64]] | None = None,
    ) -> Choice:
        """Choose exactly `rows` in their order: see :func:`tamis.selectors.decision.choice.choose_given`."""
        return choose_given(self.survey(ranked, reason_names), rows, stopped=stopped, weights=weights)

    def choose_in_turns(
        self, rankings: Sequence[Ranked], reason_names: Sequence[str], split: Callable[[int], Sequence[int]]
    ) -> Choice:
        """Let several rankings choose in turns, each the part of the budget that `split` gives it."""
        return choose_in_turns(
            rankings,
            split,
            self.layout(),
            self.spec.budget,
            self.spec.strata,
            preselected=self.preselected,
            excluded=self.excluded,
            reason_names=reason_names,
        )

    # -- targets

    @property
    def target_names(self) -> list[str]:
        """Each target dataset's name; `target_0`, … where the request gives none."""
        given = self.spec.target.datasets if self.spec.target is not None else None
        return [target.name or f"target_{index}" for index, target in enumerate(given or [])]

    @property
    def target_proportions(self) -> list[float] | None:
        """Each target's share, summing to 1, or None where the request gives none."""
        given = self.spec.target.datasets if self.spec.target is not None else None
        shares = [target.proportion for target in given or []]
        if not shares or shares[0] is None:
            return None
        known = [share for share in shares if share is not None]
        if math.isinf(sum(known)):
            known = [share / max(known) for share in known]
        return [share / sum(known) for share in known]

    # -- rows, strata and sizes

    @property
    def datasets(self) -> list[Dataset]:
        """Everything the job reads."""
        return [self.candidates, *self.targets, *([self.dynamics] if self.dynamics is not None else [])]

    def count_rows(self) -> None:
        """Find the row counts that metadata did not tell (JSON lines), for every dataset of the job."""
        unknown = [dataset for dataset in self.datasets if dataset.rows is None]
        if not unknown:
            return
        self.begin("index", *unknown)
        self.candidates = self._counted(self.candidates)
        self.targets = [self._counted(target) for target in self.targets]
        if self.dynamics is not None:
            self.dynamics = self._counted(self.dynamics)

    def _counted(self, dataset: Dataset) -> Dataset:
        if dataset.rows is not None:
            return dataset
        counts = [entry["rows"] for entry in self.map(count_unit_rows, dataset).metadata()]
        return dataset.with_rows(counts)

    def layout(self) -> Layout:
        """Return row starts, stratum codes and sizes of the candidates, read once and cached."""
        if self._layout is None:
            self._layout = self._read_layout()
        return self._layout

    def _read_layout(self) -> Layout:
        dataset = self.candidates
        assert dataset.row_starts is not None
        codes: Sequence[np.ndarray[Any, Any]] | None = None
        names: list[str] = []
        if self.spec.strata is not None:
            names, codes = self.names(dataset, self.spec.strata.by)
        sizes = None
        if dataset.columns.has("size"):
            sizes = UnitColumn(self.map(read_sizes, dataset), "size")
        return Layout(starts=dataset.row_starts, names=names, codes=codes, sizes=sizes)

    def names(
        self, dataset: Dataset, role: Literal["group", "label"]
    ) -> tuple[list[str], Sequence[np.ndarray[Any, Any]]]:
        """Return the distinct values of `role` as text, sorted, and each unit's int32 codes into them.

        Raises
        ------
        Invalid
            When there are more than :data:`MAX_NAMES`.
        """
        tables = self.map(read_groups if role == "group" else read_labels, dataset)
        found: set[str] = set()
        for unit in range(len(tables)):
            found.update(tables[unit].column("group").combine_chunks().dictionary.to_pylist())
            if len(found) > MAX_NAMES:
                raise Invalid(
                    f"The {role} column holds more than {MAX_NAMES:,} different values: "
                    "name a column of categories, not of ids.",
                    pointer=f"{dataset.pointer}/columns/{role}",
                )
        names = sorted(found)
        return names, StratumCodes(tables, {name: code for code, name in enumerate(names)})
