"""Downloads: ranges, preconditions, validators (RFC 9110)."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def whole(http: httpx.Client, done: Any) -> bytes:
    return http.get(done["links"]["selection"]).content


def test_the_whole_file(http: httpx.Client, done: Any, whole: bytes) -> None:
    answer = http.get(done["links"]["selection"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    assert answer.headers["etag"] == f'"{hashlib.sha256(whole).hexdigest()}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert done["id"] in answer.headers["content-disposition"]
    assert answer.headers["content-length"] == str(len(whole))
    result = http.get(done["links"]["result"]).json()
    (listed,) = [file for file in result["files"] if file["name"] == "selection.parquet"]
    assert (listed["bytes"], f'"{listed["sha256"]}"') == (len(whole), answer.headers["etag"])
    assert listed["rows"] == 40


def test_head_says_the_same(http: httpx.Client, done: Any, whole: bytes) -> None:
    head, get = http.head(done["links"]["selection"]), http.get(done["links"]["selection"])
    assert (head.status_code, head.content) == (200, b"")
    same = ("etag", "content-length", "content-type", "accept-ranges", "content-disposition")
    assert [head.headers[name] for name in same] == [get.headers[name] for name in same]


@pytest.mark.parametrize(
    ("range_", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-8", slice(-8, None)),
        ("bytes=-999999999999", slice(None)),
        ("bytes=10-999999999999", slice(10, None)),
        ("BYTES = 5-6", slice(5, 7)),
        ("bytes=3-4, 999999999-", slice(3, 5)),
    ],
)
def test_one_range(http: httpx.Client, done: Any, whole: bytes, range_: str, part: slice) -> None:
    answer = http.get(done["links"]["selection"], headers={"Range": range_})
    assert answer.status_code == 206, range_
    assert answer.content == whole[part]
    start, stop, _ = part.indices(len(whole))
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    assert answer.headers["content-length"] == str(stop - start)
    head = http.head(done["links"]["selection"], headers={"Range": range_})
    assert head.status_code in {200, 206}


def test_many_ranges(http: httpx.Client, done: Any, whole: bytes) -> None:
    answer = http.get(done["links"]["selection"], headers={"Range": "bytes=0-3,-4"})
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert answer.content.count(b"PAR1") == 2


@pytest.mark.parametrize(
    "range_",
    ["bytes=", "bytes=x-y", "bytes=5-2", "lines=0-5", "0-5", "bytes=-", "bytes=1-2-3", "bytes=0-1;", "bytes=-1-5"],
)
def test_ranges_that_are_none_are_ignored(http: httpx.Client, done: Any, whole: bytes, range_: str) -> None:
    answer = http.get(done["links"]["selection"], headers={"Range": range_})
    assert (answer.status_code, answer.content) == (200, whole)


@pytest.mark.parametrize("range_", ["bytes=999999999-", "bytes=999999999-9999999999", "bytes=-0"])
def test_ranges_beyond_the_end(http: httpx.Client, done: Any, whole: bytes, range_: str) -> None:
    answer = http.get(done["links"]["selection"], headers={"Range": range_})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(whole)}"
    assert answer.json()["code"] == "range-not-satisfiable"


def test_preconditions(http: httpx.Client, done: Any, whole: bytes) -> None:
    url = done["links"]["selection"]
    tag = http.head(url).headers["etag"]

    def status(**headers: str) -> int:
        return http.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()}).status_code

    assert status(if_none_match=tag) == 304
    assert status(if_none_match=f"W/{tag}") == 304
    assert status(if_none_match=f'"a", {tag}') == 304
    assert status(if_none_match="*") == 304
    assert status(if_none_match='"a"') == 200
    assert status(if_none_match=tag.strip('"')) == 200
    assert status(if_match=tag) == 200
    assert status(if_match="*") == 200
    assert status(if_match='"a"') == 412
    assert status(if_match=f"W/{tag}") == 412
    assert status(if_match='"a"', if_none_match=tag) == 412
    assert status(range="bytes=0-1", if_range=tag) == 206
    assert status(range="bytes=0-1", if_range='"a"') == 200
    assert status(range="bytes=0-1", if_range=f"W/{tag}") == 200
    assert status(range="bytes=0-1", if_range="Wed, 21 Oct 2015 07:28:00 GMT") == 200
    assert status(range="bytes=999999999-", if_range='"a"') == 200
    assert status(range="bytes=0-1", if_none_match=tag) == 304
    assert http.head(url, headers={"If-None-Match": tag}).status_code == 304


def test_a_download_in_pieces_is_the_file(http: httpx.Client, done: Any, whole: bytes) -> None:
    pieces = [
        http.get(done["links"]["selection"], headers={"Range": f"bytes={start}-{start + 999}"}).content
        for start in range(0, len(whole), 1000)
    ]
    assert b"".join(pieces) == whole
    assert pq.read_table(io.BytesIO(b"".join(pieces))).num_rows == 40


def test_other_files_of_the_result(http: httpx.Client, request_of: Any, finish: Any) -> None:
    job = finish(http, request_of(output={"scores": "all"}))
    files = {file["name"]: file for file in http.get(job["links"]["result"]).json()["files"]}
    assert {"selection.parquet", "scores.parquet", "report.json"} <= set(files)
    for name, file in files.items():
        for url in (file["url"], f"{job['links']['self']}/files/{name}"):
            answer = http.get(url)
            assert answer.status_code == 200, url
            assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
    scores = pq.read_table(io.BytesIO(http.get(files["scores.parquet"]["url"]).content))
    assert scores.num_rows == 600


@pytest.mark.parametrize("name", ["result.json", "nothing", "..%2f..%2ftamis.sqlite3", "selection.parquet%00"])
def test_only_listed_files_are_given(http: httpx.Client, done: Any, name: str) -> None:
    url = httpx.URL(str(http.base_url)).copy_with(raw_path=f"{done['links']['self']}/files/{name}".encode())
    assert http.get(url).status_code == 404


def test_a_damaged_file_is_not_given(service: Any, http: httpx.Client, request_of: Any, finish: Any) -> None:
    job = finish(http, request_of(seed=17))
    path = service.home / "jobs" / job["id"] / "selection.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    answer = http.get(job["links"]["selection"])
    assert (answer.status_code, answer.json()["code"]) == (503, "storage")
    path.unlink()
    assert http.get(job["links"]["selection"]).status_code == 503


def test_report_and_its_representations(service: Any, http: httpx.Client, request_of: Any, finish: Any) -> None:
    job = finish(http, request_of(seed=18))
    url = job["links"]["report"]
    for accept in (None, "*/*", "application/json", "application/*;q=0.5", "text/html, application/json;q=0.1"):
        answer = http.get(url, headers={} if accept is None else {"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), accept
        assert answer.json()
    for accept in ("text/html", "image/png", "application/json;q=0"):
        assert http.get(url, headers={"Accept": accept}).status_code == 406, accept
    (service.home / "jobs" / job["id"] / "report.html").write_text("<!doctype html><title>Report</title>")
    answer = http.get(url, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.headers["content-type"].startswith("text/html")
    assert http.get(url).headers["content-type"] == "application/json"


def test_explain(http: httpx.Client, done: Any) -> None:
    table = pq.read_table(io.BytesIO(http.get(done["links"]["selection"]).content)).to_pylist()
    taken = http.get(f"{done['links']['self']}/explain", params={"row": table[0]["row"]}).json()
    assert (taken["selected"], taken["reason"], taken["id"]) == (True, "selected", table[0]["id"])
    same = http.get(f"{done['links']['self']}/explain", params={"id": table[0]["id"]}).json()
    assert same == taken
    left = next(row for row in range(600) if row not in {entry["row"] for entry in table})
    not_taken = http.get(f"{done['links']['self']}/explain", params={"row": left}).json()
    assert (not_taken["selected"], not_taken["shard"], not_taken["shard_row"]) == (False, left // 300, left % 300)
    assert not_taken["key"] < not_taken["threshold"]
