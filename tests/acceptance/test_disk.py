"""Disks that are full, or read-only: jobs fail clearly, the service lives on, and goes on once there is room."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from tamis.selectors import select

from .conftest import Service
from .test_every_selector import request_for, table

MOUNT = "tamis-test-disk"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", MOUNT, str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk, and not in every container")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room; give the file that takes it all."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


@pytest.fixture(scope="module")
def request_body(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("disk-data")
    pq.write_table(table(600, 1), place / "pool-0.parquet", row_group_size=100)
    pq.write_table(table(120, 2), place / "target.parquet")
    return request_for(place, "dsir", 0)


@pytest.fixture
def expected(request_body: dict[str, Any], tmp_path: Path) -> str:
    """The digest of the selection where nothing is wrong."""
    return hashlib.sha256(select(**request_body, out=tmp_path / "library").path.read_bytes()).hexdigest()


def over(http: httpx.Client, path: str) -> dict[str, Any]:
    while not (job := http.get(path, headers={"Prefer": "wait=30"}).json())["terminal"]:
        pass
    assert isinstance(job, dict)
    return job


Serve = Callable[[Path], Service]


def test_a_disk_that_is_full_and_one_that_can_not_be_written(
    *, disk: Path, serve_at: Serve, home: Path, request_body: dict[str, Any], expected: str
) -> None:
    for name in ("jobs", "signals"):
        (disk / name).mkdir()
        (home / name).symlink_to(disk / name)
    service = serve_at(home)
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http:
        ballast = fill(disk)
        job = over(http, http.post("/v1/jobs", json=request_body).headers["Location"])
        assert (job["state"], job["attempts"], job["error"]["code"]) == ("failed", 3, "storage")
        assert "No space left" in job["error"]["detail"] or "full" in job["error"]["detail"]
        assert "/storage" in {item["pointer"] for item in http.get("/readyz").json()["errors"]}
        ballast.unlink()

        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        http.post(job["links"]["resume"])
        job = over(http, job["links"]["self"])
        assert (job["state"], job["attempts"], job["error"]["code"]) == ("failed", 6, "storage")
        assert "Read-only file system" in job["error"]["detail"]
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)

        http.post(job["links"]["resume"])
        job = over(http, job["links"]["self"])
        assert (job["state"], job["error"]) == ("succeeded", None)
        assert hashlib.sha256(http.get(job["links"]["selection"]).content).hexdigest() == expected
        assert http.get("/readyz").status_code == 200


def test_a_full_disk_with_the_database_on_it(
    *, disk: Path, serve_at: Serve, kernel_cache: Path, request_body: dict[str, Any], expected: str
) -> None:
    home = disk / "home"
    home.mkdir()
    (home / "cache").symlink_to(kernel_cache)
    service = serve_at(home)
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http:
        first = over(http, http.post("/v1/jobs", json=request_body).headers["Location"])
        ballast = fill(disk)
        answers = [http.post("/v1/jobs", json=request_body | {"seed": seed}) for seed in range(30)]
        refused = [answer for answer in answers if answer.status_code != 202]
        assert refused and {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "storage")}
        assert http.get(first["links"]["self"]).json()["state"] == "succeeded"
        ballast.unlink()

        for answer in answers:
            if answer.status_code == 202:  # stored in what the database had left: kept as any other
                assert over(http, answer.headers["Location"])["state"] in {"succeeded", "failed"}
        job = over(http, http.post("/v1/jobs", json=request_body).headers["Location"])
        assert job["state"] == "succeeded"
        assert hashlib.sha256(http.get(job["links"]["selection"]).content).hexdigest() == expected
