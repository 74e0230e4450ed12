"""The whole contract of an engine, and the one wrapper that every engine runs."""

from __future__ import annotations

import functools
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
    """Progress and cancellation of a running task, from any thread."""

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
    """A function over one unit, with a stable name for its results and a location for other processes.

    Results are kept under `name` and `revision`, so that a module may be renamed without losing them.
    """

    name: str  # unique among all tasks of all packages, e.g. "ngrams.count"
    revision: int  # part of the signal's name: raise it when the result changes
    roles: tuple[Role, ...]
    numbered: bool  # whether the result depends on the unit's row numbers too, not on its content alone
    location: str  # "module:attribute", where another process finds the task
    function: TaskFunction

    def __post_init__(self) -> None:
        other = _LOCATIONS.setdefault(self.name, self.location)
        if other != self.location:
            raise ValueError(
                f"Two tasks are named '{self.name}' ({other} and {self.location}): give one of them another name."
            )

    @staticmethod
    def find(location: str) -> Task:
        """Import the task at `location` ("module:attribute").

        Raises
        ------
        TypeError
            Something else is there.
        """
        module, _, attribute = location.partition(":")
        task = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        if not isinstance(task, Task):
            raise TypeError(f"{location} is not a task")
        return task

    def __reduce__(self) -> tuple[Callable[[str], Task], tuple[str]]:
        return Task.find, (self.location,)


_LOCATIONS: dict[str, str] = {}
"""Where the task of each name is."""


def unit_task(
    name: str, *, revision: int, roles: Sequence[Role], numbered: bool = False
) -> Callable[[TaskFunction], Task]:
    """Make a module-level function a :class:`Task` that reads `roles`.

    Parameters
    ----------
    name : str
        The name of the task's results, unique among all tasks; by convention "package.verb_noun". It stays when the
        function moves or is renamed.
    revision : int
        Raise it whenever the function's result changes.
    roles : sequence of str
        Roles of the columns that are read.
    numbered : bool
        Whether the result depends on the unit's row numbers as well as on its content.

    Raises
    ------
    TypeError
        When the function is a method or is made inside another function: no other process could find it.
    ValueError
        When another task has the same name.
    """

    def decorate(function: TaskFunction) -> Task:
        if "." in function.__qualname__:
            raise TypeError(
                f"The task '{name}' ({function.__module__}.{function.__qualname__}) must be a function at the top "
                "level of its module, so that other processes find it: move it out of the function or class around it."
            )
        location = f"{function.__module__}:{function.__qualname__}"
        return Task(name, revision, tuple(roles), numbered, location, function)

    return decorate


@dataclass(frozen=True)
class Call:
    """One task on one unit, with JSON values and keys only; no arrays, no closures.

    Raises
    ------
    TypeError
        When a parameter is not a JSON value.
    """

    task: Task
    dataset: Dataset
    unit: int
    params: Mapping[str, Any]
    shared: Mapping[str, str]  # name -> key of a table in the signal store

    def __post_init__(self) -> None:
        for name, value in self.params.items():
            _check_json(value, name, self.task.name)

    @property
    def key(self) -> str:
        """The name of the result: everything that decides its content."""
        task = self.task
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


def _check_json(value: Any, name: str, task: str) -> None:
    """Refuse a parameter that is not a JSON value, NumPy scalars among them."""
    if value is None or type(value) in (bool, int, float, str):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_json(item, f"{name}.{key}", task)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_json(item, f"{name}[{index}]", task)
    elif not isinstance(value, bool | int | float | str) or type(value).__module__ == "numpy":
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise TypeError(
            f"The parameter '{name}' of the task '{task}' is of type {kind}: parameters are JSON values (str, int, "
            "float, bool, None, lists and dictionaries of them), so convert it, e.g. with int(...) or .tolist()."
        )


def perform(call: Call, key: str, store: SignalStore, watch: Watch) -> None:
    """Compute the result of `call` and publish it under `key`."""
    started = time.perf_counter()
    reader = UnitReader(call.dataset, call.dataset.units[call.unit], call.task.roles, watch)
    shared = {name: store.read(shared_key) for name, shared_key in call.shared.items()}
    store.publish(key, call.task.function(reader, call.params, shared))
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
