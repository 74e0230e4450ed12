"""Callers' operations on jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from tamis.selectors.errors import Conflict, NotFound
from tamis.service.job_state import ACTIVE_STATES, RESUMABLE_STATES, JobState
from tamis.service.store import cursors, idempotency
from tamis.service.store.database import Database
from tamis.service.store.errors import QueueFull
from tamis.service.store.fair_share import next_virtual_time
from tamis.service.store.file_removals import record_removal
from tamis.service.store.ids import is_id, new_id
from tamis.service.store.job_rows import (
    JOB_COLUMNS,
    change_state,
    select_job,
    select_version,
    select_whole_job,
    to_jobs,
    write_event,
)
from tamis.service.store.models import datasets, job_labels, job_uses, jobs, removals
from tamis.service.store.records import Cancellation, Event, EventKind, IdempotencyKey, Job, JobPage, NewJob, Submission
from tamis.service.store.waiting_reasons import waiting_reasons

DEFAULT_PAGE: Final = 50
"""Default number of jobs on a page."""

QUEUE_RETRY_SECONDS: Final = 10
"""Retry-After of a caller whose queue is full."""

MAX_ATTEMPTS: Final = 3
"""Attempts before a job fails for good; `resume` grants the same number again."""


class Jobs:
    """Submission, reading, cancellation, resumption and removal of jobs."""

    def __init__(self, database: Database, running_per_owner: int | None = None) -> None:
        self._database = database
        self._running_per_owner = running_per_owner

    def submit(
        self,
        new: NewJob,
        *,
        key: IdempotencyKey | None = None,
        reusable: Callable[[Job], bool] | None = None,
        max_queued: int | None = None,
    ) -> Submission:
        """Store a job as queued; durable when this returns.

        Parameters
        ----------
        new : NewJob
            The job.
        key : IdempotencyKey, optional
            An earlier submission of this owner with this key is the answer, and nothing is stored.
        reusable : callable, optional
            When given, the newest succeeded job of this owner and fingerprint whose files exist and that `reusable`
            accepts is the answer, and nothing is stored but the key.
        max_queued : int, optional
            Largest number of queued and waiting jobs of this owner, this one included. On PostgreSQL, where submissions
            run side by side, those under way at once may exceed it.

        Raises
        ------
        IdempotencyKeyReused
            The key was used within 24 h with another body.
        NotFound
            A dataset or job in `new.uses` does not exist.
        QueueFull
            `max_queued` jobs are queued or waiting already.
        """
        try:
            with self._database.write() as connection:
                now = self._database.now(connection)

                def make() -> Job:
                    same = None if reusable is None else _identical(connection, new, reusable)
                    if same is not None:
                        return same
                    _refuse_full_queue(connection, new.owner, max_queued)
                    return self._get(connection, _insert(connection, new, now), now)

                return idempotency.once(connection, new.owner, key, now, make)
        except IntegrityError:
            # On PostgreSQL two requests with one key run side by side: the second meets the first's row here.
            replayed = None if key is None else self.replay(new.owner, key)
            if replayed is None:
                raise
            return replayed

    def replay(self, owner: str, key: IdempotencyKey) -> Submission | None:
        """Read the answer to an earlier submission with this key, before its body is checked again; None when new.

        Raises
        ------
        IdempotencyKeyReused
            The key was used within 24 h with another body.
        """
        with self._database.read() as connection:
            return idempotency.replay(connection, owner, key, self._database.now(connection))

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Return one job.

        Parameters
        ----------
        job_id : str
            Any text.
        owner : str, optional
            Whose job it has to be.

        Raises
        ------
        NotFound
            There is no such job, or it is another owner's.
        """
        with self._database.read() as connection:
            job = self._get(connection, job_id, self._database.now(connection))
        if owner is not None and job.owner != owner:
            raise NotFound(f"there is no job {job_id!r}")
        return job

    def version(self, job_id: str) -> int:
        """Return the version of a job only: cheap, for polling. Raises NotFound."""
        with self._database.read() as connection:
            return select_version(connection, job_id)

    def list(
        self,
        *,
        owner: str | None = None,
        state: JobState | None = None,
        selector: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = DEFAULT_PAGE,
        cursor: str | None = None,
    ) -> JobPage:
        """List jobs, newest first; all filters must match.

        Parameters
        ----------
        owner : str, optional
            Owner of the jobs.
        state : JobState, optional
            State of the jobs.
        selector : str, optional
            Selector of the jobs.
        labels : mapping of str to str, optional
            Labels that the jobs have.
        limit : int
            Maximum number of jobs on the page.
        cursor : str, optional
            `JobPage.next_cursor` of the page before.

        Raises
        ------
        BadCursor
            The cursor is none of this store's.
        """
        if any("\0" in text for text in (selector or "", *(labels or {}), *(labels or {}).values())):
            return JobPage([], None)  # no stored text holds a NUL, and PostgreSQL refuses to search for one
        query = sa.select(*JOB_COLUMNS).order_by(jobs.c.id.desc()).limit(limit + 1)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if selector is not None:
            query = query.where(jobs.c.selector == selector)
        for key, value in (labels or {}).items():
            labelled = sa.select(job_labels.c.job_id).where(job_labels.c.key == key, job_labels.c.value == value)
            query = query.where(jobs.c.id.in_(labelled))
        if cursor is not None:
            query = query.where(jobs.c.id < cursors.decode(cursor))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            page = rows[:limit]
            now = self._database.now(connection)
            items = to_jobs(connection, page, waiting_reasons(connection, page, now, self._running_per_owner))
        return JobPage(items, cursors.encode(page[-1].id) if len(rows) > limit else None)

    def request_cancel(self, job_id: str) -> Cancellation:
        """Cancel: a queued or waiting job at once, a running one through its worker.

        Raises NotFound; Conflict when finished.
        """
        with self._database.write() as connection:
            locked = select_job(connection, job_id, jobs.c.state, jobs.c.lease_until, lock=True)
            now = self._database.now(connection)
            state = JobState(locked.state)
            if state.terminal and state is not JobState.CANCELLED:
                raise Conflict(f"the job has {state} already: there is nothing to cancel")
            # A worker that stopped reporting will not report the end of the job.
            abandoned = locked.lease_until is not None and locked.lease_until < now
            if state in {JobState.QUEUED, JobState.WAITING} or (not state.terminal and abandoned):
                ended: dict[str, Any] = {"finished_at": now, "worker": None, "lease_until": None}
                change_state(connection, job_id, JobState.CANCELLED, now, **ended)
            elif state is JobState.RUNNING:
                change_state(connection, job_id, JobState.CANCELLING, now)
            return Cancellation(self._get(connection, job_id, now), already=state is JobState.CANCELLED)

    def resume(self, job_id: str, *, max_queued: int | None = None) -> Job:
        """Queue a failed or cancelled job again; it goes on from its finished units.

        Parameters
        ----------
        max_queued : int, optional
            As in `submit`.

        Raises
        ------
        NotFound
            There is no such job.
        Conflict
            It is in another state.
        QueueFull
            `max_queued` jobs of its owner are queued or waiting already.
        """
        with self._database.write() as connection:
            locked = select_job(connection, job_id, jobs.c.state, jobs.c.attempts, jobs.c.owner, lock=True)
            if locked.state not in RESUMABLE_STATES:
                raise Conflict(f"the job is {locked.state}: only a failed or cancelled job can be resumed")
            _refuse_full_queue(connection, locked.owner, max_queued)
            now = self._database.now(connection)
            change_state(
                connection,
                job_id,
                JobState.QUEUED,
                now,
                detail="resumed",
                error=None,
                attempts_limit=locked.attempts + MAX_ATTEMPTS,
                queued_at=now,
                not_before=0.0,
                finished_at=None,
                expired_at=None,
            )
            # What was to be removed of it is in the way of nothing, and what is removed already is made again.
            connection.execute(sa.delete(removals).where(removals.c.job_id == job_id))
            return self._get(connection, job_id, now)

    def delete(self, job_id: str) -> None:
        """Delete a finished job, its events and its log, and record that its files have to be removed.

        Raises
        ------
        NotFound
            There is no such job.
        Conflict
            It is active, or an active job reads its result.
        """
        with self._database.write() as connection:
            locked = select_job(connection, job_id, jobs.c.state, lock=True)
            if locked.state in ACTIVE_STATES:
                raise Conflict(f"the job is {locked.state}: cancel it before you delete it")
            refuse_used(connection, job_id)
            connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
            record_removal(connection, job_id, self._database.now(connection))

    def counts(self) -> dict[tuple[JobState, str], int]:
        """Count jobs by (state, selector)."""
        query = sa.select(jobs.c.state, jobs.c.selector, sa.func.count()).group_by(jobs.c.state, jobs.c.selector)
        with self._database.read() as connection:
            return {(JobState(state), selector): count for state, selector, count in connection.execute(query)}

    def oldest_queued_age(self) -> float | None:
        """Return the seconds that the oldest queued job has waited; None when none is queued."""
        with self._database.read() as connection:
            query = sa.select(sa.func.min(jobs.c.queued_at)).where(jobs.c.state == JobState.QUEUED)
            since = connection.execute(query).scalar_one()
            return None if since is None else max(0.0, self._database.now(connection) - since)

    def _get(self, connection: Connection, job_id: str, now: float) -> Job:
        row = select_whole_job(connection, job_id)
        (job,) = to_jobs(connection, [row], waiting_reasons(connection, [row], now, self._running_per_owner))
        return job


def refuse_used(connection: Connection, used_id: str) -> None:
    """Raise Conflict when an active job uses this dataset or job."""
    user = connection.execute(
        sa.select(jobs.c.id)
        .join(job_uses, job_uses.c.job_id == jobs.c.id)
        .where(job_uses.c.used_id == used_id, jobs.c.state.in_(ACTIVE_STATES))
        .limit(1)
    ).scalar_one_or_none()
    if user is not None:
        raise Conflict(f"{used_id} is in use by the active job {user}: wait for that job or cancel it first")


def _identical(connection: Connection, new: NewJob, reusable: Callable[[Job], bool]) -> Job | None:
    """Return the newest reusable job of the owner with the fingerprint of the new one."""
    query = (
        sa.select(*JOB_COLUMNS)
        .where(
            jobs.c.owner == new.owner,
            jobs.c.fingerprint == new.fingerprint,
            jobs.c.state == JobState.SUCCEEDED,
            jobs.c.expired_at.is_(None),
        )
        .order_by(jobs.c.id.desc())
    )
    same = to_jobs(connection, connection.execute(query).all(), {})
    return next((job for job in same if reusable(job)), None)


def _insert(connection: Connection, new: NewJob, now: float) -> str:
    """Store a queued job with its labels, its uses and its first event; returns its id. Raises NotFound."""
    _lock_used(connection, new.uses)
    job_id = new_id("job_")
    connection.execute(
        sa.insert(jobs).values(
            id=job_id,
            owner=new.owner,
            state=JobState.QUEUED,
            selector=new.selector,
            request=new.request,
            spec=new.spec,
            labels=dict(new.labels),
            fingerprint=new.fingerprint,
            priority=new.priority,
            vtime=next_virtual_time(connection, new.owner, new.priority),
            attempts=0,
            attempts_limit=MAX_ATTEMPTS,
            created_at=now,
            queued_at=now,
            not_before=0.0,
            version=1,
            last_seq=1,
            log_lines=0,
            traceparent=new.traceparent,
            callback_url=new.callback_url,
            lease_token=0,
        )
    )
    write_event(connection, job_id, Event(1, now, EventKind.STATE, {"state": JobState.QUEUED, "attempt": 0}))
    if new.labels:
        rows = [{"job_id": job_id, "key": key, "value": value} for key, value in new.labels.items()]
        connection.execute(sa.insert(job_labels), rows)
    if new.uses:
        rows = [{"job_id": job_id, "used_id": used} for used in sorted(set(new.uses))]
        connection.execute(sa.insert(job_uses), rows)
    return job_id


def _refuse_full_queue(connection: Connection, owner: str, max_queued: int | None) -> None:
    if max_queued is None:
        return
    idle = (JobState.QUEUED, JobState.WAITING)
    waiting = sa.select(jobs.c.id).where(jobs.c.owner == owner, jobs.c.state.in_(idle)).limit(max_queued)
    if connection.execute(sa.select(sa.func.count()).select_from(waiting.subquery())).scalar_one() >= max_queued:
        raise QueueFull(
            f"{max_queued} jobs of {owner} wait already, and more may not (TAMIS_MAX_QUEUED_JOBS): send it again when "
            "some have started.",
            retry_after=QUEUE_RETRY_SECONDS,
        )


def _lock_used(connection: Connection, uses: Collection[str]) -> None:
    """Lock the datasets and jobs that a new job uses against deletion until it is stored. Raises NotFound."""
    for used in sorted(set(uses)):
        table = datasets if used.startswith("ds_") else jobs
        query = sa.select(table.c.id).where(table.c.id == used).with_for_update(read=True)
        if not is_id(used) or connection.execute(query).first() is None:
            raise NotFound(f"there is no {table.name.removesuffix('s')} {used!r}")
