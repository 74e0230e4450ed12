"""Errors of the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.selectors.errors import TamisError


class ProblemError(TamisError):
    """The service answered with a problem.

    Attributes
    ----------
    status : int
        The HTTP status.
    code : str
        The problem's stable code: ``invalid-request``, ``not-found``, ``conflict``, …
    errors : list of {pointer, detail}
        The fields at fault, where the problem names some.
    problem : dict
        The whole problem as it was sent.
    """

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or "the service gave no reason"))
        self.problem = dict(problem)
        self.status = int(problem.get("status") or 0)  # type: ignore[misc] # the class has a default, each problem its own
        self.code = str(problem.get("code") or "unknown")  # type: ignore[misc]
        self.errors: list[dict[str, str]] = [dict(item) for item in problem.get("errors") or ()]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problem,)

    def __str__(self) -> str:
        return f"{self.detail} ({self.code})"


class JobFailed(ProblemError):
    """The job failed; its problem says why."""

    def __init__(self, job_id: str, problem: Mapping[str, Any]) -> None:
        super().__init__(problem)
        self.job_id = job_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job_id, self.problem)

    def __str__(self) -> str:
        return f"job {self.job_id} failed: {super().__str__()}"


class JobCancelled(TamisError):
    """The job was cancelled."""

    code = "cancelled"
    status = 409

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} was cancelled. Resume it to go on from its finished units.")
        self.job_id = job_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job_id,)


class WaitTimeout(TamisError):
    """The job did not end in time; it goes on."""

    code = "wait-timeout"


class ServiceUnreachable(TamisError):
    """The service can't be reached."""

    code = "unreachable"
    status = 503


class BadApiKey(TamisError):
    """The API key (api_key or TAMIS_API_KEY) is no key: it holds white space or other characters that no key has."""

    code = "bad-settings"


class DownloadDamaged(TamisError):
    """What was downloaded does not have the digest that the service promised."""

    code = "download-damaged"
