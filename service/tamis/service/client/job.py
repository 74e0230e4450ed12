"""Handle of a job of a service."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from tamis.selectors.schema.response import Explanation
from tamis.service.client.download import download
from tamis.service.client.errors import JobCancelled, JobFailed, ProblemError, ServiceUnreachable, WaitTimeout
from tamis.service.client.events import Event, parse_events
from tamis.service.client.transport import ATTEMPTS, Transport, pause
from tamis.service.job_state import JobState
from tamis.service.schema import AnswersTaken, JobError, JobProgress, JobQuestion, JobResource, JobResult, LogEntry

if TYPE_CHECKING:
    import pyarrow as pa

    from tamis.service.client.questions import Question, Scores

LONG_POLL_SECONDS: Final = 20
"""Longest wait of one request for a change."""

EVENT_SILENCE_SECONDS: Final = 60.0
"""Silence after which a connection counts as dead; the service sends a comment every 15 s."""

SELECTION: Final = "selection.parquet"

QUICK_SECONDS: Final = 0.5
"""Shortest time between two long polls that bring no question."""

NO_QUESTION: Final = frozenset({"conflict", "invalid-cursor"})
"""Problem codes of a job without an open question, or whose question changed between two pages."""

OnProgress = Callable[["Job"], None]


class Job:
    """Job of a service; its properties are those of the last answer."""

    def __init__(self, transport: Transport, resource: JobResource) -> None:
        self._transport = transport
        self.resource = resource

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.state}>"

    @property
    def id(self) -> str:
        return self.resource.id

    @property
    def state(self) -> str:
        """State: ``queued``, ``running``, ``waiting``, ``cancelling``, ``succeeded``, ``failed`` or ``cancelled``."""
        return self.resource.state

    @property
    def terminal(self) -> bool:
        """Whether the job is over."""
        return self.resource.terminal

    @property
    def progress(self) -> JobProgress | None:
        return self.resource.progress

    @property
    def error(self) -> JobError | None:
        """Problem that ended a failed job."""
        return self.resource.error

    def refresh(self) -> Job:
        """Read the job again."""
        return self._take(self._transport.request("GET", self._path()))

    def wait(self, *, timeout: float | None = None, progress: bool | OnProgress = False, check: bool = True) -> Job:
        """Wait until the job is over.

        Parameters
        ----------
        timeout : float, optional
            Seconds; for ever when left out.
        progress : bool or callable
            True draws a progress bar on stderr; a callable is called with this job whenever it has changed.
        check : bool
            Whether a job that did not succeed is an error.

        Raises
        ------
        JobFailed, JobCancelled
            With `check`, when it ended so.
        WaitTimeout
            It is not over yet. It goes on.
        """
        if progress is True:
            from tamis.service.client.progress import progress_bar

            with progress_bar() as show:
                return self.wait(timeout=timeout, progress=lambda job: show(job.resource), check=check)
        deadline = None if timeout is None else time.monotonic() + timeout
        etag: str | None = None
        while True:
            left = LONG_POLL_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            wait = int(min(left, LONG_POLL_SECONDS))
            headers = {"Prefer": f"wait={wait}"}
            if callable(progress):
                # Without an ETag the service answers at the job's end only: read it once, then at every change.
                headers = headers | {"If-None-Match": etag} if etag else {}
            response = self._transport.request("GET", self._path(), headers=headers, timeout=wait + LONG_POLL_SECONDS)
            if response.status_code != httpx.codes.NOT_MODIFIED:
                self._take(response)
                if callable(progress):
                    etag = response.headers["ETag"]
                    progress(self)
            if self.terminal:
                return self._checked() if check else self
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(f"Job {self.id} is still {self.state} after {timeout:g} s; it goes on.")
            if wait == 0:
                time.sleep(min(0.1, left))

    def questions(self) -> Iterator[Question]:
        """Iterate over the questions of the job, waiting for each, until it is over.

        A question that was not answered whole comes again, with the rows that are left.

        Raises
        ------
        JobFailed, JobCancelled
            It ended so.

        Examples
        --------
        ``for question in job.questions(): job.answer(question, scores_of(question.rows))``
        """
        while (question := self._question()) is not None:
            yield question
        self._checked()

    def answer(self, question: Question, scores: Scores) -> AnswersTaken | None:
        """Answer a question, whole or in part; safe to repeat.

        Parameters
        ----------
        question : Question
            As `questions` gave it.
        scores : array_like or mapping
            A score for each of the question's rows, in their order, or by row for some of them. Larger is better; None
            or NaN says that the row has no score.

        Returns
        -------
        AnswersTaken or None
            How many rows have no answer yet, and the job's state; None where nothing was given.

        Raises
        ------
        Invalid
            The scores do not fit the question.
        ProblemError
            The service refused: another answer is there already, or the job does not wait any more.
        """
        from tamis.service.client.questions import answers_to

        taken = None
        for body in answers_to(question, scores):
            response = self._transport.request("POST", self._path("answers"), json=body, retry=True)
            taken = AnswersTaken.model_validate_json(response.content)
        return taken

    def _question(self) -> Question | None:
        """Wait for the next question; None when the job is over."""
        from tamis.service.client.questions import question_of

        pages: list[JobQuestion] = []
        while True:
            cursor = {"cursor": pages[-1].next_cursor} if pages else {}
            started = time.monotonic()
            try:
                response = self._transport.request(
                    "GET",
                    self._path("questions"),
                    params=cursor,
                    headers={"Prefer": f"wait={LONG_POLL_SECONDS}"},
                    timeout=2 * LONG_POLL_SECONDS,
                )
            except ProblemError as error:
                if error.code not in NO_QUESTION:
                    raise
                pages.clear()  # somebody else answered between two pages
                if self.refresh().terminal:
                    return None
                if time.monotonic() - started < QUICK_SECONDS:  # a service that stops does not hold its answer back
                    time.sleep(QUICK_SECONDS)
                continue
            pages.append(JobQuestion.model_validate_json(response.content))
            if pages[-1].next_cursor is None:
                return question_of(pages)

    def cancel(self) -> Job:
        """Request the end of the job; finished units stay. `wait` returns when it is over."""
        return self._take(self._transport.request("POST", self._path("cancel"), retry=True))

    def resume(self) -> Job:
        """Queue the failed or cancelled job again; only what is missing runs."""
        return self._take(self._transport.request("POST", self._path("resume")))

    def delete(self) -> None:
        """Delete the finished job and its result."""
        self._transport.request("DELETE", self._path(), retry=False)

    def events(self, *, after: int = 0) -> Iterator[Event]:
        """Iterate over the job's events to its end; reconnects by itself.

        Parameters
        ----------
        after : int
            Id of an event; 0 begins with the first event.

        Yields
        ------
        Event
            The last one is of the kind ``end``.

        Raises
        ------
        ServiceUnreachable
            The connection broke several times in a row.
        """
        seen, failures = after, 0
        while True:
            try:
                headers = {"Last-Event-ID": str(seen)}
                stream = self._transport.stream(
                    self._path("events"), headers=headers, read_timeout=EVENT_SILENCE_SECONDS
                )
                with stream as response:
                    for event in parse_events(response.iter_lines()):
                        seen, failures = event.id or seen, 0
                        yield event
                        if event.kind == "end":
                            return
            except httpx.TransportError as error:
                failures += 1
                if failures >= ATTEMPTS:
                    raise ServiceUnreachable(f"The events of job {self.id} broke {failures} times: {error}.") from error
            # The service closes the stream of a job that goes on when it stops itself.
            time.sleep(pause(failures))

    def logs(self) -> Iterator[LogEntry]:
        """Iterate over the lines that the job has logged so far."""
        for line in self._transport.request("GET", self._path("logs")).iter_lines():
            yield LogEntry.model_validate_json(line)

    def result(self) -> JobResult:
        """Return the result's manifest: files, totals, provenance."""
        response = self._transport.request("GET", self._path("result"))
        return JobResult.model_validate_json(response.content, extra="ignore")

    def report(self) -> dict[str, Any]:
        """Return the report: the evidence that the selection is good."""
        headers = {"Accept": "application/json"}
        report: dict[str, Any] = self._transport.request("GET", self._path("report"), headers=headers).json()
        return report

    def explain(self, row: int | None = None, *, id: str | int | None = None) -> Explanation:
        """Explain why a row was selected or not.

        Parameters
        ----------
        row : int, optional
            Row number over the whole dataset.
        id : str or int, optional
            Id of a selected row, instead of `row`.

        Returns
        -------
        Explanation
            Score, rank, the threshold of the row's stratum, and the reason.
        """
        params = {key: value for key, value in (("row", row), ("id", id)) if value is not None}
        response = self._transport.request("GET", self._path("explain"), params=params)
        return Explanation.model_validate_json(response.content, extra="ignore")

    def download(self, path: str | Path, *, name: str = SELECTION) -> Path:
        """Download a file of the result.

        Parameters
        ----------
        path : str or Path
            File to write, or an existing folder, which takes it under its name.
        name : str
            Name of the file in the result's manifest.

        Returns
        -------
        Path
            The file: complete and with the sha256 of the manifest.

        Raises
        ------
        KeyError
            The result has no file of this name.
        DownloadDamaged
            The content has another sha256; nothing was written.
        """
        files = {file.name: file for file in self.result().files}
        if name not in files:
            raise KeyError(f"the result of job {self.id} has no file {name!r}; it has {', '.join(sorted(files))}")
        target = Path(path)
        target = target / name if target.is_dir() else target
        download(self._transport, files[name].url, target, sha256=files[name].sha256, size=files[name].bytes)
        return target

    def selection(self) -> pa.Table:
        """Return the selection as a table, one row for each selected row of the dataset.

        Returns
        -------
        pyarrow.Table
            Columns ``row``, ``shard``, ``shard_row``, ``score``, ``rank``, ``weight``, ``stratum``, and ``id`` where
            the manifest names an id column.
        """
        import pyarrow.parquet as pq

        with tempfile.TemporaryDirectory(prefix="tamis-") as folder:
            return pq.read_table(self.download(folder))

    def _path(self, part: str = "") -> str:
        return f"/v1/jobs/{self.id}" + (f"/{part}" if part else "")

    def _take(self, response: httpx.Response) -> Job:
        self.resource = JobResource.model_validate_json(response.content)
        return self

    def _checked(self) -> Job:
        if self.resource.state is JobState.FAILED:
            error = self.resource.error
            raise JobFailed(self.id, error.model_dump(exclude_none=True) if error is not None else {})
        if self.resource.state is JobState.CANCELLED:
            raise JobCancelled(self.id)
        return self
