"""One request, four ways: library, command line, HTTP, and HTTP with a job process that is killed. The same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors import select
from tamis.service.client import Client

from .conftest import Service

COPIES = 4
"""Of the demo's pool: enough work for a kill to land in."""


@pytest.fixture(scope="module")
def job(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pool = pa.concat_tables([pq.read_table(path) for path in sorted((demo_data / "pool").glob("*.parquet"))])
    path = tmp_path_factory.mktemp("pool") / "pool.parquet"
    pq.write_table(pa.concat_tables([pool] * COPIES), path, row_group_size=2000)
    return {
        "dataset": {"shards": [str(path)], "columns": {"text": "text", "id": "id", "group": "domain"}},
        "target": {"datasets": [{"shards": [str(demo_data / "targets" / "python.parquet")]}]},
        "selector": {"name": "dsir", "params": {"normalize": "length"}},
        "budget": {"fraction": 0.05},
        "strata": {"by": "group", "default": {"max_share": 0.5}},
        "seed": 11,
    }


@pytest.fixture(scope="module")
def expected(job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what the library selects with one thread."""
    return library(job, tmp_path_factory.mktemp("library"), threads=1)


@pytest.fixture(scope="module")
def home(service: Service) -> Path:
    return service.home


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as connected:
        yield connected


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def library(job: dict[str, Any], out: Path, threads: int) -> str:
    fields = {key: value for key, value in job.items() if key in ("dataset", "target", "selector", "budget", "seed")}
    return sha256(select(**fields, strata=job["strata"], out=out, threads=threads).path)


@pytest.mark.parametrize("threads", [2, 7])
def test_the_library_with_other_threads(job: dict[str, Any], expected: str, tmp_path: Path, threads: int) -> None:
    assert library(job, tmp_path, threads) == expected


def test_another_seed_gives_another_selection(job: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert library(job | {"seed": 12}, tmp_path, 2) != expected


def test_the_command_line(job: dict[str, Any], expected: str, home: Path, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "tamis.service.cli", "select", str(tmp_path / "job.json"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TAMIS_HOME": str(home)})
    assert done.returncode == 0, done.stderr
    assert sha256(tmp_path / "selection.parquet") == expected


def test_http(job: dict[str, Any], expected: str, client: Client, tmp_path: Path) -> None:
    submitted = client.submit(job)
    submitted.wait(progress=False)
    submitted.download(tmp_path / "selection.parquet")
    assert sha256(tmp_path / "selection.parquet") == expected


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4])
def test_http_with_a_killed_job_process(
    job: dict[str, Any], expected: str, client: Client, home: Path, tmp_path: Path, delay: float
) -> None:
    subprocess.run(["rm", "-rf", str(home / "signals")], check=True)
    submitted = client.submit(job)
    wait_for(lambda: client.job(submitted.id).state == "running")
    time.sleep(delay)
    for process in processes_of(home, "job_process"):
        os.kill(process, signal.SIGKILL)
    submitted.wait(progress=False)
    submitted.download(tmp_path / "selection.parquet")
    assert sha256(tmp_path / "selection.parquet") == expected


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def processes_of(home: Path, module: str) -> list[int]:
    """Return the processes that run `module` for the service with this home."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if module.encode() in (folder / "cmdline").read_bytes() and (
                    f"TAMIS_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0")
                ):
                    found.append(int(folder.name))
            except OSError:
                continue  # it has ended, or belongs to another user
    return found
