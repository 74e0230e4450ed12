"""Real supervisors, real job processes, real signals."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tamis.service.job_state import JobState
from tamis.service.metrics_model import Key
from tamis.service.store import EventKind, Job, Store

Submit = Callable[..., Any]
StartWorker = Callable[..., Any]
Ended = Callable[[str], Job]
Computing = Callable[[str], int]
WaitUntil = Callable[[Callable[[], Any], Callable[[Any], object]], Any]

SUCCEEDED, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
RUNNING, QUEUED = JobState.RUNNING, JobState.QUEUED


def lines(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in (b"Z", b"X")


@pytest.fixture
def computing(home: Path, wait_until: WaitUntil) -> Callable[[str], int]:
    """Wait until a job's process is at work; give its process id."""
    return lambda job_id: int(wait_until(lambda: lines(home / "jobs" / job_id / "attempts"), bool)[0])


def messages(store: Store, job_id: str) -> list[str]:
    return [line.data["message"] for line in store.events.logs(job_id)]


# The plain course


def test_a_job_runs(*, store: Store, submit: Submit, worker: StartWorker, home: Path, ended: Ended) -> None:
    worker()
    job_id = submit(params={"units": 3, "seconds": 0.3}).job_id
    job = ended(job_id)
    assert (job.state, job.attempts, job.error) == (SUCCEEDED, 1, None)
    assert job.progress is not None and job.progress["units_done"] == 3
    assert job.started_at is not None and job.finished_at is not None and job.started_at <= job.finished_at
    assert (home / "jobs" / job_id / "threads").read_text() == "2"
    events = store.events.list(job_id)
    assert [event.data["state"] for event in events if event.kind is EventKind.STATE] == [
        "queued",
        "running",
        "succeeded",
    ]
    assert any(event.kind is EventKind.PROGRESS for event in events)


def test_a_process_runs_one_job_at_a_time_and_then_another(
    *, store: Store, submit: Submit, worker: StartWorker, home: Path, ended: Ended
) -> None:
    worker(slots=2)
    jobs = [submit(params={"units": 2, "seconds": 0.05}).job_id for _ in range(8)]
    runs = [ended(job) for job in jobs]
    assert [job.state for job in runs] == [SUCCEEDED] * 8
    processes: dict[int, list[Job]] = {}
    for job in runs:
        (pid,) = lines(home / "jobs" / job.id / "results")
        processes.setdefault(pid, []).append(job)
    assert len(processes) <= 3  # one more than there are slots
    for pid, taken in processes.items():
        assert alive(pid)
        for earlier, later in pairwise(taken):
            assert earlier.finished_at is not None and later.started_at is not None
            assert earlier.finished_at <= later.started_at
    assert {(home / "jobs" / job / "threads").read_text() for job in jobs} == {"1"}


@pytest.mark.parametrize("act", ["bug", "deaf", "hoard"])
def test_a_process_that_did_not_end_in_good_order_is_not_used_again(
    *, store: Store, submit: Submit, worker: StartWorker, home: Path, ended: Ended, computing: Computing, act: str
) -> None:
    worker(grace=0.1)
    job_id = submit(params={"act": act}).job_id
    pid = computing(job_id)
    if act == "deaf":
        store.jobs.request_cancel(job_id)
    ended(job_id)
    later = submit().job_id
    assert ended(later).state is SUCCEEDED
    assert computing(later) != pid and not alive(pid)


def test_the_worker_is_counted(*, store: Store, submit: Submit, worker: StartWorker, wait_until: WaitUntil) -> None:
    one = worker(slots=2)
    wait_until(store.workers.live, lambda live: [(w.pid, w.slots, w.running) for w in live] == [(one.pid, 2, 0)])
    job_id = submit(params={"act": "deaf"}).job_id
    wait_until(store.workers.live, lambda live: [w.running for w in live] == [1])
    store.jobs.request_cancel(job_id)
    assert one.stop() == 0
    assert store.workers.live() == []


def test_what_a_job_prints_goes_to_its_log(*, store: Store, submit: Submit, worker: StartWorker, ended: Ended) -> None:
    worker()
    job_id = submit(params={"act": "talk"}).job_id
    assert ended(job_id).state is SUCCEEDED
    logs = {line.data["message"]: line.data for line in store.events.logs(job_id)}
    assert logs["logged"] == {"level": "info", "message": "logged", "unit": 7}
    assert logs["printed on standard output"]["stream"] == "stderr"
    assert '{"kind": "outcome", "state": "failed"}' in logs
    assert "written to standard error" in logs


# Failures


@pytest.mark.parametrize(
    ("act", "code", "detail"),
    [
        ("raise", "bad-data", "row group 3 can't be decoded"),
        ("bug", "internal", "RuntimeError"),
    ],
)
def test_permanent_failures(
    *, store: Store, submit: Submit, worker: StartWorker, act: str, code: str, detail: str, ended: Ended
) -> None:
    worker()
    job_id = submit(params={"act": act}).job_id
    job = ended(job_id)
    assert (job.state, job.attempts) == (FAILED, 1)
    assert job.error is not None and job.error["code"] == code and detail in job.error["detail"]
    assert {"type", "title", "status", "detail", "code"} <= set(job.error)
    assert "Traceback" not in str(job.error)
    logged = [line.data for line in store.events.logs(job_id) if line.data["level"] == "error"]
    if act == "raise":
        assert (job.error["shard"], job.error["row_group"]) == ("a.parquet", 3)
        assert logged == [{"level": "error", "message": detail, "code": code}]
    else:
        assert "Traceback" in logged[0]["traceback"]


@pytest.mark.parametrize(
    ("act", "code", "detail"),
    [
        ("storage", "storage", "the disk does not answer"),
        ("disk-full", "storage", "full"),
        ("memory-error", "out-of-memory", "memory"),
        ("segfault", "job-process-died", "SIGSEGV"),
        ("kill", "job-process-died", "SIGKILL (out of memory?)"),
        ("exit", "job-process-died", "status 3"),
    ],
)
def test_failures_that_are_tried_again(
    *, store: Store, submit: Submit, worker: StartWorker, home: Path, act: str, code: str, detail: str, ended: Ended
) -> None:
    worker()
    job_id = submit(params={"units": 3, "at": 1, "act": act, "times": 1}).job_id
    job = ended(job_id)
    assert (job.state, job.attempts, job.error) == (SUCCEEDED, 2, None)
    (failure,) = [event.data["error"] for event in store.events.list(job_id) if "error" in event.data]
    assert failure["code"] == code and detail in failure["detail"]
    assert lines(home / "jobs" / job_id / "computed") == [0, 1, 2]
    if act == "segfault":
        assert any("Segmentation fault" in message for message in messages(store, job_id))


def test_attempts_are_limited_and_resume_grants_more(
    *, store: Store, submit: Submit, worker: StartWorker, ended: Ended, wait_until: WaitUntil
) -> None:
    worker()
    job_id = submit(params={"act": "kill", "times": 3}).job_id
    job = ended(job_id)
    assert (job.state, job.attempts) == (FAILED, 3)
    assert job.error is not None and "SIGKILL" in job.error["detail"]
    store.jobs.resume(job_id)
    job = ended(job_id)
    assert (job.state, job.attempts, job.error) == (SUCCEEDED, 4, None)
    totals = wait_until(store.totals.read, lambda totals: Key("tamis_attempts", "fake", "succeeded") in totals)
    outcomes = {key.label: count for key, count in totals.items() if key.name == "tamis_attempts"}
    assert outcomes == {"again": 2, "failed": 1, "succeeded": 1}
    assert totals[Key("tamis_retries", "fake", "")] == 3


def test_a_failure_ends_that_job_and_nothing_else(
    *, store: Store, submit: Submit, worker: StartWorker, ended: Ended
) -> None:
    worker(slots=2)
    good = submit(params={"units": 10, "seconds": 0.1}).job_id
    bad = [submit(params={"act": act}).job_id for act in ("raise", "bug")]
    after = submit().job_id
    assert [ended(job).state for job in (good, *bad, after)] == [SUCCEEDED, FAILED, FAILED, SUCCEEDED]


# Limits


@pytest.mark.parametrize("params", [{"units": 1000, "seconds": 0.05}, {"act": "spin"}], ids=["units", "kernel"])
def test_the_limit_of_seconds(
    *, submit: Submit, worker: StartWorker, ended: Ended, home: Path, params: dict[str, Any]
) -> None:
    worker()
    job_id = submit(params=params, limits={"seconds": 0.5}).job_id
    job = ended(job_id)  # on a busy machine the limit can pass before the first unit begins
    assert (job.state, job.attempts) == (FAILED, 1)
    assert job.error is not None and job.error["code"] == "limit-exceeded" and "0.5 s" in job.error["detail"]
    assert job.error["errors"][0]["pointer"] == "/limits/seconds"
    assert not any(alive(int(pid)) for pid in lines(home / "jobs" / job_id / "attempts"))


@pytest.mark.parametrize("act", ["grow", "swell"])
def test_the_limit_of_memory(
    *, submit: Submit, worker: StartWorker, ended: Ended, computing: Computing, act: str
) -> None:
    worker()
    job_id = submit(params={"act": act}, limits={"memory_bytes": 700 * 2**20}).job_id
    pid = computing(job_id)
    job = ended(job_id)
    assert (job.state, job.attempts) == (FAILED, 1)
    assert job.error is not None and job.error["code"] == "limit-exceeded" and "700 MiB" in job.error["detail"]
    assert job.error["errors"][0]["pointer"] == "/limits/memory_bytes"
    assert not alive(pid)


def test_a_job_within_its_limits(*, store: Store, submit: Submit, worker: StartWorker, ended: Ended) -> None:
    worker()
    job_id = submit(params={"units": 5, "seconds": 0.1}, limits={"memory_bytes": 2**30, "seconds": 60}).job_id
    assert ended(job_id).state is SUCCEEDED


# Cancel


def test_cancel_between_units(
    *, store: Store, submit: Submit, worker: StartWorker, ended: Ended, computing: Computing
) -> None:
    worker(grace=60)
    job_id = submit(params={"units": 10_000, "seconds": 0.05}).job_id
    computing(job_id)
    assert store.jobs.request_cancel(job_id).job.state is JobState.CANCELLING
    job = ended(job_id)
    assert (job.state, job.error) == (CANCELLED, None)
    assert "killed" not in " ".join(messages(store, job_id))


def test_cancel_kills_what_does_not_listen(
    *,
    store: Store,
    submit: Submit,
    worker: StartWorker,
    home: Path,
    ended: Ended,
    wait_until: WaitUntil,
    computing: Computing,
) -> None:
    worker(grace=0.5)
    job_id = submit(params={"act": "deaf"}).job_id
    pid = computing(job_id)
    (child,) = wait_until(lambda: lines(home / "jobs" / job_id / "children"), bool)
    store.jobs.request_cancel(job_id)
    assert ended(job_id).state is CANCELLED
    assert "did not stop within 0.5 s" in " ".join(messages(store, job_id))
    assert not alive(pid)
    wait_until(lambda: alive(child), lambda lives: not lives)


def test_cancel_inside_a_kernel(
    *, store: Store, submit: Submit, worker: StartWorker, ended: Ended, computing: Computing
) -> None:
    worker(grace=0.5)
    job_id = submit(params={"act": "spin"}).job_id
    pid = computing(job_id)
    store.jobs.request_cancel(job_id)
    assert ended(job_id).state is CANCELLED
    assert not alive(pid)


def test_resume_after_cancel_goes_on(
    *, store: Store, submit: Submit, worker: StartWorker, home: Path, ended: Ended, wait_until: WaitUntil
) -> None:
    worker()
    job_id = submit(params={"units": 20, "seconds": 0.1}).job_id
    wait_until(lambda: len(lines(home / "jobs" / job_id / "computed")), lambda done: done >= 3)
    store.jobs.request_cancel(job_id)
    assert ended(job_id).state is CANCELLED
    store.jobs.resume(job_id)
    assert ended(job_id).state is SUCCEEDED
    assert lines(home / "jobs" / job_id / "computed") == list(range(20))


# Deaths


@pytest.mark.parametrize("seed", range(3))
def test_the_job_process_is_killed_at_any_moment(
    *, store: Store, submit: Submit, worker: StartWorker, home: Path, seed: int, ended: Ended, computing: Computing
) -> None:
    worker()
    job_id = submit(params={"units": 20, "seconds": 0.05}).job_id
    pid = computing(job_id)
    time.sleep(random.Random(seed).random())
    os.kill(pid, signal.SIGKILL)
    job = ended(job_id)
    assert (job.state, job.attempts) == (SUCCEEDED, 2)
    assert len(lines(home / "jobs" / job_id / "results")) == 1
    computed = lines(home / "jobs" / job_id / "computed")
    assert sorted(set(computed)) == list(range(20)) and len(computed) <= 21


def test_the_supervisor_is_killed(
    *,
    store: Store,
    submit: Submit,
    worker: StartWorker,
    home: Path,
    ended: Ended,
    wait_until: WaitUntil,
    computing: Computing,
) -> None:
    first = worker(lease=0.8)
    job_id = submit(params={"units": 40, "seconds": 0.05}).job_id
    pid = computing(job_id)
    first.kill()
    wait_until(lambda: alive(pid), lambda lives: not lives)  # no orphan computes on
    assert store.jobs.get(job_id).state is RUNNING
    worker(lease=0.8)
    job = ended(job_id)
    assert (job.state, job.attempts) == (SUCCEEDED, 2)
    assert len(lines(home / "jobs" / job_id / "results")) == 1
    computed = lines(home / "jobs" / job_id / "computed")
    assert sorted(set(computed)) == list(range(40)) and len(computed) <= 41


def test_the_spare_dies_with_its_supervisor(
    *, store: Store, submit: Submit, worker: StartWorker, wait_until: WaitUntil
) -> None:
    one = worker()
    (spare,) = wait_until(lambda: _children(one.pid), bool)
    one.kill()
    wait_until(lambda: alive(spare), lambda lives: not lives)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def test_a_stopped_supervisor_loses_its_job(
    *,
    store: Store,
    submit: Submit,
    worker: StartWorker,
    home: Path,
    ended: Ended,
    wait_until: WaitUntil,
    computing: Computing,
) -> None:
    """SIGSTOP, as a host that hangs: another worker adopts the job, and what wakes up later writes nothing."""
    first = worker(lease=0.8)
    job_id = submit(params={"units": 60, "seconds": 0.05}).job_id
    computing(job_id)
    first.signal(signal.SIGSTOP)
    worker(lease=0.8)
    wait_until(lambda: store.jobs.get(job_id).attempts, lambda attempts: attempts == 2)
    first.signal(signal.SIGCONT)
    job = ended(job_id)
    assert (job.state, job.attempts) == (SUCCEEDED, 2)
    # The attempts took turns in the job's folder: no unit was computed by both but the one that was cut off.
    computed = lines(home / "jobs" / job_id / "computed")
    assert sorted(set(computed)) == list(range(60)) and len(computed) <= 61
    states = [event.data["state"] for event in store.events.list(job_id) if event.kind is EventKind.STATE]
    assert states == ["queued", "running", "running", "succeeded"]


def test_sigterm_gives_the_job_back(
    *,
    store: Store,
    submit: Submit,
    worker: StartWorker,
    home: Path,
    ended: Ended,
    wait_until: WaitUntil,
    computing: Computing,
) -> None:
    first = worker()
    job_id = submit(params={"units": 40, "seconds": 0.05}).job_id
    pid = computing(job_id)
    wait_until(lambda: len(lines(home / "jobs" / job_id / "computed")), lambda done: done >= 3)
    assert first.stop() == 0
    job = store.jobs.get(job_id)
    assert (job.state, job.attempts) == (QUEUED, 0)
    assert not alive(pid)
    assert store.totals.read()[Key("tamis_attempts", "fake", "again")] == 1  # stored before the worker left
    worker()
    job = ended(job_id)
    assert (job.state, job.attempts) == (SUCCEEDED, 1)
    computed = lines(home / "jobs" / job_id / "computed")
    assert sorted(set(computed)) == list(range(40)) and len(computed) <= 41


def test_a_spare_that_can_not_start_costs_no_job(
    *, store: Store, submit: Submit, worker: StartWorker, ended: Ended, wait_until: WaitUntil
) -> None:
    broken = worker(runner="runners:missing")
    job_id = submit().job_id
    wait_until(broken.stderr.read_text, lambda text: "AttributeError" in text)
    assert store.jobs.get(job_id).state is QUEUED
    assert broken.stop() == 0
    worker()
    assert ended(job_id).attempts == 1


def test_many_jobs_under_many_deaths(
    *, store: Store, submit: Submit, worker: StartWorker, home: Path, ended: Ended, wait_until: WaitUntil
) -> None:
    """Two workers; job processes and workers are killed at random; every job finishes, and once."""
    chance = random.Random(7)
    jobs = [submit(params={"units": 10, "seconds": 0.05}).job_id for _ in range(8)]
    workers = [worker(slots=2, lease=2.5), worker(slots=2, lease=2.5)]
    for _ in range(3):
        busy = wait_until(lambda: [j.id for j in store.jobs.list(state=RUNNING).items], bool)
        pid = lines(home / "jobs" / chance.choice(busy) / "attempts")[-1:]
        with contextlib.suppress(ProcessLookupError):
            for one in pid:
                os.kill(one, signal.SIGKILL)
        time.sleep(chance.random() / 2)
    workers.pop().kill()
    workers.append(worker(slots=2, lease=2.5))
    for job_id in jobs:
        assert ended(job_id).state is SUCCEEDED
        # A process that is killed with its result written, but not told, leaves it to the next: that finishes the job.
        states = [event.data["state"] for event in store.events.list(job_id) if event.kind is EventKind.STATE]
        assert states.count(SUCCEEDED) == 1 and states[-1] == SUCCEEDED
