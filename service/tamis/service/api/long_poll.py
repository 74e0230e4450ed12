"""Long polls: wait for a job to change. A poll reads the job's version only; the job is read when it changed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from tamis.service.api.context import Service
from tamis.service.store import Job

POLL_INTERVAL_SECONDS: Final = 0.2
"""Time between two polls of the store."""

MAX_WAIT_SECONDS: Final = 60.0
"""Longest time that one request waits."""

_WAIT: Final = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", re.IGNORECASE)


def wait_seconds(prefer: str | None) -> float | None:
    """Read ``wait=N`` of a Prefer header, bounded by `MAX_WAIT_SECONDS`; None where there is none."""
    wanted = _WAIT.search(prefer or "")
    return min(float(wanted.group(1)), MAX_WAIT_SECONDS) if wanted else None


async def wait_for(request: Request, service: Service, job: Job, seconds: float, ready: Callable[[Job], bool]) -> Job:
    """Wait until a job is ready, and return it as it is then.

    Parameters
    ----------
    request : Request
        Ends the wait when its sender disconnects.
    service : Service
        Ends the wait when it is draining.
    job : Job
        As it was just read.
    seconds : float
        Longest time to wait; the job is returned then, ready or not.
    ready : callable
        Condition on the job.

    Raises
    ------
    NotFound
        The job was deleted meanwhile.
    """
    deadline = time.monotonic() + seconds
    fresh = True
    while not ready(job):
        left = deadline - time.monotonic()
        if left <= 0 or service.draining.is_set() or await request.is_disconnected():
            break
        await asyncio.sleep(min(left, POLL_INTERVAL_SECONDS))
        fresh = await run_in_threadpool(service.store.jobs.version, job.id) != job.version
        if fresh:
            job = await run_in_threadpool(service.store.jobs.get, job.id)
    # The reason why a job waits changes with its place in the queue, without a new version.
    return job if fresh else await run_in_threadpool(service.store.jobs.get, job.id)
