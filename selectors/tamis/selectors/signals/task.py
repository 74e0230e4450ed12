"""The whole contract of an engine, and the one wrapper that every engine runs."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from tamis.selectors.datasets import Dataset, RoleBatch, Unit
from tamis.selectors.errors import Cancelled
from tamis.selectors.schema.request import Role
from tamis.selectors.signals.store import SignalStore, content_key


class Watch(Protocol):
    """What a running task tells and asks while it reads, from any thread."""

    def read(self, rows: int, size: int) -> None: ...
    def unit(self, call: Call, seconds: float) -> None: ...
    def cancelled(self) -> bool: ...


def _first_row(dataset: Dataset, unit: int) -> int:
    if dataset.row_starts is None:
        raise RuntimeError("rows must be counted before a numbered task runs")
    return int(dataset.row_starts[unit])


class UnitReader:
    """One unit's rows for a task: its batches in order, each a chance to report progress and to stop."""

    def __init__(self, dataset: Dataset, unit: Unit, roles: Sequence[Role], watch: Watch) -> None:
        self.dataset = dataset
        self.unit = unit
        self._roles = roles
        self._watch = watch

    @property
    def first_row(self) -> int:
        """The unit's first row over the whole dataset; for tasks that are `numbered`."""
        return _first_row(self.dataset, self.unit.index)

    def of(self, unit: int) -> UnitReader:
        """Return a reader of another unit of the dataset, for tasks that work on several at once."""
        return UnitReader(self.dataset, self.dataset.units[unit], self._roles, self._watch)

    def batches(self) -> Iterator[RoleBatch]:
        """Yield the unit's batches in row order.

        Raises
        ------
        Cancelled
            Between two batches, when the job was cancelled.
        DataError
            When the shard holds what can't be used.
        """
        if self._watch.cancelled():
            raise Cancelled
        for batch in self.dataset.read(self.unit, self._roles):
            yield batch
            self._watch.read(batch.rows, batch.bytes)
            if self._watch.cancelled():
                raise Cancelled


TaskFunction = Callable[[UnitReader, Mapping[str, Any], Mapping[str, pa.Table]], pa.Table]


@dataclass(frozen=True)
class Task:
    """A function over one unit, found by name so that another process can find it too."""

    name: str  # "module:function"
    revision: int  # part of the signal's name: raise it when the result changes
    roles: tuple[Role, ...]
    numbered: bool  # whether the result depends on the unit's row numbers too, not on its content alone
    function: TaskFunction

    @staticmethod
    def find(name: str) -> Task:
        """Import the task called `name` (``module:attribute``)."""
        module, _, attribute = name.partition(":")
        task = getattr(importlib.import_module(module), attribute)
        if not isinstance(task, Task):
            raise TypeError(f"{name} is not a task")
        return task


def unit_task(*, revision: int, roles: Sequence[Role], numbered: bool = False) -> Callable[[TaskFunction], Task]:
    """Make a module-level function a :class:`Task` that reads `roles`."""

    def decorate(function: TaskFunction) -> Task:
        return Task(f"{function.__module__}:{function.__qualname__}", revision, tuple(roles), numbered, function)

    return decorate


@dataclass(frozen=True)
class Call:
    """One task on one unit: names, JSON values and keys only; no arrays, no closures."""

    task: str
    dataset: Dataset
    unit: int
    params: Mapping[str, Any]
    shared: Mapping[str, str]  # name -> key of a table in the signal store

    @property
    def key(self) -> str:
        """The name of the result: everything that decides its content."""
        task = Task.find(self.task)
        unit = self.dataset.units[self.unit]
        return content_key(
            task.name,
            task.revision,
            unit.digest,
            self.dataset.shards[unit.shard].file.version,
            self.dataset.reading(unit, task.roles),
            dict(self.params),
            dict(self.shared),
            _first_row(self.dataset, self.unit) if task.numbered else None,
        )


def perform(call: Call, key: str, store: SignalStore, watch: Watch) -> None:
    """Compute the result of `call` and publish it under `key`."""
    started = time.perf_counter()
    task = Task.find(call.task)
    reader = UnitReader(call.dataset, call.dataset.units[call.unit], task.roles, watch)
    shared = {name: store.read(shared_key) for name, shared_key in call.shared.items()}
    store.publish(key, task.function(reader, call.params, shared))
    watch.unit(call, time.perf_counter() - started)


class Engine(Protocol):
    """Runs calls whose results are not there yet."""

    threads: int  # of the job's own process, for work on a whole dataset

    def map(self, calls: Sequence[tuple[str, Call]], store: SignalStore, watch: Watch) -> Iterator[str]:
        """Perform every (key, call), publish to `store`, yield keys as they are done; raise what a task raised."""
        ...

    def close(self) -> None:
        """Let go of threads or connections; calls under way are stopped first."""
        ...
