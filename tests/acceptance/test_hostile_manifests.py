"""Manifests of every kind, sent to a running service: an answer with its reason and its place, never a 5xx."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, event, example, given, note, settings
from hypothesis import strategies as st

from .conftest import Service

MANIFESTS = int(os.environ.get("TAMIS_DRAWN_MANIFESTS", "400"))
"""Manifests drawn; each is sent to three paths."""

REFUSALS = {403, 413, 422}
NAMES = (
    "plain.parquet",
    "ünï ☃ 名.parquet",
    "[a]*?.parquet",
    "100%25 #1.parquet",
    "-rf.parquet",
    "line\nbreak.parquet",
)
"""Files that hold rows, by names that globs, uris and shells read otherwise."""

Json = dict[str, Any]
AT = "AT"
"""Stands for the folder of the files in what is drawn."""


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile")
    for name in NAMES:
        pq.write_table(pa.table({"text": ["a b", None, ""], "n": [1, 2, 3]}), place / name)
    (place / "lines.jsonl").write_text('{"text": "a b"}\n' * 3)
    (place / "lines.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a b"}\n' * 3))
    (place / "garbage.parquet").write_bytes(b"PAR1" + b"\xff" * 99)
    (place / "empty.parquet").write_bytes(b"")
    (place / "empty.jsonl").write_bytes(b"")
    (place / "table.csv").write_text("text\na\n")
    (place / "folder.parquet").mkdir()
    os.mkfifo(place / "pipe.parquet")  # whoever opens it to read waits for ever
    (place / "loop.parquet").symlink_to(place / "loop.parquet")
    (place / "dangling.parquet").symlink_to(place / "nothing")
    (place / "long.parquet").symlink_to("x" * 300)  # can't be looked at, by whoever it is
    (place / "link.parquet").symlink_to(place / "plain.parquet")
    return place


ODD = (
    "*", "**", "***", "?", "[", "]", "[!]", "[a-", "[]]", "{a,b}", "~", "~root", "..", ".", "/", "//", "\\", "%", "%00",
    "%2e%2e", "%zz", "\0", "\n", "\u202e", "é", "e\u0301", "☃", "#", "?x=1", ":", "nothing", " ", "$HOME", "`id`",
    "a" * 300,
)  # fmt: skip
PLACES = st.sampled_from([*NAMES, "lines.jsonl", "lines.jsonl.gz", "garbage.parquet", "empty.parquet", "empty.jsonl"])
TRAPS = st.sampled_from(
    [
        "table.csv",
        "folder.parquet",
        "pipe.parquet",
        "loop.parquet",
        "dangling.parquet",
        "link.parquet",
        "long.parquet",
        "l*.parquet",
    ]
)
ELSEWHERE = st.sampled_from(
    [
        "", "http://127.0.0.1:1/a.parquet", "https://[::1]/a", "s3://", "s3://bucket/*", "s3://b\0/k", "gs://a/b",
        "file:", "file://", "file://host/a.parquet", "FILE:///etc/passwd", "/dev/null", "/dev/zero", "/dev/stdin",
        "/proc/self/mem", "/proc/**", "data:,a",
    ]
)  # fmt: skip
GOOD = st.builds(lambda name: f"{AT}/{name}", PLACES)
PATHS = st.one_of(
    GOOD,
    GOOD,
    st.builds(lambda name: f"{AT}/{name}", TRAPS),
    st.builds(lambda parts: f"{AT}/{''.join(parts)}", st.lists(st.sampled_from([*ODD, ".parquet", "/"]), max_size=5)),
    st.builds(lambda name: f"file://{AT}/{name}", st.one_of(PLACES, st.sampled_from(ODD))),
    ELSEWHERE,
    st.text(max_size=20),
)
NO_VALUE: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, -1, 2**63, 1.5, "", [], {}, [[]], "1"])
SHARDS = st.one_of(
    PATHS,
    st.fixed_dictionaries(
        {"uri": PATHS},
        optional={
            "rows": st.one_of(st.sampled_from([3, 0]), NO_VALUE),
            "sha256": st.one_of(st.sampled_from(["0" * 64, "F" * 64]), NO_VALUE),
            "extra": NO_VALUE,
        },
    ),
    NO_VALUE,
)
COLUMNS = st.dictionaries(
    st.sampled_from(["text", "id", "group", "size", "embedding", "gradient", "nothing"]),
    st.one_of(
        st.sampled_from(["text", "n", "", "x" * 257, "a.b", "\0", "☃"]),
        st.builds(
            lambda text: {"template": text}, st.sampled_from(["{text}", "{n}{text}", "{", "}", "{}", "{{}}", "{a:b}"])
        ),
        NO_VALUE,
    ),
    max_size=3,
)


@st.composite
def manifests(draw: st.DrawFn) -> Any:
    several = (
        st.lists(GOOD, min_size=1, max_size=4),
        st.lists(PATHS, max_size=2),
        st.lists(SHARDS, min_size=1, max_size=3),
    )
    shards = draw(st.one_of(*several, *several, NO_VALUE))
    if isinstance(shards, list) and draw(st.integers(0, 5)) == 0:
        shards = shards * 2  # named twice
    manifest: Json = {"shards": shards}
    if draw(st.integers(0, 3)) == 0:
        manifest["format"] = draw(st.sampled_from(["parquet", "arrow", "jsonl", "csv", None, 1]))
    if draw(st.integers(0, 3)) == 0:
        manifest["columns"] = draw(st.one_of(COLUMNS, COLUMNS, NO_VALUE))
    return manifest


def located(value: Any, folder: Path) -> Any:
    """Put the folder into what was drawn."""
    if isinstance(value, str):
        return value.replace(AT, str(folder))
    if isinstance(value, list):
        return [located(item, folder) for item in value]
    return {key: located(item, folder) for key, item in value.items()} if isinstance(value, dict) else value


@settings(
    max_examples=MANIFESTS, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(drawn=manifests())
@example(drawn={})
@example(drawn={"shards": []})
@example(drawn={"shards": [f"{AT}/{name}" for name in NAMES]})
@example(drawn={"shards": [f"{AT}/**"], "format": "parquet"})
@example(drawn={"shards": [f"{AT}/l*.parquet"]})
@example(drawn={"shards": ["/proc/**"]})
@example(drawn={"shards": [f"{AT}/plain.parquet", f"{AT}/link.parquet"]})
def test_a_manifest_is_taken_or_refused_with_its_place(http: httpx.Client, folder: Path, drawn: Any) -> None:
    manifest = located(drawn, folder)
    job = {"dataset": manifest, "selector": {"name": "random"}, "budget": {"rows": 1}}
    note(json.dumps(manifest))
    registered = http.post("/v1/datasets", json=manifest)
    event(f"{registered.status_code}")
    taken = refused(registered, ("/shards", "/format", "/columns"))
    for path in ("/v1/jobs/plan", "/v1/jobs"):
        refused(http.post(path, json=job), ("/dataset", "/budget"))  # no column is needed, but a row is
    if taken:
        assert registered.json()["rows"] in (None, *range(3 * len(NAMES) + 1))


def refused(answer: httpx.Response, fields: tuple[str, ...]) -> bool:
    """Check an answer; return whether the manifest was taken."""
    if answer.status_code < 300:
        return True
    problem = answer.json()
    assert answer.status_code in REFUSALS, problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["errors"], problem
    for error in problem["errors"]:
        assert error["pointer"].startswith(fields), problem
        assert len(error["detail"]) > 10, problem
    return False


def test_names_that_mean_something_else_elsewhere_are_read(http: httpx.Client, folder: Path) -> None:
    """A file of exactly this name is taken, whatever its name would be as a glob."""
    for name in NAMES:
        answer = http.post("/v1/datasets", json={"shards": [str(folder / name)], "columns": {"text": "text"}})
        assert answer.status_code == 201, answer.text
        assert answer.json()["rows"] == 3
