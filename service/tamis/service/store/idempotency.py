"""Idempotency keys: the first answer to a key is the answer to every repetition of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tamis.service.job_state import JobState
from tamis.service.store.errors import IdempotencyKeyReused
from tamis.service.store.models import idempotency_keys
from tamis.service.store.records import IdempotencyKey, Job, Submission

KEPT_SECONDS: Final = 24 * 3600.0
"""Time for which a key is remembered."""

NOT_KEPT: Final = "spec"
"""Field of a job that is not part of an answer, and may be megabytes."""

_keys: Final = idempotency_keys.c


def once(
    connection: Connection, owner: str, key: IdempotencyKey | None, now: float, make: Callable[[], Job]
) -> Submission:
    """Make a job unless the key has one already, and remember it under the key in the same transaction.

    Parameters
    ----------
    connection : Connection
        In a writing transaction.
    owner : str
        Scope of the key.
    key : IdempotencyKey, optional
        Without one, `make` is called and nothing is remembered.
    now : float
        Seconds since the epoch.
    make : callable
        Stores or finds the job that is the first answer; called at most once.

    Raises
    ------
    IdempotencyKeyReused
        The key belongs to another body.
    """
    if key is None:
        return Submission(make(), replayed=False)
    earlier = replay(connection, owner, key, now)
    if earlier is not None:
        return earlier
    job = make()
    connection.execute(sa.delete(idempotency_keys).where(_keys.created_at <= now - KEPT_SECONDS))
    connection.execute(
        sa.insert(idempotency_keys).values(
            owner=owner,
            key=key.key,
            body_sha256=key.body_sha256,
            job_id=job.id,
            response=_document(job),
            created_at=now,
        )
    )
    return Submission(job, replayed=False)


def replay(connection: Connection, owner: str, key: IdempotencyKey, now: float) -> Submission | None:
    """Return the first answer to a key; None when there is none, or it is older than `KEPT_SECONDS`.

    Raises
    ------
    IdempotencyKeyReused
        The key belongs to another body.
    """
    row = connection.execute(
        sa.select(_keys.body_sha256, _keys.response).where(
            _keys.owner == owner, _keys.key == key.key, _keys.created_at > now - KEPT_SECONDS
        )
    ).first()
    if row is None:
        return None
    if row.body_sha256 != key.body_sha256:
        raise IdempotencyKeyReused
    return Submission(_job(row.response), replayed=True)


def _document(job: Job) -> dict[str, Any]:
    """Write a job as JSON, so that it can be shown later as it was, even when it was deleted since."""
    return {field.name: getattr(job, field.name) for field in fields(Job) if field.name != NOT_KEPT}


def _job(document: dict[str, Any]) -> Job:
    return Job(**document | {"state": JobState(document["state"]), "uses": tuple(document["uses"]), NOT_KEPT: {}})
