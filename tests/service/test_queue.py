"""What workers do with jobs: claims, leases, fences."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tamis.service.job_state import JobState
from tamis.service.retry import Backoff, JobRetry
from tamis.service.store import Claim, Control, EventKind, LogLine, Store
from tamis.service.store.jobs import MAX_ATTEMPTS

pytestmark = pytest.mark.both_databases

Submit = Callable[..., Any]

EXPIRED = -1.0
"""A lease that ran out when it was given."""

JOBS = 100
"""Claimed by processes that race."""

PROBLEM = {"code": "bad-data", "detail": "bad"}
TRANSIENT = {"code": "storage", "detail": "slow"}


def claimed(store: Store, worker: str = "w", lease: float = 60) -> Claim:
    claim = store.queue.claim(worker, lease)
    assert claim is not None
    return claim


def no_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.queue, "_retry", JobRetry(Backoff((0.0,), endless=True)))


def test_the_queue_is_in_order(store: Store, submit: Submit) -> None:
    first, second = submit().job_id, submit().job_id
    urgent, later = submit(priority=1).job_id, submit(priority=-1).job_id
    assert [claimed(store).job.id for _ in range(4)] == [urgent, first, second, later]
    assert store.queue.claim("w", 60) is None


# Turns


def owners(store: Store, count: int) -> str:
    return "".join(claimed(store).job.owner[0] for _ in range(count))


def test_owners_take_turns(store: Store, submit: Submit) -> None:
    for owner in ("ann", "ann", "ann", "ann", "bob", "bob", "cid"):
        submit(owner=owner)
    assert owners(store, 7) == "abcabaa"


def test_who_comes_late_waits_for_no_backlog_and_is_not_paid_for_it(store: Store, submit: Submit) -> None:
    for _ in range(6):
        submit(owner="ann")
    assert owners(store, 3) == "aaa"
    for _ in range(3):
        submit(owner="bob")
    assert owners(store, 6) == "bababa"
    submit(owner="bob")
    submit(owner="ann")
    assert owners(store, 2) == "ba"


def test_turns_are_taken_within_a_priority(store: Store, submit: Submit) -> None:
    for _ in range(3):
        submit(owner="ann")
    for _ in range(2):
        submit(owner="ann", priority=5)
    assert owners(store, 2) == "aa"
    submit(owner="bob")
    assert owners(store, 4) == "abaa"


def test_a_resumed_job_keeps_its_turn(store: Store, submit: Submit) -> None:
    first = submit(owner="ann").job_id
    submit(owner="ann")
    store.jobs.request_cancel(first)
    submit(owner="bob")
    store.jobs.resume(first)
    assert claimed(store).job.id == first


@pytest.fixture
def capped(store_url: str, store: Store) -> Iterator[Store]:
    """The same database, where an owner may have one job running."""
    capped = Store(store_url, running_per_owner=1)
    yield capped
    capped.close()


def test_an_owner_has_so_many_jobs_running(capped: Store, submit: Submit) -> None:
    capped.workers.report("w", host="h", pid=1, slots=4, running=0)
    first, second = submit(owner="ann").job_id, submit(owner="ann").job_id
    third = submit(owner="bob").job_id
    held = claimed(capped)
    assert held.job.id == first
    assert "as many jobs of its owner are running" in (capped.jobs.get(second).waiting_reason or "")
    assert claimed(capped).job.id == third
    assert capped.queue.claim("w", 60) is None
    capped.queue.succeed(held.lease)
    assert claimed(capped).job.id == second


def test_an_abandoned_job_is_adopted_under_the_cap(capped: Store, submit: Submit) -> None:
    job_id = submit(owner="ann").job_id
    claimed(capped, lease=EXPIRED)
    submit(owner="ann")
    assert claimed(capped, "other").job.id == job_id
    assert capped.queue.claim("other", 60) is None


def test_claims_side_by_side_keep_to_the_cap(capped: Store, submit: Submit) -> None:
    for _ in range(8):
        submit(owner="ann")
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: capped.queue.claim(f"w{n}", 60), range(8)))
    assert sum(claim is not None for claim in claims) == 1


def test_a_worker_looks_for_what_is_to_stop(store: Store, submit: Submit) -> None:
    jobs = [submit().job_id for _ in range(3)]
    for worker in ("a", "a", "b"):
        claimed(store, worker)
    for job_id in jobs[1:]:
        store.jobs.request_cancel(job_id)
    assert store.queue.cancelling("a") == {jobs[1]} and store.queue.cancelling("b") == {jobs[2]}
    assert store.queue.cancelling("c") == frozenset()


# Claims and leases


def test_a_claim(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    claim = claimed(store)
    assert claim.job.state is JobState.RUNNING
    assert (claim.job.id, claim.job.attempts, claim.lease.worker) == (job_id, 1, "w")
    assert claim.job == store.jobs.get(job_id)
    assert claim.job.started_at is not None


def test_a_heartbeat_keeps_the_job(store: Store, submit: Submit) -> None:
    submit()
    claim = claimed(store, lease=EXPIRED)
    assert store.queue.heartbeat(claim.lease, 60, progress={"fraction": 0.5}) is Control.CONTINUE
    assert store.queue.claim("other", 60) is None
    version = store.jobs.version(claim.job.id)
    assert store.queue.heartbeat(claim.lease, 60, progress={"fraction": 0.5}) is Control.CONTINUE
    assert store.jobs.version(claim.job.id) == version  # nothing new to see
    store.queue.heartbeat(claim.lease, 60, progress={"fraction": 0.6})
    assert store.jobs.version(claim.job.id) == version + 1


def test_a_short_job_shows_its_progress_too(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    store.queue.succeed(claimed(store).lease, progress={"fraction": 1.0}, logs=[LogLine(0, "info", "done", {})])
    events = store.events.list(job_id)
    assert [event.kind for event in events[2:]] == [EventKind.PROGRESS, EventKind.LOG, EventKind.STATE]
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]


def test_an_expired_lease_is_another_workers(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    urgent = claimed(store, lease=EXPIRED)
    submit(priority=9)
    adopted = claimed(store, "other")
    assert adopted.job.id == job_id and adopted.job.attempts == 2
    assert adopted.job.started_at == urgent.job.started_at


WRITES: dict[str, Callable[[Store, Claim], object]] = {
    "heartbeat": lambda store, claim: store.queue.heartbeat(
        claim.lease, 60, progress={"stale": 1}, logs=[LogLine(0, "info", "stale", {})]
    ),
    "succeed": lambda store, claim: store.queue.succeed(claim.lease, progress={"stale": 1}),
    "fail": lambda store, claim: store.queue.fail(claim.lease, PROBLEM),
    "retry": lambda store, claim: store.queue.fail(claim.lease, TRANSIENT),
    "cancelled": lambda store, claim: store.queue.cancelled(claim.lease),
    "release": lambda store, claim: store.queue.release(claim.lease),
    "wait": lambda store, claim: store.queue.wait(claim.lease, 0, bytes(8)),
}


@pytest.mark.parametrize("write", list(WRITES))
@pytest.mark.parametrize("worker", ["other", "w"])
def test_a_stale_workers_writes_are_refused(store: Store, submit: Submit, write: str, worker: str) -> None:
    """Also when the same worker claimed the job again: it is another claim."""
    job_id = submit().job_id
    stale = claimed(store, "w", EXPIRED)
    fresh = claimed(store, worker)
    before, events = store.jobs.get(job_id), store.events.list(job_id)
    assert WRITES[write](store, stale) in (None, Control.LOST)
    assert store.jobs.get(job_id) == before
    assert store.events.list(job_id) == events
    assert store.queue.succeed(fresh.lease) is JobState.SUCCEEDED


@pytest.mark.parametrize("write", list(WRITES))
@pytest.mark.parametrize("end", ["succeed", "fail", "cancelled", "release", "wait"])
def test_a_job_ends_once(store: Store, submit: Submit, write: str, end: str) -> None:
    job_id = submit().job_id
    claim = claimed(store)
    assert WRITES[end](store, claim) is not None
    before = store.jobs.get(job_id)
    assert WRITES[write](store, claim) in (None, Control.LOST)
    assert store.jobs.get(job_id) == before


@pytest.mark.parametrize("write", list(WRITES))
def test_after_cancel_was_asked_the_job_ends_cancelled(store: Store, submit: Submit, write: str) -> None:
    job_id = submit().job_id
    claim = claimed(store)
    store.jobs.request_cancel(job_id)
    answer = WRITES[write](store, claim)
    if write == "heartbeat":
        assert answer is Control.CANCEL
        return
    assert answer is JobState.CANCELLED
    job = store.jobs.get(job_id)
    assert job.state is JobState.CANCELLED and job.finished_at is not None and job.error is None
    assert store.queue.claim("w", 60) is None


def test_a_cancelling_job_of_a_dead_worker_is_ended(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    claim = claimed(store, lease=60)
    store.jobs.request_cancel(job_id)
    store.queue.heartbeat(claim.lease, EXPIRED)
    assert store.queue.claim("other", 60) is None
    assert store.queue.reap() == 1 and store.queue.reap() == 0
    assert store.jobs.get(job_id).state is JobState.CANCELLED


def test_dead_workers_cost_attempts_until_none_is_left(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert claimed(store, f"w{attempt}", EXPIRED).job.attempts == attempt
    assert store.queue.claim("w", 60) is None
    store.queue.reap()
    job = store.jobs.get(job_id)
    assert job.state is JobState.FAILED and job.error is not None
    assert job.error["code"] == "worker-lost" and "3 attempts" in job.error["detail"]
    assert job.error["type"].startswith("urn:tamis:problem:")
    store.jobs.resume(job_id)
    assert claimed(store).job.attempts == MAX_ATTEMPTS + 1


def test_a_claim_ends_what_is_exhausted_on_its_way(store: Store, submit: Submit) -> None:
    exhausted = submit().job_id
    for _ in range(MAX_ATTEMPTS):
        claimed(store, lease=EXPIRED)
    fresh = submit().job_id
    assert claimed(store).job.id == fresh
    assert store.jobs.get(exhausted).state is JobState.FAILED


def test_retry_until_none_is_left(store: Store, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    no_wait(store, monkeypatch)
    job_id = submit().job_id
    for _ in range(MAX_ATTEMPTS - 1):
        assert store.queue.fail(claimed(store).lease, TRANSIENT) is JobState.QUEUED
        assert store.jobs.get(job_id).error is None
    assert store.queue.fail(claimed(store).lease, TRANSIENT) is JobState.FAILED
    job = store.jobs.get(job_id)
    assert job.error == TRANSIENT and job.attempts == MAX_ATTEMPTS
    told = [event.data.get("error") for event in store.events.list(job_id) if event.kind is EventKind.STATE]
    assert told == [None, None, TRANSIENT, None, TRANSIENT, None, TRANSIENT]


def test_a_permanent_failure_is_not_retried(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    assert store.queue.fail(claimed(store).lease, PROBLEM) is JobState.FAILED
    assert store.jobs.get(job_id).error == PROBLEM
    assert store.queue.claim("w", 60) is None


def test_a_retry_waits_and_lets_others_pass(store: Store, submit: Submit) -> None:
    first = submit().job_id
    store.queue.fail(claimed(store).lease, TRANSIENT)
    assert store.queue.claim("w", 60) is None
    second = submit().job_id
    assert claimed(store).job.id == second
    store.jobs.request_cancel(first)
    assert store.jobs.resume(first).state is JobState.QUEUED
    assert claimed(store).job.id == first  # resuming ends the wait


def test_success_forgets_the_failures(store: Store, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    no_wait(store, monkeypatch)
    job_id = submit().job_id
    store.queue.fail(claimed(store).lease, TRANSIENT)
    assert store.queue.succeed(claimed(store).lease, progress={"fraction": 1.0}) is JobState.SUCCEEDED
    job = store.jobs.get(job_id)
    assert (job.error, job.attempts, job.progress) == (None, 2, {"fraction": 1.0})
    assert job.finished_at is not None


def test_giving_back_costs_no_attempt(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    for _ in range(2 * MAX_ATTEMPTS):
        claim = claimed(store)
        assert claim.job.attempts == 1
        assert store.queue.release(claim.lease) is JobState.QUEUED
    assert store.jobs.get(job_id).attempts == 0


def test_an_idle_worker_takes_no_write_lock(store: Store, submit: Submit) -> None:
    with store.database.write():
        assert store.queue.claim("w", 60) is None
        assert store.queue.reap() == 0


def test_four_processes_claim_each_job_once(store: Store, store_url: str, submit: Submit) -> None:
    made = {submit().job_id for _ in range(JOBS)}
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    racing = [context.Process(target=_claim_all, args=(store_url, f"w{n}", results)) for n in range(4)]
    for one in racing:
        one.start()
    taken = [results.get() for _ in racing]
    for one in racing:
        one.join(60)
    counts = Counter(job_id for jobs in taken for job_id in jobs)
    assert set(counts) == made and set(counts.values()) == {1}
    assert store.jobs.counts() == {(JobState.SUCCEEDED, "fake"): JOBS}


def _claim_all(url: str, worker: str, results: Any) -> None:
    store = Store(url)
    done: list[str] = []
    while (claim := store.queue.claim(worker, 60)) is not None:
        assert store.queue.heartbeat(claim.lease, 60, progress={"by": worker}) is Control.CONTINUE
        assert store.queue.succeed(claim.lease) is JobState.SUCCEEDED
        done.append(claim.job.id)
    results.put(done)
