"""Real services: `tamis serve` in a process of its own, on a free port, over a few hundred rows of text."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.service.settings import Settings
from tamis.service.store import Scope, Store

PATIENCE = 240.0
"""Seconds after which what does not come is a failure."""

ROWS = 300
SHARDS = 2

Request = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 300 rows, a third of them about ships, and a target about ships."""
    folder = tmp_path_factory.mktemp("data")
    generator = random.Random(7)
    words = {
        "ships": ["harbour", "sail", "anchor", "keel", "mast", "tide", "crew", "deck", "rope", "wind"],
        "bread": ["flour", "yeast", "oven", "dough", "crust", "salt", "butter", "knead", "rise", "loaf"],
    }

    def texts(kind: str, count: int) -> list[str]:
        return [" ".join(generator.choices(words[kind], k=12)) for _ in range(count)]

    for shard in range(SHARDS):
        kinds = ["ships" if row % 3 == 0 else "bread" for row in range(ROWS)]
        table = pa.table(
            {
                "text": [texts(kind, 1)[0] for kind in kinds],
                "doc_id": [f"doc-{shard}-{row}" for row in range(ROWS)],
                "topic": kinds,
            }
        )
        pq.write_table(table, folder / f"pool-{shard}.parquet", row_group_size=100)
    pq.write_table(pa.table({"text": texts("ships", 80)}), folder / "target.parquet")
    return folder


@pytest.fixture(scope="session")
def request_of(data: Path) -> Request:
    """Make a job request: ``request_of(budget={"rows": 5}, labels=...)``; None leaves a field out."""

    def make(**changes: Any) -> dict[str, Any]:
        columns = {"text": "text", "id": "doc_id", "group": "topic"}
        request: dict[str, Any] = {
            "dataset": {"shards": [f"{data}/pool-*.parquet"], "columns": columns},
            "target": {"datasets": [{"shards": [f"{data}/target.parquet"]}]},
            "selector": {"name": "dsir", "params": {"buckets": 1000}},
            "budget": {"rows": 40},
        }
        return {key: value for key, value in (request | changes).items() if value is not None}

    return make


class Served:
    """A running `tamis serve`."""

    def __init__(self, home: Path, log: Path, *options: str, **environment: str) -> None:
        self.home = home
        self.log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tamis.service.cli", "serve", "--port", "0", *options],
                env={**os.environ, "TAMIS_HOME": str(home), "TAMIS_THREADS": "2", **environment},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"http://\S+:\d+", line)
        if match is None:
            self.kill()
            pytest.fail(f"the service did not start: {line!r}\n{log.read_text()[-2000:]}")
        self.url = match.group(0)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory, kernel_cache: Path) -> Iterator[Serve]:
    """Start a service: ``serve("--no-worker", home=..., TAMIS_DATA_ROOTS=...)``; all are ended at the end."""
    started: list[Served] = []

    def start(*options: str, home: Path | None = None, **environment: str) -> Served:
        if home is None:
            home = tmp_path_factory.mktemp("served")
            (home / "cache").symlink_to(kernel_cache)
        log = home.parent / f"{home.name}.log"
        started.append(Served(home, log, *options, **environment))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.stop()
        one.kill()


@pytest.fixture(scope="session")
def service(serve: Serve, data: Path) -> Served:
    """The service that most tests share: one worker, and only `data` may be read."""
    return serve(TAMIS_DATA_ROOTS=str(data), TAMIS_MAX_BODY_BYTES="100000")


@pytest.fixture(scope="session")
def http(service: Served) -> Iterator[httpx.Client]:
    with service.http() as client:
        yield client


@pytest.fixture(scope="session")
def idle(serve: Serve, data: Path) -> Iterator[httpx.Client]:
    """A service without a worker: what is submitted there stays queued."""
    with serve("--no-worker", TAMIS_DATA_ROOTS=str(data)).http() as client:
        yield client


@pytest.fixture(scope="session")
def guarded(serve: Serve, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service without a worker that asks for keys, and a client with one that may everything."""
    home = tmp_path_factory.mktemp("guarded")
    with contextlib.closing(Store(Settings.from_environment({"TAMIS_HOME": str(home)}).database_url)) as store:
        store.migrate()
        token = store.keys.create(owner="ann", scopes={Scope.ADMIN}).token
    with serve("--no-worker", home=home, TAMIS_DATA_ROOTS=str(data)).http() as client:
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


Finish = Callable[[httpx.Client, Mapping[str, Any]], dict[str, Any]]


@pytest.fixture(scope="session")
def finish() -> Finish:
    """Submit a job, wait until it is over, give its resource."""

    def run(http: httpx.Client, request: Mapping[str, Any]) -> dict[str, Any]:
        answer = http.post("/v1/jobs", json=request)
        assert answer.status_code == 202, answer.text
        return wait_until_over(http, answer.headers["Location"])

    return run


def wait_until_over(http: httpx.Client, path: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        job: dict[str, Any] = http.get(path, headers={"Prefer": "wait=30"}).json()
        if job["terminal"]:
            return job
    pytest.fail(f"the job is not over: {job}")


@pytest.fixture(scope="session")
def over() -> Callable[[httpx.Client, str], dict[str, Any]]:
    """Wait until the job at a path is over."""
    return wait_until_over


@pytest.fixture(scope="session")
def done(http: httpx.Client, request_of: Request, finish: Finish) -> dict[str, Any]:
    """A job that has succeeded."""
    job = finish(http, request_of(labels={"run": "done"}))
    assert job["state"] == "succeeded", job
    return job


@pytest.fixture(scope="session")
def failed(http: httpx.Client, request_of: Request, finish: Finish) -> dict[str, Any]:
    """A job that has failed: it had no time."""
    job = finish(http, request_of(limits={"seconds": 1e-6}, seed=404))
    assert job["state"] == "failed", job
    return job
