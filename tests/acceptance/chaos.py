"""A service under SIGKILL: its API, its workers and their job processes die at random moments; all jobs come out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.service.job_state import JobState
from tamis.service.settings import Settings
from tamis.service.store import EventKind, Job, Store

LEASE_SECONDS: Final = 2
WORKERS: Final = 2
OUTSTANDING: Final = 6
"""Jobs that wait or run at a time."""

PAUSE_SECONDS: Final = 1.2
"""Longest pause between two kills."""

PATIENCE: Final = 600.0

EXPECTED_FAILURES: Final = {"job-process-died", "worker-lost"}
"""What a job may fail of here: three attempts that were killed. It is resumed then."""

log = logging.getLogger("chaos")
logging.getLogger("httpx").setLevel(logging.WARNING)


class HalfWritten(AssertionError):
    """Somebody could have read half a file."""


class Part:
    """One process of the service, started again whenever it is dead."""

    def __init__(self, home: Path, name: str, *command: str) -> None:
        self.name = name
        self._home = home
        self._command = [sys.executable, "-m", "tamis.service.cli", *command]
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Start it unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        with (self._home / f"{self.name}.log").open("ab") as out:
            self._process = subprocess.Popen(
                self._command,
                env={
                    **os.environ,
                    "TAMIS_HOME": str(self._home),
                    "TAMIS_THREADS": "2",
                    "TAMIS_LEASE_SECONDS": str(LEASE_SECONDS),
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def children(self) -> list[int]:
        """Process ids of a worker's job processes."""
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(PATIENCE)


class Reader(threading.Thread):
    """Reads every file as soon as its name is there: it must be whole, and stay what it is."""

    def __init__(self, home: Path) -> None:
        super().__init__(name="reader", daemon=True)
        self._home = home
        self._seen: dict[Path, tuple[int, int]] = {}
        self._done = threading.Event()
        self.files = 0
        self.fault: str | None = None

    def run(self) -> None:
        while not self._done.is_set() and self.fault is None:
            try:
                self.look()
            except HalfWritten as error:
                self.fault = str(error)
            time.sleep(0.1)

    def stop(self) -> None:
        self._done.set()
        self.join()
        self.look()

    def look(self) -> None:
        for path in [*self._home.glob("jobs/job_*/*"), *self._home.glob("signals/*/*")]:
            if path.name.startswith(".") or path.name == "work":
                continue
            try:
                status = path.stat()
                version = (status.st_ino, status.st_mtime_ns if path.suffix != ".arrow" else 0)  # signals are touched
                if self._seen.get(path) == version:
                    continue
                _read_whole(path)
                self._seen[path] = version
                self.files += 1
            except FileNotFoundError:
                continue


def _read_whole(path: Path) -> None:
    content = path.read_bytes()
    try:
        match path.suffix:
            case ".parquet":
                pq.read_table(pa.BufferReader(content)).validate(full=True)
            case ".arrow":
                pa.ipc.open_file(pa.BufferReader(content)).read_all().validate(full=True)
            case ".json":
                json.loads(content)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise HalfWritten(f"{path} could be read half written: {error}") from error


@dataclass
class Account:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    jobs: dict[str, str] = field(default_factory=dict)  # job id -> name of its request
    digests: dict[str, str] = field(default_factory=dict)  # job id -> sha256 of its selection
    attempts: int = 0
    files: int = 0


class Storm:
    """Submits jobs, kills processes, and counts what came out."""

    def __init__(self, home: Path, requests: Mapping[str, Mapping[str, Any]], seed: int) -> None:
        self._requests = requests
        self._chance = random.Random(seed)
        self._home = home
        self._port = _free_port()
        self._api = Part(home, "api", "serve", "--no-worker", "--port", str(self._port))
        self._workers = [Part(home, f"worker-{index}", "worker") for index in range(WORKERS)]
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=10, trust_env=False)
        self._active: set[str] = set()
        self.account = Account()

    def run(self, kills: int) -> Account:
        """Kill so many times, then let the jobs come to their end.

        Raises
        ------
        AssertionError
            A job was lost, finished twice or failed for another reason than the kills; a file was there half written.
        """
        reader = Reader(self._home)
        reader.start()
        try:
            while self.account.kills.total() < kills:
                self._keep()
                self._fill()
                self._collect()
                time.sleep(self._chance.random() * PAUSE_SECONDS)
                self._kill()
                assert reader.fault is None, reader.fault
            log.info("killed %s; now the jobs come to their end", dict(self.account.kills))
            deadline = time.monotonic() + PATIENCE
            while self._active:
                self._keep()
                self._collect()
                assert time.monotonic() < deadline, f"these do not end: {self._active}"
                time.sleep(0.1)
            self._check_events()
            reader.stop()
            assert reader.fault is None, reader.fault
            self.account.files = reader.files
        finally:
            for part in (*self._workers, self._api):
                part.stop()
            self._http.close()
        return self.account

    def _keep(self) -> None:
        for part in (self._api, *self._workers):
            part.keep()

    def _kill(self) -> None:
        kind = self._chance.choices(["job process", "worker", "api"], [5, 2, 1])[0]
        worker = self._chance.choice(self._workers)
        pids = {"api": [self._api.pid], "worker": [worker.pid], "job process": worker.children}[kind]
        if not pids:
            return  # the worker has none yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._chance.choice(pids), signal.SIGKILL)
            self.account.kills[kind] += 1

    def _fill(self) -> None:
        while len(self._active) < OUTSTANDING:
            name = self._chance.choice(sorted(self._requests))
            key = f"chaos-{len(self.account.jobs)}"
            # The answer may be lost with the API: the same key gets the same job.
            answer = self._insist("POST", "/v1/jobs", json=self._requests[name], headers={"Idempotency-Key": key})
            assert answer.status_code == 202, answer.text
            job_id = answer.json()["id"]
            assert job_id not in self.account.jobs, "two keys gave one job"
            self.account.jobs[job_id] = name
            self._active.add(job_id)

    def _collect(self) -> None:
        for job_id in sorted(self._active):
            job = self._insist("GET", f"/v1/jobs/{job_id}").json()
            if job["state"] == "failed":
                assert job["error"]["code"] in EXPECTED_FAILURES, job
                # 409: an answer that was lost had resumed it.
                answer = self._insist("POST", f"/v1/jobs/{job_id}/resume")
                assert answer.status_code in {202, 409}, answer.text
                self.account.resumed += 1
            elif job["terminal"]:
                assert job["state"] == "succeeded", job
                answer = self._insist("GET", f"/v1/jobs/{job_id}/selection.parquet")
                digest = hashlib.sha256(answer.content).hexdigest()
                assert answer.headers["ETag"] == f'"{digest}"'
                self.account.digests[job_id] = digest
                self._active.discard(job_id)

    def _insist(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send until there is an answer that is not the API's death, or its start."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self._keep()
            with contextlib.suppress(httpx.TransportError):
                answer = self._http.request(method, path, **options)
                busy = answer.status_code == 409 and answer.json().get("code") == "idempotency-key-in-flight"
                if answer.status_code < 500 and not busy:
                    return answer
                assert answer.status_code in {409, 503}, answer.text
            assert time.monotonic() < deadline, "the API does not answer"
            time.sleep(0.05)

    def _check_events(self) -> None:
        """What the store has must be what was submitted, each finished once."""
        store = Store(Settings.from_environment({"TAMIS_HOME": str(self._home)}).database_url)
        listed: list[Job] = []
        cursor = None
        while True:
            page = store.jobs.list(limit=100, cursor=cursor)
            listed += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        assert sorted(job.id for job in listed) == sorted(self.account.jobs)
        for job in listed:
            events = store.events.list(job.id)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            ends = [event.data["state"] for event in events if event.kind is EventKind.STATE]
            assert ends.count(JobState.SUCCEEDED) == 1 and ends[-1] == JobState.SUCCEEDED
            self.account.attempts += job.attempts
            file = self._home / "jobs" / job.id / "selection.parquet"
            assert hashlib.sha256(file.read_bytes()).hexdigest() == self.account.digests[job.id]
        store.close()


def undisturbed(requests: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Give the sha256 of the selection of each request, made by the library in peace."""
    from tamis.selectors import select

    for name, request in requests.items():
        with tempfile.TemporaryDirectory() as folder:
            yield name, hashlib.sha256(select(**request, out=Path(folder), threads=2).path.read_bytes()).hexdigest()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
