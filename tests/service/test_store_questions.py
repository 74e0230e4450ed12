"""Questions and answers in the store: partial, in any order, once, and the job goes on with the last."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from tamis.selectors.errors import Conflict, Invalid, NotFound
from tamis.service.job_state import JobState
from tamis.service.store import AnswersAccepted, EventKind, Store
from tamis.service.store.errors import QueueFull
from tamis.service.store.jobs import MAX_ATTEMPTS
from tamis.service.store.models import questions

pytestmark = pytest.mark.both_databases

Submit = Callable[..., Any]

WAITING, QUEUED, RUNNING = JobState.WAITING, JobState.QUEUED, JobState.RUNNING
ROWS = [7, 3, 2**40, 0]
NAN = float("nan")


def ask(store: Store, round: int = 0, rows: list[int] = ROWS) -> str:
    """Claim the only job and have it ask."""
    claim = store.queue.claim("w", 60)
    assert claim is not None
    assert store.queue.wait(claim.lease, round, np.array(rows, np.int64).tobytes()) is WAITING
    return claim.job.id


def answer(store: Store, job_id: str, scores: dict[int, float], round: int = 0) -> AnswersAccepted:
    given = np.array(list(scores), np.int64), np.array(list(scores.values()), np.float64)
    return store.questions.answer(job_id, round, *given)


def open_rows(store: Store, job_id: str) -> list[int]:
    question = store.questions.open(job_id)
    rows = np.frombuffer(question.rows, np.int64)
    unanswered: list[int] = rows[~np.frombuffer(question.answered, np.bool_)].tolist()
    return unanswered


def test_ask_and_tell(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    for round in range(2 * MAX_ATTEMPTS):
        assert ask(store, round) == job_id
        job = store.jobs.get(job_id)
        assert (job.state, job.round, job.attempts, job.state.terminal) == (WAITING, round, 0, False)
        assert store.queue.claim("w", 60) is None
        assert open_rows(store, job_id) == ROWS
        assert answer(store, job_id, {0: 1.5, 7: NAN}, round) == AnswersAccepted(round, 4, 2, WAITING)
        waiting = store.jobs.get(job_id)
        assert waiting.version > job.version and waiting.waiting_reason is not None
        assert "the scores of 2 rows" in waiting.waiting_reason
        assert open_rows(store, job_id) == [3, 2**40]
        assert answer(store, job_id, {2**40: -1.0, 3: 0.0}, round) == AnswersAccepted(round, 4, 0, QUEUED)
    answers = store.questions.answers(job_id)
    assert [one.round for one in answers] == list(range(2 * MAX_ATTEMPTS))
    assert np.frombuffer(answers[-1].rows, np.int64).tolist() == ROWS
    assert np.array_equal(np.frombuffer(answers[-1].scores), [NAN, 0.0, -1.0, 1.5], equal_nan=True)
    told = [event.data["state"] for event in store.events.list(job_id) if event.kind is EventKind.STATE]
    assert told == ["queued", *["running", "waiting", "queued"] * 2 * MAX_ATTEMPTS]
    events = store.events.list(job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_the_same_answer_again_changes_nothing(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    ask(store)
    answer(store, job_id, {7: NAN, 3: 1.0})
    before = store.jobs.get(job_id)
    assert answer(store, job_id, {3: 1.0, 7: NAN}) == AnswersAccepted(0, 4, 2, WAITING)
    assert store.jobs.get(job_id) == before
    assert answer(store, job_id, {3: 1.0, 0: 2.0, 2**40: 3.0}).state is QUEUED  # some again, the others new
    for state in (QUEUED, RUNNING):
        if state is RUNNING:
            store.queue.claim("w", 60)
        assert answer(store, job_id, {0: 2.0, 7: NAN}) == AnswersAccepted(0, 4, 0, state)


@pytest.mark.parametrize("other", [2.0, NAN])
def test_an_answer_stays(store: Store, submit: Submit, other: float) -> None:
    job_id = submit().job_id
    ask(store)
    answer(store, job_id, {3: 1.0})
    with pytest.raises(Conflict, match="Row 3 was answered already, with the score 1") as caught:
        answer(store, job_id, {7: 1.0, 3: other})
    assert caught.value.pointer == "/rows/1"
    assert open_rows(store, job_id) == [7, 2**40, 0]  # nothing was taken


def test_wrong_rows_are_refused_and_nothing_is_taken(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    ask(store)
    with pytest.raises(Invalid, match=r"Row 8 was not asked in round 0 \(and 1 more\)") as caught:
        answer(store, job_id, {3: 1.0, 8: 1.0, 0: 1.0, 2**63 - 1: 1.0})
    assert [error["pointer"] for error in caught.value.errors] == ["/rows/1", "/rows/3"]
    with pytest.raises(Invalid, match="Row 3 is named twice") as caught:
        store.questions.answer(job_id, 0, np.array([3, 0, 3]), np.ones(3))
    assert [error["pointer"] for error in caught.value.errors] == ["/rows/2"]
    with pytest.raises(Invalid, match="Round 1 was never asked; the job asks round 0") as caught:
        answer(store, job_id, {3: 1.0}, round=1)
    assert caught.value.pointer == "/round"
    assert open_rows(store, job_id) == ROWS


def test_a_job_that_does_not_wait_asks_nothing(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    for round in (0, 1):
        with pytest.raises(Conflict, match="queued, it asks nothing") as caught:
            store.questions.open(job_id)
        assert caught.value.where["state"] == "queued"
        with pytest.raises(Conflict, match="queued, it asks nothing"):
            answer(store, job_id, {3: 1.0}, round)
    for look in (store.questions.open, lambda job: answer(store, job, {3: 1.0})):
        with pytest.raises(NotFound):
            look("job_00000000000000000000000000")


def test_a_cancelled_job_keeps_its_answers(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    ask(store)
    answer(store, job_id, {3: 1.0})
    assert store.jobs.request_cancel(job_id).job.state is JobState.CANCELLED
    with pytest.raises(Conflict, match="cancelled, it asks nothing"):
        answer(store, job_id, {0: 1.0})
    store.jobs.resume(job_id)
    assert ask(store) == job_id
    assert open_rows(store, job_id) == [7, 2**40, 0]


def test_a_job_that_asks_other_rows_than_before_fails(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    ask(store)
    store.jobs.request_cancel(job_id)
    store.jobs.resume(job_id)
    claim = store.queue.claim("w", 60)
    assert claim is not None
    assert store.queue.wait(claim.lease, 0, np.arange(4).tobytes()) is JobState.FAILED
    job = store.jobs.get(job_id)
    assert job.error is not None and "other rows in round 0" in job.error["detail"]


def test_deaths_before_a_question_do_not_count_after_it(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    for round in range(3):
        for _ in range(MAX_ATTEMPTS - 1):
            assert store.queue.claim("dead", -1) is not None
        ask(store, round)
        answer(store, job_id, dict.fromkeys(ROWS, 1.0), round)
    assert store.jobs.get(job_id).attempts == 3 * (MAX_ATTEMPTS - 1)


def test_many_callers_at_once_queue_the_job_once(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    ask(store, rows=list(range(64)))
    with ThreadPoolExecutor(8) as pool:
        taken = list(
            pool.map(lambda row: answer(store, job_id, {row: float(row), (row + 1) % 64: (row + 1.0) % 64}), range(64))
        )
    assert [one.state for one in taken].count(QUEUED) >= 1
    told = [event.data["state"] for event in store.events.list(job_id) if event.kind is EventKind.STATE]
    assert told == ["queued", "running", "waiting", "queued"]
    (one,) = store.questions.answers(job_id)
    assert np.array_equal(np.frombuffer(one.scores), np.arange(64.0))


def test_questions_go_with_their_job(store: Store, submit: Submit) -> None:
    job_id = submit().job_id
    ask(store)
    with pytest.raises(Conflict, match="waiting: cancel it"):
        store.jobs.delete(job_id)
    store.jobs.request_cancel(job_id)
    store.jobs.delete(job_id)
    with store.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(questions)).scalar_one() == 0


def test_jobs_that_wait_for_answers_fill_the_queue_too(store: Store, submit: Submit) -> None:
    job_id = submit(max_queued=1).job_id
    ask(store)
    with pytest.raises(QueueFull):
        submit(max_queued=1)
    submit(max_queued=1, owner="another")
    answer(store, job_id, dict.fromkeys(ROWS, 0.0))
    assert store.jobs.get(job_id).state is QUEUED, "what is answered goes on, however many wait"
