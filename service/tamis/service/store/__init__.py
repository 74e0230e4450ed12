"""The durable state of the service: jobs (which are the queue), datasets, events, workers, API keys."""

from __future__ import annotations

from tamis.service.store.errors import BadCursor, IdempotencyKeyReused
from tamis.service.store.records import (
    Answer,
    ApiKey,
    Callback,
    Cancellation,
    Claim,
    Control,
    Dataset,
    DatasetPage,
    Event,
    EventKind,
    Job,
    JobPage,
    Lease,
    LogLine,
    NewKey,
    OpenQuestion,
    Registration,
    Scope,
    Submission,
    Taken,
    Worker,
)
from tamis.service.store.store import Store

__all__ = [
    "Answer",
    "ApiKey",
    "BadCursor",
    "Callback",
    "Cancellation",
    "Claim",
    "Control",
    "Dataset",
    "DatasetPage",
    "Event",
    "EventKind",
    "IdempotencyKeyReused",
    "Job",
    "JobPage",
    "Lease",
    "LogLine",
    "NewKey",
    "OpenQuestion",
    "Registration",
    "Scope",
    "Store",
    "Submission",
    "Taken",
    "Worker",
]
