"""Events of jobs, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from tamis.service.store.database import Database
from tamis.service.store.job_rows import select_job, to_event
from tamis.service.store.models import job_events, jobs
from tamis.service.store.records import Event, EventKind

EVENT_PAGE: Final = 1000
"""Maximum number of events in one answer."""


class Events:
    """Reading of a job's events and log; `Jobs` and `Queue` write them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, job_id: str, *, after: int = 0, limit: int = EVENT_PAGE) -> Sequence[Event]:
        """Return the events with ``seq > after`` in order, log lines included. Raises NotFound."""
        return self._events(job_id, after, limit)

    def logs(self, job_id: str, *, after: int = 0, limit: int = EVENT_PAGE) -> Sequence[Event]:
        """Return the log lines (events of kind ``log``) with ``seq > after``. Raises NotFound."""
        return self._events(job_id, after, limit, EventKind.LOG)

    def _events(self, job_id: str, after: int, limit: int, kind: EventKind | None = None) -> Sequence[Event]:
        query = (
            sa.select(job_events)
            .where(job_events.c.job_id == job_id, job_events.c.seq > after)
            .order_by(job_events.c.seq)
            .limit(limit)
        )
        if kind is not None:
            query = query.where(job_events.c.kind == kind)
        with self._database.read() as connection:
            select_job(connection, job_id, jobs.c.id)
            return [to_event(row) for row in connection.execute(query)]
