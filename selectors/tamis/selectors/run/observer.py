"""Observer protocol: progress, finished units, log lines, cancellation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tamis.selectors.schema.response import Progress


@dataclass(frozen=True, slots=True)
class UnitDone:
    """One unit of work whose result is available."""

    phase: str
    shard: str  # uri
    unit: int  # its number in its dataset
    rows: int | None  # None where nothing has counted them yet
    seconds: float | None  # that it took; None: an earlier run had left its result


class Observer(Protocol):
    """Receiver of a job's progress: the service's job process, the command line, or nothing."""

    def progress(self, progress: Progress) -> None: ...
    def log(self, level: str, message: str, **fields: Any) -> None: ...
    def read(self, rows: int, size: int) -> None: ...  # rows and decoded bytes since the last call; from any thread
    def unit(self, unit: UnitDone) -> None: ...  # from any thread
    def cancelled(self) -> bool: ...


class Unobserved:
    """An observer that ignores everything and never cancels."""

    def progress(self, progress: Progress) -> None:
        """Do nothing."""

    def log(self, level: str, message: str, **fields: Any) -> None:
        """Do nothing."""

    def read(self, rows: int, size: int) -> None:
        """Do nothing."""

    def unit(self, unit: UnitDone) -> None:
        """Do nothing."""

    def cancelled(self) -> bool:
        return False
