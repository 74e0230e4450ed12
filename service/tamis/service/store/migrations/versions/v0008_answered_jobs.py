"""Idempotency keys keep the job that was the first answer, as a record; before, they kept the HTTP answer itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

keys = sa.table(
    "idempotency_keys", sa.column("owner", sa.String), sa.column("key", sa.String), sa.column("response", sa.JSON)
)

SAME = (
    *("id", "owner", "state", "selector", "request", "labels", "fingerprint", "progress", "error", "attempts"),
    *("waiting_reason", "callback"),
)
TIMES = ("created_at", "started_at", "finished_at", "expired_at")


def upgrade() -> None:
    connection = op.get_bind()
    for owner, key, response in connection.execute(sa.select(keys)).all():
        if "links" in response:  # an HTTP answer has them, a record does not
            mine = sa.and_(keys.c.owner == owner, keys.c.key == key)
            connection.execute(sa.update(keys).where(mine).values(response=_record(response)))


def downgrade() -> None:
    # The version before can't show records: it forgets the keys, which live for a day.
    op.get_bind().execute(sa.delete(keys))


def _record(answer: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: answer[name] for name in SAME},
        **{name: _seconds(answer[name]) for name in TIMES},
        "priority": answer["request"].get("priority", 0),
        "uses": [],
        "round": None,
        "version": 1,
        "traceparent": None,
    }


def _seconds(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()
