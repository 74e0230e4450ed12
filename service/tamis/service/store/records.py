"""What the store gives back: frozen records, one field a column (or what is computed from several)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tamis.service.job_state import JobState

Json = Mapping[str, Any]
"""A JSON object."""


class Scope(StrEnum):
    """What an API key allows."""

    READ = "read"
    """Look at the owner's jobs and datasets, and download results."""

    SUBMIT = "submit"
    """Change them: submit, plan, cancel, resume, delete, register."""

    ADMIN = "admin"
    """Both, for the jobs and datasets of every owner."""


class EventKind(StrEnum):
    """What an event tells."""

    STATE = "state"
    """The state changed: ``{"state", "attempt", "error"?, "detail"?}``."""

    PROGRESS = "progress"
    """Progress as in the job resource; at most one a second and job."""

    LOG = "log"
    """A line of the job's log: ``{"level", "message", ...fields}``."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the jobs table. Times are seconds since the epoch, UTC."""

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
    round: int | None  # the newest question that it asked
    waiting_reason: str | None  # for a queued or waiting job: why it waits
    version: int  # grows with every change of the row; makes the ETag
    traceparent: str | None  # W3C trace context of the request that submitted it
    callback: Json | None  # what became of its callback, once it is over


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be submitted: a checked request."""

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
    """A caller's key for one request, and what the request was."""

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
    """What `Jobs.request_cancel` did."""

    job: Job
    already: bool  # it was cancelled before this request


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """What a waiting job asks."""

    round: int
    rows: bytes  # int64, little-endian, in the order they were asked
    answered: bytes  # one for each of the rows, 0 or 1


@dataclass(frozen=True, slots=True)
class Taken:
    """What `Questions.answer` did."""

    round: int
    total: int  # rows that were asked
    missing: int  # of them, without an answer now
    state: JobState  # of the job now


@dataclass(frozen=True, slots=True)
class Answer:
    """A question that was answered whole."""

    round: int
    rows: bytes  # int64, little-endian, in the order they were asked
    scores: bytes  # float64, little-endian; NaN: no score


@dataclass(frozen=True, slots=True)
class Dataset:
    """A registered manifest."""

    id: str
    owner: str
    digest: str  # of the dataset: shards' contents and roles
    manifest: Json  # resolved: globs expanded, format set
    rows: int | None  # None where only reading the shards can tell
    shards: int
    bytes: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Registration:
    """What `Datasets.register` did."""

    dataset: Dataset
    created: bool  # False: the same manifest over the same contents was there already


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is listed: what the caller holds is known to the caller only."""

    id: str
    owner: str  # whose jobs and datasets its holder makes and sees
    scopes: frozenset[Scope]
    note: str | None  # what it is for, in its maker's words
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def valid(self, now: float) -> bool:
        """Whether it opens anything at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class NewKey:
    """What `Keys.create` did."""

    key: ApiKey
    token: str = field(repr=False)  # what the caller sends: shown once, stored nowhere


@dataclass(frozen=True, slots=True)
class Callback:
    """A callback to send, taken for one attempt."""

    id: str  # the same at every attempt
    job_id: str
    owner: str
    url: str
    payload: str  # the body, JSON
    attempts: int  # this one included
    secret: str = field(repr=False)  # signs it


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, newest first."""

    items: Sequence[Job]
    next_cursor: str | None  # None on the last page


@dataclass(frozen=True, slots=True)
class DatasetPage:
    """Some datasets, newest first."""

    items: Sequence[Dataset]
    next_cursor: str | None  # None on the last page


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    seq: int  # 1, 2, 3, ... for each job, without gaps
    at: float
    kind: EventKind
    data: Json


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line a job wrote."""

    at: float
    level: str  # debug, info, warning, error
    message: str
    fields: Json


@dataclass(frozen=True, slots=True)
class Worker:
    """A supervisor that reported lately."""

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
    """A finished job whose files are there."""

    job_id: str
    age: float  # seconds since it finished


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to a job. Every write of the worker is refused once another claim raised the token."""

    job_id: str
    worker: str
    token: int  # number of the claim, over the job's whole life


@dataclass(frozen=True, slots=True)
class Claim:
    """A job handed to a worker."""

    job: Job
    lease: Lease
    waited: float  # seconds in the queue, since it was submitted, resumed or given back


class Control(StrEnum):
    """What a heartbeat tells the worker."""

    CONTINUE = "continue"
    """The lease was extended."""

    CANCEL = "cancel"
    """The lease was extended; the job is to stop."""

    LOST = "lost"
    """The lease is another's or the job is gone: stop at once, write nothing."""
