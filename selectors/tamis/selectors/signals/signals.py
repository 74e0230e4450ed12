"""`Signals`: the stores of tasks' results, and the engine that computes missing ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tamis.selectors.datasets import Dataset
from tamis.selectors.signals.store import Mapped, SignalStore
from tamis.selectors.signals.task import Call, Engine, Task, Watch


class MapWatch(Watch, Protocol):
    """Progress of a map, as well as of the tasks in it."""

    def expect(self, units: int, rows: int) -> None:
        """Announce the size of a map that starts now."""
        ...

    def reused(self, call: Call) -> None:
        """Report a result that an earlier run left."""
        ...

    def computed(self) -> None:
        """Report that one more missing result is complete."""
        ...


@dataclass(frozen=True)
class Signals:
    """The signal stores of a job and its engine.

    Attributes
    ----------
    store : SignalStore
        Signals kept for later jobs.
    scratch : SignalStore
        Signals that only this job can use, until it ends.
    engine : Engine
        Computes missing signals.
    """

    store: SignalStore
    scratch: SignalStore
    engine: Engine

    def map(
        self,
        task: Task,
        dataset: Dataset,
        watch: MapWatch,
        *,
        params: Mapping[str, Any] | None = None,
        shared: Mapping[str, str] | None = None,
        units: Sequence[int] | None = None,
        scratch: bool = False,
    ) -> Mapped:
        """Run `task` over the units of `dataset` and return the results in unit order.

        Results that an earlier run left are not computed again; equal units of one dataset are computed once.

        Parameters
        ----------
        task : Task
            The task.
        dataset : Dataset
            Its units are mapped over.
        watch : MapWatch
            Receives progress; can cancel.
        params : mapping, optional
            JSON values for the task.
        shared : mapping of str to str, optional
            Keys of tables that the task reads.
        units : sequence of int, optional
            Numbers of the units to map over, in the order of the results; all of them when left out.
        scratch : bool
            Keep results, and look for shared tables, among this job's own signals.
        """
        store = self.scratch if scratch else self.store
        wanted = range(len(dataset.units)) if units is None else units
        calls = [Call(task, dataset, unit, params or {}, shared or {}) for unit in wanted]
        keys = [call.key for call in calls]
        watch.expect(len(calls), sum(dataset.units[unit].rows or 0 for unit in wanted))
        missing: dict[str, Call] = {}
        for key, call in zip(keys, calls, strict=True):
            if store.use(key) or key in missing:
                watch.reused(call)
            else:
                missing[key] = call
        for _ in self.engine.map(list(missing.items()), store, watch):
            watch.computed()
        return Mapped(store, keys)
