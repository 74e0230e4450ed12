"""Who is there to run jobs."""

from __future__ import annotations

from tamis.service.store.database import Database
from tamis.service.store.records import Worker

LIVE_SECONDS = 10.0
"""A worker that did not report for so long is not counted as live."""


class Workers:
    """Report, look, leave."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, worker: str, *, host: str, pid: int, slots: int, running: int) -> None:
        """Say that this worker lives (the supervisor does, every second or two)."""
        raise NotImplementedError

    def live(self, within: float = LIVE_SECONDS) -> list[Worker]:
        """Give the workers that reported in the last `within` seconds."""
        raise NotImplementedError

    def leave(self, worker: str) -> None:
        """Say that this worker stops."""
        raise NotImplementedError
