"""What happened to a job, in order."""

from __future__ import annotations

from tamis.service.store.database import Database
from tamis.service.store.records import Event

EVENT_PAGE = 1000
"""Events given at once."""


class Events:
    """Read a job's events and log (the queue and the jobs write them)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, job_id: str, *, after: int = 0, limit: int = EVENT_PAGE) -> list[Event]:
        """Give events with ``seq > after`` in order: all kinds, log lines included. Raises NotFound."""
        raise NotImplementedError

    def logs(self, job_id: str, *, after: int = 0, limit: int = EVENT_PAGE) -> list[Event]:
        """Give the log lines among the events (kind ``log``) with ``seq > after``. Raises NotFound."""
        raise NotImplementedError
