"""Supervisor: a loop that claims jobs while a slot is free and gives each to a process of its own."""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import socket
import time
from dataclasses import replace
from types import FrameType
from typing import Final

import structlog

from tamis.selectors.errors import StorageError
from tamis.service.metrics_model import Tally
from tamis.service.retention import Retention, Sweeper
from tamis.service.settings import Settings
from tamis.service.store import Claim, Store
from tamis.service.worker.attempt import Attempt, Timing
from tamis.service.worker.job_process import EXECUTE
from tamis.service.worker.process_handle import JobProcessHandle
from tamis.service.worker.protocol import Order, RoundAnswers, packed

TICK_SECONDS: Final = 0.1
"""Longest pause of the loop; a message from a process ends it earlier."""

SPARE_RETRY_SECONDS: Final = 5.0
"""Pause before the next start after a process that died before it was ready."""

HEARTBEATS: Final = 5
"""Minimum number of heartbeats in one lease: a late one does not lose the job."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tamis.worker")


class Supervisor:
    """Supervisor of up to `slots` jobs at a time, one process each, with one warm process to spare."""

    def __init__(
        self, store: Store, settings: Settings, *, slots: int = 1, timing: Timing | None = None, runner: str = EXECUTE
    ) -> None:
        """Prepare the supervisor; `run` starts it.

        Parameters
        ----------
        slots : int
            Jobs at a time; the threads of `settings` are shared among them.
        timing : Timing, optional
            How often and how long.
        runner : str
            ``module:function`` that runs a job, with the signature of `tamis.service.worker.execution.execute`.
        """
        self._store = store
        self._settings = settings
        self._slots = slots
        self._timing = timing or Timing()
        self._runner = runner
        self.id: Final = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._attempts: list[Attempt] = []
        self._tally = Tally()
        self._spares: list[JobProcessHandle] = []
        self._next_spare = self._next_poll = self._next_report = self._next_cancel = 0.0
        self._stopping = False

    def run(self) -> None:
        """Run until `stop`, SIGTERM or SIGINT; then give running jobs back.

        Must be called in the main thread.
        """
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        _log.info("worker started", worker=self.id, slots=self._slots, threads=self._settings.threads)
        try:
            while not self._stopping:
                self._tick()
                self._sleep()
        finally:
            self._leave()

    def stop(self) -> None:
        """End `run` soon; safe to call from a signal handler or another thread."""
        self._stopping = True

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.stop()

    def _tick(self) -> None:
        self._attempts = [attempt for attempt in self._attempts if not self._over(attempt)]
        self._keep_spare()
        now = time.monotonic()
        try:
            if now >= self._next_report:
                self._next_report = now + self._timing.report
                self._report()
            if now >= self._next_cancel and self._attempts:
                self._next_cancel = now + self._timing.cancel
                self._cancel()
            if now >= self._next_poll and len(self._attempts) < self._slots and (spare := self._ready_spare()):
                self._next_poll = now + self._timing.poll
                self._claim(spare)
        except StorageError as error:
            _log.warning("the store does not answer", detail=error.detail)
            self._next_poll = now + self._timing.heartbeat

    def _cancel(self) -> None:
        wanted = self._store.queue.cancelling(self.id)
        for attempt in self._attempts:
            if attempt.claim.job.id in wanted:
                attempt.cancel()

    def _over(self, attempt: Attempt) -> bool:
        if not attempt.step():
            return False
        handle = attempt.take_handle()
        if handle is not None:
            self._spares.append(handle)
        self._next_poll = self._next_report = 0.0
        return True

    def _report(self) -> None:
        spares = [spare.memory_bytes() for spare in self._spares]
        self._store.workers.report(
            self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            slots=self._slots,
            running=len(self._attempts),
            memory_bytes=sum([*spares, *(attempt.memory_bytes for attempt in self._attempts)]),
        )
        self._store.queue.reap()
        self._store_tally()

    def _store_tally(self) -> None:
        amounts = self._tally.take()
        try:
            self._store.totals.add(amounts)
        except StorageError:
            self._tally.put_back(amounts)
            raise

    def _keep_spare(self) -> None:
        now = time.monotonic()
        # One more than there are slots: while a process ends badly, or starts, the next job need not wait.
        if not self._spares and len(self._attempts) <= self._slots and now >= self._next_spare:
            self._spares.append(JobProcessHandle(self._runner))
        for spare in self._spares:
            for _ in spare.receive():
                pass  # ready: the handle keeps it
            for line in spare.errors():
                _log.warning("job process", pid=spare.pid, stderr=line)
            status = spare.exit_status()
            if status is not None:
                _log.error("a job process ended before it had a job", status=status)
                spare.close()
                if not spare.ready:  # the next one may end as this one did
                    self._next_spare = now + SPARE_RETRY_SECONDS
        self._spares = [spare for spare in self._spares if spare.exit_status() is None]

    def _ready_spare(self) -> JobProcessHandle | None:
        """Return the ready process that was used last: it is the warmest. None when none is ready."""
        return next((spare for spare in reversed(self._spares) if spare.ready), None)

    def _claim(self, handle: JobProcessHandle) -> None:
        claim = self._store.queue.claim(self.id, self._timing.lease)
        if claim is None:
            return
        answers = [] if claim.job.round is None else self._answers(claim.job.id)
        self._spares.remove(handle)
        for message in answers:
            handle.send(message)
        handle.send(self._order(claim))
        _log.info(
            "attempt started",
            job=claim.job.id,
            attempt=claim.job.attempts,
            selector=claim.job.selector,
            pid=handle.pid,
            waited_seconds=claim.waited,
        )
        self._attempts.append(Attempt(self._store, claim, handle, self._timing, self._tally))

    def _answers(self, job_id: str) -> list[RoundAnswers]:
        return [
            RoundAnswers(kind="answers", round=one.round, rows=packed(one.rows), scores=packed(one.scores))
            for one in self._store.questions.answers(job_id)
        ]

    def _order(self, claim: Claim) -> Order:
        return Order(
            kind="order",
            job_id=claim.job.id,
            attempt=claim.job.attempts,
            spec=dict(claim.job.spec),
            fingerprint=claim.job.fingerprint,
            out=str(self._settings.job_dir(claim.job.id)),
            threads=max(1, self._settings.threads // self._slots),
        )

    def _sleep(self) -> None:
        descriptors = [descriptor for attempt in self._attempts for descriptor in attempt.descriptors]
        for spare in self._spares:
            descriptors += spare.descriptors
        with selectors.DefaultSelector() as selector:
            for descriptor in descriptors:
                selector.register(descriptor, selectors.EVENT_READ)
            for descriptor in (descriptor for attempt in self._attempts for descriptor in attempt.unsent):
                selector.register(descriptor, selectors.EVENT_WRITE)
            selector.select(TICK_SECONDS)

    def _leave(self) -> None:
        for spare in self._spares:
            spare.close()
        for attempt in self._attempts:
            attempt.give_back()
        try:
            self._store_tally()
            self._store.workers.leave(self.id)
        except StorageError as error:
            _log.warning("the store does not answer", detail=error.detail)
        _log.info("worker stopped", worker=self.id)


def run_worker(settings: Settings, *, slots: int = 1) -> None:
    """Run a supervisor in this process until SIGTERM or SIGINT, as `tamis worker` does.

    Raises
    ------
    TamisError
        The settings or the database can't be used.
    """
    settings.create_folders()
    store = Store(settings.database_url, running_per_owner=settings.running_per_owner)
    sweeper = Sweeper(Retention(store, settings))
    usual, lease = Timing(), settings.lease_seconds
    timing = replace(usual, lease=lease, heartbeat=min(usual.heartbeat, lease / HEARTBEATS))
    try:
        store.migrate()
        sweeper.start()
        Supervisor(store, settings, slots=slots, timing=timing).run()
    finally:
        sweeper.stop()
        store.close()


def is_reporting(settings: Settings) -> bool:
    """Return whether a worker of this host reported recently: the health check of a worker's container."""
    store = Store(settings.database_url)
    try:
        return any(worker.host == socket.gethostname() for worker in store.workers.live())
    finally:
        store.close()
