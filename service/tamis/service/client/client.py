"""Client of one service."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from tamis.selectors.schema.request import JobSpec, Manifest
from tamis.service.client.job import Job
from tamis.service.client.transport import Transport
from tamis.service.schema import DatasetResource, JobPlan, JobResource, SelectorList, SelectorResource, Version
from tamis.service.settings import API_KEY, SERVICE_URL

DEFAULT_URL: Final = SERVICE_URL.unset
"""Default address of `tamis serve`."""

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
CHECK_SECONDS: Final = 300.0
"""Timeout of requests that open the footers of many shards."""

PAGE: Final = 100

Document = Mapping[str, Any]


class Client:
    """Connection to one Tamis service; use it as a context manager, or close it.

    Parameters
    ----------
    url : str, optional
        The service's address, ``http://`` where it names no scheme; ``TAMIS_URL``, else the default of ``tamis serve``,
        when left out.
    api_key : str, optional
        Sent with every request; ``TAMIS_API_KEY`` when left out, none where that is not set either.
    timeout : float
        Seconds to wait for an answer; at least `CHECK_SECONDS` where the service opens datasets.

    Notes
    -----
    Every method raises `ProblemError` when the service refuses and `ServiceUnreachable` when nobody answers. What may
    be sent twice is retried; a submission carries an idempotency key, so that a retry can't make two jobs.
    """

    def __init__(
        self, url: str | None = None, *, api_key: str | None = None, timeout: float = DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        self.transport = Transport(
            url or SERVICE_URL.read(),
            timeout,
            api_key=api_key or API_KEY.read(),
        )
        self._check_timeout = max(timeout, CHECK_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.transport.close()

    @property
    def url(self) -> str:
        """Address of the service."""
        return self.transport.url

    @property
    def is_local(self) -> bool:
        """Whether the service runs on this machine and sees the same files."""
        return self.transport.is_local

    def submit(self, spec: JobSpec | Document, *, idempotency_key: str | None = None) -> Job:
        """Submit a job.

        Parameters
        ----------
        spec : JobSpec or mapping
            The request; paths are the service's, not this machine's.
        idempotency_key : str, optional
            The same key and body return the same job for 24 h. A new key for every call when left out.

        Returns
        -------
        Job
            Queued, durable on the service; or an earlier job that the request's `reuse` found.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        response = self._post("/v1/jobs", spec, headers)
        return Job(self.transport, JobResource.model_validate_json(response.content))

    def plan(self, spec: JobSpec | Document) -> JobPlan:
        """Return the plan of a job; nothing runs.

        Parameters
        ----------
        spec : JobSpec or mapping
            As for `submit`.

        Returns
        -------
        JobPlan
            Phases, bytes to read, memory, CPU seconds, feasibility, warnings, and the request as it would run.
        """
        response = self._post("/v1/jobs/plan", spec)
        return JobPlan.model_validate_json(response.content, extra="ignore")

    def job(self, job_id: str) -> Job:
        """Return the job of an id.

        Parameters
        ----------
        job_id : str
            ``job_…``.
        """
        path = f"/v1/jobs/{_part(job_id)}"
        return Job(self.transport, JobResource.model_validate_json(self.transport.request("GET", path).content))

    def jobs(
        self, *, state: str | None = None, selector: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Iterator[Job]:
        """Iterate over the jobs, newest first; all filters must match.

        Parameters
        ----------
        state : str, optional
            A state of a job, as `Job.state` names them.
        selector : str, optional
            Name of a selector.
        labels : mapping of str to str, optional
            Labels that the jobs have.

        Yields
        ------
        Job
            Read a page of 100 at a time.
        """
        params: dict[str, Any] = {"limit": PAGE, "label": [f"{key}:{value}" for key, value in (labels or {}).items()]}
        params |= {key: value for key, value in (("state", state), ("selector", selector)) if value is not None}
        while True:
            page = self.transport.request("GET", "/v1/jobs", params=params).json()
            for item in page["items"]:
                yield Job(self.transport, JobResource.model_validate(item))
            if page["next_cursor"] is None:
                return
            params["cursor"] = page["next_cursor"]

    def selectors(self) -> list[SelectorResource]:
        """Return the catalogue of selectors."""
        return SelectorList.model_validate_json(self.transport.request("GET", "/v1/selectors").content).items

    def selector(self, name: str) -> SelectorResource:
        """Return one entry of the catalogue.

        Parameters
        ----------
        name : str
            Name of the selector.
        """
        response = self.transport.request("GET", f"/v1/selectors/{_part(name)}")
        return SelectorResource.model_validate_json(response.content)

    def register(self, manifest: Manifest | Document) -> DatasetResource:
        """Register a dataset, to refer to it by its id; the same dataset has the same id.

        Parameters
        ----------
        manifest : Manifest or mapping
            Shards, format and column roles; paths are the service's.

        Returns
        -------
        DatasetResource
            The registered dataset with its id and the resolved manifest.
        """
        response = self._post("/v1/datasets", manifest)
        return DatasetResource.model_validate_json(response.content)

    def dataset(self, dataset_id: str) -> DatasetResource:
        """Return the registered dataset of an id."""
        response = self.transport.request("GET", f"/v1/datasets/{_part(dataset_id)}")
        return DatasetResource.model_validate_json(response.content)

    def delete_dataset(self, dataset_id: str) -> None:
        """Forget a dataset; its files are not touched."""
        self.transport.request("DELETE", f"/v1/datasets/{_part(dataset_id)}", retry=False)

    def version(self) -> Version:
        """Return the versions of the service."""
        return Version.model_validate_json(self.transport.request("GET", "/v1/version").content)

    def _post(
        self, path: str, shape: JobSpec | Manifest | Document, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """POST a request that is safe to repeat: it has an idempotency key, or changes nothing."""
        return self.transport.request(
            "POST", path, json=document(shape), headers=headers, retry=True, timeout=self._check_timeout
        )


def document(shape: JobSpec | Manifest | Document) -> Any:
    """Convert a request to JSON values."""
    if isinstance(shape, JobSpec | Manifest):
        return shape.model_dump(mode="json", exclude_none=True)
    return dict(shape)


def _part(text: str) -> str:
    """Escape one part of a path: an id with a slash must not name another resource."""
    return quote(text, safe="")
