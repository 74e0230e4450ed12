"""Errors of the store."""

from __future__ import annotations

from tamis.selectors.errors import TamisError


class IdempotencyKeyReused(TamisError):
    """This idempotency key was used with another body; use a new key for a new job."""

    code = "idempotency-key-reused"
    status = 422


class QueueFull(TamisError):
    """As many jobs of this owner wait already as may; send it again when some have started."""

    code = "queue-full"
    status = 429


class BadCursor(TamisError):
    """This cursor is not one that the service gave; start again without a cursor."""

    code = "invalid-cursor"
    status = 400
