"""Record of job files to be removed: expired results, and files of deleted jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tamis.service.job_state import ACTIVE_STATES, LEASED_STATES
from tamis.service.store.database import Database
from tamis.service.store.models import job_uses, jobs, removals
from tamis.service.store.records import Finished

_FINISHED: Final = (jobs.c.state.not_in(ACTIVE_STATES), jobs.c.expired_at.is_(None))


class Removals:
    """Expiry of results, and a record of files to remove that survives a crash in between."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def finished(self) -> Sequence[Finished]:
        """Return the finished jobs whose files exist, the oldest first."""
        query = sa.select(jobs.c.id, jobs.c.finished_at).where(*_FINISHED).order_by(jobs.c.finished_at, jobs.c.id)
        with self._database.read() as connection:
            now = self._database.now(connection)
            return [Finished(row.id, now - row.finished_at) for row in connection.execute(query)]

    def expire(self, job_id: str) -> bool:
        """Mark a finished job's files as expired; False when they were expired before, or an active job uses them."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            locked = sa.select(jobs.c.id).where(jobs.c.id == job_id, *_may_expire()).with_for_update()
            if connection.execute(locked).first() is None:
                return False
            connection.execute(
                sa.update(jobs).where(jobs.c.id == job_id).values(expired_at=now, version=jobs.c.version + 1)
            )
            record_removal(connection, job_id, now)
            return True

    def pending(self) -> Sequence[str]:
        """Return the ids of the jobs whose files are still to be removed."""
        with self._database.read() as connection:
            return list(connection.execute(sa.select(removals.c.job_id).order_by(removals.c.since)).scalars())

    def complete(self, job_id: str, put_away: Callable[[], None]) -> None:
        """Call `put_away`, which takes the files out of use, unless the job was resumed meanwhile."""
        with self._database.write() as connection:
            # The row is held while the files are moved: a resume waits, and then finds an empty place.
            done = connection.execute(sa.delete(removals).where(removals.c.job_id == job_id))
            if done.rowcount:
                put_away()

    def oldest_attempt_age(self) -> float | None:
        """Return the seconds since the oldest running job first started; None when none runs."""
        with self._database.read() as connection:
            query = sa.select(sa.func.min(jobs.c.started_at)).where(jobs.c.state.in_(LEASED_STATES))
            since = connection.execute(query).scalar_one()
            return None if since is None else max(0.0, self._database.now(connection) - since)


def record_removal(connection: Connection, job_id: str, now: float) -> None:
    """Record in this transaction that the job's files have to be removed."""
    known = sa.select(removals.c.job_id).where(removals.c.job_id == job_id)
    if connection.execute(known).first() is None:
        connection.execute(sa.insert(removals).values(job_id=job_id, since=now))


def _may_expire() -> list[sa.ColumnElement[bool]]:
    reading = jobs.alias("reading")
    in_use = (
        sa.select(job_uses.c.used_id)
        .join(reading, reading.c.id == job_uses.c.job_id)
        .where(job_uses.c.used_id == jobs.c.id, reading.c.state.in_(ACTIVE_STATES))
        .correlate(jobs)
        .exists()
    )
    return [*_FINISHED, ~in_use]
