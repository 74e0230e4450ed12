"""Selectors, datasets, health, metrics."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

Request = Callable[..., dict[str, Any]]


def test_selectors(http: httpx.Client) -> None:
    items = http.get("/v1/selectors").json()["items"]
    names = [item["name"] for item in items]
    assert {"dsir", "random"} <= set(names)
    dsir = http.get("/v1/selectors/dsir").json()
    assert dsir == items[names.index("dsir")]
    assert dsir["needs"] == {"roles": ["text"], "either": [], "target": True, "answers": False}
    assert dsir["params_schema"]["properties"]["ngrams"]["default"] == 2
    missing = http.get("/v1/selectors/nope")
    assert missing.status_code == 404
    assert "dsir" in missing.json()["detail"]


def test_datasets(http: httpx.Client, idle: httpx.Client, data: Path, request_of: Request, finish: Any) -> None:
    manifest = request_of()["dataset"]
    created = http.post("/v1/datasets", json=manifest)
    assert created.status_code == 201, created.text
    dataset = created.json()
    assert created.headers["Location"] == f"/v1/datasets/{dataset['id']}" == dataset["links"]["self"]
    assert (dataset["rows"], dataset["shards"]) == (600, 2)
    assert len(dataset["manifest"]["shards"]) == 2
    again = http.post("/v1/datasets", json=manifest)
    assert (again.status_code, again.json()) == (200, dataset)
    assert http.get(dataset["links"]["self"]).json() == dataset
    assert dataset in http.get("/v1/datasets").json()["items"]

    target = http.post("/v1/datasets", json={"shards": [f"{data}/target.parquet"]}).json()
    job = finish(http, request_of(dataset=dataset["id"], target={"datasets": [{"dataset": target["id"]}]}))
    assert job["state"] == "succeeded"
    assert job["request"]["dataset"] == dataset["id"]

    assert http.delete(dataset["links"]["self"]).status_code == 204
    assert http.get(dataset["links"]["self"]).status_code == 404
    assert http.delete(dataset["links"]["self"]).status_code == 404
    unknown = http.post("/v1/jobs", json=request_of(dataset=dataset["id"]))
    assert (unknown.status_code, unknown.json()["errors"][0]["pointer"]) == (404, "/dataset")


def test_a_dataset_in_use_stays(idle: httpx.Client, request_of: Request) -> None:
    dataset = idle.post("/v1/datasets", json=request_of()["dataset"]).json()
    job = idle.post("/v1/jobs", json=request_of(dataset=dataset["id"])).json()
    assert idle.delete(dataset["links"]["self"]).status_code == 409
    idle.post(job["links"]["cancel"])
    assert idle.delete(dataset["links"]["self"]).status_code == 204


def test_datasets_are_checked(http: httpx.Client, data: Path, tmp_path: Path) -> None:
    for manifest, status, pointer in (
        ({"shards": [f"{data}/nothing.parquet"]}, 422, "/shards/0"),
        ({"shards": [f"{data}/pool-0.parquet"], "columns": {"text": "nope"}}, 422, "/columns/text"),
        ({"shards": [str(tmp_path)]}, 403, "/shards/0"),
        ({"shards": []}, 422, "/shards"),
        ([], 422, ""),
    ):
        refused = http.post("/v1/datasets", json=manifest)
        assert refused.status_code == status, refused.text
        assert refused.json()["errors"][0]["pointer"] == pointer


def test_health(http: httpx.Client, idle: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while http.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/v1/version").json()["api"] == "v1"
    # Without a worker the service is alive, but not ready.
    assert idle.get("/healthz").status_code == 200
    refused = idle.get("/readyz")
    assert refused.status_code == 503
    assert [item["pointer"] for item in refused.json()["errors"]] == ["/worker"]


def test_a_probe_that_fails_leaves_one_line(serve: Any) -> None:
    served = serve("--no-worker")
    with served.http() as http:
        assert http.get("/readyz").status_code == 503
    log = served.log.read_text()
    assert "no worker is running" in log and "Traceback" not in log


def test_readiness_sees_the_store(serve: Any) -> None:
    broken = serve("--no-worker")
    with contextlib.closing(sqlite3.connect(broken.home / "tamis.sqlite3")) as database:
        database.execute("DROP TABLE jobs")
        database.execute("DELETE FROM alembic_version")
        database.commit()
    with broken.http() as http:
        assert "/store" in {item["pointer"] for item in http.get("/readyz").json()["errors"]}
        assert http.get("/healthz").status_code == 200
        assert "tamis_store_up 0.0" in http.get("/metrics").text
        refused = http.get("/v1/jobs")
        assert (refused.status_code, refused.json()["code"]) == (503, "storage")
        assert refused.headers["Retry-After"]


def test_metrics(http: httpx.Client, done: Any) -> None:
    http.get(done["links"]["self"])
    text = http.get("/metrics").text
    assert re.search(r'tamis_jobs\{selector="dsir",state="succeeded"\} \d', text)
    assert "tamis_queue_age_seconds" in text
    assert 'tamis_build_info{version="' in text
    assert 'route="/v1/jobs/{job_id}",status="200"' in text
    assert done["id"] not in text


def test_a_worker_that_dies_is_started_again(serve: Any) -> None:
    served = serve()

    def children() -> list[int]:
        """Processes that the service started: under Linux they are listed with the thread that did."""
        found = []
        for task in Path(f"/proc/{served.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                found += [int(pid) for pid in (task / "children").read_text().split()]
        return found

    def a_worker_beside(others: list[int]) -> int:
        # The service is ready, and says so, before its worker is: the API answers meanwhile.
        deadline = time.monotonic() + 60
        while not (started := [pid for pid in children() if pid not in others]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (worker,) = started
        return worker

    worker = a_worker_beside([])
    os.kill(worker, signal.SIGKILL)
    assert a_worker_beside([worker]) != worker
    assert served.stop(signal.SIGINT) == 0
    assert "the worker ended by itself" in served.log.read_text()
