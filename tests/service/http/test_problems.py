"""One error shape, everywhere; and no 5xx for bad input, however bad."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fastapi
import httpx
import pytest
import yaml

from tamis.selectors.schema.request import Manifest
from tamis.service.api import bodies
from tamis.service.api.documents import validate
from tamis.service.api.problems import Problem
from tamis.service.settings import RequestLimits

Request = Callable[..., dict[str, Any]]

DOCUMENT = yaml.safe_load((Path(__file__).parents[3] / "openapi.yaml").read_text())
ENDPOINTS = [(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item]
VALUES = {"job_id": "job_00000000000000000000000000", "dataset_id": "ds_00000000000000000000000000", "name": "nope"}
WITH_A_BODY = [(method, path) for method, path in ENDPOINTS if "requestBody" in DOCUMENT["paths"][path][method.lower()]]
JSON = {"Content-Type": "application/json"}

NASTY_IDS = [
    "x",
    "job_",
    "job_%00",
    "%00",
    "%ff%fe",
    "%ed%a0%80",
    "..%2f..%2fetc%2fpasswd",
    "job_0000000000000000000000000%0a",
    "%F0%9F%92%A9" * 40,
    "j" * 5000,
    "' OR 1=1 --",
    "*",
    "%",
    "%zz",
]


def check(answer: httpx.Response, instance: str | None = None) -> dict[str, Any]:
    """Check the shape of a refusal, and give it."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    shape = Problem.model_validate(document)
    assert shape.status == answer.status_code
    assert shape.type == f"urn:tamis:problem:{shape.code}"
    assert shape.title
    assert len(shape.detail) > 10
    assert shape.instance == (answer.request.url.path if instance is None else instance)
    for item in shape.errors or []:
        assert item.pointer == "" or item.pointer.startswith("/")
    return document


def address(path: str) -> str:
    return path.format(**VALUES)


@pytest.mark.parametrize(("method", "path"), [one for one in ENDPOINTS if "{" in one[1]])
def test_what_is_not_there(idle: httpx.Client, method: str, path: str) -> None:
    answer = idle.request(method, address(path))
    assert answer.status_code == 404
    if method != "HEAD":
        assert check(answer)["code"] == "not-found"


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
PATHS = sorted({path for _, path in ENDPOINTS})
NOT_ALLOWED = [(method, path) for path in PATHS for method in METHODS if (method, path) not in ENDPOINTS]


@pytest.mark.parametrize(("method", "path"), NOT_ALLOWED)
def test_methods_that_are_not_allowed(idle: httpx.Client, method: str, path: str) -> None:
    declared = {other for other, known in ENDPOINTS if known == path}
    answer = idle.request(method, address(path))
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == declared
    if method != "HEAD":
        assert check(answer)["code"] == "method-not-allowed"


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/", "/v1/jobs/", "/v2/jobs", "//v1/jobs", "/v1/jobs/a/b/c"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_paths(idle: httpx.Client, method: str, path: str) -> None:
    answer = idle.request(method, httpx.URL(str(idle.base_url)).copy_with(raw_path=path.encode()))
    assert answer.status_code == 404
    check(answer, instance=path)


@pytest.mark.parametrize("bad", NASTY_IDS)
@pytest.mark.parametrize(("method", "path"), [one for one in ENDPOINTS if "{" in one[1] and one[0] != "HEAD"])
def test_nasty_ids(idle: httpx.Client, method: str, path: str, bad: str) -> None:
    raw = path.format(job_id=bad, dataset_id=bad, name=bad).replace(" ", "%20")
    answer = idle.request(method, httpx.URL(str(idle.base_url)).copy_with(raw_path=raw.encode()))
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


NASTY_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n",
    "half": b'{"dataset": ',
    "two": b"{}{}",
    "no UTF-8": b'{"dataset": "\xff\xfe"}',
    "UTF-16": '{"seed": 1}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"seed": 1}',
    "NaN": b'{"seed": NaN}',
    "infinity": b'{"seed": -Infinity}',
    "lone surrogate": b'{"dataset": "\\ud800"}',
    "lone surrogate in a key": b'{"labels": {"\\udfff": "x"}}',
    "deep": b'{"selector": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep, unfinished": b"[" * 1_000_000,
    "many digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "single quotes": b"{'seed': 1}",
    "comment": b'{"seed": 1 /* one */}',
}

NASTY_VALUES: dict[str, bytes] = {
    "null": b"null",
    "array": b"[]",
    "number": b"1",
    "text": b'"x"',
    "empty": b"{}",
    "NUL": b'{"dataset": {"shards": ["a\\u0000b"]}}',
    "NUL deep inside": b'{"selector": {"name": "dsir", "params": {"a": [[{"b\\u0000": 1}]]}}}',
    "overflow": b'{"limits": {"memory_bytes": 1e400}}',
    "huge integer": b'{"seed": ' + b"9" * 400 + b"}",
    "many fields": json.dumps({f"f{n}": n for n in range(5000)}).encode(),
    "many errors": json.dumps({"exclude": [1] * 1000}).encode(),
    "long text": json.dumps({"dataset": "x" * 90_000}).encode(),
    "a field twice": b'{"seed": 1, "seed": "x"}',
}


@pytest.fixture(scope="module")
def queued(idle: httpx.Client, request_of: Request) -> str:
    """A job that there is: a body is looked at only where it has somewhere to go."""
    submitted: str = idle.post("/v1/jobs", json=request_of()).json()["id"]
    return submitted


@pytest.mark.parametrize("what", NASTY_BODIES)
@pytest.mark.parametrize(("method", "path"), WITH_A_BODY)
def test_what_is_no_json(idle: httpx.Client, queued: str, method: str, path: str, what: str) -> None:
    answer = idle.request(method, path.format(job_id=queued), content=NASTY_BODIES[what], headers=JSON)
    assert answer.status_code == 400, answer.text
    check(answer)


@pytest.mark.parametrize("what", NASTY_VALUES)
@pytest.mark.parametrize(("method", "path"), WITH_A_BODY)
def test_what_does_not_fit(idle: httpx.Client, queued: str, method: str, path: str, what: str) -> None:
    answer = idle.request(method, path.format(job_id=queued), content=NASTY_VALUES[what], headers=JSON)
    assert answer.status_code == 422, answer.text
    document = check(answer)
    assert 0 < len(document["errors"]) <= 100
    assert len(answer.content) < 50_000


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin1",
        "json",
        "application/jsonx",
    ],
)
@pytest.mark.parametrize(("method", "path"), WITH_A_BODY)
def test_other_media_types(idle: httpx.Client, queued: str, method: str, path: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = idle.request(method, path.format(job_id=queued), content=b"{}", headers=headers)
    assert answer.status_code == 415
    check(answer)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=UTF-8", "Application/JSON", "application/vnd.tamis+json"]
)
def test_media_types_of_json(idle: httpx.Client, request_of: Request, content_type: str) -> None:
    body = json.dumps(request_of()).encode()
    assert idle.post("/v1/jobs/plan", content=body, headers={"Content-Type": content_type}).status_code == 200


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/",
        ".",
        "..",
        "x" * 5000,
        "/" + "a/" * 3000,
        "http://127.0.0.1/x",
        "file:///etc/passwd",
        "file://host/x",
        "s3://b/k",
        "{x}",
        "[",
        "**/**",
        "%00",
        "a\nb",
        "\ud7ff😀",
        "~/x.parquet",
        "/dev/zero",
        "/proc/self/mem",
    ],
)
@pytest.mark.parametrize("form", [lambda uri: uri, lambda uri: {"uri": uri}])
def test_nasty_uris(idle: httpx.Client, request_of: Request, uri: str, form: Callable[[str], Any]) -> None:
    answer = idle.post("/v1/jobs", json=request_of(dataset={"shards": [form(uri)]}))
    assert answer.status_code in {403, 422}, answer.text
    check(answer)


BROKEN_FILES: dict[str, bytes] = {
    "empty.parquet": b"",
    "short.parquet": b"PAR1",
    "garbage.parquet": b"PAR1" + b"\xff" * 100 + b"\xff\xff\xff\x7fPAR1",
    "text.parquet": b"this is no parquet",
    "garbage.arrow": b"ARROW1\0\0" + b"\xff" * 100,
    "unknown.csv": b"a,b\n1,2\n",
    "broken.jsonl.gz": b"\x1f\x8b" + b"\0" * 50,
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_files(idle: httpx.Client, data: Path, request_of: Request, name: str) -> None:
    path = data / name
    path.write_bytes(BROKEN_FILES[name])
    try:
        answer = idle.post("/v1/jobs", json=request_of(dataset={"shards": [str(path)]}))
    finally:
        path.unlink()
    if name.endswith(".gz"):
        assert answer.status_code in {202, 422}, answer.text  # only reading it tells
        return
    assert answer.status_code == 422, answer.text
    check(answer)


CONDITIONAL_HEADERS = [
    "Range",
    "If-Range",
    "If-Match",
    "If-None-Match",
    "Prefer",
    "Accept",
    "Last-Event-ID",
    "Idempotency-Key",
]


@pytest.mark.parametrize("header", CONDITIONAL_HEADERS)
@pytest.mark.parametrize("value", [b"", b"\xff", b"x" * 8000, b"bytes=", b'"', b"*/*;q=nan", b",,,", b"-1", b"9" * 30])
def test_nasty_headers(http: httpx.Client, done: Any, header: str, value: bytes) -> None:
    headers = {header.encode(): value}
    for part in ("", "/events", "/logs", "/units", "/result", "/selection.parquet", "/report", "/explain?row=1"):
        answer = http.get(done["links"]["self"] + part, headers=headers)
        assert answer.status_code < 500, (part, answer.text)
        if answer.status_code >= 400:
            check(answer)


NASTY_QUESTIONS = [
    "row=-1",
    "row=x",
    "row=1&id=2",
    "",
    "row=99999999999999999999",
    "row=9223372036854775807",
    "id=%00",
    "id=%ff",
    "id=",
]


@pytest.mark.parametrize("query", NASTY_QUESTIONS)
def test_nasty_questions(http: httpx.Client, done: Any, query: str) -> None:
    answer = http.get(f"{done['links']['self']}/explain?{query}")
    assert answer.status_code in {400, 404}, answer.text
    check(answer)


def test_half_a_request_does_no_harm(http: httpx.Client) -> None:
    for sent in (
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ):
        with socket.create_connection((http.base_url.host, http.base_url.port or 80)) as connection:
            connection.sendall(sent)
    assert http.get("/healthz").status_code == 200


def test_bodies_are_checked_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The members of a large body take seconds: other requests are answered meanwhile."""
    checked_in: list[int] = []

    def spy(shape: type[Manifest], document: Any) -> Manifest:
        checked_in.append(threading.get_ident())
        return validate(shape, document)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"shards": ["/a.parquet"]}', "more_body": False}

    monkeypatch.setattr(bodies, "validate", spy)
    app = SimpleNamespace(state=SimpleNamespace(service=SimpleNamespace(limits=RequestLimits())))
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")], "app": app}
    body = asyncio.run(bodies.json_body(Manifest)(fastapi.Request(scope, receive)))
    assert body.shape.shards == ["/a.parquet"]
    assert len(checked_in) == 1 and checked_in[0] != threading.get_ident()
