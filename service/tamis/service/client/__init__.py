"""The client of a Tamis service: ``from tamis.service.client import Client``."""

from __future__ import annotations

from tamis.service.client.client import DEFAULT_URL, Client
from tamis.service.client.errors import JobCancelled, JobFailed, ProblemError, ServiceUnreachable, WaitTimeout
from tamis.service.client.events import Event
from tamis.service.client.job import Job

__all__ = [
    "DEFAULT_URL",
    "Client",
    "Event",
    "Job",
    "JobCancelled",
    "JobFailed",
    "ProblemError",
    "ServiceUnreachable",
    "WaitTimeout",
]
