"""Endpoints of jobs: submit, plan, list, read, cancel, resume, delete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.convertors import StringConvertor, register_url_convertor

from tamis.selectors.errors import Conflict, StorageError
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.schema.response import Plan
from tamis.service.api.access import Caller, CallerDep, key_dependency
from tamis.service.api.bodies import Body, json_body, request_body
from tamis.service.api.context import Service, ServiceDep
from tamis.service.api.files import matches_etag
from tamis.service.api.long_poll import wait_for, wait_seconds
from tamis.service.api.problems import BadRequest, Draining, KeyInFlight, error_responses
from tamis.service.api.resources import etag, job_resource
from tamis.service.api.submission import RESULT, check, check_resumable, plan_of, resolve
from tamis.service.job_state import JobState
from tamis.service.retention import Retention
from tamis.service.schema import MAX_PAGE, JobList, JobPlan, JobRequest, JobResource, State
from tamis.service.store import IdempotencyKey, Job, NewJob, Submission
from tamis.service.tracing import traceparent


class JobIdConvertor(StringConvertor):
    """Path parameter of a job id: any text but ``plan``, where another method is 405 instead of a missing job."""

    regex = "(?!plan(?:/|$))[^/]+"


register_url_convertor("job", JobIdConvertor())

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=key_dependency)
log: structlog.stdlib.BoundLogger = structlog.get_logger("tamis.api")

POLL_AFTER_SECONDS: Final = 1
"""Retry-After of answers about a job that is not over."""

DEFAULT_PAGE: Final = 50
MAX_LABEL_FILTERS: Final = 16

JobBody = Annotated[Body[JobRequest], Depends(json_body(JobRequest))]
IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Makes a retry safe: within 24 h the same key and body give the first answer again, and one job.",
    ),
]
JOB_HEADERS: Final[dict[str, Any]] = {
    "Location": {"description": "The job.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds until a look makes sense.", "schema": {"type": "integer"}},
    "Idempotent-Replayed": {
        "description": "'true' when an earlier request with this key was answered so.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


@router.post(
    "",
    status_code=202,
    response_model=JobResource,
    summary="Submit a job",
    responses=error_responses(
        *(400, 403, 404, 409, 413, 415, 422, 503),
        more={
            200: {
                "model": JobResource,
                "description": "An earlier job with the same result, as `reuse` asked.",
                "headers": {name: JOB_HEADERS[name] for name in ("Location", "Idempotent-Replayed")},
            },
            202: {"headers": JOB_HEADERS},
        },
    ),
    openapi_extra=request_body(JobRequest),
)
def submit(
    service: ServiceDep, caller: CallerDep, body: JobBody, idempotency_key: IdempotencyKeyHeader = None
) -> Response:
    """Check the request against the data's footers and store the job; it is durable when this answers."""
    if service.draining.is_set():
        raise Draining
    if idempotency_key is None:
        return _accepted(_submit(service, caller, body, None))
    key = IdempotencyKey(idempotency_key, body.sha256)
    earlier = service.store.jobs.replay(caller.owner, key)
    if earlier is not None:
        return _accepted(earlier)
    with _in_flight(service, caller, key):
        return _accepted(_submit(service, caller, body, key))


def _submit(service: Service, caller: Caller, body: Body[JobRequest], key: IdempotencyKey | None) -> Submission:
    request = body.shape
    resolved = resolve(service, caller, request)
    checked = check(service, resolved)
    new = NewJob(
        owner=caller.owner,
        request=body.document,
        spec=checked.spec.model_dump(mode="json", exclude_none=True),
        selector=request.selector.name,
        fingerprint=checked.plan.fingerprint,
        labels=request.labels,
        priority=request.priority,
        uses=resolved.uses,
        callback_url=None if request.callback is None else request.callback.url,
        traceparent=traceparent(),
    )
    submission = service.store.jobs.submit(
        new,
        key=key,
        reusable=partial(_same_files, service, checked.spec) if _may_reuse(request, checked.plan) else None,
        max_queued=service.limits.max_queued_jobs,
    )
    log.info("job accepted", job=submission.job_id, selector=request.selector.name, replayed=submission.replayed)
    return submission


def _may_reuse(request: JobRequest, plan: Plan) -> bool:
    return request.reuse == "identical" and not plan.asks  # answers decide too, and no fingerprint covers them


def _same_files(service: Service, spec: JobSpec, earlier: Job) -> bool:
    """Whether an earlier job of the same fingerprint still has all files that `spec` requests."""
    scores = dict(earlier.spec.get("output", {})).get("scores", "selected")
    return scores == spec.output.scores and (service.settings.job_dir(earlier.id) / RESULT).is_file()


def _accepted(submission: Submission) -> Response:
    headers = {"Location": f"/v1/jobs/{submission.job_id}"}
    is_new = not submission.job.state.terminal  # else it is an earlier job, which `reuse` has found
    if is_new:
        headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    if submission.replayed:
        headers["Idempotent-Replayed"] = "true"
    resource = job_resource(submission.job).model_dump(mode="json")
    return JSONResponse(resource, status_code=202 if is_new else 200, headers=headers)


@contextmanager
def _in_flight(service: Service, caller: Caller, key: IdempotencyKey) -> Iterator[None]:
    entry = (caller.owner, key.key)
    with service.lock:
        if entry in service.keys_in_flight:
            raise KeyInFlight
        service.keys_in_flight.add(entry)
    try:
        yield
    finally:
        with service.lock:
            service.keys_in_flight.discard(entry)


@router.post(
    "/plan",
    summary="Plan a job",
    responses=error_responses(400, 403, 404, 409, 413, 415, 422),
    openapi_extra=request_body(JobRequest),
)
def plan(service: ServiceDep, caller: CallerDep, body: JobBody) -> JobPlan:
    """Make the same checks as a submission and say what the job would need; nothing runs and nothing is stored."""
    return plan_of(service, caller, body.shape)


@router.get("", summary="List jobs", responses=error_responses(400))
def list_jobs(
    service: ServiceDep,
    caller: CallerDep,
    *,
    state: State | None = None,
    selector: Annotated[str | None, Query(min_length=1, max_length=256)] = None,
    label: Annotated[
        list[Annotated[str, Query(max_length=600)]],
        Query(description="'key:value' or 'key=value'; may be repeated, then all must fit."),
    ] = [],  # noqa: B006 - FastAPI copies it
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE,
    cursor: Annotated[str | None, Query(max_length=1000, description="As given in next_cursor.")] = None,
) -> JobList:
    """Return jobs, newest first; all filters must fit."""
    page = service.store.jobs.list(
        owner=caller.visible_owner,
        state=state,
        selector=selector,
        labels=_labels(label),
        limit=limit,
        cursor=cursor,
    )
    return JobList(items=[job_resource(job) for job in page.items], next_cursor=page.next_cursor)


def _labels(filters: list[str]) -> dict[str, str]:
    if len(filters) > MAX_LABEL_FILTERS:
        raise BadRequest(f"There are {len(filters)} label filters: {MAX_LABEL_FILTERS} are possible.")
    labels: dict[str, str] = {}
    for text in filters:
        cut = re.fullmatch(r"([^:=]+)[:=](.*)", text, re.DOTALL)
        if cut is None:
            raise BadRequest(f"The label filter {text!r} is none: write 'key:value'.", pointer="/query/label")
        key, value = cut.groups()
        if labels.setdefault(key, value) != value:
            raise BadRequest(f"The label {key!r} can't have two values at once.", pointer="/query/label")
    return labels


def _job(service: ServiceDep, caller: CallerDep, job_id: str) -> Job:
    return service.store.jobs.get(job_id, owner=caller.visible_owner)


JobDep = Annotated[Job, Depends(_job)]
"""Job of the path; 404 when there is none, or it is another owner's."""


@router.get(
    "/{job_id:job}",
    response_model=JobResource,
    summary="Look at a job",
    responses=error_responses(
        404,
        more={
            200: {"headers": {"ETag": {"description": "Changes with the job.", "schema": {"type": "string"}}}},
            304: {"description": "It is still as If-None-Match says."},
        },
    ),
)
async def get_job(
    request: Request,
    service: ServiceDep,
    caller: CallerDep,
    job_id: str,
    prefer: Annotated[str | None, Header(description="'wait=N': answer within N (at most 60) seconds.")] = None,
    if_none_match: Annotated[str | None, Header(description="The ETag of an earlier answer.")] = None,
) -> Response:
    """Show a job.

    With `Prefer: wait=N` the answer waits up to N seconds: with `If-None-Match` until the job is another than that ETag
    says (a new state or new progress), without it until the job has ended.
    """
    wait = wait_seconds(prefer)

    def unchanged(job: Job) -> bool:
        return if_none_match is not None and matches_etag(if_none_match, etag(job), weak=True)

    def ready(job: Job) -> bool:
        return job.state.terminal or (if_none_match is not None and not unchanged(job))

    job = await run_in_threadpool(service.store.jobs.get, job_id, owner=caller.visible_owner)
    job = await wait_for(request, service, job, wait or 0.0, ready)
    headers = {"ETag": etag(job), "Cache-Control": "no-cache", "Vary": "Prefer"}
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait:.0f}"
    if not job.state.terminal:
        headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    if unchanged(job):
        return Response(status_code=304, headers=headers)
    return JSONResponse(job_resource(job).model_dump(mode="json"), headers=headers)


@router.post(
    "/{job_id:job}/cancel",
    status_code=202,
    summary="Cancel a job",
    responses=error_responses(404, 409, more={200: {"model": JobResource, "description": "It was cancelled already."}}),
)
def cancel(service: ServiceDep, job: JobDep, response: Response) -> JobResource:
    """Stop a job within one unit of work. Finished units stay, for a resume or for another job."""
    cancellation = service.store.jobs.request_cancel(job.id)
    response.status_code = 200 if cancellation.already else 202
    return job_resource(cancellation.job)


@router.post(
    "/{job_id:job}/resume",
    status_code=202,
    summary="Resume a job",
    responses=error_responses(404, 409, 412, 503),
)
def resume(service: ServiceDep, job: JobDep) -> JobResource:
    """Queue a failed or cancelled job again: only what is missing runs, and the result is the same bytes."""
    if service.draining.is_set():
        raise Draining
    if job.state not in {JobState.FAILED, JobState.CANCELLED}:
        raise Conflict(f"The job is {job.state}: only a failed or cancelled job can be resumed.")
    check_resumable(service, job)
    return job_resource(service.store.jobs.resume(job.id, max_queued=service.limits.max_queued_jobs))


@router.delete("/{job_id:job}", status_code=204, summary="Delete a job", responses=error_responses(404, 409))
def delete(service: ServiceDep, job: JobDep) -> None:
    """Delete a finished job with its log and its result."""
    service.store.jobs.delete(job.id)
    try:
        Retention(service.store, service.settings).remove_files(job.id)
    except StorageError as error:
        # The job is deleted for its caller; a worker's sweep removes what is left on disk.
        log.error("a deleted job's files are not removed yet", job=job.id, reason=error.detail)
