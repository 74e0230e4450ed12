"""Outbox of callbacks, filled in the transaction that ends their job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from tamis.service.job_state import JobState
from tamis.service.store.database import Database
from tamis.service.store.ids import new_id
from tamis.service.store.models import callbacks, jobs, webhook_secrets
from tamis.service.store.records import Callback
from tamis.service.store.secrets import new_secret


class Callbacks:
    """Claims and outcomes of callbacks, and the owners' secrets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, limit: int, lease_seconds: float) -> Sequence[Callback]:
        """Claim up to `limit` callbacks that are due; another process claims them once the lease has run out."""
        due = sa.select(callbacks.c.id).order_by(callbacks.c.due_at).limit(limit)
        with self._database.read() as connection:
            # Polls are frequent and mostly find nothing: they take no write lock.
            now = self._database.now(connection)
            if connection.execute(due.where(callbacks.c.due_at <= now)).first() is None:
                return []
        try:
            with self._database.write() as connection:
                now = self._database.now(connection)
                mine = due.where(callbacks.c.due_at <= now).with_for_update(skip_locked=True).correlate(None)
                taken = connection.execute(
                    sa.update(callbacks)
                    .where(callbacks.c.id.in_(mine))
                    .values(attempts=callbacks.c.attempts + 1, due_at=now + lease_seconds)
                    .returning(*(column for column in callbacks.c if column.name != "due_at"))
                ).all()
                return [Callback(**row._mapping, secret=_secret(connection, row.owner, now)) for row in taken]
        except IntegrityError:  # on PostgreSQL, another process made the owner's first secret just now
            return []

    def delivered(self, callback: Callback, detail: str) -> None:
        """Record the delivery of a callback; `detail` is shown on the job."""
        self._settle(callback, "delivered", detail, None)

    def failed(self, callback: Callback, detail: str, wait: float | None) -> None:
        """Record a failed attempt; the next is due after `wait` seconds, or never when None."""
        self._settle(callback, "given_up" if wait is None else "pending", detail, wait)

    def _settle(self, callback: Callback, state: str, detail: str, wait: float | None) -> None:
        # Only while it is this attempt's: another process may have taken it since.
        mine = sa.and_(callbacks.c.id == callback.id, callbacks.c.attempts == callback.attempts)
        with self._database.write() as connection:
            now = self._database.now(connection)
            due_at = None if wait is None else now + wait
            if due_at is None:
                settled = connection.execute(sa.delete(callbacks).where(mine))
            else:
                settled = connection.execute(sa.update(callbacks).where(mine).values(due_at=due_at))
            if settled.rowcount:
                attempt = {"attempts": callback.attempts, "detail": detail, "at": _moment(now)}
                _show_status(connection, callback, {"state": state, **attempt, "next_at": _moment(due_at)})

    def secret(self, owner: str, *, renew: bool = False) -> str:
        """Return the secret that signs an owner's callbacks; a new one is made when there is none, or to `renew` it."""
        try:
            with self._database.write() as connection:
                if renew:
                    connection.execute(sa.delete(webhook_secrets).where(webhook_secrets.c.owner == owner))
                return _secret(connection, owner, self._database.now(connection))
        except IntegrityError:  # as above
            return self.secret(owner)


def announce(connection: Connection, job_id: str, now: float) -> None:
    """Put a message about the end of a job into the outbox if the job has a callback URL."""
    columns = [jobs.c[name] for name in ("id", "owner", "state", "selector", "labels", "fingerprint")]
    times = [jobs.c[name] for name in ("created_at", "started_at", "finished_at")]
    query = sa.select(*columns, *times, jobs.c.error, jobs.c.callback_url)
    job = connection.execute(query.where(jobs.c.id == job_id, jobs.c.callback_url.is_not(None))).first()
    if job is None:
        return
    data: dict[str, Any] = {
        **{column.name: job._mapping[column.name] for column in columns},
        **{column.name: _moment(job._mapping[column.name]) for column in times},
        "error": job.error if job.state == JobState.FAILED else None,
        "links": {"self": f"/v1/jobs/{job_id}"},
    }
    message = {"type": f"job.{job.state}", "timestamp": _moment(now), "data": data}
    message_id = new_id("msg_")
    status = {"id": message_id, "state": "pending", "attempts": 0, "detail": None, "at": None, "next_at": _moment(now)}
    connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(callback=status))
    connection.execute(
        sa.insert(callbacks).values(
            id=message_id,
            job_id=job_id,
            owner=job.owner,
            url=job.callback_url,
            payload=json.dumps(message, separators=(",", ":")),
            attempts=0,
            due_at=now,
        )
    )


def _show_status(connection: Connection, callback: Callback, status: dict[str, Any]) -> None:
    """Write the status of a callback on its job, unless the job has a later callback: a resumed job ends again."""
    job = jobs.c.id == callback.job_id
    shown = connection.execute(sa.select(jobs.c.callback).where(job).with_for_update()).scalar_one_or_none()
    if shown is not None and shown["id"] == callback.id:
        changed = {"id": callback.id, **status}
        connection.execute(sa.update(jobs).where(job).values(callback=changed, version=jobs.c.version + 1))


def _secret(connection: Connection, owner: str, now: float) -> str:
    query = sa.select(webhook_secrets.c.secret).where(webhook_secrets.c.owner == owner)
    secret: str | None = connection.execute(query).scalar_one_or_none()
    if secret is None:
        secret = new_secret()
        connection.execute(sa.insert(webhook_secrets).values(owner=owner, secret=secret, created_at=now))
    return secret


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
