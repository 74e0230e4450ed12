"""Long polls read a job when it changed, and its version else."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tamis.selectors.errors import NotFound
from tamis.service.api import long_poll
from tamis.service.store import Job, NewJob, Store


class Counted:
    """The jobs of a store, their reads counted."""

    def __init__(self, store: Store) -> None:
        self._jobs = store.jobs
        self.reads = self.polls = 0

    def get(self, job_id: str) -> Job:
        self.reads += 1
        return self._jobs.get(job_id)

    def version(self, job_id: str) -> int:
        self.polls += 1
        return self._jobs.version(job_id)


class Connected:
    async def is_disconnected(self) -> bool:
        return False


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store(f"sqlite:///{tmp_path / 'tamis.sqlite3'}")
    store.migrate()
    yield store
    store.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_poll, "POLL_INTERVAL_SECONDS", 0.01)


def wait(jobs: Counted, job: Job, seconds: float, draining: threading.Event | None = None) -> Job:
    service: Any = SimpleNamespace(store=SimpleNamespace(jobs=jobs), draining=draining or threading.Event())
    request: Any = Connected()
    return asyncio.run(long_poll.wait_for(request, service, job, seconds, lambda job: job.state.terminal))


def submitted(store: Store) -> Job:
    return store.jobs.submit(NewJob(owner="ann", request={}, spec={}, selector="random", fingerprint=None)).job


def test_an_unchanged_job_is_read_once_at_the_end(store: Store) -> None:
    jobs, job = Counted(store), submitted(store)
    assert wait(jobs, job, 0.2) == job
    assert jobs.reads == 1 and jobs.polls > 3
    assert wait(jobs, job, 0.0) is job and jobs.reads == 1


def test_a_change_ends_the_wait(store: Store) -> None:
    jobs, job = Counted(store), submitted(store)
    timer = threading.Timer(0.1, store.jobs.request_cancel, (job.id,))
    timer.start()
    started = time.monotonic()
    assert wait(jobs, job, 60).state == "cancelled"
    assert time.monotonic() - started < 30 and jobs.reads == 1
    timer.join()


def test_draining_ends_the_wait(store: Store) -> None:
    draining = threading.Event()
    draining.set()
    jobs, job = Counted(store), submitted(store)
    assert wait(jobs, job, 60, draining) is job and jobs.polls == 0


def test_a_job_deleted_meanwhile_is_not_found(store: Store) -> None:
    job = submitted(store)
    store.jobs.request_cancel(job.id)
    store.jobs.delete(job.id)
    with pytest.raises(NotFound):
        wait(Counted(store), job, 1.0)
