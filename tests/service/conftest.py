"""Stores, jobs to put into them, and real supervisors to run them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from tamis.service.store import Job, NewJob, Store, Submission

from .postgresql import SHARED, Server, programs

T = TypeVar("T")

HERE = Path(__file__).parent
ASKING = HERE.parent / "asking"
"""Of a selector that asks."""

PATIENCE = 240.0
"""Seconds after which a state that does not come is a failure."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked `both_databases` on SQLite and on PostgreSQL."""
    if "store_url" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_databases"):
        metafunc.parametrize("store_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server, with one database that has the current schema."""
    found = programs()
    if found is None:
        leave = pytest.fail if os.environ.get("CI") else pytest.skip
        leave("PostgreSQL's server is not installed (on Debian: apt install postgresql)")
    server = Server(found)
    store = Store(server.new_database(SHARED))
    store.migrate()
    store.close()
    yield server
    server.close()


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database: SQLite's does not exist yet, PostgreSQL's has its schema."""
    if getattr(request, "param", "sqlite") == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        yield server.url(SHARED)
        server.clear()
    else:
        yield f"sqlite:///{tmp_path / 'home' / 'tamis.sqlite3'}"


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A store with the current schema, empty."""
    store = Store(store_url)
    store.migrate()
    yield store
    store.close()


class Submit(Protocol):
    def __call__(self, *, params: dict[str, Any] | None = None, **more: Any) -> Submission: ...


def spec_of(params: dict[str, Any], limits: dict[str, float] | None = None) -> dict[str, Any]:
    """Make a valid job spec; the runner of these tests looks at the selector's parameters only."""
    return {
        "dataset": {"shards": ["unused.parquet"]},
        "selector": {"name": "fake", "params": params},
        "budget": {"rows": 1},
        "limits": limits or {},
    }


@pytest.fixture
def submit(store: Store) -> Submit:
    """Submit a job: ``submit(params={"units": 3}, owner="ann")``."""

    def submit(*, params: dict[str, Any] | None = None, **more: Any) -> Submission:
        spec = spec_of(params or {}, more.pop("limits", None))
        values: dict[str, Any] = {
            "owner": "ann",
            "request": {"asked": "this"},
            "spec": spec,
            "selector": "fake",
            "fingerprint": None,
        }
        options = {name: more.pop(name) for name in ("key", "reusable", "max_queued") if name in more}
        return store.jobs.submit(NewJob(**(values | more)), **options)

    return submit


def patient(look: Callable[[], T], good: Callable[[T], object]) -> T:
    """Look until what is seen is good."""
    deadline = time.monotonic() + PATIENCE
    while not good(seen := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"it did not come: {seen}")
        time.sleep(0.02)
    return seen


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Any], Callable[[Any], object]], Any]:
    """Wait until what is seen is good, and give it: ``wait_until(look, good)``."""
    return patient


@pytest.fixture
def ended(store: Store) -> Callable[[str], Job]:
    """Wait until a job is over, and give it."""
    return lambda job_id: patient(lambda: store.jobs.get(job_id), lambda job: job.state.terminal)


class Worker:
    """A supervisor in a process of its own."""

    def __init__(self, url: str, home: Path, stderr: Path, **options: Any) -> None:
        self.stderr = stderr
        with stderr.open("ab") as file:
            self._popen = subprocess.Popen(
                [sys.executable, str(HERE / "supervise.py"), url, json.dumps(options)],
                env={
                    **os.environ,
                    "TAMIS_HOME": str(home),
                    "TAMIS_THREADS": "2",
                    "PYTHONPATH": f"{HERE}:{HERE.parent / 'asking'}",
                },
                stderr=file,
                stdout=file,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def signal(self, signum: signal.Signals) -> None:
        self._popen.send_signal(signum)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self._popen.terminate()
        return self._popen.wait(PATIENCE)

    def kill(self) -> None:
        """SIGKILL: no last words."""
        self._popen.kill()
        self._popen.wait(PATIENCE)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGCONT)
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait(PATIENCE)


@pytest.fixture
def home(tmp_path: Path, kernel_cache: Path) -> Path:
    """A TAMIS_HOME."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    (home / "cache").symlink_to(kernel_cache)
    return home


@pytest.fixture
def worker(store: Store, store_url: str, home: Path, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start a worker with short leases: ``worker(slots=2, lease=0.8)``; all are killed at the end."""
    started: list[Worker] = []

    def start(**options: Any) -> Worker:
        started.append(Worker(store_url, home, tmp_path / f"worker-{len(started)}.err", **options))
        return started[-1]

    yield start
    for one in started:
        one.close()
