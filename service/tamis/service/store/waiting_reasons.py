"""Reasons why jobs wait."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tamis.service.job_state import JobState
from tamis.service.store.fair_share import ORDER, running
from tamis.service.store.job_rows import AnyRow
from tamis.service.store.models import jobs, questions
from tamis.service.store.workers import live_workers


def waiting_reasons(
    connection: Connection, rows: Collection[AnyRow], now: float, running_per_owner: int | None
) -> dict[str, str]:
    """Return the reason of each queued or waiting job, by id."""
    return _questions(connection, rows) | _places_in_the_queue(connection, rows, now, running_per_owner)


def _questions(connection: Connection, rows: Collection[AnyRow]) -> dict[str, str]:
    waiting = [row.id for row in rows if row.state == JobState.WAITING]
    if not waiting:
        return {}
    open_questions = (
        sa.select(questions.c.job_id, questions.c.round, questions.c.missing)
        .join(jobs, sa.and_(jobs.c.id == questions.c.job_id, jobs.c.round == questions.c.round))
        .where(jobs.c.id.in_(waiting))
    )
    return {
        row.job_id: f"it asks for the scores of {row.missing:,} row{'s' * (row.missing != 1)} (round {row.round})"
        for row in connection.execute(open_questions)
    }


def _places_in_the_queue(
    connection: Connection, rows: Collection[AnyRow], now: float, most: int | None
) -> dict[str, str]:
    queued = [row for row in rows if row.state == JobState.QUEUED]
    if not queued:
        return {}
    if not live_workers(connection, now):
        return dict.fromkeys((row.id for row in queued), "no worker is running: start one with `tamis worker`")
    # Places in the queue are counted over all that wait, then selected: one pass, whatever the page's size.
    places = (
        sa.select(
            jobs.c.id,
            jobs.c.owner,
            jobs.c.not_before,
            jobs.c.attempts,
            jobs.c.error,
            sa.func.row_number().over(order_by=ORDER).label("place"),
        )
        .where(jobs.c.state == JobState.QUEUED)
        .subquery()
    )
    running_jobs = {} if most is None else running(connection, {row.owner for row in queued})
    wanted = sa.select(places).where(places.c.id.in_([row.id for row in queued]))
    return {
        row.id: _reason(row, now, full=most is not None and running_jobs.get(row.owner, 0) >= most)
        for row in connection.execute(wanted)
    }


def _reason(row: AnyRow, now: float, *, full: bool) -> str:
    if row.not_before > now:
        failure = (row.error or {}).get("detail", "the attempt failed")
        return f"attempt {row.attempts} failed ({failure}); the next starts in {row.not_before - now:.0f} s"
    if full:
        return "as many jobs of its owner are running as one owner may have at a time: it waits for one of them to end"
    ahead = row.place - 1
    if ahead == 0:
        return "it is next: waits for a worker that is free and warmed up"
    return f"{ahead} job{'s are' if ahead > 1 else ' is'} ahead of it in the queue"
