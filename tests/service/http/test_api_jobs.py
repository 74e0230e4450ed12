"""Jobs over HTTP: submit, plan, look, wait, cancel, resume, delete."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from tamis.service.retention import Retention
from tamis.service.schema import UnitEntry
from tamis.service.settings import Settings
from tamis.service.store import Store

Request = Callable[..., dict[str, Any]]


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that the answer is this problem, and give it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert (document["status"], document["code"]) == (status, code)
    return document


def pointers(document: dict[str, Any]) -> list[str]:
    return [item["pointer"] for item in document["errors"]]


def test_submit_poll_download(http: httpx.Client, request_of: Request, over: Any) -> None:
    request = request_of(labels={"run": "a17"})
    answer = http.post("/v1/jobs", json=request)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert (job["state"], job["terminal"], job["request"], job["labels"]) == ("queued", False, request, {"run": "a17"})
    job = over(http, answer.headers["Location"])
    assert (job["state"], job["error"], job["attempts"]) == ("succeeded", None, 1)
    assert job["created_at"].endswith("Z")
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    table = pq.read_table(io.BytesIO(http.get(job["links"]["selection"]).content))
    assert table.num_rows == 40
    ships = [name for name in table.column("id").to_pylist() if int(name.rpartition("-")[2]) % 3 == 0]
    assert len(ships) == 40
    result = http.get(job["links"]["result"]).json()
    assert result["totals"]["rows"] == 40
    assert [column["name"] for column in result["schema"]] == table.column_names
    assert result["provenance"]["fingerprint"] == job["fingerprint"]


def test_the_same_request_gives_the_same_bytes(http: httpx.Client, done: Any, request_of: Request, finish: Any) -> None:
    again = finish(http, request_of())
    assert again["fingerprint"] == done["fingerprint"]
    assert http.get(again["links"]["selection"]).content == http.get(done["links"]["selection"]).content


def test_plan_answers_without_storing(idle: httpx.Client, request_of: Request) -> None:
    before = len(idle.get("/v1/jobs").json()["items"])
    answer = idle.post("/v1/jobs/plan", json=request_of())
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert (plan["rows"], plan["shards"], plan["budget_rows"]) == (600, 2, 40)
    assert plan["peak_memory_bytes"] > 0
    assert len(idle.get("/v1/jobs").json()["items"]) == before


def test_plan_gives_the_resolved_request(http: httpx.Client, data: Path, request_of: Request, done: Any) -> None:
    registered = http.post("/v1/datasets", json=request_of()["dataset"]).json()["id"]
    asked = request_of(dataset=registered, preselected=done["id"])
    planned = http.post("/v1/jobs/plan", json=asked).json()
    request = planned["request"]
    assert request["dataset"]["format"] == "parquet"
    assert [shard.removeprefix("file://") for shard in request["dataset"]["shards"]] == [
        f"{data}/pool-0.parquet",
        f"{data}/pool-1.parquet",
    ]
    assert request["preselected"] == done["id"]  # an id, and no path of the service's own
    assert http.post("/v1/jobs/plan", json=request).json()["fingerprint"] == planned["fingerprint"]
    model = http.post("/v1/jobs/plan", json=request_of(target={"model": done["id"]})).json()
    assert model["request"]["target"]["model"] == done["id"]


def test_a_queued_job_says_why_it_waits(idle: httpx.Client, request_of: Request) -> None:
    job = idle.post("/v1/jobs", json=request_of()).json()
    assert job["state"] == "queued"
    assert "worker" in job["waiting_reason"]


def test_stored_request_is_resolved(idle: httpx.Client, data: Path, request_of: Request, tmp_path: Path) -> None:
    # A shard that appears after the submission is none of the job's.
    job = idle.post("/v1/jobs", json=request_of()).json()
    late = data / "pool-late.parquet"
    shutil.copy(data / "pool-0.parquet", late)
    try:
        later = idle.post("/v1/jobs", json=request_of()).json()
    finally:
        late.unlink()
    assert later["fingerprint"] != job["fingerprint"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"budget": {"rows": "40"}}, "/budget/rows"),
        ({"budget": {"rows": True}}, "/budget/rows"),
        ({"budget": {"rows": 0}}, "/budget/rows"),
        ({"budget": {"rows": 40, "fraction": 0.1}}, "/budget"),
        ({"budget": {"fraction": 1.5}}, "/budget/fraction"),
        ({"budget": {"rows": 10**40}}, "/budget/rows"),
        ({"budget": None}, "/budget"),
        ({"seed": -1}, "/seed"),
        ({"seed": 1.5}, "/seed"),
        ({"sed": 1}, "/sed"),
        ({"dataset": "ds_UPPER"}, "/dataset"),
        ({"dataset": {"shards": []}}, "/dataset/shards"),
        ({"dataset": {"shards": [{"url": "x"}]}}, "/dataset/shards/0/uri"),
        ({"target": None}, "/target"),
        ({"target": {}}, "/target"),
        ({"target": {"datasets": [{"shards": ["a"], "proportion": 0}]}}, "/target/datasets/0/proportion"),
        ({"selector": {"name": "dsr"}}, "/selector/name"),
        ({"selector": {"name": "dsir", "params": {"ngrams": 0}}}, "/selector/params/ngrams"),
        ({"selector": {"name": "dsir", "params": {"n/g~": 1}}}, "/selector/params/n~1g~0"),
        ({"preselected": "/etc/passwd"}, "/preselected"),
        ({"exclude": ["../x"]}, "/exclude/0"),
        ({"labels": {"a": 3}}, "/labels/a"),
        ({"labels": {"a": "\0"}}, "/labels/a"),
        ({"labels": {"\0": "a"}}, "/labels"),
        ({"strata": {"by": "colour"}}, "/strata/by"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/plan"])
def test_what_is_wrong_is_pointed_at(
    idle: httpx.Client, request_of: Request, changes: dict[str, Any], pointer: str, path: str
) -> None:
    refused = problem_of_422(idle.post(path, json=request_of(**changes)))
    assert pointer in pointers(refused)


def problem_of_422(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 422, answer.text
    document: dict[str, Any] = answer.json()
    assert document["type"].startswith("urn:tamis:problem:")
    return document


def test_whole_numbers_may_be_written_as_floats(idle: httpx.Client, request_of: Request) -> None:
    body = '{"budget": {"rows": 4e1}, "seed": 3.0, "limits": {"memory_bytes": 4e9}}'
    request = request_of() | httpx.Response(200, text=body).json()
    assert idle.post("/v1/jobs/plan", json=request).status_code == 200


def test_data_is_checked_before_the_work(idle: httpx.Client, data: Path, request_of: Request) -> None:
    dataset = {"shards": [f"{data}/pool-0.parquet"], "columns": {"text": "txet"}}
    refused = problem_of_422(idle.post("/v1/jobs", json=request_of(dataset=dataset)))
    assert "txet" in refused["detail"]
    assert pointers(refused)[0].startswith("/dataset/columns")
    missing = problem_of_422(idle.post("/v1/jobs", json=request_of(dataset={"shards": [f"{data}/nothing-*.parquet"]})))
    assert pointers(missing) == ["/dataset/shards/0"]
    quotas = {"by": "group", "quotas": {"ships": {"min": 41}}}
    infeasible = problem_of_422(idle.post("/v1/jobs", json=request_of(strata=quotas)))
    assert infeasible["code"] == "infeasible"


def test_files_outside_the_allow_list_are_forbidden(
    idle: httpx.Client, data: Path, request_of: Request, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.parquet"
    shutil.copy(data / "pool-0.parquet", outside)
    link = data / "link.parquet"
    link.symlink_to(outside)
    try:
        for uri in (str(outside), f"file://{outside}", f"{data}/../{outside.parent.name}/x.parquet", str(link)):
            problem(idle.post("/v1/jobs", json=request_of(dataset={"shards": [uri]})), 403, "forbidden")
    finally:
        link.unlink()


def test_list_pages_and_filters(idle: httpx.Client, request_of: Request) -> None:
    mine = [
        idle.post("/v1/jobs", json=request_of(labels={"suite": "list", "n": str(n)})).json()["id"] for n in range(5)
    ]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params: dict[str, str] = {"label": "suite:list", "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = idle.get("/v1/jobs", params=params).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == mine[::-1]
    one = idle.get("/v1/jobs", params={"label": ["suite=list", "n:3"]}).json()["items"]
    assert [job["id"] for job in one] == [mine[3]]
    assert idle.get("/v1/jobs", params={"label": "suite:list", "state": "running"}).json()["items"] == []
    assert idle.get("/v1/jobs", params={"selector": "random"}).json()["items"] == []
    assert idle.get("/v1/jobs", params={"label": "a:\0"}).json()["items"] == []
    assert idle.get("/v1/jobs", params={"unknown": "x", "limit": 1}).status_code == 200


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "state=done", "cursor=abc", "cursor=%00", "label=x", "label=a:1&label=a:2"],
)
def test_bad_queries_are_400(idle: httpx.Client, query: str) -> None:
    refused = idle.get(f"/v1/jobs?{query}")
    assert refused.status_code == 400, refused.text
    assert refused.headers["content-type"] == "application/problem+json"


def test_conditional_get(http: httpx.Client, done: Any) -> None:
    first = http.get(done["links"]["self"])
    tag = first.headers["ETag"]
    again = http.get(done["links"]["self"], headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert http.get(done["links"]["self"], headers={"If-None-Match": '"other"'}).status_code == 200


def test_long_poll_waits_for_news(idle: httpx.Client, request_of: Request) -> None:
    path = idle.post("/v1/jobs", json=request_of()).headers["Location"]
    tag = idle.get(path).headers["ETag"]
    began = time.monotonic()
    nothing = idle.get(path, headers={"Prefer": "respond-async, wait=1", "If-None-Match": tag})
    assert (nothing.status_code, nothing.headers["Preference-Applied"]) == (304, "wait=1")
    assert time.monotonic() - began >= 1

    threading.Timer(0.5, lambda: idle.post(f"{path}/cancel")).start()
    news = idle.get(path, headers={"Prefer": "wait=60", "If-None-Match": tag})
    assert (news.status_code, news.json()["state"]) == (200, "cancelled")
    assert time.monotonic() - began < 30


def test_malformed_preferences_are_ignored(idle: httpx.Client, request_of: Request) -> None:
    path = idle.post("/v1/jobs", json=request_of()).headers["Location"]
    for value in ("wait", "wait=", "wait=-3", "wait=x", "wait=1.5", "wait=99999999999999999999"):
        answer = idle.get(path, headers={"Prefer": value})
        assert answer.status_code == 200
        assert "Preference-Applied" not in answer.headers


def test_idempotency(idle: httpx.Client, request_of: Request) -> None:
    request = request_of(labels={"suite": "idempotency"})
    headers = {"Idempotency-Key": "0c1f"}
    first = idle.post("/v1/jobs", json=request, headers=headers)
    assert first.status_code == 202
    assert "Idempotent-Replayed" not in first.headers
    idle.post(f"{first.headers['Location']}/cancel")
    # The same body, written in another order.
    again = idle.post("/v1/jobs", json=dict(reversed(request.items())), headers=headers)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    problem(idle.post("/v1/jobs", json=request | {"seed": 1}, headers=headers), 422, "idempotency-key-reused")
    assert len(idle.get("/v1/jobs", params={"label": "suite:idempotency"}).json()["items"]) == 1
    for bad in ("", "a b", "x" * 256, "ä"):
        answer = idle.post("/v1/jobs", json=request, headers={b"Idempotency-Key": bad.encode()})
        assert answer.status_code == 400, bad


def test_a_key_sent_many_times_at_once_makes_one_job(idle: httpx.Client, request_of: Request) -> None:
    request = request_of(labels={"suite": "at-once"})
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.append(idle.post("/v1/jobs", json=request, headers={"Idempotency-Key": "at-once"}))

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {202, 409}
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert len({answer.json()["id"] for answer in accepted}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in accepted) == 1
    for refused in (answer for answer in answers if answer.status_code == 409):
        assert problem(refused, 409, "idempotency-key-in-flight")
        assert refused.headers["Retry-After"]
    assert len(idle.get("/v1/jobs", params={"label": "suite:at-once"}).json()["items"]) == 1


def test_cancel_resume_delete(idle: httpx.Client, request_of: Request) -> None:
    path = idle.post("/v1/jobs", json=request_of()).headers["Location"]
    problem(idle.post(f"{path}/resume"), 409, "conflict")
    problem(idle.delete(path), 409, "conflict")
    cancelled = idle.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert idle.post(f"{path}/cancel").status_code == 200
    resumed = idle.post(f"{path}/resume")
    assert (resumed.status_code, resumed.json()["state"]) == (202, "queued")
    assert idle.post(f"{path}/cancel").status_code == 202
    assert idle.delete(path).status_code == 204
    problem(idle.get(path), 404, "not-found")
    problem(idle.delete(path), 404, "not-found")


def test_resume_refuses_changed_inputs(idle: httpx.Client, data: Path, request_of: Request) -> None:
    shard = data / "changing.parquet"
    shutil.copy(data / "pool-0.parquet", shard)
    try:
        path = idle.post("/v1/jobs", json=request_of(dataset={"shards": [str(shard)]})).headers["Location"]
        idle.post(f"{path}/cancel")
        shutil.copy(data / "target.parquet", shard)
        problem(idle.post(f"{path}/resume"), 412, "inputs-changed")
        shard.write_bytes(b"no Parquet at all")
        problem(idle.post(f"{path}/resume"), 412, "inputs-changed")
        shutil.copy(data / "pool-0.parquet", shard)
        assert idle.post(f"{path}/resume").status_code == 202
        idle.post(f"{path}/cancel")
    finally:
        shard.unlink()
    problem(idle.post(f"{path}/resume"), 412, "inputs-changed")


def test_finished_jobs_can_only_be_read(http: httpx.Client, done: Any) -> None:
    problem(http.post(f"{done['links']['self']}/cancel"), 409, "conflict")
    problem(http.post(f"{done['links']['self']}/resume"), 409, "conflict")


def test_a_failed_job_says_why_and_resumes(http: httpx.Client, failed: Any, over: Any) -> None:
    assert failed["error"]["type"].startswith("urn:tamis:problem:")
    assert failed["error"]["detail"]
    path = failed["links"]["self"]
    problem(http.get(f"{path}/result"), 409, "conflict")
    assert http.post(failed["links"]["resume"]).status_code == 202
    assert over(http, path)["state"] == "failed"


def test_delete_removes_the_result(service: Any, http: httpx.Client, request_of: Request, finish: Any) -> None:
    job = finish(http, request_of(seed=5))
    folder = service.home / "jobs" / job["id"]
    assert (folder / "selection.parquet").is_file()
    assert http.delete(job["links"]["self"]).status_code == 204
    assert not folder.exists()
    problem(http.get(f"{job['links']['self']}/result"), 404, "not-found")


def test_reuse_answers_with_the_earlier_job(http: httpx.Client, done: Any, request_of: Request, finish: Any) -> None:
    key = {"Idempotency-Key": "reuse-1"}
    for replayed in (None, "true"):
        answer = http.post("/v1/jobs", json=request_of(reuse="identical", labels={"run": "z"}), headers=key)
        assert (answer.status_code, answer.json()["fingerprint"]) == (200, done["fingerprint"])
        assert (answer.json()["state"], answer.json()["terminal"]) == ("succeeded", True)
        assert answer.headers["Location"] == answer.json()["links"]["self"]
        assert "Retry-After" not in answer.headers and answer.headers.get("Idempotent-Replayed") == replayed
    more = http.post("/v1/jobs", json=request_of(reuse="identical", output={"scores": "all"}))
    assert more.status_code == 202  # it has a file that the other has not
    problem(http.post("/v1/jobs", json=request_of(reuse="similar")), 422, "invalid-request")


def test_priorities(idle: httpx.Client, request_of: Request) -> None:
    planned = idle.post("/v1/jobs/plan", json=request_of(priority=3)).json()
    assert planned["request"]["priority"] == 3
    for priority in (101, -101, 0.5, "high"):
        assert pointers(problem(idle.post("/v1/jobs", json=request_of(priority=priority)), 422, "invalid-request")) == [
            "/priority"
        ]


def test_units_of_a_job(http: httpx.Client, done: Any, request_of: Request, finish: Any) -> None:
    answer = http.get(done["links"]["units"])
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    units = [UnitEntry.model_validate_json(line) for line in answer.text.splitlines()]
    assert {unit.attempt for unit in units} == {1}
    shards = {Path(unit.shard).name for unit in units}
    assert shards == {"pool-0.parquet", "pool-1.parquet", "target.parquet"}
    assert {unit.phase for unit in units} <= set(done["progress"]["phases"])
    again = finish(http, request_of(seed=77))
    found = [UnitEntry.model_validate_json(line) for line in http.get(again["links"]["units"]).text.splitlines()]
    assert any(unit.seconds is None for unit in found)


def test_a_result_that_expired(
    serve: Any, kernel_cache: Path, tmp_path: Path, data: Path, request_of: Request, finish: Any
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").symlink_to(kernel_cache)
    running = serve(home=home, TAMIS_DATA_ROOTS=str(data))
    with running.http() as http:
        job = finish(http, request_of())
        settings = Settings.from_environment({"TAMIS_HOME": str(home), "TAMIS_KEEP_BYTES": "0"})
        Retention(Store(settings.database_url), settings).sweep()
        seen = http.get(job["links"]["self"]).json()
        assert (seen["state"], seen["links"]["result"]) == ("succeeded", None) and seen["expired_at"] is not None
        for part in ("result", "selection.parquet", "report", "explain?row=1", "files/report.json"):
            problem(http.get(f"{job['links']['self']}/{part}"), 410, "expired")
        answer = http.post("/v1/jobs", json=request_of(preselected=job["id"], budget={"rows": 60}))
        assert pointers(problem(answer, 404, "not-found")) == ["/preselected"]
        again = finish(http, request_of(reuse="identical"))
        assert again["id"] != job["id"] and again["fingerprint"] == job["fingerprint"]
    running.stop()


def test_earlier_selections_are_excluded_and_kept(
    http: httpx.Client, done: Any, failed: Any, request_of: Request, finish: Any
) -> None:
    rows = selected_rows(http, done)
    other = finish(http, request_of(exclude=[done["id"]]))
    assert other["state"] == "succeeded", other
    assert not rows & selected_rows(http, other)
    topped_up = finish(http, request_of(preselected=done["id"], budget={"rows": 60}))
    assert topped_up["state"] == "succeeded", topped_up
    assert rows < selected_rows(http, topped_up)
    reused = finish(http, request_of(target={"model": done["id"]}))
    assert reused["state"] == "succeeded", reused

    unknown = "job_00000000000000000000000000"
    for field, value, pointer in (
        ("preselected", unknown, "/preselected"),
        ("exclude", [done["id"], unknown], "/exclude/1"),
        ("target", {"model": unknown}, "/target/model"),
    ):
        missing = problem(http.post("/v1/jobs", json=request_of(**{field: value})), 404, "not-found")
        assert pointers(missing) == [pointer]
    unfinished = problem(http.post("/v1/jobs", json=request_of(preselected=failed["id"])), 409, "conflict")
    assert pointers(unfinished) == ["/preselected"]


def selected_rows(http: httpx.Client, job: dict[str, Any]) -> set[int]:
    table = pq.read_table(io.BytesIO(http.get(job["links"]["selection"]).content), columns=["row"])
    return set(table.column("row").to_pylist())


def test_an_accepted_job_survives_a_crash(serve: Any, request_of: Request, over: Any) -> None:
    first = serve("--no-worker")
    with first.http() as http:
        path = http.post("/v1/jobs", json=request_of(), headers={"Idempotency-Key": "k"}).headers["Location"]
    first.kill()
    second = serve(home=first.home)
    with second.http() as http:
        assert over(http, path)["state"] == "succeeded"
        replayed = http.post("/v1/jobs", json=request_of(), headers={"Idempotency-Key": "k"})
        assert (replayed.headers["Location"], replayed.headers["Idempotent-Replayed"]) == (path, "true")
    assert second.stop() == 0


def test_body_limits(http: httpx.Client, request_of: Request) -> None:
    too_large = request_of(labels={str(number): "x" * 250 for number in range(60)}) | {
        "dataset": {"shards": ["y" * 99] * 999}
    }
    problem(http.post("/v1/jobs", json=too_large), 413, "body-too-large")
    problem(http.post("/v1/jobs", content=iter([b"x" * 65536] * 40)), 415, "unsupported-media-type")
    json_type = {"Content-Type": "application/json"}
    problem(http.post("/v1/jobs", content=iter([b" " * 65536] * 40), headers=json_type), 413, "body-too-large")
