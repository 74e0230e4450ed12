"""What one caller may ask for, and how it is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tamis.service.api.documents import MAX_DEPTH
from tamis.service.api.rate_limit import BURST_SECONDS, MAX_CALLERS, TokenBuckets
from tamis.service.client import Client
from tamis.service.settings import BadSettings, RequestLimits, Settings

Request = Callable[..., dict[str, Any]]
Send = Callable[..., httpx.Response]

RATE = 2
QUEUED = 2
BODY = 20_000


@pytest.fixture(scope="module")
def limited(serve: Any, data: Path) -> Iterator[httpx.Client]:
    served = serve(
        "--no-worker",
        TAMIS_DATA_ROOTS=str(data),
        TAMIS_MAX_BODY_BYTES=str(BODY),
        TAMIS_MAX_SHARDS="2",
        TAMIS_MAX_QUEUED_JOBS=str(QUEUED),
        TAMIS_REQUESTS_PER_SECOND=str(RATE),
    )
    with served.http() as http:
        yield http


@pytest.fixture(scope="module")
def send(limited: httpx.Client) -> Send:
    """Send a request, again as long as it came too soon."""

    def patient(method: str, path: str, **more: Any) -> httpx.Response:
        while True:
            answer = limited.request(method, path, **more)
            if answer.status_code != 429 or answer.json()["code"] != "too-many-requests":
                return answer
            assert 1 <= int(answer.headers["Retry-After"]) <= 2
            time.sleep(0.5)

    return patient


def told(answer: httpx.Response, status: int, code: str, *words: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code
    for word in words:
        assert word in problem["detail"]
    return problem


def test_a_body_that_is_too_large(send: Send, request_of: Request) -> None:
    for body in (b" " * (BODY + 1), json.dumps(request_of(labels={"a": "x" * BODY})).encode()):
        answer = send("POST", "/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        told(answer, 413, "body-too-large", str(BODY), "globs")


def test_too_many_shards(send: Send, request_of: Request, data: Path) -> None:
    for shards in ([f"{data}/*.parquet"], [f"{data}/pool-*.parquet", f"{data}/target.parquet"]):
        answer = send("POST", "/v1/jobs", json=request_of(dataset={"shards": shards}))
        problem = told(answer, 422, "invalid-request", "more than 2 files")
        assert problem["errors"][0]["pointer"].startswith("/dataset/shards/")


def test_too_deep(send: Send, request_of: Request) -> None:
    body = json.dumps(request_of(selector={"name": "dsir", "params": {"x": "HERE"}}))

    def nested(levels: int) -> bytes:
        return body.replace('"HERE"', "[" * levels + "]" * levels).encode()

    headers = {"Content-Type": "application/json"}
    for levels in (MAX_DEPTH - 1, 150):
        problem = told(send("POST", "/v1/jobs", content=nested(levels), headers=headers), 422, "invalid-request")
        assert f"deeper than {MAX_DEPTH}" in problem["detail"]
        assert problem["errors"][0]["pointer"].startswith("/selector/params/x/0/0")
    told(send("POST", "/v1/jobs", content=nested(5000), headers=headers), 400, "bad-request", f"than {MAX_DEPTH}")
    fits = told(send("POST", "/v1/jobs", content=nested(MAX_DEPTH - 4), headers=headers), 422, "invalid-request")
    assert "deeper" not in fits["detail"]


def test_too_many_jobs_wait(send: Send, request_of: Request) -> None:
    key = {"Idempotency-Key": "first"}
    jobs = [send("POST", "/v1/jobs", json=request_of(seed=0), headers=key).json()]
    jobs += [send("POST", "/v1/jobs", json=request_of(seed=seed)).json() for seed in range(1, QUEUED)]
    answer = send("POST", "/v1/jobs", json=request_of(seed=9))
    told(answer, 429, "queue-full", f"{QUEUED} jobs", "TAMIS_MAX_QUEUED_JOBS")
    assert int(answer.headers["Retry-After"]) > 1
    # What does not wait is not counted; what was taken before is still answered.
    assert send("POST", "/v1/jobs", json=request_of(seed=0), headers=key).json()["id"] == jobs[0]["id"]
    assert send("POST", jobs[0]["links"]["cancel"]).json()["state"] == "cancelled"
    assert send("POST", "/v1/jobs", json=request_of(seed=9)).status_code == 202
    told(send("POST", f"{jobs[0]['links']['self']}/resume"), 429, "queue-full")
    assert send("GET", jobs[0]["links"]["self"]).json()["state"] == "cancelled"


def test_too_many_requests(limited: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while (answer := limited.get("/v1/selectors/nope")).status_code != 429:
        assert time.monotonic() < deadline
    told(answer, 429, "too-many-requests", f"{RATE} requests a second", "wait=30")
    assert answer.headers["Retry-After"] == "1"
    assert limited.get("/healthz").status_code == 200, "a probe is no caller"
    with Client(str(limited.base_url)) as client:  # waits as it is told
        assert [client.version().api for _ in range(5)] == ["v1"] * 5


def test_buckets_fill_by_the_rate() -> None:
    now = 0.0
    buckets = TokenBuckets(10, clock=lambda: now)
    burst = int(10 * BURST_SECONDS)
    assert [buckets.take("ann") for _ in range(burst)] == [0.0] * burst
    assert buckets.take("ann") == pytest.approx(0.1)
    assert buckets.take("bob") == 0.0, "one caller's requests are not another's"
    now = 0.25
    assert [buckets.take("ann") == 0.0 for _ in range(3)] == [True, True, False]
    now = 1e6
    assert sum(buckets.take("ann") == 0.0 for _ in range(100)) == burst, "no more is saved up than a burst"
    for caller in range(2 * MAX_CALLERS):
        buckets.take(caller)
    assert len(buckets._buckets) == MAX_CALLERS


@pytest.mark.parametrize(
    "name", ["TAMIS_MAX_BODY_BYTES", "TAMIS_MAX_SHARDS", "TAMIS_MAX_QUEUED_JOBS", "TAMIS_REQUESTS_PER_SECOND"]
)
def test_limits_from_the_environment(name: str) -> None:
    assert Settings.from_environment({}).limits == RequestLimits()
    field = name.removeprefix("TAMIS_").lower()
    assert getattr(Settings.from_environment({name: "2000"}).limits, field) == 2000
    for bad in ("0", "-1", "x", "1.5", "\u0661", "9" * 20):
        with pytest.raises(BadSettings, match=name):
            Settings.from_environment({name: bad})
