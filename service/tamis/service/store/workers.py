"""Register of workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tamis.service.store.database import Database
from tamis.service.store.models import workers
from tamis.service.store.records import Worker

LIVE_SECONDS: Final = 10.0
"""Time without a report after which a worker no longer counts as live."""


FORGOTTEN_SECONDS: Final = 3600.0
"""Time without a report after which the row of a worker is removed."""


class Workers:
    """Reports of workers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, worker: str, *, host: str, pid: int, slots: int, running: int, memory_bytes: int = 0) -> None:
        """Record that a worker is alive; its supervisor reports every second or two."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            values = {
                "host": host,
                "pid": pid,
                "slots": slots,
                "running": running,
                "memory_bytes": memory_bytes,
                "seen_at": now,
            }
            known = connection.execute(sa.update(workers).where(workers.c.id == worker).values(**values)).rowcount
            if not known:
                connection.execute(sa.insert(workers).values(id=worker, started_at=now, **values))
                connection.execute(sa.delete(workers).where(workers.c.seen_at < now - FORGOTTEN_SECONDS))

    def live(self, within: float = LIVE_SECONDS) -> Sequence[Worker]:
        """Return the workers that reported in the last `within` seconds."""
        with self._database.read() as connection:
            return live_workers(connection, self._database.now(connection), within)

    def leave(self, worker: str) -> None:
        """Record that a worker stops."""
        with self._database.write() as connection:
            connection.execute(sa.delete(workers).where(workers.c.id == worker))


def live_workers(connection: Connection, now: float, within: float = LIVE_SECONDS) -> list[Worker]:
    """Read the workers that reported in the last `within` seconds, the oldest first."""
    query = sa.select(workers).where(workers.c.seen_at >= now - within).order_by(workers.c.started_at, workers.c.id)
    return [Worker(**row._mapping) for row in connection.execute(query)]
