"""Conversion of rows to records, and changes of a job: every one raises its version and writes an event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from tamis.selectors.errors import NotFound
from tamis.service.job_state import JobState
from tamis.service.store.callbacks import announce
from tamis.service.store.ids import is_id
from tamis.service.store.models import job_events, job_uses, jobs
from tamis.service.store.records import Event, EventKind, Job, LogLine

AnyRow: TypeAlias = Row[*tuple[Any, ...]]
"""Row whose columns are chosen at run time."""

MAX_LOG_LINES: Final = 10_000
"""Maximum number of lines of one job's log; one more line says that the rest is dropped."""

MAX_LOG_MESSAGE: Final = 16_384
"""Maximum number of characters of one message."""

JOB_COLUMNS: Final = (
    jobs.c.id,
    jobs.c.owner,
    jobs.c.state,
    jobs.c.selector,
    jobs.c.request,
    jobs.c.spec,
    jobs.c.labels,
    jobs.c.fingerprint,
    jobs.c.priority,
    jobs.c.progress,
    jobs.c.error,
    jobs.c.attempts,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.finished_at,
    jobs.c.round,
    jobs.c.expired_at,
    jobs.c.version,
    jobs.c.traceparent,
    jobs.c.callback,
)


# Made once: making a statement takes longer than running it, and every read of a job runs these.
_JOB: Final = sa.select(*JOB_COLUMNS).where(jobs.c.id == sa.bindparam("job_id"))
_VERSION: Final = sa.select(jobs.c.version).where(jobs.c.id == sa.bindparam("job_id"))
_USES: Final = (
    sa.select(job_uses.c.job_id, job_uses.c.used_id)
    .where(job_uses.c.job_id.in_(sa.bindparam("job_ids", expanding=True)))
    .order_by(job_uses.c.used_id)
)


def select_job(connection: Connection, job_id: str, *columns: sa.Column[Any], lock: bool = False) -> AnyRow:
    """Read columns of one job, locked against other writers with `lock`. Raises NotFound."""
    query = sa.select(*columns).where(jobs.c.id == sa.bindparam("job_id"))
    return _first(connection, query.with_for_update() if lock else query, job_id)


def select_whole_job(connection: Connection, job_id: str) -> AnyRow:
    """Read `JOB_COLUMNS` of one job. Raises NotFound."""
    return _first(connection, _JOB, job_id)


def select_version(connection: Connection, job_id: str) -> int:
    """Read the version of one job. Raises NotFound."""
    return int(_first(connection, _VERSION, job_id).version)


def _first(connection: Connection, query: sa.Select[Any], job_id: str) -> AnyRow:
    # What a caller sends as an id may be any text, some of which a database refuses.
    row = connection.execute(query, {"job_id": job_id}).first() if is_id(job_id) else None
    if row is None:
        raise NotFound(f"there is no job {job_id!r}")
    return row


def to_jobs(connection: Connection, rows: Sequence[AnyRow], waiting: Mapping[str, str]) -> list[Job]:
    """Convert rows of `JOB_COLUMNS` to jobs, with the ids they use; `waiting` maps job ids to waiting reasons."""
    uses: dict[str, list[str]] = {row.id: [] for row in rows}
    for job_id, used_id in connection.execute(_USES, {"job_ids": list(uses)}) if uses else ():
        uses[job_id].append(used_id)
    return [
        Job(
            **{
                **row._mapping,
                "state": JobState(row.state),
                "error": row.error if row.state == JobState.FAILED else None,
            },
            uses=tuple(uses[row.id]),
            waiting_reason=waiting.get(row.id),
        )
        for row in rows
    ]


def to_event(row: AnyRow) -> Event:
    """Convert a row of `job_events`."""
    return Event(seq=row.seq, at=row.at, kind=EventKind(row.kind), data=row.data)


def change_state(
    connection: Connection, job_id: str, state: JobState, now: float, *, detail: str | None = None, **values: Any
) -> None:
    """Set a job's state and other columns; the caller holds the row's lock, or SQLite's write lock."""
    changed = connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id)
        .values(state=state, version=jobs.c.version + 1, last_seq=jobs.c.last_seq + 1, **values)
        .returning(jobs.c.last_seq, jobs.c.attempts, jobs.c.error)
    ).one()
    data: dict[str, Any] = {"state": state, "attempt": changed.attempts}
    if state is JobState.FAILED or (state is JobState.QUEUED and "error" in values):
        data["error"] = changed.error
    if detail is not None:
        data["detail"] = detail
    write_event(connection, job_id, Event(changed.last_seq, now, EventKind.STATE, data))
    if state.terminal:
        announce(connection, job_id, now)


def write_event(connection: Connection, job_id: str, event: Event) -> None:
    """Write one event; the caller took its number from `last_seq`."""
    connection.execute(
        sa.insert(job_events).values(job_id=job_id, seq=event.seq, at=event.at, kind=event.kind, data=dict(event.data))
    )


def write_logs(connection: Connection, job_id: str, lines: Sequence[LogLine]) -> None:
    """Append to a job's log, up to `MAX_LOG_LINES`."""
    if not lines:
        return
    row = select_job(connection, job_id, jobs.c.log_lines, lock=True)
    room = MAX_LOG_LINES - row.log_lines
    written = list(lines[:room]) if room > 0 else []
    if room >= 0 and len(lines) > room:
        written.append(
            LogLine(lines[-1].at, "warning", f"the log is full: lines after {MAX_LOG_LINES} are dropped", {})
        )
    if not written:
        return
    last = connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id)
        .values(last_seq=jobs.c.last_seq + len(written), log_lines=jobs.c.log_lines + len(written))
        .returning(jobs.c.last_seq)
    ).scalar_one()
    connection.execute(
        sa.insert(job_events),
        [
            {
                "job_id": job_id,
                "seq": last - len(written) + 1 + index,
                "at": line.at,
                "kind": EventKind.LOG,
                "data": {**line.fields, "level": line.level, "message": line.message[:MAX_LOG_MESSAGE]},
            }
            for index, line in enumerate(written)
        ],
    )
