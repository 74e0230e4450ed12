"""What callers do with jobs and datasets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tamis.selectors.errors import Conflict, NotFound, StorageError
from tamis.service.job_state import JobState
from tamis.service.store import (
    BadCursor,
    EventKind,
    IdempotencyKey,
    IdempotencyKeyReused,
    LogLine,
    Store,
    idempotency,
    ids,
)
from tamis.service.store.job_rows import MAX_LOG_LINES

pytestmark = pytest.mark.both_databases

KEY = IdempotencyKey("k", "a")
OTHER_BODY = IdempotencyKey("k", "b")
NOBODY = "job_00000000000000000000000000"

Submit = Callable[..., Any]


def run_to(store: Store, job_id: str, state: JobState) -> None:
    """Take a queued job, the only one, to a state."""
    if state is JobState.QUEUED:
        return
    claim = store.queue.claim("w", 60)
    assert claim is not None and claim.job.id == job_id
    match state:
        case JobState.SUCCEEDED:
            store.queue.succeed(claim.lease)
        case JobState.FAILED:
            store.queue.fail(claim.lease, {"code": "bad-data", "detail": "bad"})
        case JobState.WAITING:
            store.queue.wait(claim.lease, 0, np.array([3, 1]).tobytes())
        case JobState.CANCELLING | JobState.CANCELLED:
            store.jobs.request_cancel(job_id)
    if state is JobState.CANCELLED:
        store.queue.cancelled(claim.lease)
    assert store.jobs.get(job_id).state is state


# Submit and look


def test_a_submitted_job_is_there_as_it_was_sent(store: Store, submit: Submit) -> None:
    request = {"z": 1, "a": [1.5, None, "é\u0000", {"x": "😀"}], "big": 2**60}
    before = time.time()
    submission = submit(request=request, labels={"run": "a17", "é": ""}, priority=3)
    job = store.jobs.get(submission.job_id)
    assert not submission.replayed
    assert submission.job == job
    assert list(job.request.items()) == list(request.items())
    assert job.labels == {"run": "a17", "é": ""}
    assert (job.state, job.attempts, job.error, job.progress) == (JobState.QUEUED, 0, None, None)
    assert (job.owner, job.selector, job.priority, job.version) == ("ann", "fake", 3, 1)
    assert before <= job.created_at <= time.time()
    assert job.started_at is None and job.finished_at is None
    assert ids.is_id(job.id) and job.id.startswith("job_") and len(job.id) == 30


def test_it_survives_another_connection(store: Store, store_url: str, submit: Submit) -> None:
    job_id = submit().job_id
    other = Store(store_url)
    assert other.jobs.get(job_id) == store.jobs.get(job_id)
    other.close()


@pytest.mark.parametrize("job_id", [NOBODY, "", "job_", "x", "job_\x00", "job_\ud800", "ds_0123456789", "a" * 10_000])
def test_unknown_jobs(store: Store, job_id: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.jobs.get(job_id),
        lambda: store.jobs.version(job_id),
        lambda: store.jobs.request_cancel(job_id),
        lambda: store.jobs.resume(job_id),
        lambda: store.jobs.delete(job_id),
        lambda: store.events.list(job_id),
        lambda: store.events.logs(job_id),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()


def test_a_job_is_its_owners(store: Store, submit: Submit) -> None:
    job_id = submit(owner="ann").job_id
    assert store.jobs.get(job_id, owner="ann").id == job_id
    with pytest.raises(NotFound):
        store.jobs.get(job_id, owner="bob")
    assert store.jobs.list(owner="bob").items == []


def test_a_submission_that_fails_leaves_nothing(store: Store, submit: Submit) -> None:
    with pytest.raises(NotFound):
        submit(uses=[NOBODY], key=KEY)
    assert store.jobs.list().items == []
    assert not submit(key=KEY).replayed


def test_ids_sort_by_time() -> None:
    made = [ids.new_id("job_") for _ in range(5000)]
    assert made == sorted(made) and len(set(made)) == len(made)


# Idempotency


def test_a_key_gives_the_first_answer_again(store: Store, submit: Submit) -> None:
    first = submit(key=KEY)
    run_to(store, first.job_id, JobState.SUCCEEDED)
    again = submit(key=KEY, labels={"another": "job"})
    assert again.replayed and again.job == replace(first.job, spec={})  # as it was: queued
    replay = store.jobs.replay("ann", KEY)
    assert replay == again
    assert len(store.jobs.list().items) == 1


def test_a_key_of_another_body_is_refused(store: Store, submit: Submit) -> None:
    submit(key=KEY)
    with pytest.raises(IdempotencyKeyReused) as caught:
        submit(key=OTHER_BODY)
    assert (caught.value.code, caught.value.status) == ("idempotency-key-reused", 422)
    with pytest.raises(IdempotencyKeyReused):
        store.jobs.replay("ann", OTHER_BODY)
    assert len(store.jobs.list().items) == 1


def test_keys_of_different_callers_do_not_meet(store: Store, submit: Submit) -> None:
    first = submit(owner="ann", key=KEY)
    second = submit(owner="bob", key=OTHER_BODY)
    assert first.job_id != second.job_id
    assert store.jobs.replay("cid", KEY) is None


def test_a_key_is_forgotten_after_a_day(store: Store, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    first = submit(key=KEY)
    created = store.jobs.get(first.job_id).created_at
    monkeypatch.setattr(store.database, "now", lambda _: created + idempotency.KEPT_SECONDS - 1)
    assert submit(key=KEY).job_id == first.job_id
    monkeypatch.setattr(store.database, "now", lambda _: created + idempotency.KEPT_SECONDS + 1)
    second = submit(key=OTHER_BODY)
    assert not second.replayed and second.job_id != first.job_id


def test_one_key_from_many_threads_makes_one_job(store: Store, submit: Submit) -> None:
    gate = threading.Barrier(8)

    def send(_: int) -> Any:
        gate.wait()
        return submit(key=KEY)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert len({answer.job_id for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 7


# The same result again


def test_an_identical_job_is_found(store: Store, submit: Submit) -> None:
    first = submit(fingerprint="f").job_id
    taken: dict[str, Any] = {"fingerprint": "f", "reusable": lambda job: True}
    still_running = submit(**taken)
    assert still_running.job_id != first  # only what has succeeded is an answer
    store.jobs.request_cancel(still_running.job_id)
    run_to(store, first, JobState.SUCCEEDED)
    same = submit(**taken, key=KEY)
    assert (same.job_id, same.replayed, same.job.state) == (first, False, JobState.SUCCEEDED)
    again = store.jobs.replay("ann", KEY)
    assert again is not None and again.replayed and again.job_id == first
    others = [
        submit(**taken, owner="bob"),
        submit(**taken | {"fingerprint": "g"}),
        submit(**taken | {"fingerprint": None}),
        submit(**taken | {"reusable": lambda job: False}),
        submit(fingerprint="f"),
    ]
    assert first not in {other.job_id for other in others}
    assert store.removals.expire(first)
    assert submit(**taken).job_id != first


# Files that go


def test_deleting_promises_to_remove_files(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    run_to(store, job_id, JobState.SUCCEEDED)
    store.jobs.delete(job_id)
    assert store.removals.pending() == [job_id]

    def fails() -> None:
        raise StorageError("no")

    with pytest.raises(StorageError, match="no"):
        store.removals.complete(job_id, fails)
    assert store.removals.pending() == [job_id]
    done: list[str] = []
    for _ in range(2):
        store.removals.complete(job_id, lambda: done.append(job_id))
    assert done == [job_id] and store.removals.pending() == []


@pytest.mark.parametrize("state", list(JobState))
def test_only_what_is_finished_expires(store: Store, submit: Submit, state: JobState) -> None:
    job_id = submit().job_id
    run_to(store, job_id, state)
    finished = [job.job_id for job in store.removals.finished()]
    assert finished == ([job_id] if state.terminal else [])
    assert store.removals.expire(job_id) == state.terminal
    assert not store.removals.expire(job_id)
    assert (store.jobs.get(job_id).expired_at is not None) == state.terminal
    assert store.removals.finished() == []
    if state in (JobState.FAILED, JobState.CANCELLED):
        assert store.jobs.resume(job_id).expired_at is None
        assert store.removals.pending() == []  # its files are the next attempt's


def test_what_an_active_job_reads_does_not_expire(store: Store, submit: Submit) -> None:
    earlier = submit().job_id
    run_to(store, earlier, JobState.SUCCEEDED)
    later = submit(uses=[earlier]).job_id
    assert not store.removals.expire(earlier)
    store.jobs.request_cancel(later)
    assert store.removals.expire(earlier)


# List


def test_list_pages_newest_first(store: Store, submit: Submit) -> None:
    made = [submit().job_id for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = store.jobs.list(limit=3, cursor=cursor)
        seen += [job.id for job in page.items]
        submit()  # what is new does not disturb the pages after
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == made[::-1]


def test_a_full_last_page_has_no_cursor(store: Store, submit: Submit) -> None:
    submit(), submit()
    assert store.jobs.list(limit=2).next_cursor is None


def test_list_filters(store: Store, submit: Submit) -> None:
    a = submit(labels={"run": "a", "who": "x"}).job_id
    run_to(store, a, JobState.SUCCEEDED)
    b = submit(labels={"run": "b", "who": "x"}, selector="dsir").job_id
    c = submit(owner="bob", labels={"run": "a'; DROP TABLE jobs; --"}).job_id

    def listed(**filters: Any) -> list[str]:
        return [job.id for job in store.jobs.list(**filters).items]

    assert listed() == [c, b, a]
    assert listed(state=JobState.QUEUED) == [c, b]
    assert listed(selector="dsir") == [b]
    assert listed(owner="ann") == [b, a]
    assert listed(labels={"who": "x"}) == [b, a]
    assert listed(labels={"who": "x", "run": "a"}) == [a]
    assert listed(labels={"run": "a'; DROP TABLE jobs; --"}) == [c]
    assert listed(labels={"run": "nothing"}) == []
    assert listed(labels={"run": "\0"}) == listed(labels={"\0": "a"}) == listed(selector="\0") == []
    assert listed(labels={"who": "x"}, state=JobState.QUEUED, owner="bob") == []


@pytest.mark.parametrize("cursor", ["", "x", "!!", "am9i", "\ud800", "é" * 30, "a" * 100_000, "am9iXzAw\nMDAw"])
def test_a_cursor_of_ones_own_making(store: Store, cursor: str) -> None:
    with pytest.raises(BadCursor):
        store.jobs.list(cursor=cursor)
    with pytest.raises(BadCursor):
        store.datasets.list(cursor=cursor)


# Cancel, resume, delete: every state


@pytest.mark.parametrize(
    ("state", "after"),
    [
        (JobState.QUEUED, JobState.CANCELLED),
        (JobState.RUNNING, JobState.CANCELLING),
        (JobState.WAITING, JobState.CANCELLED),
        (JobState.CANCELLING, JobState.CANCELLING),
        (JobState.CANCELLED, JobState.CANCELLED),
        (JobState.SUCCEEDED, None),
        (JobState.FAILED, None),
    ],
)
def test_cancel(store: Store, submit: Submit, state: JobState, after: JobState | None) -> None:
    job_id = submit().job_id
    run_to(store, job_id, state)
    if after is None:
        with pytest.raises(Conflict, match=state):
            store.jobs.request_cancel(job_id)
        return
    cancellation = store.jobs.request_cancel(job_id)
    assert cancellation.job.state is after
    assert cancellation.already == (state is JobState.CANCELLED)
    assert (cancellation.job.finished_at is not None) == (after is JobState.CANCELLED)


def test_cancel_when_the_worker_is_gone(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    claim = store.queue.claim("w", -1)
    assert claim is not None
    assert store.jobs.request_cancel(job_id).job.state is JobState.CANCELLED
    assert store.queue.succeed(claim.lease) is None


@pytest.mark.parametrize("state", list(JobState))
def test_resume(store: Store, submit: Submit, state: JobState) -> None:
    job_id = submit().job_id
    run_to(store, job_id, state)
    if state not in (JobState.FAILED, JobState.CANCELLED):
        with pytest.raises(Conflict, match=state):
            store.jobs.resume(job_id)
        return
    job = store.jobs.resume(job_id)
    assert (job.state, job.error, job.finished_at, job.attempts) == (JobState.QUEUED, None, None, 1)
    claim = store.queue.claim("w", 60)
    assert claim is not None and claim.job.attempts == 2
    assert store.queue.succeed(claim.lease) is JobState.SUCCEEDED


@pytest.mark.parametrize("state", list(JobState))
def test_delete(store: Store, submit: Submit, state: JobState) -> None:
    job_id = submit(labels={"a": "b"}, key=KEY).job_id
    run_to(store, job_id, state)
    if not state.terminal:
        with pytest.raises(Conflict, match=state):
            store.jobs.delete(job_id)
        return
    store.jobs.delete(job_id)
    with pytest.raises(NotFound):
        store.jobs.get(job_id)
    with pytest.raises(NotFound):
        store.events.list(job_id)
    assert store.jobs.list(labels={"a": "b"}).items == []
    assert submit(key=KEY).replayed
    with store.database.read() as connection:
        left = [
            connection.exec_driver_sql(f"SELECT count(*) FROM {t}").scalar_one() for t in ("job_events", "job_labels")
        ]
    assert left == [0, 0]


def test_a_selection_in_use_is_not_deleted(store: Store, submit: Submit) -> None:
    earlier = submit().job_id
    run_to(store, earlier, JobState.SUCCEEDED)
    later = submit(uses=[earlier]).job_id
    assert store.jobs.get(later).uses == (earlier,)
    with pytest.raises(Conflict, match=later):
        store.jobs.delete(earlier)
    store.jobs.request_cancel(later)
    store.jobs.delete(earlier)
    with pytest.raises(NotFound, match=earlier):
        submit(uses=[earlier])


# Datasets


def register(store: Store, **more: Any) -> Any:
    values: dict[str, Any] = {
        "owner": "ann",
        "manifest": {"shards": ["a"]},
        "digest": "d",
        "rows": 3,
        "shards": 1,
        "bytes": 2**40,
    }
    return store.datasets.register(**(values | more))


def test_register_a_dataset(store: Store) -> None:
    first = register(store)
    assert first.created
    assert first.dataset.id.startswith("ds_") and first.dataset.bytes == 2**40
    assert store.datasets.get(first.dataset.id) == first.dataset
    again = register(store)
    assert not again.created and again.dataset == first.dataset
    others = [
        register(store, digest="e"),
        register(store, manifest={"shards": ["b"]}),
        register(store, owner="bob"),
        register(store, manifest={"columns": {}, "shards": ["a"]}, rows=None),
    ]
    assert all(other.created for other in others)
    assert not register(store, manifest={"shards": ["a"], "columns": {}}).created
    page = store.datasets.list(owner="ann", limit=2)
    rest = store.datasets.list(owner="ann", limit=2, cursor=page.next_cursor)
    listed = [dataset.id for dataset in [*page.items, *rest.items]]
    assert listed == sorted(listed, reverse=True) and len(listed) == 4 and rest.next_cursor is None
    with pytest.raises(NotFound):
        store.datasets.get(first.dataset.id, owner="bob")


def test_a_dataset_in_use_is_not_deleted(store: Store, submit: Submit) -> None:
    dataset_id = register(store).dataset.id
    job_id = submit(uses=[dataset_id, dataset_id]).job_id
    with pytest.raises(Conflict, match=job_id):
        store.datasets.delete(dataset_id)
    run_to(store, job_id, JobState.SUCCEEDED)
    store.datasets.delete(dataset_id)
    for call in (store.datasets.get, store.datasets.delete):
        with pytest.raises(NotFound):
            call(dataset_id)
    with pytest.raises(NotFound, match=dataset_id):
        submit(uses=[dataset_id])
    assert store.jobs.get(job_id).uses == (dataset_id,)


# Events, workers, numbers


def test_events_are_numbered_without_gaps(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    claim = store.queue.claim("w", 60)
    assert claim is not None
    for step in range(5):
        lines = [LogLine(float(step), "info", f"line {step}.{part}", {"part": part}) for part in range(step)]
        store.queue.heartbeat(claim.lease, 60, progress={"units_done": step}, logs=lines)
    store.queue.succeed(claim.lease, logs=[LogLine(9.0, "info", "the end", {})])
    events = store.events.list(job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    states = [event.data["state"] for event in events if event.kind is EventKind.STATE]
    assert states == ["queued", "running", "succeeded"]
    # One a second at most, though the job itself shows the newest.
    assert [event.data for event in events if event.kind is EventKind.PROGRESS] == [{"units_done": 0}]
    assert store.jobs.get(job_id).progress == {"units_done": 4}
    logs = store.events.logs(job_id)
    assert [line.data["message"] for line in logs][-2:] == ["line 4.3", "the end"]
    assert logs[0].data == {"level": "info", "message": "line 1.0", "part": 0}
    assert store.events.list(job_id, after=3, limit=2) == events[3:5]
    assert store.events.logs(job_id, after=logs[2].seq) == logs[3:]
    assert events[-1].data["state"] == "succeeded"


def test_a_log_without_end_is_cut(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    claim = store.queue.claim("w", 60)
    assert claim is not None
    for _ in range(3):
        lines = [LogLine(0.0, "info", "x", {})] * (MAX_LOG_LINES // 2)
        store.queue.heartbeat(claim.lease, 60, logs=lines)
    store.queue.heartbeat(claim.lease, 60, logs=lines)
    logs = store.events.logs(job_id, limit=2 * MAX_LOG_LINES)
    assert len(logs) == MAX_LOG_LINES + 1
    assert "the log is full" in logs[-1].data["message"]


def test_workers_come_and_go(store: Store) -> None:
    assert store.workers.live() == []
    store.workers.report("a", host="h", pid=1, slots=2, running=0)
    store.workers.report("b", host="h", pid=2, slots=1, running=0)
    store.workers.report("a", host="h", pid=1, slots=2, running=1)
    assert [(worker.id, worker.slots, worker.running) for worker in store.workers.live()] == [("a", 2, 1), ("b", 1, 0)]
    assert store.workers.live(within=-1) == []
    store.workers.leave("a")
    assert [worker.id for worker in store.workers.live()] == ["b"]


def test_numbers(store: Store, submit: Submit) -> None:
    assert store.jobs.counts() == {} and store.jobs.oldest_queued_age() is None
    run_to(store, submit().job_id, JobState.SUCCEEDED)
    submit(), submit(), submit(selector="dsir")
    assert store.jobs.counts() == {
        (JobState.SUCCEEDED, "fake"): 1,
        (JobState.QUEUED, "fake"): 2,
        (JobState.QUEUED, "dsir"): 1,
    }
    age = store.jobs.oldest_queued_age()
    assert age is not None and 0 <= age < 60


def test_a_queued_job_says_why_it_waits(store: Store, submit: Submit) -> None:
    first, second, third = (submit().job_id for _ in range(3))
    assert "no worker is running" in (store.jobs.get(first).waiting_reason or "")
    store.workers.report("w", host="h", pid=1, slots=1, running=0)
    reasons = {job.id: job.waiting_reason or "" for job in store.jobs.list().items}
    assert "next" in reasons[first]
    assert "1 job is ahead" in reasons[second] and "2 jobs are ahead" in reasons[third]
    claim = store.queue.claim("w", 60)
    assert claim is not None and claim.job.waiting_reason is None
    store.queue.fail(claim.lease, {"code": "storage", "detail": "the disk hiccuped"})
    assert "the disk hiccuped" in (store.jobs.get(first).waiting_reason or "")
    assert store.jobs.get(first).error is None
