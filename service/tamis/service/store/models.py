"""Tables. Times are seconds since the epoch, UTC; a change here needs a migration (a test compares)."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID = String(80)
_NAME = String(256)
# JSON and not JSONB: a request is given back as it was sent, key order and escapes included.
_JSON = JSON(none_as_null=True)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", _NAME, nullable=False),
    Column("state", String(16), nullable=False),
    Column("selector", _NAME, nullable=False),
    Column("request", _JSON, nullable=False),
    Column("spec", _JSON, nullable=False),
    Column("labels", _JSON, nullable=False),  # as shown; job_labels is the index over them
    Column("fingerprint", String(128)),
    Column("priority", Integer, nullable=False),
    Column(
        "vtime", Float(53), nullable=False, server_default="0"
    ),  # its virtual time among jobs of its priority; see `fair_share`
    Column("progress", _JSON),
    Column("error", _JSON),
    Column("attempts", Integer, nullable=False),  # charged: what a stopping worker gives back does not count
    Column("attempts_limit", Integer, nullable=False),  # fails when `attempts` got here and its worker dies
    Column("created_at", Float(53), nullable=False),
    Column("queued_at", Float(53), nullable=False),  # since when it waits, or waited last
    Column("not_before", Float(53), nullable=False),  # a retry waits until then
    Column("started_at", Float(53)),
    Column("finished_at", Float(53)),
    Column("round", Integer),  # of its newest question
    Column("expired_at", Float(53)),  # its files were removed; the row stays
    Column("version", BigInteger, nullable=False),  # +1 with every change a caller can see
    Column("last_seq", BigInteger, nullable=False),  # of its newest event
    Column("progress_event_at", Float(53)),
    Column("log_lines", Integer, nullable=False),
    Column("traceparent", String(64)),  # W3C trace context of the request that submitted it
    Column("callback_url", String(2048)),  # receives a POST when the job is over
    Column("callback", _JSON),  # its outcome: a `CallbackStatus`, under the id of its message
    Column("worker", _NAME),  # holds the lease
    Column("lease_token", BigInteger, nullable=False),  # +1 with every claim, never back: the fence
    Column("lease_until", Float(53)),
    Index(None, "state", "priority", "vtime", "id"),  # the queue
    Index(None, "owner", "priority", "vtime"),  # an owner's last turn
    Index(None, "owner", "fingerprint"),
    Index(None, "state", "lease_until"),  # expired leases
    Index(None, "owner", "id"),
    Index(None, "selector", "id"),
)

removals = Table(
    "removals",
    metadata,
    Column("job_id", _ID, primary_key=True),  # no foreign key: the job may be deleted
    Column("since", Float(53), nullable=False),
)
"""Jobs whose files have to be removed: recorded in the transaction that deletes the job, done after it."""

job_labels = Table(
    "job_labels",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", _NAME, primary_key=True),
    Column("value", _NAME, nullable=False),
    Index(None, "key", "value", "job_id"),
)

job_uses = Table(
    "job_uses",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("used_id", _ID, primary_key=True),  # a dataset or a job; it may be deleted once this job is finished
    Index(None, "used_id"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Float(53), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("data", _JSON, nullable=False),
    Index(None, "job_id", "kind", "seq"),
)

# One row a round and not one a score: a question has thousands of rows. Arrays are little-endian, in its order.
questions = Table(
    "questions",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("rows", LargeBinary, nullable=False),  # int64
    Column("scores", LargeBinary, nullable=False),  # float64; NaN: no score, or no answer yet
    Column("answered", LargeBinary, nullable=False),  # one byte a row, 0 or 1
    Column("missing", Integer, nullable=False),  # rows without an answer
    Column("asked_at", Float(53), nullable=False),
    Column("answered_at", Float(53)),  # the last of them
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", _NAME, nullable=False),
    Column("digest", String(128), nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("manifest", _JSON, nullable=False),
    Column("rows", BigInteger),
    Column("shards", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Float(53), nullable=False),
    UniqueConstraint("owner", "digest", "manifest_sha256"),
    Index(None, "owner", "id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", _NAME, nullable=False),
    Column("digest", String(64), nullable=False),  # of the whole token, which is not kept
    Column("scopes", _JSON, nullable=False),
    Column("note", _NAME),
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53)),
    Column("revoked_at", Float(53)),  # the row stays: once a key was made, one is required
)

callbacks = Table(
    "callbacks",
    metadata,
    Column("id", _ID, primary_key=True),  # what the receiver knows the message by
    Column("job_id", _ID, nullable=False),  # no foreign key: it is sent even when the job was deleted
    Column("owner", _NAME, nullable=False),
    Column("url", String(2048), nullable=False),
    Column("payload", Text, nullable=False),  # the very bytes that are signed
    Column("attempts", Integer, nullable=False),
    Column("due_at", Float(53), nullable=False),
    Index(None, "due_at"),
)

webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("owner", _NAME, primary_key=True),
    Column("secret", String(80), nullable=False),  # signs: unlike an API key's digest it must be the secret itself
    Column("created_at", Float(53), nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", _NAME, primary_key=True),
    Column("key", _NAME, primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    Column("job_id", _ID, nullable=False),  # no foreign key: the answer is replayed even when the job was deleted
    Column("response", _JSON, nullable=False),  # the job that was the first answer, as it was then; see `idempotency`
    Column("created_at", Float(53), nullable=False),
    Index(None, "created_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("host", _NAME, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("running", Integer, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),  # of its job processes
    Column("started_at", Float(53), nullable=False),
    Column("seen_at", Float(53), nullable=False),
)

totals = Table(
    "totals",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("selector", _NAME, primary_key=True),
    Column("label", String(64), primary_key=True),
    Column("value", Float(53), nullable=False),
)
