"""Questions of jobs in the state ``waiting``, and their answers.

A worker stores a question (`store_question`) in the transaction in which its lease ends. A caller answers in parts and
in any order; the last answer of a round queues the job in the same transaction. Answers never change.

NumPy is loaded when an answer comes: workers, which stay light, pass arrays on as bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tamis.selectors.errors import Conflict, Invalid
from tamis.service.job_state import JobState
from tamis.service.store.database import Database
from tamis.service.store.job_rows import AnyRow, change_state, select_job
from tamis.service.store.models import jobs, questions
from tamis.service.store.records import Answer, AnswersAccepted, OpenQuestion

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows: TypeAlias = npt.NDArray[np.int64]
    Scores: TypeAlias = npt.NDArray[np.float64]
    Flags: TypeAlias = npt.NDArray[np.bool_]

MAX_ERRORS: Final = 100
"""Maximum number of rows at fault in one problem."""

INT64: Final = "<i8"
FLOAT64: Final = "<f8"
_ITEM_BYTES: Final = 8
_NAN: Final = struct.pack("<d", float("nan"))


class Questions:
    """Reading and answering of questions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, job_id: str) -> OpenQuestion:
        """Return the open question of a waiting job. Raises NotFound; Conflict when it does not wait."""
        with self._database.read() as connection:
            job = select_job(connection, job_id, jobs.c.state, jobs.c.round)
            if job.state != JobState.WAITING:
                raise no_open_question(JobState(job.state))
            question = connection.execute(_of(job_id, job.round)).one()
        return OpenQuestion(question.round, question.rows, question.answered)

    def answer(self, job_id: str, round: int, rows: Rows, scores: Scores) -> AnswersAccepted:
        """Store the scores of some rows of a round; the last missing score queues the job.

        Nothing is taken unless all is: the same answers again, also those of an earlier round, change nothing.

        Parameters
        ----------
        rows : ndarray, shape (n,), int64
            Of those that the round asks, no two the same, in any order.
        scores : ndarray, shape (n,), float64
            Finite; NaN: this row has no score.

        Raises
        ------
        NotFound
            There is no such job.
        Conflict
            A row has another answer already; or it has none, and the job does not wait (any more).
        Invalid
            A row was not asked in this round, or is named twice; or this round was never asked.
        """
        import numpy as np

        with self._database.write() as connection:
            job = select_job(connection, job_id, jobs.c.state, jobs.c.round, lock=True)
            question = connection.execute(_of(job_id, round)).first()
            if question is None:
                raise _no_such_round(job, round)
            stored = np.frombuffer(question.scores, FLOAT64).copy()
            known = np.frombuffer(question.answered, np.bool_).copy()
            places = _places(np.frombuffer(question.rows, INT64), rows, round)
            _refuse_others(rows, scores, stored[places], known[places])
            fresh = places[~known[places]]
            state, missing = JobState(job.state), question.missing - len(fresh)
            if len(fresh):
                if state is not JobState.WAITING:
                    raise no_open_question(state)
                stored[places], known[places] = scores, True
                now = self._database.now(connection)
                values = {
                    "scores": stored.tobytes(),
                    "answered": known.tobytes(),
                    "missing": missing,
                    "answered_at": now,
                }
                connection.execute(_update(job_id, round).values(**values))
                state = _go_on(connection, job_id, round, missing, now)
        return AnswersAccepted(round, len(stored), missing, state)

    def answers(self, job_id: str) -> Sequence[Answer]:
        """Return the rounds that are answered completely, in order: a job goes on from them."""
        query = sa.select(questions).where(questions.c.job_id == job_id, questions.c.missing == 0)
        with self._database.read() as connection:
            found = connection.execute(query.order_by(questions.c.round))
            return [Answer(row.round, row.rows, row.scores) for row in found]


def store_question(connection: Connection, job_id: str, round: int, rows: bytes, now: float) -> int | None:
    """Store a question (int64, little-endian) unless it is stored already; the caller holds the job's lock.

    Returns
    -------
    int or None
        How many of its rows have no answer; None when this round asked other rows before.
    """
    question = connection.execute(_of(job_id, round)).first()
    if question is not None:
        return question.missing if bytes(question.rows) == rows else None
    count = len(rows) // _ITEM_BYTES
    connection.execute(
        sa.insert(questions).values(
            job_id=job_id,
            round=round,
            rows=rows,
            scores=_NAN * count,
            answered=bytes(count),
            missing=count,
            asked_at=now,
        )
    )
    return count


def no_open_question(state: JobState) -> Conflict:
    """Make the error of a job without an open question."""
    then = "" if state.terminal else ": wait until it asks or is over"
    return Conflict(f"The job is {state}, it asks nothing now{then}.", state=str(state))


def _of(job_id: str, round: int) -> sa.Select[tuple[object, ...]]:
    return sa.select(questions).where(questions.c.job_id == job_id, questions.c.round == round)


def _update(job_id: str, round: int) -> sa.Update:
    return sa.update(questions).where(questions.c.job_id == job_id, questions.c.round == round)


def _go_on(connection: Connection, job_id: str, round: int, missing: int, now: float) -> JobState:
    """Queue the job if nothing is missing, else raise its version; returns its state."""
    if missing:
        shown = sa.update(jobs).where(jobs.c.id == job_id).values(version=jobs.c.version + 1)
        connection.execute(shown)
        return JobState.WAITING
    detail = f"round {round} is answered"
    change_state(connection, job_id, JobState.QUEUED, now, detail=detail, queued_at=now, not_before=0.0)
    return JobState.QUEUED


def _no_such_round(job: AnyRow, round: int) -> Conflict | Invalid:
    if job.state != JobState.WAITING:
        return no_open_question(JobState(job.state))
    return Invalid(f"Round {round} was never asked; the job asks round {job.round}.", pointer="/round")


def _places(question: Rows, rows: Rows, round: int) -> Rows:
    """Return the position of each row in the question."""
    import numpy as np

    order = np.argsort(question)
    at = np.minimum(np.searchsorted(question[order], rows), len(question) - 1)
    places = order[at]
    unknown = np.flatnonzero(question[places] != rows)
    if len(unknown):
        raise _refused(rows, unknown, f"was not asked in round {round}")
    _, first = np.unique(rows, return_index=True)
    again = np.setdiff1d(np.arange(len(rows)), first)
    if len(again):
        raise _refused(rows, again, "is named twice")
    return places


def _refused(rows: Rows, at: Rows, why: str) -> Invalid:
    errors = [
        {"pointer": f"/rows/{index}", "detail": f"Row {rows[index]} {why}."} for index in at[:MAX_ERRORS].tolist()
    ]
    more = f" (and {len(at) - 1} more)" if len(at) > 1 else ""
    return Invalid(f"{errors[0]['detail'][:-1]}{more}; nothing was taken.", errors=errors)


def _refuse_others(rows: Rows, scores: Scores, stored: Scores, known: Flags) -> None:
    """Raise Conflict when an answered row would get another score."""
    import numpy as np

    other = np.flatnonzero(known & (stored != scores) & ~(np.isnan(stored) & np.isnan(scores)))
    if len(other):
        at = int(other[0])
        score = "no score" if np.isnan(stored[at]) else f"the score {stored[at]:g}"
        more = f" (and {len(other) - 1} more rows others)" if len(other) > 1 else ""
        raise Conflict(
            f"Row {rows[at]} was answered already, with {score}{more}: an answer stays. Nothing was taken.",
            pointer=f"/rows/{at}",
        )
