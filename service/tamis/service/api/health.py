"""Endpoints for operators: liveness, readiness, metrics, version."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import version as installed_version
from typing import Final

from fastapi import APIRouter, Request, Response

from tamis.selectors.errors import StorageError
from tamis.service.api.access import key_dependency
from tamis.service.api.context import Service, ServiceDep
from tamis.service.api.metrics import CONTENT_TYPE, Metrics
from tamis.service.api.problems import NotReady, error_responses
from tamis.service.schema import Health, Version

PROBE_BYTES: Final = 4096
"""Size of the file that probes the storage: an empty file would fit on a full disk."""

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Is the process alive?", responses=error_responses(keyed=False))
def healthz() -> Health:
    """Answer as long as the process can."""
    return Health()


@router.get("/readyz", summary="Can jobs be run?", responses=error_responses(503, keyed=False))
def readyz(service: ServiceDep) -> Health:
    """Answer 200 when the store answers, the storage can be written and a worker lives."""
    missing = [
        {"pointer": f"/{part}", "detail": detail}
        for part, detail in (
            ("service", "it is stopping" if service.draining.is_set() else None),
            ("store", _store_fault(service)),
            ("storage", _storage_fault(service)),
            ("worker", _worker_fault(service)),
        )
        if detail is not None
    ]
    if missing:
        detail = "; ".join(f"{item['pointer'][1:]}: {item['detail']}" for item in missing)
        raise NotReady(f"The service is not ready: {detail}.", errors=missing)
    return Health()


def _store_fault(service: Service) -> str | None:
    try:
        service.store.check()
    except StorageError as error:
        return error.detail
    return None


def _storage_fault(service: Service) -> str | None:
    folder = service.settings.jobs_dir
    probe = folder / f".probe-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
        probe.unlink()
    except OSError as error:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        return f"{folder} can't be written: {error.strerror}"
    return None


def _worker_fault(service: Service) -> str | None:
    try:
        return None if service.store.workers.live() else "no worker is running: start one with `tamis worker`"
    except StorageError:
        return "unknown, as the store does not answer"


@router.get(
    "/metrics",
    dependencies=key_dependency,
    response_class=Response,
    summary="Metrics for Prometheus",
    responses=error_responses(
        more={200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    ),
)
def metrics(request: Request) -> Response:
    """Give jobs by state and selector, request latency by route, the age of the queue, and what is running.

    They are those of all owners together, so that a key is asked for here too where one is anywhere: any that may read.
    """
    measured: Metrics = request.app.state.metrics
    return Response(measured.text(), media_type=CONTENT_TYPE)


@router.get("/v1/version", dependencies=key_dependency, summary="What is running?", responses=error_responses())
def version() -> Version:
    """Give the versions of Tamis, its API and Python."""
    return Version(tamis=installed_version("tamis"), python=platform.python_version())
