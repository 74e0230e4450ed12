"""Ask and tell over HTTP: a client's loop, refusals, and what survives kills between any two of its calls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors import select
from tamis.service.cli import output
from tamis.service.client import Client, Job, JobCancelled, ProblemError
from tamis.service.client.job import SELECTION
from tamis.service.store import EventKind, Store
from tamis.service.worker.job_process import EXECUTE

ASKING = Path(__file__).parents[2] / "asking"
ROWS = 90
SCORES = np.where(np.arange(ROWS) % 7 == 3, np.nan, np.sin(np.arange(ROWS)))
"""What the client answers; every seventh row has no score."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    table = pa.table({"id": np.arange(ROWS) + 1000, "score": pa.array(SCORES, from_pandas=True)})
    for shard in range(3):
        pq.write_table(table.slice(shard * 30, 30), folder / f"{shard}.parquet")
    return folder


@pytest.fixture(scope="module")
def client(serve: Any) -> Iterator[Client]:
    with Client(serve(PYTHONPATH=str(ASKING)).url) as client:
        yield client


def request(shards: Path, **params: Any) -> dict[str, Any]:
    columns = {"id": "id", "score": "score"} if params.get("reward") == "score" else {"id": "id"}
    return {
        "dataset": {"shards": [f"{shards}/*.parquet"], "columns": columns},
        "selector": {"name": "climb", "params": {"rounds": 3, "probes": 6, **params}},
        "budget": {"rows": 8},
    }


@pytest.fixture
def waiting(client: Client, shards: Path) -> Iterator[Job]:
    """A job that waits."""
    job = client.submit(request(shards))
    next(job.questions())
    yield job.refresh()
    job.cancel()


def test_a_clients_loop_gives_what_a_column_gives(client: Client, shards: Path) -> None:
    planned = client.plan(request(shards))
    assert planned.asks and "asks" in [notice.code for notice in planned.warnings]
    job = client.submit(request(shards))
    rounds = []
    for question in job.questions():
        rounds.append(question.round)
        assert question.ids == (question.rows + 1000).tolist()
        assert (question.shards * 30 + question.shard_rows).tolist() == question.rows.tolist()
        if question.round == 1 and len(question) > 2:  # a part first, by row and with None; the rest comes again
            part = question.rows[[4, 1, 0, 2]]
            some = {int(row): None if np.isnan(SCORES[row]) else float(SCORES[row]) for row in part}
            taken = job.answer(question, some)
            assert taken is not None and (taken.missing, taken.state) == (2, "waiting")
        else:
            taken = job.answer(question, SCORES[question.rows])
            assert taken is not None and (taken.missing, taken.state) == (0, "queued")
    assert rounds == [0, 1, 1, 2]
    assert (job.state, job.resource.attempts) == ("succeeded", 1)
    column = client.submit(request(shards, reward="score")).wait()
    assert job.selection() == column.selection()
    provenance = job.result().provenance
    assert provenance.answers_digest is not None and column.result().provenance.answers_digest is None
    states = [event.data["state"] for event in job.events() if event.kind == "state"]
    assert states == ["queued", *["running", "waiting", "queued"] * 3, "running", "succeeded"]


def test_a_waiting_job_says_so(client: Client, waiting: Job) -> None:
    resource = waiting.resource
    assert (resource.state, resource.terminal, resource.attempts) == ("waiting", False, 0)
    assert resource.waiting_reason == "it asks for the scores of 6 rows (round 0)"
    assert (resource.links.questions, resource.links.answers) == (
        f"/v1/jobs/{waiting.id}/questions",
        f"/v1/jobs/{waiting.id}/answers",
    )
    with output.console.capture() as shown:
        output.show_job(resource)
    assert "asks for the scores of 6 rows" in shown.get() and "job.answer(question, scores)" in shown.get()
    assert waiting.id in [job.id for job in client.jobs(state="waiting")]
    metrics = httpx.get(f"{client.url}/metrics", trust_env=False).text
    assert 'tamis_jobs{selector="climb",state="waiting"} 1.0' in metrics
    with pytest.raises(ProblemError, match="waiting: cancel it") as caught:
        waiting.delete()
    assert caught.value.status == 409


def test_pages_of_a_question(client: Client, waiting: Job) -> None:
    with httpx.Client(base_url=client.url, trust_env=False) as http:
        path = f"/v1/jobs/{waiting.id}/questions"
        whole = http.get(path).json()
        first = http.get(path, params={"limit": 4}).json()
        second = http.get(path, params={"limit": 4, "cursor": first["next_cursor"]}).json()
        assert (whole["next_cursor"], second["next_cursor"]) == (None, None)
        for name in ("rows", "shards", "shard_rows", "ids"):
            assert first[name] + second[name] == whole[name] and len(first[name]) == 4
        assert (whole["round"], whole["total"], whole["answered"]) == (0, 6, 0)
        assert http.get(path, params={"cursor": "7-0"}).json()["code"] == "invalid-cursor"
        assert http.get(path, params={"cursor": "0"}).status_code == 400


REFUSED: dict[str, tuple[Callable[[list[int]], dict[str, Any]], int, list[str]]] = {
    "unknown-row": (lambda rows: {"rows": [rows[0], 10**6], "scores": [1, 1]}, 422, ["/rows/1"]),
    "twice": (lambda rows: {"rows": [rows[0], rows[0]], "scores": [1, 1]}, 422, ["/rows/1"]),
    "round": (lambda rows: {"round": 5, "rows": rows, "scores": [1] * 6}, 422, ["/round"]),
    "lengths": (lambda rows: {"rows": rows, "scores": [1]}, 422, ["/scores"]),
    "text": (lambda rows: {"rows": rows[:1], "scores": ["1"]}, 422, ["/scores/0"]),
    "large": (lambda rows: {"rows": rows[:2], "scores": [0.0, 1e151]}, 422, ["/scores/1"]),
    "overflow": (lambda rows: {"rows": rows[:1], "scores": "1e999"}, 422, ["/scores/0"]),
    "infinity": (lambda rows: {"rows": rows[:1], "scores": "Infinity"}, 400, []),
    "nan": (lambda rows: {"rows": rows[:1], "scores": "NaN"}, 400, []),
    "empty": (lambda rows: {"rows": [], "scores": []}, 422, ["/rows", "/scores"]),
    "surplus": (lambda rows: {"rows": rows[:1], "scores": [1], "job": "x"}, 422, ["/job"]),
}


def test_answers_that_are_refused_whole(client: Client, waiting: Job) -> None:
    rows = next(waiting.questions()).rows.tolist()
    for name, (body, status, pointers) in REFUSED.items():
        document = {"round": 0} | body(rows)
        content = str(document).replace("'", '"')
        if isinstance(document["scores"], str):
            content = content.replace(f'"{document["scores"]}"', f"[{document['scores']}]")
        answer = httpx.post(
            f"{client.url}/v1/jobs/{waiting.id}/answers",
            content=content,
            headers={"Content-Type": "application/json"},
            trust_env=False,
        )
        assert answer.status_code == status, (name, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert [error["pointer"] for error in answer.json().get("errors", [])] == pointers, (name, answer.text)
    assert next(waiting.questions()).rows.tolist() == rows


def test_a_job_that_does_not_wait_is_a_conflict(client: Client, shards: Path) -> None:
    job = client.submit(request(shards, reward="score")).wait()
    assert list(job.questions()) == []
    with httpx.Client(base_url=client.url, trust_env=False) as http:
        body = {"round": 0, "rows": [1], "scores": [1]}
        for answer in (http.get(f"/v1/jobs/{job.id}/questions"), http.post(f"/v1/jobs/{job.id}/answers", json=body)):
            assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "conflict", "succeeded")
        missing = "/v1/jobs/job_00000000000000000000000000"
        assert http.get(f"{missing}/questions").status_code == 404
        assert http.post(f"{missing}/answers", json=body).status_code == 404


def test_cancel_and_resume_keep_the_answers(client: Client, shards: Path) -> None:
    job = client.submit(request(shards))
    question = next(job.questions())
    job.answer(question, {int(row): float(row) for row in question.rows[:4]})
    assert job.cancel().state == "cancelled"
    with pytest.raises(JobCancelled):
        list(job.questions())
    with pytest.raises(ProblemError, match="cancelled, it asks nothing"):
        job.answer(question, question.rows)
    job.resume()
    again = next(job.questions())
    assert (again.round, again.rows.tolist()) == (0, question.rows[4:].tolist())
    job.cancel()


def job_process(home: Path, job_id: str) -> int | None:
    """Find the process that runs a job: it holds the lock in the job's folder."""
    lock = home / "jobs" / job_id / ".attempt.lock"
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and any(fd.resolve() == lock for fd in (folder / "fd").iterdir()):
                return int(folder.name)
        except OSError:
            continue
    return None


def test_kills_between_any_two_calls(
    *,
    serve: Any,
    store: Store,
    worker: Any,
    home: Path,
    shards: Path,
    tmp_path: Path,
    asking: Path,
    wait_until: Any,
) -> None:
    """API, supervisor and job process die by SIGKILL, in turns; the bytes are those of an undisturbed run."""
    asked = request(shards, rounds=2, pause=0.2)
    expected = select(**asked, out=tmp_path / "undisturbed", answer=lambda question: SCORES[question.rows])
    running: dict[str, Any] = {}

    def start(what: str) -> None:
        running[what] = (
            serve("--no-worker", home=home, PYTHONPATH=str(asking))
            if what == "api"
            else worker(lease=0.8, runner=EXECUTE)
        )

    def kill(what: str | None) -> None:
        if what is None:
            return
        if what == "job":
            wait_until(lambda: job_process(home, job_id) or store.jobs.get(job_id).state == "waiting", bool)
            if (pid := job_process(home, job_id)) is not None:
                os.kill(pid, signal.SIGKILL)
            return
        running[what].kill()
        start(what)

    def call(work: Callable[..., Any], *given: Any) -> Any:
        with Client(running["api"].url) as client:
            return work(client.job(job_id), *given)

    start("api")
    start("worker")
    with Client(running["api"].url) as client:
        job_id = client.submit(asked).id
    for victims in (("job", "worker", "api", None), ("worker", "api", None, "worker")):
        kill(victims[0])  # while the job is on its way to the question
        question = call(lambda job: next(job.questions()))
        kill(victims[1])
        some = {int(row): float(SCORES[row]) for row in question.rows[:2]}
        call(Job.answer, question, some)
        kill(victims[2])
        for _ in range(2):  # the second as after a lost reply
            call(Job.answer, question, SCORES[question.rows])
        kill(victims[3])
    files = {file.name: file.sha256 for file in call(lambda job: job.wait().result()).files}
    assert files[SELECTION] == {file.name: file.sha256 for file in expected.manifest.files}[SELECTION]
    states = [event.data["state"] for event in store.events.list(job_id) if event.kind is EventKind.STATE]
    assert states.count("waiting") == 2 and states[-1] == "succeeded"
