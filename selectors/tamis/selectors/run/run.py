"""`Run`: one job under way, with the operations that every selector needs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tamis.native.math import rng
from tamis.selectors.datasets import Dataset, RoleBatch
from tamis.selectors.decision.budget import Amount
from tamis.selectors.decision.by_key import choose, choose_by_target
from tamis.selectors.decision.choice import Choice, check_feasible, choose_in_order
from tamis.selectors.decision.decision import ALL_ELIGIBLE
from tamis.selectors.decision.in_order import Constraints, Reasons
from tamis.selectors.decision.ranking import Floats, Layout, Ranked, Rows
from tamis.selectors.decision.request import Request
from tamis.selectors.errors import Invalid
from tamis.selectors.run.observer import Observer
from tamis.selectors.run.opened import Job, Opened
from tamis.selectors.run.progress import PhaseTracker
from tamis.selectors.run.questions import Answer, Answered, Question, digest_of
from tamis.selectors.schema.answers import Scores, checked_scores
from tamis.selectors.schema.request import Role
from tamis.selectors.schema.response import Notice
from tamis.selectors.signals.row_columns import (
    MAX_NAMES,
    StratumCodes,
    UnitColumn,
    read_groups,
    read_labels,
    read_sizes,
)
from tamis.selectors.signals.signals import Signals
from tamis.selectors.signals.store import Mapped, SignalStore, content_key
from tamis.selectors.signals.task import Engine, Task


class Run:
    """One job under way.

    Parameters
    ----------
    opened : Opened
        The job; the rows of its datasets are counted.
    signals : Signals
        Where results of tasks are kept, and the engine.
    progress : PhaseTracker
        The job's phases and its observer.
    answer : callable, optional
        Scores the rows that the selector asks about; for selectors whose needs say that they ask.
    """

    def __init__(self, opened: Opened, signals: Signals, progress: PhaseTracker, answer: Answer | None = None) -> None:
        self.job: Job = opened
        self.spec = opened.spec
        self.candidates = opened.candidates
        self.targets = list(opened.targets)
        self.dynamics = opened.dynamics
        self.preselected = opened.preselected
        self.excluded = opened.excluded
        self.signals = signals
        self._progress = progress
        self._answer = answer
        self._answered: list[Answered] = []

    @property
    def datasets(self) -> list[Dataset]:
        """All datasets that the job reads."""
        return self.job.datasets

    @property
    def store(self) -> SignalStore:
        """The store of signals for later jobs."""
        return self.signals.store

    @property
    def scratch(self) -> SignalStore:
        """Signals of this job alone."""
        return self.signals.scratch

    @property
    def engine(self) -> Engine:
        """The engine that runs tasks."""
        return self.signals.engine

    @property
    def observer(self) -> Observer:
        """Receives progress and log lines."""
        return self._progress.observer

    # -- phases and progress

    def begin(self, phase: str, *datasets: Dataset) -> None:
        """Enter `phase`, one of the plan's; see :meth:`PhaseTracker.begin`."""
        self._progress.begin(phase, *datasets)

    def advance(self, *, units: int = 0, rows: int = 0) -> None:
        """Count work done in the current phase and report it; from any thread."""
        self._progress.advance(units=units, rows=rows)

    def check_cancelled(self) -> None:
        """Raise `Cancelled` when the observer asked to stop."""
        self._progress.check_cancelled()

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
        """Run `task` over the units of `dataset` and return the results in unit order; see :meth:`Signals.map`."""
        return self.signals.map(
            task, dataset, self._progress, params=params, shared=shared, units=units, scratch=scratch
        )

    def read(self, dataset: Dataset, unit: int, roles: Sequence[Role]) -> Iterator[RoleBatch]:
        """Yield a unit's batches for work outside a task; between two of them the job can be stopped."""
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
            Its name, with a number that is raised when its computation changes: ``"neighbours/1"``.
        dataset, roles, params
            Everything that decides its content.
        compute : callable
            Computes it.

        Returns
        -------
        pyarrow.Table
            Memory-mapped.
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
        """Return scores of `rows` that the caller of the library, or a client by HTTP, gives.

        Where they are not there yet and can't be waited for (in the service), the job ends here as waiting. Once they
        are, it starts again from its beginning: the steps that lead here repeat, answered rounds return at once, and
        expensive results should be kept (:meth:`map`, :meth:`derive`).

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

    @cached_property
    def request(self) -> Request:
        """Budget, strata, earlier selections and layout: everything that constrains a choice."""
        return Request(self.layout(), self.spec.budget, self.spec.strata, self.preselected, self.excluded)

    @property
    def amount(self) -> Amount:
        """The budget as a whole number of rows, or of units of size."""
        return self.request.amount

    def constraints(self, reasons: Reasons | None = None, reason_names: Sequence[str] = ALL_ELIGIBLE) -> Constraints:
        """Return budget, bounds and eligible rows for a greedy choice; see :meth:`Constraints.of`."""
        return Constraints.of(self.request, reasons, reason_names)

    def choose(self, ranked: Ranked, reason_names: Sequence[str] = ALL_ELIGIBLE) -> Choice:
        """Choose the best rows by key; see :func:`tamis.selectors.decision.by_key.choose`."""
        return choose(self.request, ranked, reason_names)

    def choose_in_order(
        self,
        ranked: Ranked,
        rows: Rows,
        reason_names: Sequence[str] = ALL_ELIGIBLE,
        *,
        stopped: Notice | None = None,
        weights: Floats | None = None,
    ) -> Choice:
        """Choose exactly `rows` in their order; see :func:`tamis.selectors.decision.choice.choose_in_order`."""
        feasibility = check_feasible(self.request, ranked, reason_names)
        return choose_in_order(feasibility, rows, stopped=stopped, weights=weights)

    def choose_by_target(
        self, rankings: Sequence[Ranked], reason_names: Sequence[str], split: Callable[[int], Sequence[int]]
    ) -> Choice:
        """Choose by a ranking for each target; see :func:`tamis.selectors.decision.by_key.choose_by_target`."""
        return choose_by_target(self.request, rankings, split, reason_names)

    # -- targets

    @property
    def target_names(self) -> list[str]:
        """Each target dataset's name; `target_0`, … where the request gives none."""
        targets = self.spec.target.datasets if self.spec.target is not None else None
        return [target.name or f"target_{index}" for index, target in enumerate(targets or [])]

    @property
    def target_proportions(self) -> list[float] | None:
        """Each target's share, summing to 1, or None where the request gives none."""
        targets = self.spec.target.datasets if self.spec.target is not None else None
        shares = [target.proportion for target in targets or []]
        if not shares or shares[0] is None:
            return None
        known = [share for share in shares if share is not None]
        if math.isinf(sum(known)):
            known = [share / max(known) for share in known]
        return [share / sum(known) for share in known]

    # -- rows, strata and sizes

    @cached_property
    def _layout(self) -> Layout:
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

    def layout(self) -> Layout:
        """Return row starts, stratum codes and sizes of the candidates, read once."""
        return self._layout

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
        values: set[str] = set()
        for unit in range(len(tables)):
            values.update(tables[unit].column("group").combine_chunks().dictionary.to_pylist())
            if len(values) > MAX_NAMES:
                raise Invalid(
                    f"The {role} column holds more than {MAX_NAMES:,} different values: "
                    "name a column of categories, not of ids.",
                    pointer=f"{dataset.pointer}/columns/{role}",
                )
        names = sorted(values)
        return names, StratumCodes(tables, {name: code for code, name in enumerate(names)})
