"""Frozen records of the store; a field is a column, or computed from several."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tamis.service.job_state import JobState

Json = Mapping[str, Any]
"""JSON object."""


class Scope(StrEnum):
    """Scope of an API key."""

    READ = "read"
    """Read the owner's jobs and datasets, and download results."""

    SUBMIT = "submit"
    """Change them: submit, plan, cancel, resume, delete, register."""

    ADMIN = "admin"
    """Both, for the jobs and datasets of every owner."""


class EventKind(StrEnum):
    """Kind of an event."""

    STATE = "state"
    """The state changed: ``{"state", "attempt", "error"?, "detail"?}``."""

    PROGRESS = "progress"
    """Progress as in the job resource; at most one a second and job."""

    LOG = "log"
    """A line of the job's log: ``{"level", "message", ...fields}``."""


@dataclass(frozen=True, slots=True)
class Job:
    """Job. Times are seconds since the epoch, UTC."""

    id: str
    owner: str  # the caller that submitted it
    state: JobState
    selector: str
    request: Json  # as it was sent
    spec: Json  # resolved: a `JobSpec` as JSON, dataset and job ids replaced
    labels: Mapping[str, str]
    fingerprint: str | None
    priority: int  # larger runs first
    uses: tuple[str, ...]  # ids of the datasets and jobs it reads
    progress: Json | None
    error: Json | None  # the problem that ended it, when it failed
    attempts: int  # started so far; one given back by a stopping worker does not count
    created_at: float
    started_at: float | None  # of the first attempt
    finished_at: float | None
    expired_at: float | None  # its files were removed then, to make room
    round: int | None  # of its newest question
    waiting_reason: str | None  # for a queued or waiting job: why it waits
    version: int  # grows with every change of the row; makes the ETag
    traceparent: str | None  # W3C trace context of the request that submitted it
    callback: Json | None  # outcome of its callback, once the job is over


@dataclass(frozen=True, slots=True)
class NewJob:
    """Job to be submitted: a checked request."""

    owner: str  # the caller that submits it
    request: Json  # as it was sent
    spec: Json  # resolved: a `JobSpec` as JSON, no ids of datasets or jobs left
    selector: str
    fingerprint: str | None
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0  # larger runs first
    uses: Collection[str] = ()  # ids of the datasets and jobs it was resolved from: not deletable while it is active
    traceparent: str | None = None  # W3C trace context that its attempts belong to
    callback_url: str | None = None  # receives a POST when the job is over; see `Callbacks`


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Caller's key of one request, with the digest of the request."""

    key: str
    body_sha256: str  # hexadecimal, of the canonical body


@dataclass(frozen=True, slots=True)
class Submission:
    """Outcome of `Jobs.submit`."""

    job: Job  # as it was when its key was first answered; in a replay without its `spec`, which is not kept
    replayed: bool  # an earlier submission with the same idempotency key is the answer

    @property
    def job_id(self) -> str:
        """Id of the job."""
        return self.job.id


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Outcome of `Jobs.request_cancel`."""

    job: Job
    already: bool  # it was cancelled before this request


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """Question of a waiting job."""

    round: int
    rows: bytes  # int64, little-endian, in the question's order
    answered: bytes  # one for each of the rows, 0 or 1


@dataclass(frozen=True, slots=True)
class AnswersAccepted:
    """Outcome of `Questions.answer`."""

    round: int
    total: int  # rows of the question
    missing: int  # of them, without an answer now
    state: JobState  # of the job now


@dataclass(frozen=True, slots=True)
class Answer:
    """Completely answered question."""

    round: int
    rows: bytes  # int64, little-endian, in the question's order
    scores: bytes  # float64, little-endian; NaN: no score


@dataclass(frozen=True, slots=True)
class Dataset:
    """Registered manifest."""

    id: str
    owner: str
    digest: str  # of the dataset: shards' contents and roles
    manifest: Json  # resolved: globs expanded, format set
    rows: int | None  # None where only reading the shards would show it
    shards: int
    bytes: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Registration:
    """Outcome of `Datasets.register`."""

    dataset: Dataset
    created: bool  # False: the same manifest over the same contents was there already


@dataclass(frozen=True, slots=True)
class ApiKey:
    """API key without its token, which only its holder knows."""

    id: str
    owner: str  # whose jobs and datasets its holder makes and sees
    scopes: frozenset[Scope]
    note: str | None  # what it is for, in its maker's words
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def valid(self, now: float) -> bool:
        """Whether the key is valid at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class NewKey:
    """Outcome of `Keys.create`."""

    key: ApiKey
    token: str = field(repr=False)  # what the caller sends: shown once, stored nowhere


@dataclass(frozen=True, slots=True)
class Callback:
    """Callback, claimed for one attempt."""

    id: str  # the same at every attempt
    job_id: str
    owner: str
    url: str
    payload: str  # the body, JSON
    attempts: int  # this one included
    secret: str = field(repr=False)  # signs it


@dataclass(frozen=True, slots=True)
class JobPage:
    """Page of jobs, newest first."""

    items: Sequence[Job]
    next_cursor: str | None  # None on the last page


@dataclass(frozen=True, slots=True)
class DatasetPage:
    """Page of datasets, newest first."""

    items: Sequence[Dataset]
    next_cursor: str | None  # None on the last page


@dataclass(frozen=True, slots=True)
class Event:
    """Event of a job."""

    seq: int  # 1, 2, 3, ... for each job, without gaps
    at: float
    kind: EventKind
    data: Json


@dataclass(frozen=True, slots=True)
class LogLine:
    """Line of a job's log."""

    at: float
    level: str  # debug, info, warning, error
    message: str
    fields: Json


@dataclass(frozen=True, slots=True)
class Worker:
    """Supervisor that reported recently."""

    id: str
    host: str
    pid: int
    slots: int  # jobs it runs at a time
    running: int  # jobs it runs now
    memory_bytes: int  # that its job processes hold
    started_at: float
    seen_at: float


@dataclass(frozen=True, slots=True)
class Finished:
    """Finished job whose files exist."""

    job_id: str
    age: float  # seconds since it finished


@dataclass(frozen=True, slots=True)
class Lease:
    """Right of a worker to a job. A later claim raises the token; writes under the old one are refused."""

    job_id: str
    worker: str
    token: int  # number of the claim, over the job's whole life


@dataclass(frozen=True, slots=True)
class Claim:
    """Job claimed by a worker."""

    job: Job
    lease: Lease
    waited: float  # seconds in the queue, since it was submitted, resumed or given back


class Control(StrEnum):
    """Answer to a heartbeat."""

    CONTINUE = "continue"
    """The lease was extended."""

    CANCEL = "cancel"
    """The lease was extended; the job is to stop."""

    LOST = "lost"
    """The lease is another worker's or the job was deleted: stop at once, write nothing."""
