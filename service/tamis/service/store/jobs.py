"""Jobs as their callers see them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from tamis.service.store.database import Database
from tamis.service.store.records import Cancellation, Job, JobPage, JobState, Json, Submission

DEFAULT_PAGE = 50
"""Jobs on a page."""

MAX_ATTEMPTS = 3
"""Attempts before a job whose worker keeps dying fails; `resume` grants as many again."""


class Jobs:
    """Submit, look, wait, cancel, resume, delete, count."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(
        self,
        *,
        owner: str,
        request: Json,
        spec: Json,
        selector: str,
        fingerprint: str | None,
        labels: Mapping[str, str],
        render: Callable[[Job], Json],
        uses: Collection[str] = (),
        priority: int = 0,
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
    ) -> Submission:
        """Store a job as queued; durable when this returns.

        Parameters
        ----------
        owner : str
            The caller; the scope of the idempotency key.
        request, spec : Json
            The body as sent, and the resolved `JobSpec` (no ``ds_…`` or ``job_…`` ids left) the worker runs.
        render : callable
            Makes the JSON answer from the new job. Stored with the key in the same transaction: a replay gives it back.
        uses : collection of str
            Ids of the datasets and jobs that the spec was resolved from; they can't be deleted while this job is active.
        idempotency_key, body_sha256 : str, optional
            Both or none. The sha256 is that of the canonical body.

        Raises
        ------
        IdempotencyKeyReused
            The key was used within 24 h with another body.
        NotFound
            A dataset or job in `uses` is gone.
        """
        raise NotImplementedError

    def replay(self, *, owner: str, idempotency_key: str, body_sha256: str) -> Submission | None:
        """Answer an earlier submission with this key, before any checking of the body is done again; None when new.

        Raises
        ------
        IdempotencyKeyReused
            The key was used within 24 h with another body.
        """
        raise NotImplementedError

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Give one job; with `owner`, only when it is theirs. Raises NotFound."""
        raise NotImplementedError

    def version(self, job_id: str) -> int:
        """Give the version only: cheap, for polling. Raises NotFound."""
        raise NotImplementedError

    def list(
        self,
        *,
        owner: str | None = None,
        state: JobState | None = None,
        selector: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = DEFAULT_PAGE,
        cursor: str | None = None,
    ) -> JobPage:
        """List jobs, newest first; all given filters hold at once. Raises BadCursor."""
        raise NotImplementedError

    def wait_for_change(self, job_id: str, version: int, timeout: float) -> Job:
        """Wait until the job's version is another than `version`, or `timeout` seconds; blocks the thread.

        Returns the job as it is then. Raises NotFound, also when it is deleted meanwhile.
        """
        raise NotImplementedError

    def request_cancel(self, job_id: str) -> Cancellation:
        """Cancel: a queued job at once, a running one through its worker. Raises NotFound; Conflict when finished."""
        raise NotImplementedError

    def resume(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again. Raises NotFound; Conflict in any other state."""
        raise NotImplementedError

    def delete(self, job_id: str) -> None:
        """Delete a finished job, its events and its log (the caller deletes its artefacts).

        Raises
        ------
        NotFound
            There is no such job.
        Conflict
            It is active, or an active job reads its result.
        """
        raise NotImplementedError

    def counts(self) -> dict[tuple[JobState, str], int]:
        """Count jobs by (state, selector)."""
        raise NotImplementedError

    def oldest_queued_age(self) -> float | None:
        """Seconds that the longest waiting queued job has waited; None when none waits."""
        raise NotImplementedError
