"""Jobs as workers see them: the jobs table is the queue."""

from __future__ import annotations

from collections.abc import Sequence

from tamis.service.store.database import Database
from tamis.service.store.records import Claim, Control, JobState, Json, Lease, LogLine


class Queue:
    """Claim, heartbeat, finish, give back; every write after the claim is fenced on the lease."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, worker: str, lease_seconds: float) -> Claim | None:
        """Take the next job: queued, or left behind by a worker whose lease ran out; None when there is none."""
        raise NotImplementedError

    def reap(self) -> int:
        """End jobs whose lease ran out and that no worker will take again; give their number."""
        raise NotImplementedError

    def heartbeat(
        self, lease: Lease, lease_seconds: float, *, progress: Json | None = None, logs: Sequence[LogLine] = ()
    ) -> Control:
        """Extend the lease, store progress and log lines, learn whether to stop."""
        raise NotImplementedError

    def succeed(self, lease: Lease, *, progress: Json | None = None, logs: Sequence[LogLine] = ()) -> JobState | None:
        """End the job well; the state it ended in (cancelled when that was asked before), None when the lease is lost."""
        raise NotImplementedError

    def fail(self, lease: Lease, problem: Json, *, retry: bool, logs: Sequence[LogLine] = ()) -> JobState | None:
        """End the attempt: queued again when `retry` and attempts are left, else failed; None when the lease is lost."""
        raise NotImplementedError

    def cancelled(self, lease: Lease, *, logs: Sequence[LogLine] = ()) -> JobState | None:
        """End a cancelled job; None when the lease is lost."""
        raise NotImplementedError

    def release(self, lease: Lease, *, logs: Sequence[LogLine] = ()) -> JobState | None:
        """Give the job back to the queue without costing an attempt; None when the lease is lost."""
        raise NotImplementedError
