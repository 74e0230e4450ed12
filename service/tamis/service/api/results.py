"""Endpoints of a job's output: events, log, units, result, files, report, explanations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from tamis.selectors.errors import Conflict, Invalid, NotFound, StorageError
from tamis.selectors.schema.response import Explanation, ResultFile, ResultManifest
from tamis.service.api.access import key_dependency
from tamis.service.api.context import Service, ServiceDep
from tamis.service.api.files import FILE_HEADERS, file_response
from tamis.service.api.jobs import JobDep
from tamis.service.api.problems import BadRequest, Expired, NotAcceptable, error_responses
from tamis.service.api.resources import job_result, log_entry, timestamp
from tamis.service.api.submission import RESULT
from tamis.service.job_state import JobState
from tamis.service.schema import JobResult
from tamis.service.store import Job
from tamis.service.unit_journal import read_units

router = APIRouter(prefix="/v1/jobs/{job_id:job}", tags=["results"], dependencies=key_dependency)

POLL_INTERVAL_SECONDS: Final = 0.25
"""Time between two polls of the store by an event stream."""

RETRY_MILLISECONDS: Final = 1000
"""Pause of a client before it connects again."""

CACHED_MANIFESTS: Final = 256

SELECTION: Final = "selection.parquet"
REPORT: Final = "report.json"
PARQUET: Final = "application/vnd.apache.parquet"

FILE_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"headers": dict(FILE_HEADERS), "description": "The file."},
    206: {"headers": dict(FILE_HEADERS), "description": "The ranges asked for."},
    304: {"description": "It is still as If-None-Match says."},
}


def _finished(job: JobDep) -> Job:
    if job.state is not JobState.SUCCEEDED:
        raise Conflict(f"The job is {job.state}: there is a result once it has succeeded.")
    if job.expired_at is not None:
        raise Expired
    return job


FinishedJob = Annotated[Job, Depends(_finished)]
"""Job of the path, which has succeeded; 404, 409 and 410 otherwise."""


@lru_cache(maxsize=CACHED_MANIFESTS)
def _read_manifest(path: Path, version: int) -> ResultManifest:
    return ResultManifest.model_validate_json(path.read_bytes())


def _manifest(service: Service, job: Job) -> ResultManifest:
    path = service.settings.job_dir(job.id) / RESULT
    try:
        return _read_manifest(path, path.stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        raise StorageError(f"The result of job {job.id} can't be read: {error}.") from error


def _file(service: Service, job: Job, name: str) -> ResultFile:
    names = {file.name: file for file in _manifest(service, job).files}
    if name not in names:
        raise NotFound(f"The result of job {job.id} has no file {name!r}; it has {', '.join(sorted(names))}.")
    return names[name]


@router.get(
    "/events",
    response_class=EventSourceResponse,
    summary="Follow a job",
    responses=error_responses(
        400, 404, more={200: {"description": "Server-Sent Events: state, progress and log; the last is 'end'."}}
    ),
)
async def events(
    service: ServiceDep,
    job: JobDep,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^\d{1,15}$", description="The stream goes on after this id.")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Stream what happens to a job, from its beginning or from after `Last-Event-ID`.

    The ids increase by one. The stream ends with the event `end` once the job is over (`terminal`); a comment every
    15 s keeps an idle connection open.
    """
    seen = int(last_event_id or 0)
    retry: int | None = RETRY_MILLISECONDS
    while not service.draining.is_set():
        # The job first: what it did before it ended is then among the events read next.
        if await run_in_threadpool(service.store.jobs.version, job.id) != job.version:
            job = await run_in_threadpool(service.store.jobs.get, job.id)
        fresh = await run_in_threadpool(service.store.events.list, job.id, after=seen)
        for event in fresh:
            data = {**event.data, "at": timestamp(event.at)}
            yield ServerSentEvent(event=str(event.kind), id=str(event.seq), data=data, retry=retry)
            seen, retry = event.seq, None
        if not fresh and job.state.terminal:
            yield ServerSentEvent(event="end", id=str(seen + 1), data={"state": str(job.state)}, retry=retry)
            return
        if not fresh:
            await asyncio.sleep(POLL_INTERVAL_SECONDS)


@router.get(
    "/logs",
    response_class=StreamingResponse,
    summary="Read a job's log",
    responses=error_responses(
        404, more={200: {"description": "One JSON object a line.", "content": {"application/x-ndjson": {}}}}
    ),
)
def logs(service: ServiceDep, job: JobDep) -> Response:
    """Give the lines that the job has logged so far, as newline-delimited JSON."""

    def lines() -> Iterator[bytes]:
        seen = 0
        while page := service.store.events.logs(job.id, after=seen):
            seen = page[-1].seq
            yield b"".join(log_entry(event).model_dump_json().encode() + b"\n" for event in page)

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.get(
    "/units",
    response_class=StreamingResponse,
    summary="Read what is done of a job",
    responses=error_responses(
        404, more={200: {"description": "One JSON object a line.", "content": {"application/x-ndjson": {}}}}
    ),
)
def units(service: ServiceDep, job: JobDep) -> Response:
    """Give every unit of work whose result is there, in the order they came, as newline-delimited JSON.

    An attempt names the units that it found finished, too (`seconds` is null): those that a resume does not run again.
    """
    return StreamingResponse(read_units(service.settings.job_dir(job.id)), media_type="application/x-ndjson")


@router.get("/result", summary="Look at the result", responses=error_responses(404, 409, 410, 503))
def result(service: ServiceDep, job: FinishedJob) -> JobResult:
    """Return the result's manifest: files with sizes and digests, totals, request and result, provenance."""
    return job_result(job, _manifest(service, job))


@router.head(
    "/selection.parquet",
    response_class=Response,
    summary="Ask about the selection",
    responses=error_responses(404, 409, 410, 412, 416, 503, more={**FILE_RESPONSES}),
)
@router.get(
    "/selection.parquet",
    response_class=Response,
    summary="Download the selection",
    responses={
        **FILE_RESPONSES,
        200: {**FILE_RESPONSES[200], "content": {PARQUET: {"schema": {"type": "string", "format": "binary"}}}},
    }
    | error_responses(404, 409, 410, 412, 416, 503),
)
def selection(request: Request, service: ServiceDep, job: FinishedJob) -> Response:
    """Give the selected rows as Parquet; ranges and conditional requests are answered as RFC 9110 has them."""
    path = service.settings.job_dir(job.id) / SELECTION
    return file_response(request, path, _file(service, job, SELECTION), filename=f"{job.id}.{SELECTION}")


@router.head(
    "/files/{name}",
    response_class=Response,
    summary="Ask about a file of the result",
    responses=error_responses(404, 409, 410, 412, 416, 503, more={**FILE_RESPONSES}),
)
@router.get(
    "/files/{name}",
    response_class=Response,
    summary="Download a file of the result",
    responses={
        **FILE_RESPONSES,
        200: {
            **FILE_RESPONSES[200],
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
    }
    | error_responses(404, 409, 410, 412, 416, 503),
)
def result_file(request: Request, service: ServiceDep, job: FinishedJob, name: str) -> Response:
    """Return a file that the result's manifest lists (scores.parquet, model.arrow, …), as the selection is returned."""
    file = _file(service, job, name)
    return file_response(request, service.settings.job_dir(job.id) / name, file, filename=f"{job.id}.{name}")


@router.get(
    "/report",
    response_class=Response,
    summary="Read the report",
    responses=error_responses(
        *(404, 406, 409, 410, 503),
        more={
            200: {"description": "The evidence.", "content": {"application/json": {"schema": {"type": "object"}}}},
        },
    ),
)
def report(request: Request, service: ServiceDep, job: FinishedJob) -> Response:
    """Give the evidence that the selection is good: JSON, or one HTML page where the job wrote one, by `Accept`."""
    folder = service.settings.job_dir(job.id)
    page = folder / "report.html"
    offered = ["application/json", *(["text/html"] if page.is_file() else [])]
    chosen = preferred(request.headers.get("accept"), offered)
    if chosen is None:
        raise NotAcceptable(f"The report of this job is there as {' or '.join(offered)}.")
    path = page if chosen == "text/html" else folder / REPORT
    try:
        return Response(path.read_bytes(), media_type=chosen, headers={"Vary": "Accept"})
    except OSError as error:
        raise StorageError(f"The report of job {job.id} can't be read: {error.strerror}.") from error


def preferred(accept: str | None, offered: list[str]) -> str | None:
    """Choose the offered media type that an Accept header prefers, the first among equals; None: none is accepted."""
    if accept is None or not accept.strip():
        return offered[0]
    weights: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = (piece.strip().casefold() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        weights[kind] = weight

    def liking(media_type: str) -> float:
        for pattern in (media_type, media_type.split("/", maxsplit=1)[0] + "/*", "*/*"):
            if pattern in weights:
                return weights[pattern]
        return 0.0

    best = max(offered, key=liking)
    return best if liking(best) > 0 else None


@router.get("/explain", summary="Explain a row", responses=error_responses(400, 404, 409, 410, 503))
def explain(
    service: ServiceDep,
    job: FinishedJob,
    row: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Row number over the whole dataset.")] = None,
    id: Annotated[str | None, Query(min_length=1, max_length=4096, description="Id of a selected row.")] = None,
) -> Explanation:
    """Explain why a row was taken, or not: its score, its rank, and the threshold of its stratum."""
    from tamis.selectors.results import explain as explanations

    if (row is None) == (id is None):
        raise BadRequest("Give either row or id: '?row=17'.", pointer="/query/row")
    try:
        return explanations.explain(service.settings.job_dir(job.id), row=row, id=id)
    except Invalid as error:
        raise BadRequest(error.detail, pointer="/query/row") from error
