"""Endpoints of ask and tell: the questions of a waiting job, and their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from tamis.service.api.access import key_dependency
from tamis.service.api.bodies import Body, json_body, request_body
from tamis.service.api.context import Service, ServiceDep
from tamis.service.api.jobs import JobDep
from tamis.service.api.long_poll import wait_for, wait_seconds
from tamis.service.api.problems import error_responses
from tamis.service.job_state import JobState
from tamis.service.question_files import read_question
from tamis.service.schema import MAX_ANSWERS, AnswersTaken, JobQuestion, RoundAnswers
from tamis.service.store import BadCursor, Job

if TYPE_CHECKING:
    import pyarrow as pa

router = APIRouter(prefix="/v1/jobs/{job_id:job}", tags=["questions"], dependencies=key_dependency)

DEFAULT_ROWS: Final = 100_000
"""Rows of a question on one page."""

AnswersBody = Annotated[
    Body[RoundAnswers], Depends(json_body(RoundAnswers, smaller="send the answers in several parts"))
]


@router.get(
    "/questions",
    response_model=JobQuestion,
    summary="Look at what a job asks",
    responses=error_responses(400, 404, 409, 503),
)
async def questions(
    request: Request,
    service: ServiceDep,
    job: JobDep,
    *,
    limit: Annotated[int, Query(ge=1, le=MAX_ANSWERS, description="Rows on a page.")] = DEFAULT_ROWS,
    cursor: Annotated[str | None, Query(pattern=r"^\d{1,9}-\d{1,9}$", description="As given in next_cursor.")] = None,
    prefer: Annotated[
        str | None, Header(description="'wait=N': wait up to N (at most 60) seconds until the job asks or is over.")
    ] = None,
) -> Response:
    """Give the rows that a waiting job asks about and that have no answer yet.

    A job in another state asks nothing: 409, whose member `state` says which. With `Prefer: wait=N` the answer waits up
    to N seconds until it asks, or is over.
    """
    job = await wait_for(
        request,
        service,
        job,
        wait_seconds(prefer) or 0.0,
        lambda job: job.state is JobState.WAITING or job.state.terminal,
    )
    found = await run_in_threadpool(_question, service, job, limit, cursor)
    return JSONResponse(found.model_dump(mode="json"), headers={"Cache-Control": "no-store", "Vary": "Prefer"})


def _question(service: Service, job: Job, limit: int, cursor: str | None) -> JobQuestion:
    import numpy as np

    question = service.store.questions.open(job.id)
    start = 0
    if cursor is not None:
        round, start = map(int, cursor.split("-"))
        if round != question.round:
            raise BadCursor(
                f"This cursor is one of round {round}; the job asks round {question.round} now: start again."
            )
    answered = np.frombuffer(question.answered, np.bool_)
    open_rows = np.flatnonzero(~answered[start:]) + start
    page = open_rows[:limit]
    columns = _columns(read_question(service.settings.job_dir(job.id), question.round).take(page))
    return JobQuestion(
        round=question.round,
        total=len(answered),
        answered=int(answered.sum()),
        next_cursor=f"{question.round}-{page[-1] + 1}" if len(open_rows) > limit else None,
        **columns,
    )


def _columns(table: pa.Table) -> dict[str, Any]:
    return {
        "rows": table.column("row").to_pylist(),
        "shards": table.column("shard").to_pylist(),
        "shard_rows": table.column("shard_row").to_pylist(),
        "ids": table.column("id").to_pylist() if "id" in table.column_names else None,
    }


@router.post(
    "/answers",
    summary="Answer a job",
    responses=error_responses(400, 404, 409, 413, 415, 422),
    openapi_extra=request_body(RoundAnswers),
)
def answers(service: ServiceDep, job: JobDep, body: AnswersBody) -> AnswersTaken:
    """Give scores of rows that the job asks about: all at once or in parts, in any order.

    Nothing is taken unless all is. The same answers may be sent again, also when the job went on since; an answer
    stays, another one for the same row is refused (409). With the last answer of a round the job is queued again, in
    the same transaction.
    """
    import numpy as np

    from tamis.selectors.schema.answers import checked_scores

    answered = body.shape
    scores = checked_scores(answered.scores, answered.rows, "/scores")
    rows = np.array(answered.rows, np.int64)
    taken = service.store.questions.answer(job.id, answered.round, rows, scores)
    return AnswersTaken(
        round=taken.round,
        total=taken.total,
        missing=taken.missing,
        state=str(taken.state),
    )
