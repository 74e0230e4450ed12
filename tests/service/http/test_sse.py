"""Events and logs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tamis.service.client.events import Event, parse_events


def read(http: httpx.Client, url: str, last: int | str | None = None) -> Iterator[Event]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with http.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield from parse_events(answer.iter_lines())


def test_events_of_a_finished_job(http: httpx.Client, done: Any) -> None:
    events = list(read(http, done["links"]["events"]))
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert events[-1].kind == "end"
    assert events[-1].data == {"state": "succeeded"}
    states = [event.data["state"] for event in events if event.kind == "state"]
    assert states == ["queued", "running", "succeeded"]


@pytest.mark.parametrize("back", [0, 1, 2])
def test_a_stream_resumes(http: httpx.Client, done: Any, back: int) -> None:
    events = list(read(http, done["links"]["events"]))
    rest = list(read(http, done["links"]["events"], len(events) - 1 - back))
    assert rest == events[-1 - back :]


def test_a_stream_that_was_whole_ends_again(http: httpx.Client, done: Any) -> None:
    (*_, end) = read(http, done["links"]["events"])
    assert [event.kind for event in read(http, done["links"]["events"], end.id)] == ["end"]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 40])
def test_a_bad_last_event_id_is_400(http: httpx.Client, done: Any, last: str) -> None:
    answer = http.get(done["links"]["events"], headers={"Last-Event-ID": last})
    assert answer.status_code == 400


def test_events_come_as_they_happen(idle: httpx.Client, request_of: Any) -> None:
    job = idle.post("/v1/jobs", json=request_of()).json()
    stream = read(idle, job["links"]["events"])
    assert next(stream).data["state"] == "queued"
    threading.Timer(0.3, lambda: idle.post(job["links"]["cancel"])).start()
    assert next(stream).data["state"] == "cancelled"
    assert next(stream).kind == "end"
    assert list(stream) == []


def test_many_streams_leave_room_for_requests(idle: httpx.Client, request_of: Any) -> None:
    job = idle.post("/v1/jobs", json=request_of()).json()
    limits = httpx.Limits(max_connections=200)
    with httpx.Client(base_url=idle.base_url, timeout=60, trust_env=False, limits=limits) as many:
        streams = [read(many, job["links"]["events"]) for _ in range(60)]
        assert {next(stream).data["state"] for stream in streams} == {"queued"}
        assert many.get("/healthz").status_code == 200
        assert many.post(job["links"]["cancel"]).status_code == 202
        for stream in streams:
            assert [event.kind for event in stream] == ["state", "end"]


def test_a_stopping_service_ends_its_streams(serve: Any, request_of: Any) -> None:
    served = serve("--no-worker")
    with served.http() as http:
        job = http.post("/v1/jobs", json=request_of()).json()
        stream = read(http, job["links"]["events"])
        assert next(stream).kind == "state"
        waiting = threading.Thread(
            target=http.get, args=(job["links"]["self"],), kwargs={"headers": {"Prefer": "wait=60"}}
        )
        waiting.start()
        assert served.stop() == 0
        assert list(stream) == []
        waiting.join(10)
        assert not waiting.is_alive()


def test_logs(http: httpx.Client, done: Any) -> None:
    answer = http.get(done["links"]["logs"])
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines
    assert {"seq", "at", "level", "message"} <= set(lines[0])
    assert [line["seq"] for line in lines] == sorted(line["seq"] for line in lines)


def test_a_job_without_logs(idle: httpx.Client, request_of: Any) -> None:
    job = idle.post("/v1/jobs", json=request_of()).json()
    answer = idle.get(job["links"]["logs"])
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_parsing_events(newline: str) -> None:
    text = [
        "retry: 5",
        ": comment",
        "",
        "event: state",
        "id: 3",
        'data: {"a":',
        "data: 1}",
        "",
        "data:{}",
        "",
        "id: 9",
        "",
    ]
    events = list(parse_events(line for line in newline.join(text).splitlines()))
    assert events == [Event(3, "state", {"a": 1}), Event(None, "message", {})]
