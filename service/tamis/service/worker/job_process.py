"""Process that runs jobs, one at a time: started ahead of time, warm, waiting for its order.

``python -m tamis.service.worker.job_process --parent PID [--runner MODULE:FUNCTION]``, started by the supervisor only.
Reads orders from standard input and answers on what was standard output; see `protocol`. It ends when its input ends:
without a supervisor nothing goes on computing. A process whose job ended in good order takes another: starting one
takes seconds of CPU, more than many a job.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import faulthandler
import fcntl
import gc
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import ValidationError

from tamis.selectors.errors import Cancelled, StorageError, TamisError
from tamis.service.problem_details import problem_of
from tamis.service.process_setup import die_with_parent, prepare_process
from tamis.service.question_files import write_question
from tamis.service.settings import DATA_ROOTS, Settings
from tamis.service.unit_journal import Journal
from tamis.service.worker.memory import memory_of
from tamis.service.worker.protocol import (
    Lines,
    Message,
    Order,
    Outcome,
    QuestionRows,
    RoundAnswers,
    Work,
    encode,
    packed,
    unpacked,
)

if TYPE_CHECKING:
    from tamis.selectors.jobs.open import Environment
    from tamis.selectors.run.observer import Observer, UnitDone
    from tamis.selectors.run.questions import Answer
    from tamis.selectors.schema.request import JobSpec
    from tamis.selectors.schema.response import Progress

    Runner = Callable[[JobSpec, str | None, Path, Environment, Observer, Answer], object]

EXECUTE: Final = "tamis.service.worker.execution:execute"
"""The function that runs a job."""

PROGRESS_SECONDS: Final = 0.2
"""Shortest time between two progress messages; progress in between is dropped."""

LOCK_POLL_SECONDS: Final = 0.2

SERVER_ERROR: Final = 500
"""Lowest HTTP status of errors that lie neither in the request nor in the data."""

READ_BYTES: Final = 2**16

REUSABLE_BYTES: Final = 320 * 2**20
"""Memory after a job beyond which a process takes no other: it would count against the next job's limit."""

MAX_JOBS: Final = 100
"""Maximum number of jobs of one process: bounds what a library may leak."""

OOM_SCORE: Final = 500
"""Kernel's out-of-memory score (of 1000): without memory the job is killed and not its supervisor."""


class Channel:
    """Connection to the supervisor."""

    def __init__(self) -> None:
        # A library that prints must not break into the messages: from here on, standard output is standard error.
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._write_lock = threading.Lock()
        self._orders: queue.SimpleQueue[tuple[Order, list[RoundAnswers]]] = queue.SimpleQueue()
        self._answers: list[RoundAnswers] = []  # for the order that comes after them
        self.cancel = threading.Event()

    def send(self, message: Message) -> None:
        """Send a message; blocks while the supervisor does not read."""
        line = memoryview(encode(message))
        with self._write_lock:
            while line:
                line = line[os.write(self._out, line) :]

    def listen(self) -> None:
        """Start the thread that reads the supervisor's messages."""
        threading.Thread(target=self._listen, name="tamis-orders", daemon=True).start()

    def order(self) -> tuple[Order, list[RoundAnswers]]:
        """Wait for the next order; returns it with the answers that came before it."""
        return self._orders.get()

    def _listen(self) -> None:
        lines = Lines()
        # The descriptor and not sys.stdin: a thread that waits inside a buffered reader breaks the interpreter's exit.
        while data := os.read(0, READ_BYTES):
            for line in lines.feed(data):
                self._take(line)
        # The supervisor has ended, and with it the lease: end at once, children included.
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def _take(self, line: bytes) -> None:
        message = json.loads(line)
        match message["kind"]:
            case "answers":
                self._answers.append(cast("RoundAnswers", message))
            case "order":
                self.cancel.clear()  # it was meant for the job before, which ended first
                self._orders.put((cast("Order", message), self._answers))
                self._answers = []
            case _:
                self.cancel.set()


class PipeObserver:
    """Observer that reports to the supervisor."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.journal: Journal | None = None
        self._sent_at = float("-inf")
        self._lock = threading.Lock()  # units are computed in several threads
        self._work = Work(kind="work", rows=0, bytes=0, unit_seconds=[])
        self.last: dict[str, Any] | None = None

    def progress(self, progress: Progress) -> None:
        """Send progress, at most once in `PROGRESS_SECONDS`."""
        self.last = progress.model_dump(mode="json")
        now = time.monotonic()
        if now - self._sent_at >= PROGRESS_SECONDS:
            self._sent_at = now
            self.report_work()
            self._channel.send({"kind": "progress", "progress": self.last})

    def log(self, level: str, message: str, **fields: Any) -> None:
        """Send a line for the job's log."""
        self._channel.send({"kind": "log", "level": level, "message": message, "fields": fields, "at": time.time()})

    def read(self, rows: int, size: int) -> None:
        """Count rows and bytes read; reported with the next progress."""
        with self._lock:
            self._work["rows"] += rows
            self._work["bytes"] += size

    def unit(self, unit: UnitDone) -> None:
        """Write a unit into the journal, and count a computed one; reported with the next progress."""
        if self.journal is not None:
            self.journal.write(unit)
        if unit.seconds is not None:
            with self._lock:
                self._work["unit_seconds"].append(unit.seconds)

    def report_work(self) -> None:
        """Report the counts since the last report."""
        with self._lock:
            work, self._work = self._work, Work(kind="work", rows=0, bytes=0, unit_seconds=[])
        self._channel.send(work)

    def cancelled(self) -> bool:
        """Whether the job has to stop."""
        return self._channel.cancel.is_set()


def main(argv: Sequence[str] | None = None) -> int:
    """Run jobs, one after the other, as long as the process is fit for another."""
    parser = argparse.ArgumentParser(prog="tamis-job-process", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="the supervisor's process id")
    parser.add_argument("--runner", default=EXECUTE, help="module:function that runs a job")
    arguments = parser.parse_args(argv)
    die_with_parent(arguments.parent, signal.SIGKILL)
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # the supervisor decides when this process ends
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    channel = Channel()
    channel.listen()
    faulthandler.enable()
    settings = Settings.from_environment()
    prepare_process(settings)
    runner = _load(arguments.runner)
    if arguments.runner == EXECUTE:
        _warm_up()  # another runner's kernels are its own affair
    for number in range(1, MAX_JOBS + 1):
        channel.send({"kind": "ready"})
        order, answered = channel.order()
        outcome = _run(order, answered, runner, settings, channel)
        outcome["reusable"] = outcome["reusable"] and number < MAX_JOBS and _is_reusable()
        channel.send(outcome)
        if not outcome["reusable"]:
            break
    return 0


def _load(name: str) -> Runner:
    module, _, function = name.partition(":")
    return cast("Runner", getattr(importlib.import_module(module), function))


def _warm_up() -> None:
    import pyarrow as pa

    from tamis.native import warmup_common

    pa.set_cpu_count(1)  # as ONE_THREAD: units run side by side, one unit in one thread
    warmup_common()


def _is_reusable() -> bool:
    """Free memory of the last job; returns whether at most `REUSABLE_BYTES` are held."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # musl gives back by itself
            ctypes.CDLL(None).malloc_trim(0)
    return memory_of(os.getpid()) <= REUSABLE_BYTES


def _run(
    order: Order, answered: Sequence[RoundAnswers], runner: Runner, settings: Settings, channel: Channel
) -> Outcome:
    import numpy as np

    from tamis.selectors.datasets import open_storage
    from tamis.selectors.jobs.open import Environment
    from tamis.selectors.run.questions import Answered, Answers, Waiting
    from tamis.selectors.schema.request import JobSpec

    observer = PipeObserver(channel)
    outcome = Outcome(kind="outcome", state="succeeded", question=None, problem=None, progress=None, reusable=True)
    answers = Answers(
        Answered(
            one["round"], np.frombuffer(unpacked(one["rows"]), "<i8"), np.frombuffer(unpacked(one["scores"]), "<f8")
        )
        for one in answered
    )
    try:
        spec = JobSpec.model_validate(order["spec"])
        environment = Environment(
            storage=open_storage(settings.data_roots, s3_endpoint=settings.s3_endpoint, setting=DATA_ROOTS.variable),
            cache=settings.signals_dir,
            threads=order["threads"],
        )
        out = Path(order["out"])
        with _folder_lock(out, observer), contextlib.closing(Journal(out, order["attempt"])) as observer.journal:
            try:
                runner(spec, order["fingerprint"], out, environment, observer, answers)
            except Waiting as waiting:
                write_question(out, waiting.question)
                outcome["state"] = "waiting"
                rows = packed(waiting.question.rows.astype("<i8").tobytes())
                outcome["question"] = QuestionRows(round=waiting.question.round, rows=rows)
    except Cancelled:
        outcome |= {"state": "cancelled", "reusable": False}  # the supervisor may be about to kill this process
    except Exception as error:
        known = _as_tamis_error(error)
        if known is error and known.status < SERVER_ERROR:
            observer.log("error", known.detail, code=known.code)  # it says all: where in Tamis it arose helps nobody
        else:
            observer.log("error", _short(error), traceback=traceback.format_exc())
        in_order = isinstance(error, TamisError | OSError)  # of the data's or the disk's making, not of this process's
        outcome |= {"state": "failed", "problem": problem_of(known), "reusable": in_order}
    observer.report_work()
    outcome["progress"] = observer.last
    return outcome


@contextlib.contextmanager
def _folder_lock(out: Path, observer: PipeObserver) -> Iterator[None]:
    """Lock the job's folder: an earlier attempt on this host may still be running without its supervisor."""
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (out / ".attempt.lock").open("ab") as lock:
        announced = False
        while not _locked(lock.fileno()):
            if not announced:
                observer.log("info", "waiting for the end of an earlier attempt that is still running on this host")
                announced = True
            if observer.cancelled():
                raise Cancelled
            time.sleep(LOCK_POLL_SECONDS)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _as_tamis_error(error: Exception) -> TamisError:
    match error:
        case TamisError():
            return error
        case MemoryError():
            return OutOfMemory()
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return StorageError("the disk that holds TAMIS_HOME is full: make room, then resume the job")
        case OSError():
            return StorageError(f"storage failed: {_short(error)}")
        case ValidationError():
            return TamisError(f"the stored job can't be read by this version of Tamis: {_short(error)}")
        case _:
            return TamisError(f"an error in Tamis ended the job ({_short(error)}); the traceback is in the job's log")


class OutOfMemory(TamisError):
    """The job ran out of memory; give the host more of it, or Tamis fewer threads."""

    code = "out-of-memory"
    status = 500


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:500]}" if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
