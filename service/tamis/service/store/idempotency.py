"""Idempotency keys: the first answer to a key is the answer to every replay of it."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tamis.service.store.errors import IdempotencyKeyReused
from tamis.service.store.models import idempotency_keys
from tamis.service.store.records import Submission

KEPT_SECONDS: Final = 24 * 3600.0
"""How long a key is remembered."""

_keys: Final = idempotency_keys.c


def stored_answer(connection: Connection, owner: str, key: str, body_sha256: str, now: float) -> Submission | None:
    """Give the answer stored under a key that is not too old, or None.

    Raises
    ------
    IdempotencyKeyReused
        The key belongs to another body.
    """
    row = connection.execute(
        sa.select(_keys.body_sha256, _keys.job_id, _keys.response).where(
            _keys.owner == owner, _keys.key == key, _keys.created_at > now - KEPT_SECONDS
        )
    ).first()
    if row is None:
        return None
    if row.body_sha256 != body_sha256:
        raise IdempotencyKeyReused
    return Submission(row.job_id, True, row.response)


def store_answer(
    connection: Connection, submission: Submission, *, owner: str, key: str, body_sha256: str, now: float
) -> None:
    """Remember an answer, and forget those that are too old."""
    connection.execute(sa.delete(idempotency_keys).where(_keys.created_at <= now - KEPT_SECONDS))
    connection.execute(
        sa.insert(idempotency_keys).values(
            owner=owner,
            key=key,
            body_sha256=body_sha256,
            job_id=submission.job_id,
            response=dict(submission.response),
            created_at=now,
        )
    )
