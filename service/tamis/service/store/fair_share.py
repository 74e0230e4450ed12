"""Order of the queue: priorities, fair share among owners, and the cap on running jobs of one owner.

Turns are start-time fair queueing with jobs of equal cost. Within one priority a job gets the virtual time
``max(V, F)``: V that of the job which started last, F one more than its owner's last. So owners alternate, however many
jobs each has submitted, and one who comes late is neither behind the others' backlog nor paid for having been away.

References
----------
P. Goyal, H. M. Vin, H. Cheng: Start-time Fair Queuing, SIGCOMM 1996, section 2.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tamis.service.job_state import LEASED_STATES, JobState
from tamis.service.store.models import jobs

STARTED_STATES = frozenset(JobState) - {JobState.QUEUED, JobState.CANCELLED}
"""States of jobs that started; cancelled ones may not have, and are left out."""

ORDER = (jobs.c.priority.desc(), jobs.c.vtime, jobs.c.id)
"""Sort keys of the queue, the next job first."""


def next_virtual_time(connection: Connection, owner: str, priority: int) -> float:
    """Return the virtual time of a new job."""
    turns = [0.0]
    for state in sorted(STARTED_STATES):  # one index lookup for each, whatever the number of jobs
        turns.append(_last(connection, jobs.c.state == state, jobs.c.priority == priority) or 0.0)
    last = _last(connection, jobs.c.owner == owner, jobs.c.priority == priority)
    if last is not None:
        turns.append(last + 1.0)
    return max(turns)


def may_start(now: float, running_per_owner: int | None) -> list[sa.ColumnElement[bool]]:
    """Return the conditions on jobs that may start."""
    ready = [jobs.c.state == JobState.QUEUED, jobs.c.not_before <= now]
    if running_per_owner is not None:
        leased = jobs.alias("leased")
        full = (
            sa.select(leased.c.owner)
            .where(leased.c.state.in_(LEASED_STATES))
            .group_by(leased.c.owner)
            .having(sa.func.count() >= running_per_owner)
        )
        ready.append(jobs.c.owner.not_in(full))
    return ready


def running(connection: Connection, owners: set[str]) -> dict[str, int]:
    """Count the jobs of each owner that run."""
    query = (
        sa.select(jobs.c.owner, sa.func.count().label("jobs"))
        .where(jobs.c.state.in_(LEASED_STATES), jobs.c.owner.in_(owners))
        .group_by(jobs.c.owner)
    )
    return {row.owner: row.jobs for row in connection.execute(query)}


def _last(connection: Connection, *where: sa.ColumnElement[bool]) -> Any:
    query = sa.select(jobs.c.vtime).where(*where).order_by(jobs.c.vtime.desc()).limit(1)
    return connection.execute(query).scalar_one_or_none()
