"""`PhaseTracker`: the progress of a job through its phases, forwarded to the observer."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from tamis.selectors.datasets import Dataset
from tamis.selectors.errors import Cancelled, TamisError
from tamis.selectors.run.observer import Observer, UnitDone
from tamis.selectors.schema.response import Progress
from tamis.selectors.signals.task import Call

REPORT = "report"
"""The last phase of every job: measuring and writing what was selected."""


@dataclass
class _Phase:
    name: str
    weight: float
    units_total: int = 0
    units_done: int = 0
    rows_total: int = 0
    rows_done: int = 0


class PhaseTracker:
    """Counts units and rows by phase, reports progress to the observer, and passes its cancellation flag to tasks.

    Safe to call from any thread.

    Parameters
    ----------
    phases : sequence of (name, weight)
        In order; a weight is the phase's share of the work, in any unit.
    observer : Observer
        Receives the progress.
    """

    def __init__(self, phases: Sequence[tuple[str, float]], observer: Observer) -> None:
        self.observer = observer
        self._phases = [_Phase(name, weight) for name, weight in phases]
        self._current = 0
        self._fraction = 0.0
        self._lock = threading.Lock()  # progress comes from every thread that reads

    def begin(self, phase: str, *datasets: Dataset) -> None:
        """Enter `phase`, which maps over `datasets` once each; more units and rows are counted as they come.

        Raises
        ------
        TamisError
            When the plan names no such phase: a defect of the selector.
        Cancelled
            When the observer asked for it.
        """
        self.check_cancelled()
        self._current = self._index(phase)
        current = self._phases[self._current]
        current.units_total = sum(len(dataset.units) for dataset in datasets)
        current.rows_total = sum(dataset.rows or 0 for dataset in datasets)
        current.units_done = current.rows_done = 0
        self.observer.log("info", f"phase {phase}", phase=phase, units=current.units_total, rows=current.rows_total)
        self.advance()

    def _index(self, phase: str) -> int:
        names = [known.name for known in self._phases]
        if phase in names:
            return names.index(phase)
        similar = difflib.get_close_matches(phase, names, n=1)
        hint = f" Did you mean '{similar[0]}'?" if similar else ""
        raise TamisError(f"The selector begins the phase '{phase}', but its plan names {', '.join(names)}.{hint}")

    def advance(self, *, units: int = 0, rows: int = 0) -> None:
        """Count work done in the current phase and report it."""
        with self._lock:
            phase = self._phases[self._current]
            phase.units_done += units
            phase.rows_done += rows
            done = sum(earlier.weight for earlier in self._phases[: self._current])
            part = min(1.0, phase.rows_done / phase.rows_total) if phase.rows_total else 0.0
            whole = sum(known.weight for known in self._phases) or 1.0
            # A phase can turn out larger than planned; a fraction that was reported is not taken back.
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

    def expect(self, units: int, rows: int) -> None:
        """Make the current phase at least as large as a map that starts now."""
        phase = self._phases[self._current]
        phase.units_total = max(phase.units_total, phase.units_done + units)
        phase.rows_total = max(phase.rows_total, phase.rows_done + rows)

    def reused(self, call: Call) -> None:
        """Report a unit whose result an earlier run left."""
        self._report(call, None)
        self.advance(units=1, rows=call.dataset.units[call.unit].rows or 0)

    def computed(self) -> None:
        """Count one more computed unit."""
        self.advance(units=1)

    def unit(self, call: Call, seconds: float) -> None:
        """Report a unit that a task has computed."""
        self._report(call, seconds)

    def _report(self, call: Call, seconds: float | None) -> None:
        unit = call.dataset.units[call.unit]
        phase, shard = self._phases[self._current].name, call.dataset.shards[unit.shard].file.uri
        self.observer.unit(UnitDone(phase, shard, unit.index, unit.rows, seconds))

    def read(self, rows: int, size: int) -> None:
        """Count rows, and their decoded bytes, that a task has read."""
        self.observer.read(rows, size)
        self.advance(rows=rows)

    def cancelled(self) -> bool:
        """Whether the observer asked to stop."""
        return self.observer.cancelled()

    def check_cancelled(self) -> None:
        """Raise `Cancelled` when the observer asked to stop."""
        if self.observer.cancelled():
            raise Cancelled
