"""Workers' operations on jobs: the jobs table is the queue.

A claim raises the job's lease token; whatever the worker writes later names the token and is refused once another claim
raised it. A lease that is not extended runs out, and the job is claimed by the next worker that polls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tamis.service.job_state import LEASED_STATES, JobState
from tamis.service.retry import GiveUp, JobRetry
from tamis.service.store.database import Database
from tamis.service.store.failures import question_changed, worker_lost
from tamis.service.store.fair_share import ORDER, may_start
from tamis.service.store.job_rows import JOB_COLUMNS, AnyRow, change_state, to_jobs, write_event, write_logs
from tamis.service.store.jobs import MAX_ATTEMPTS
from tamis.service.store.models import jobs
from tamis.service.store.questions import store_question
from tamis.service.store.records import Claim, Control, Event, EventKind, Json, Lease, LogLine

PROGRESS_EVENT_SECONDS: Final = 1.0
"""Shortest time between two progress events of one job; the job itself shows every progress."""

CLAIM_LOCK: Final = 0x636C61696D
"""Key of the PostgreSQL advisory lock under which claims are counted ('claim' in ASCII)."""

_NO_LEASE: Final[dict[str, Any]] = {"worker": None, "lease_until": None}


class Queue:
    """Claims, heartbeats and outcomes of attempts; every write after the claim is fenced on the lease."""

    def __init__(self, database: Database, running_per_owner: int | None, retry: JobRetry) -> None:
        self._database = database
        self._running_per_owner = running_per_owner
        self._retry = retry

    def claim(self, worker: str, lease_seconds: float) -> Claim | None:
        """Claim the next job: one whose lease ran out, else the first of the queue.

        Parameters
        ----------
        worker : str
            Id of the worker, the holder of the lease.
        lease_seconds : float
            Time until another worker may claim the job, unless `heartbeat` extends it.

        Returns
        -------
        Claim or None
            The job, running, with its lease; None: no job may start now.
        """
        with self._database.read() as connection:
            # An idle worker polls all the time: it does not take the write lock for that.
            now = self._database.now(connection)
            if not connection.execute(
                sa.select(sa.or_(_abandoned(now).exists(), self._waiting(now).exists()))
            ).scalar_one():
                return None
        with self._database.write() as connection:
            now = self._database.now(connection)
            if self._running_per_owner is not None:
                # Two claims side by side would each count without the other.
                self._database.one_at_a_time(connection, CLAIM_LOCK)
            _reap(connection, now)
            detail = None
            row = _take(connection, _abandoned(now), worker, now, lease_seconds)
            if row is not None:
                detail = "its worker stopped reporting; another one goes on from the finished units"
            else:
                row = _take(connection, self._waiting(now), worker, now, lease_seconds)
            if row is None:
                return None
            change_state(connection, row.id, JobState.RUNNING, now, detail=detail)
            taken = connection.execute(sa.select(*JOB_COLUMNS).where(jobs.c.id == row.id)).one()
            (job,) = to_jobs(connection, [taken], {})
            return Claim(job, Lease(row.id, worker, row.lease_token), max(0.0, now - row.queued_at))

    def cancelling(self, worker: str) -> frozenset[str]:
        """Return the ids of this worker's jobs that have to stop; cheap enough for several polls a second."""
        query = sa.select(jobs.c.id).where(jobs.c.state == JobState.CANCELLING, jobs.c.worker == worker)
        with self._database.read() as connection:
            return frozenset(connection.execute(query).scalars())

    def reap(self) -> int:
        """End the jobs whose lease ran out and that are not to run again; returns their number."""
        with self._database.read() as connection:
            if not connection.execute(sa.select(_ended(self._database.now(connection)).exists())).scalar_one():
                return 0
        with self._database.write() as connection:
            return _reap(connection, self._database.now(connection))

    def heartbeat(
        self, lease: Lease, lease_seconds: float, *, progress: Json | None = None, logs: Sequence[LogLine] = ()
    ) -> Control:
        """Extend the lease and store progress and log lines.

        Parameters
        ----------
        lease : Lease
            As `claim` returned it.
        lease_seconds : float
            Time from now until the lease runs out.
        progress : Json, optional
            A `Progress` as JSON.
        logs : sequence of LogLine
            New lines of the job's log.

        Returns
        -------
        Control
            Go on, cancel, or stop at once because the lease is lost.
        """
        with self._database.write() as connection:
            leased = _lock_leased(connection, lease)
            if leased is None:
                return Control.LOST
            now = self._database.now(connection)
            extended = sa.update(jobs).where(jobs.c.id == lease.job_id).values(lease_until=now + lease_seconds)
            connection.execute(extended)
            _show_progress(connection, lease.job_id, leased, progress, now)
            write_logs(connection, lease.job_id, logs)
            return Control.CANCEL if leased.state == JobState.CANCELLING else Control.CONTINUE

    def succeed(self, lease: Lease, *, progress: Json | None = None, logs: Sequence[LogLine] = ()) -> JobState | None:
        """End the job as succeeded, or as cancelled where that was requested before: its result stays for a resume.

        Parameters
        ----------
        lease : Lease
            As `claim` returned it.
        progress : Json, optional
            The last `Progress` as JSON.
        logs : sequence of LogLine
            New lines of the job's log.

        Returns
        -------
        JobState or None
            State that the job ended in, cancelled where that was requested before; None: the lease is lost, and nothing
            was written.
        """

        def end(connection: Connection, leased: AnyRow, now: float) -> JobState:
            return _finish(connection, lease.job_id, JobState.SUCCEEDED, now, error=None)

        return self._end(lease, end, progress, logs)

    def fail(self, lease: Lease, problem: Json, *, logs: Sequence[LogLine] = ()) -> JobState | None:
        """End the attempt with a problem: the retry strategy queues the job again or lets it fail.

        Parameters
        ----------
        lease : Lease
            As `claim` returned it.
        problem : Json
            Problem details; the strategy decides by its ``code``.
        logs : sequence of LogLine
            New lines of the job's log.

        Returns
        -------
        JobState or None
            State that the job ended in, cancelled where that was requested before; None: the lease is lost, and nothing
            was written.
        """

        def end(connection: Connection, leased: AnyRow, now: float) -> JobState:
            decision = self._retry.decide(problem["code"], leased.attempts, leased.attempts_limit)
            if isinstance(decision, GiveUp):
                return _finish(connection, lease.job_id, JobState.FAILED, now, error=problem)
            wait = decision.seconds
            change_state(
                connection,
                lease.job_id,
                JobState.QUEUED,
                now,
                detail=f"attempt {leased.attempts} of {leased.attempts_limit} failed; the next starts in {wait:g} s",
                error=problem,
                queued_at=now,
                not_before=now + wait,
                **_NO_LEASE,
            )
            return JobState.QUEUED

        return self._end(lease, end, None, logs)

    def cancelled(self, lease: Lease, *, logs: Sequence[LogLine] = ()) -> JobState | None:
        """End a cancelled job; None when the lease is lost."""

        def end(connection: Connection, leased: AnyRow, now: float) -> JobState:
            return _finish(connection, lease.job_id, JobState.CANCELLED, now)

        return self._end(lease, end, None, logs)

    def wait(
        self, lease: Lease, round: int, rows: bytes, *, progress: Json | None = None, logs: Sequence[LogLine] = ()
    ) -> JobState | None:
        """End the attempt with a question: the job waits for scores and holds no worker.

        The attempt is not charged, and the count of attempts begins anew: earlier deaths of workers do not count
        against the rest of the job.

        Parameters
        ----------
        lease : Lease
            As `claim` returned it.
        round : int
            Number of the question. One that an attempt before a cancel stored keeps its answers.
        rows : bytes
            The row numbers, int64, little-endian.
        progress : Json, optional
            The last `Progress` as JSON.
        logs : sequence of LogLine
            New lines of the job's log.

        Returns
        -------
        JobState or None
            State that the job ended in, cancelled where that was requested before; None: the lease is lost, and nothing
            was written.
        """

        def end(connection: Connection, leased: AnyRow, now: float) -> JobState:
            missing = store_question(connection, lease.job_id, round, rows, now)
            if missing is None:
                return _finish(connection, lease.job_id, JobState.FAILED, now, error=question_changed(round))
            change_state(
                connection,
                lease.job_id,
                JobState.WAITING,
                now,
                detail=f"round {round} asks for the scores of {missing} rows",
                round=round,
                attempts=jobs.c.attempts - 1,
                attempts_limit=jobs.c.attempts - 1 + MAX_ATTEMPTS,
                **_NO_LEASE,
            )
            return JobState.WAITING

        return self._end(lease, end, progress, logs)

    def release(self, lease: Lease, *, logs: Sequence[LogLine] = ()) -> JobState | None:
        """Give the job back to the queue without charging an attempt, as a worker that stops does.

        Parameters
        ----------
        lease : Lease
            As `claim` returned it.
        logs : sequence of LogLine
            New lines of the job's log.

        Returns
        -------
        JobState or None
            State that the job ended in, cancelled where that was requested before; None: the lease is lost, and nothing
            was written.
        """

        def end(connection: Connection, leased: AnyRow, now: float) -> JobState:
            change_state(
                connection,
                lease.job_id,
                JobState.QUEUED,
                now,
                detail="its worker stops; the next one goes on from the finished units",
                attempts=jobs.c.attempts - 1,
                queued_at=now,
                **_NO_LEASE,
            )
            return JobState.QUEUED

        return self._end(lease, end, None, logs)

    def _end(
        self,
        lease: Lease,
        end: Callable[[Connection, AnyRow, float], JobState],
        progress: Json | None,
        logs: Sequence[LogLine],
    ) -> JobState | None:
        """Store an attempt's last progress and log lines, then end it: as cancelled where requested, else by `end`."""
        with self._database.write() as connection:
            leased = _lock_leased(connection, lease)
            if leased is None:
                return None
            now = self._database.now(connection)
            _show_progress(connection, lease.job_id, leased, progress, now)
            write_logs(connection, lease.job_id, logs)
            if leased.state == JobState.CANCELLING:
                return _finish(connection, lease.job_id, JobState.CANCELLED, now)
            return end(connection, leased, now)

    def _waiting(self, now: float) -> sa.Select[tuple[str]]:
        """Select the jobs that may start, in the order of the queue."""
        return sa.select(jobs.c.id).where(*may_start(now, self._running_per_owner)).order_by(*ORDER)


def _abandoned(now: float) -> sa.Select[tuple[str]]:
    """Select the running jobs whose worker stopped reporting."""
    return sa.select(jobs.c.id).where(jobs.c.state == JobState.RUNNING, jobs.c.lease_until < now).order_by(*ORDER)


def _ended(now: float) -> sa.Select[tuple[str]]:
    """Select the jobs whose worker stopped reporting and that are not to run again."""
    exhausted = sa.and_(jobs.c.state == JobState.RUNNING, jobs.c.attempts >= jobs.c.attempts_limit)
    return sa.select(jobs.c.id).where(
        jobs.c.state.in_(LEASED_STATES),
        jobs.c.lease_until < now,
        sa.or_(jobs.c.state == JobState.CANCELLING, exhausted),
    )


def _take(
    connection: Connection, candidates: sa.Select[tuple[str]], worker: str, now: float, lease_seconds: float
) -> AnyRow | None:
    # SKIP LOCKED lets PostgreSQL's workers pass each other; SQLite has one writer at a time and no such clause.
    first = candidates.limit(1).with_for_update(skip_locked=True).correlate(None).scalar_subquery()
    return connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == first)
        .values(
            worker=worker,
            lease_token=jobs.c.lease_token + 1,
            lease_until=now + lease_seconds,
            attempts=jobs.c.attempts + 1,
            started_at=sa.func.coalesce(jobs.c.started_at, now),
        )
        .returning(jobs.c.id, jobs.c.lease_token, jobs.c.attempts, jobs.c.queued_at)
    ).first()


def _reap(connection: Connection, now: float) -> int:
    ended = _ended(now).add_columns(jobs.c.state, jobs.c.attempts).with_for_update(skip_locked=True)
    rows = connection.execute(ended).all()
    for job_id, state, attempts in rows:
        if state == JobState.CANCELLING:
            _finish(connection, job_id, JobState.CANCELLED, now)
        else:
            _finish(connection, job_id, JobState.FAILED, now, error=worker_lost(attempts))
    return len(rows)


def _lock_leased(connection: Connection, lease: Lease) -> AnyRow | None:
    """Read and lock the job if the lease is still this worker's; None when it is not."""
    return connection.execute(
        sa.select(
            jobs.c.state,
            jobs.c.attempts,
            jobs.c.attempts_limit,
            jobs.c.progress,
            jobs.c.last_seq,
            jobs.c.progress_event_at,
        )
        .where(
            jobs.c.id == lease.job_id,
            jobs.c.worker == lease.worker,
            jobs.c.lease_token == lease.token,
            jobs.c.state.in_(LEASED_STATES),
        )
        .with_for_update()
    ).first()


def _show_progress(connection: Connection, job_id: str, leased: AnyRow, progress: Json | None, now: float) -> None:
    """Store changed progress, and an event of it at most once in `PROGRESS_EVENT_SECONDS`."""
    if progress is None or dict(progress) == leased.progress:
        return
    values: dict[str, Any] = {"progress": progress, "version": jobs.c.version + 1}
    publish = now - (leased.progress_event_at or 0.0) >= PROGRESS_EVENT_SECONDS
    if publish:
        values |= {"progress_event_at": now, "last_seq": jobs.c.last_seq + 1}
    connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**values))
    if publish:
        write_event(connection, job_id, Event(leased.last_seq + 1, now, EventKind.PROGRESS, progress))


def _finish(connection: Connection, job_id: str, state: JobState, now: float, **values: Any) -> JobState:
    change_state(connection, job_id, state, now, finished_at=now, **_NO_LEASE, **values)
    return state
