"""Conversion of the store's records to the API's resources."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from tamis.selectors.schema.response import ResultManifest
from tamis.service.job_state import JobState
from tamis.service.schema import DatasetLinks, DatasetResource, FileLink, JobLinks, JobResource, JobResult, LogEntry
from tamis.service.store import Dataset, Event, Job

MIN_FRACTION = 0.02
"""Smallest fraction of work done from which the time left is estimated."""

FILE_URLS = {"selection.parquet": "selection.parquet", "report.json": "report"}
"""Files of a result that have an address of their own; the others are under files/."""


def job_links(job: Job) -> JobLinks:
    """Return the links of a job to its parts."""
    base = f"/v1/jobs/{job.id}"
    done = job.state is JobState.SUCCEEDED and job.expired_at is None
    return JobLinks(
        self=base,
        events=f"{base}/events",
        logs=f"{base}/logs",
        units=f"{base}/units",
        result=f"{base}/result" if done else None,
        selection=f"{base}/selection.parquet" if done else None,
        report=f"{base}/report" if done else None,
        questions=f"{base}/questions" if job.state is JobState.WAITING else None,
        answers=f"{base}/answers" if job.state is JobState.WAITING else None,
        cancel=None if job.state.terminal else f"{base}/cancel",
        resume=f"{base}/resume" if job.state in {JobState.FAILED, JobState.CANCELLED} else None,
    )


def job_resource(job: Job) -> JobResource:
    """Convert a job."""
    return JobResource.model_validate(
        {
            "id": job.id,
            "state": str(job.state),
            "terminal": job.state.terminal,
            "owner": job.owner,
            "selector": job.selector,
            "created_at": moment(job.created_at),
            "started_at": moment(job.started_at),
            "finished_at": moment(job.finished_at),
            "expired_at": moment(job.expired_at),
            "waiting_reason": job.waiting_reason,
            "progress": None if job.progress is None else dict(job.progress) | {"eta_seconds": _seconds_left(job)},
            "attempts": job.attempts,
            "error": None if job.error is None else dict(job.error),
            "fingerprint": job.fingerprint,
            "request": dict(job.request),
            "labels": dict(job.labels),
            "callback": None if job.callback is None else dict(job.callback),
            "links": job_links(job),
        }
    )


def _seconds_left(job: Job) -> float | None:
    """Estimate the seconds left; None for a job that paused, whose time since its start is no measure."""
    fraction = float((job.progress or {}).get("fraction", 0.0))
    if job.state is not JobState.RUNNING or job.started_at is None or job.attempts != 1 or job.round is not None:
        return None
    if fraction < MIN_FRACTION:
        return None
    return round((time.time() - job.started_at) * (1 - fraction) / fraction, 1)


def etag(job: Job) -> str:
    """Return the entity tag of a job. Weak: its waiting reason may change under the same tag."""
    return f'W/"{job.version}"'


def job_result(job: Job, manifest: ResultManifest) -> JobResult:
    """Convert a result."""
    files = [FileLink(**file.model_dump(), url=file_url(job.id, file.name)) for file in manifest.files]
    return JobResult(**{**dict(manifest), "files": files, "schema": manifest.columns}, id=job.id, links=job_links(job))


def file_url(job_id: str, name: str) -> str:
    """Return the path of a file of a result."""
    return f"/v1/jobs/{job_id}/{FILE_URLS.get(name, f'files/{quote(name)}')}"


def log_entry(event: Event) -> LogEntry:
    """Convert a line of a job's log."""
    fields: dict[str, Any] = dict(event.data)
    return LogEntry.model_validate(fields | {"seq": event.seq, "at": moment(event.at)})


def dataset_resource(dataset: Dataset) -> DatasetResource:
    """Convert a dataset."""
    return DatasetResource.model_validate(
        {
            "id": dataset.id,
            "owner": dataset.owner,
            "digest": dataset.digest,
            "rows": dataset.rows,
            "shards": dataset.shards,
            "bytes": dataset.bytes,
            "manifest": dict(dataset.manifest),
            "created_at": moment(dataset.created_at),
            "links": DatasetLinks(self=f"/v1/datasets/{dataset.id}"),
        }
    )


def moment(seconds: float | None) -> datetime | None:
    """Turn seconds since the epoch into a time in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def timestamp(seconds: float) -> str:
    """Write seconds since the epoch as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
