"""Attempt at a job: its claim, its process, and the ways in which it ends."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from tamis.selectors.errors import OutOfLimits, StorageError, TamisError
from tamis.service.job_state import JobState
from tamis.service.metrics_model import (
    ATTEMPT,
    ATTEMPTS,
    BYTES_READ,
    PEAK_MEMORY,
    QUEUE_WAIT,
    RETRIES,
    ROWS_READ,
    UNIT,
    Tally,
)
from tamis.service.problem_details import problem_of
from tamis.service.store import Claim, Control, LogLine, Store
from tamis.service.tracing import AttemptSpan
from tamis.service.worker.process_handle import JobProcessHandle
from tamis.service.worker.protocol import Message, unpacked

MAX_HELD_LINES: Final = 2_000
"""Maximum number of log lines held while the store does not answer; the oldest are dropped."""


LOST: Final = "lost"
"""Outcome of an attempt whose lease ran out, or whose job was deleted."""

AGAIN: Final = "again"
"""Outcome of an attempt whose job was queued again: after a transient failure, or by a worker that stops."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Intervals and limits of a supervisor, in seconds."""

    lease: float = 15.0  # a job goes to another worker when its worker did not report for this time
    heartbeat: float = 1.0  # between two reports of a job
    poll: float = 0.2  # between two polls of the queue while a slot is free
    memory: float = 0.25  # between two measurements of a job's memory, where it has a limit
    cancel: float = 0.25  # between two polls for jobs that have to stop
    grace: float = 1.0  # from then to the kill: finished units are kept, so little is lost
    report: float = 2.0  # between two reports of the worker itself


class JobProcessDied(TamisError):
    """The process that ran the job died."""

    code = "job-process-died"
    status = 500


class Attempt:
    """Controller of one job process for one job; `step` is called many times a second and never blocks."""

    def __init__(self, store: Store, claim: Claim, handle: JobProcessHandle, timing: Timing, tally: Tally) -> None:
        self.claim: Final = claim
        self.handle: Final = handle
        self.memory_bytes = 0  # at the last measurement
        self._peak_memory = 0
        self._tally = tally
        self._selector: Final = claim.job.selector
        self._problem: Mapping[str, Any] | None = None
        named = {"job": claim.job.id, "attempt": claim.job.attempts, "selector": self._selector}
        self._log_out: structlog.stdlib.BoundLogger = structlog.get_logger("tamis.job").bind(**named)
        self._span = AttemptSpan(claim.job.traceparent, {f"tamis.{name}": value for name, value in named.items()})
        self._tally.observe(QUEUE_WAIT, self._selector, claim.waited)
        self._tally.count(RETRIES, self._selector, int(claim.job.attempts > 1))
        self._store = store
        self._timing = timing
        now = time.monotonic()
        self._started = now
        self._lease_until = now + timing.lease
        self._next_heartbeat = now + timing.heartbeat
        self._next_memory = now
        self._kill_at: float | None = None
        self._progress: dict[str, Any] | None = None
        self._logs: list[LogLine] = []
        self._report: Callable[[], JobState | None] | None = None
        self._reusable = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors that become readable when the process writes; none once the outcome is recorded."""
        return self.handle.descriptors if self._report is None else ()

    @property
    def unsent(self) -> tuple[int, ...]:
        """Descriptors that become writable when more of the order can be sent."""
        return self.handle.unsent if self._report is None else ()

    def cancel(self) -> None:
        """Request the process to stop, and kill it after `Timing.grace`."""
        if self._kill_at is None and self._report is None:
            self._kill_at = time.monotonic() + self._timing.grace
            self.handle.send({"kind": "cancel"})

    def take_handle(self) -> JobProcessHandle | None:
        """Return, after the end, the process if it can run another job; otherwise it is closed."""
        return self.handle if self._reusable else None

    def step(self) -> bool:
        """Process messages and deadlines; returns True when the attempt is over and the slot is free."""
        for message in self.handle.receive():
            self._handle_message(message)
        self._collect_errors()
        now = time.monotonic()
        if self._report is None:
            self._watch(now)
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self._timing.heartbeat
            return self._report_outcome() if self._report is not None else self._heartbeat(now)
        return False

    def give_back(self) -> None:
        """Stop the process and queue the job again, for a worker that stops; an outcome that arrived is reported."""
        for message in self.handle.receive():
            self._handle_message(message)
        self._reusable = False
        self.handle.close()
        if self._report is None:
            self._end(lambda: self._store.queue.release(self.claim.lease, logs=self._logs))
        self._report_outcome()

    def _handle_message(self, message: Message) -> None:
        match message["kind"]:
            case "progress":
                self._progress = message["progress"]
                self._span.phase(message["progress"]["phase"])
            case "work":
                self._tally.count(ROWS_READ, self._selector, message["rows"])
                self._tally.count(BYTES_READ, self._selector, message["bytes"])
                for seconds in message["unit_seconds"]:
                    self._tally.observe(UNIT, self._selector, seconds)
            case "log":
                self._log(message["level"], message["message"], message["fields"], at=message["at"])
            case "outcome":
                self._measure_memory()  # a short attempt has seen no heartbeat
                self._progress = message["progress"] or self._progress
                self._reusable = message["reusable"]
                self._end(self._outcome(message))

    def _outcome(self, message: Message) -> Callable[[], JobState | None]:
        queue, lease = self._store.queue, self.claim.lease
        match message["state"]:
            case "succeeded":
                return lambda: queue.succeed(lease, progress=self._progress, logs=self._logs)
            case "cancelled":
                return lambda: queue.cancelled(lease, logs=self._logs)
            case "waiting":
                round, rows = message["question"]["round"], unpacked(message["question"]["rows"])
                return lambda: queue.wait(lease, round, rows, progress=self._progress, logs=self._logs)
            case _:
                self._problem = message["problem"]
                return lambda: queue.fail(lease, message["problem"], logs=self._logs)

    def _watch(self, now: float) -> None:
        """End the attempt if the process died, exceeded a limit, or did not stop in time."""
        status = self.handle.exit_status()
        if status is not None:
            for message in self.handle.receive():  # sent between the last poll and its end
                self._handle_message(message)
            self._collect_errors()
            if self._report is None:
                self._fail(JobProcessDied(_death(status)))
        elif self._kill_at is not None and now >= self._kill_at:
            self._log("warning", f"the job did not stop within {self._timing.grace:g} s and was killed")
            self._kill()
            self._end(lambda: self._store.queue.cancelled(self.claim.lease, logs=self._logs))
        elif (seconds := self._limit("seconds")) is not None and now - self._started > seconds:
            self._kill()
            self._fail(
                OutOfLimits(
                    f"the job ran longer than its limit of {seconds:g} s and was ended; its finished units are kept: "
                    "resume it to go on, or submit it again with a larger limit",
                    pointer="/limits/seconds",
                )
            )
        elif (limit := self._limit("memory_bytes")) is not None and now >= self._next_memory:
            self._next_memory = now + self._timing.memory
            memory = self._measure_memory()
            if memory > limit:
                self._kill()
                self._fail(
                    OutOfLimits(
                        f"the job held {memory / 2**20:.0f} MiB of memory, its limit is {limit / 2**20:.0f} MiB; "
                        "submit it again with a larger limit, or run the worker with fewer threads",
                        pointer="/limits/memory_bytes",
                    )
                )

    def _measure_memory(self) -> int:
        self.memory_bytes = self.handle.memory_bytes()
        self._peak_memory = max(self._peak_memory, self.memory_bytes)
        return self.memory_bytes

    def _limit(self, name: str) -> float | None:
        limits: Mapping[str, float | None] = self.claim.job.spec.get("limits") or {}
        return limits.get(name)

    def _heartbeat(self, now: float) -> bool:
        self._measure_memory()
        logs = list(self._logs)
        try:
            control = self._store.queue.heartbeat(
                self.claim.lease, self._timing.lease, progress=self._progress, logs=logs
            )
        except StorageError:
            # Without the store the lease runs out by itself, and then the job is another worker's.
            if now < self._lease_until:
                return False
            control = Control.LOST
        if control is Control.LOST:
            self.handle.close()
            self._count(None)
            return True
        del self._logs[: len(logs)]
        self._lease_until = now + self._timing.lease
        if control is Control.CANCEL:
            self.cancel()
        return False

    def _fail(self, error: TamisError) -> None:
        self._problem = problem = problem_of(error)
        self._log("error", error.detail, {"code": error.code})
        self._end(lambda: self._store.queue.fail(self.claim.lease, problem, logs=self._logs))

    def _end(self, report: Callable[[], JobState | None]) -> None:
        """Record the outcome; report it now, and retry until the store accepts."""
        self._report = report
        self._next_heartbeat = 0.0

    def _report_outcome(self) -> bool:
        assert self._report is not None
        try:
            state = self._report()
        except StorageError:
            return False
        if not self._reusable:
            self.handle.close()
        self._count(state)
        return True

    def _count(self, state: JobState | None) -> None:
        """Count the attempt by the state of its job; None: the lease was lost."""
        outcome = LOST if state is None else AGAIN if state is JobState.QUEUED else str(state)
        seconds = time.monotonic() - self._started
        self._tally.count(ATTEMPTS, self._selector, label=outcome)
        self._tally.observe(ATTEMPT, self._selector, seconds)
        self._tally.observe(PEAK_MEMORY, self._selector, self._peak_memory)
        self._span.end(outcome, self._problem)
        self._log_out.info("attempt over", outcome=outcome, seconds=seconds, peak_memory_bytes=self._peak_memory)

    def _kill(self) -> None:
        self.handle.kill()
        self._collect_errors()

    def _collect_errors(self) -> None:
        for line in self.handle.errors():
            if line.strip():
                self._log("warning", line, {"stream": "stderr"})

    def _log(
        self, level: str, message: str, fields: Mapping[str, Any] | None = None, *, at: float | None = None
    ) -> None:
        self._log_out.log(logging.getLevelNamesMapping()[level.upper()], message, **(fields or {}))
        self._logs.append(LogLine(time.time() if at is None else at, level, message, fields or {}))
        del self._logs[:-MAX_HELD_LINES]


def _death(status: int) -> str:
    if status >= 0:
        return f"the job process ended with status {status} before the job did; the job's log has its last words"
    name = signal.Signals(-status).name
    reason = {
        "SIGKILL": " (out of memory?); if it happens again, give the host more memory or the worker fewer threads",
        "SIGBUS": " (a file was cut short while it was read)",
        "SIGSEGV": " (a fault in native code); the job's log has the stack",
    }.get(name, "")
    return f"the job process was killed by {name}{reason}"
