"""The client against real services, over connections that break."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors.errors import Invalid
from tamis.selectors.schema.request import Budget, JobSpec, Manifest, SelectorSpec
from tamis.service.client import Client, Job, JobCancelled, JobFailed, ProblemError, ServiceUnreachable, WaitTimeout
from tamis.service.client.download import download
from tamis.service.client.errors import DownloadDamaged
from tamis.service.client.questions import Question, answers_to

Request = Callable[..., dict[str, Any]]


@pytest.fixture
def client(service: Any) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.fixture
def idle_client(idle: Any) -> Iterator[Client]:
    with Client(str(idle.base_url)) as client:
        yield client


class BrokenLine:
    """A TCP line to a service which it cuts: each connection in turn after so many bytes of answers (None: never)."""

    def __init__(self, url: str, cuts: list[int | None]) -> None:
        host, _, port = url.rpartition("/")[2].rpartition(":")
        self._target = (host, int(port))
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            cut = self._cuts[self.connections] if self.connections < len(self._cuts) else None
            self.connections += 1
            far = socket.create_connection(self._target)
            threading.Thread(target=self._copy, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self._copy, args=(far, near, cut), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket, left: int | None) -> None:
        try:
            while data := source.recv(4096):
                sent = data if left is None else data[:left]
                sink.sendall(sent)
                if left is not None:
                    left -= len(sent)
                    if left <= 0:
                        break
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def broken_line() -> Iterator[Callable[..., BrokenLine]]:
    """Make a line that is cut: ``broken_line(url, [0, 100])``."""
    lines: list[BrokenLine] = []

    def make(url: str, cuts: list[int | None]) -> BrokenLine:
        lines.append(BrokenLine(url, cuts))
        return lines[-1]

    yield make
    for line in lines:
        line.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_submit_wait_download(client: Client, request_of: Request, tmp_path: Path) -> None:
    states: list[str] = []
    job = client.submit(request_of(labels={"by": "client"}))
    assert job.wait(timeout=120, progress=lambda job: states.append(job.state)) is job
    assert job.state == states[-1] == "succeeded"
    path = job.download(tmp_path)
    assert path == tmp_path / "selection.parquet"
    assert names_in(tmp_path) == ["selection.parquet"]
    table = job.selection()
    assert table.num_rows == 40
    assert job.result().totals.rows == 40
    assert job.report()
    row = table.column("row")[0].as_py()
    assert job.explain(row).selected
    assert job.explain(id=table.column("id")[0].as_py()).row == row
    assert [entry.message for entry in job.logs()]
    assert [event.kind for event in job.events()][-1] == "end"
    assert client.job(job.id).state == "succeeded"
    assert job.id in [other.id for other in client.jobs(labels={"by": "client"}, state="succeeded")]
    job.delete()
    with pytest.raises(ProblemError) as caught:
        job.refresh()
    assert (caught.value.status, caught.value.code) == (404, "not-found")


@pytest.fixture(scope="session")
def long_shards(data: Path) -> str:
    """Texts that take the service some seconds: 160 shards of 200 rows of 20 kB."""
    folder = data / "long"
    folder.mkdir()
    words = ["harbour", "sail", "anchor", "keel", "flour", "yeast", "oven", "dough"]
    text = " ".join(random.Random(11).choices(words, k=4000))
    for shard in range(160):
        starts = [(shard * 200 + row) * 6 for row in range(200)]
        texts = [f"{shard} " + text[start:] + text[:start] for start in starts]
        path = folder / f"long-{shard}.parquet"
        pq.write_table(pa.table({"text": texts}), path, compression="zstd", use_dictionary=False)
    return f"{folder}/long-*.parquet"


def test_progress_is_shown_while_the_job_runs(client: Client, request_of: Request, long_shards: str) -> None:
    seen: list[tuple[str, str, float]] = []

    def show(job: Job) -> None:
        if job.progress is not None:
            seen.append((job.state, job.progress.phase, job.progress.fraction))

    dataset = {"shards": [long_shards], "columns": {"text": "text"}}
    selector = {"name": "dsir", "params": {"buckets": 1000, "ngrams": 4}}
    job = client.submit(request_of(dataset=dataset, selector=selector))
    job.wait(timeout=120, progress=show)
    fractions = [fraction for _, _, fraction in seen]
    assert fractions == sorted(fractions)
    assert [phase for state, phase, fraction in seen if state == "running" and 0 < fraction < 1], seen
    assert seen[-1][0] == "succeeded"
    assert fractions[-1] == 1


def test_a_spec_is_as_good_as_a_mapping(idle_client: Client, data: Path) -> None:
    spec = JobSpec(
        dataset=Manifest(shards=[f"{data}/pool-*.parquet"]), selector=SelectorSpec(name="random"), budget=Budget(rows=3)
    )
    assert idle_client.plan(spec).rows == 600
    job = idle_client.submit(spec)
    assert job.cancel().state == "cancelled"
    assert job.resume().state == "queued"


def test_catalogue_and_datasets(client: Client, request_of: Request) -> None:
    assert "dsir" in [info.name for info in client.selectors()]
    assert client.selector("dsir").needs.target
    dataset = client.register(request_of()["dataset"])
    assert client.dataset(dataset.id) == dataset
    client.delete_dataset(dataset.id)
    with pytest.raises(ProblemError):
        client.dataset(dataset.id)
    assert client.version().api == "v1"


def test_problems_are_exceptions(client: Client, request_of: Request) -> None:
    with pytest.raises(ProblemError) as caught:
        client.submit(request_of(budget={"rows": 0}))
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.status, error.code) == (422, "invalid-request")
    assert error.errors[0]["pointer"] == "/budget/rows"
    assert error.detail in str(error)
    for job_id in ("", "..", "a/b", "job_x?y", "ü"):
        with pytest.raises(ProblemError) as caught:
            client.job(job_id)
        assert caught.value.status == 404


def test_a_failed_job_is_an_exception(client: Client, failed: Any) -> None:
    with pytest.raises(JobFailed) as caught:
        client.job(failed["id"]).wait()
    assert caught.value.job_id == failed["id"]
    assert caught.value.detail == failed["error"]["detail"]
    assert client.job(failed["id"]).wait(check=False).state == "failed"


def test_a_cancelled_job_is_an_exception(idle_client: Client, request_of: Request) -> None:
    job = idle_client.submit(request_of())
    with pytest.raises(WaitTimeout):
        job.wait(timeout=0.3)
    threading.Timer(0.3, job.cancel).start()
    with pytest.raises(JobCancelled):
        job.wait(timeout=60)


def test_an_address_without_a_scheme_is_http(service: Any) -> None:
    with Client(f"localhost:{service.url.rpartition(':')[2]}") as client:
        assert client.is_local
        assert client.version().api == "v1"


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ServiceUnreachable, match="tamis serve"):
        client.version()


def test_reads_are_retried(service: Any, broken_line: Any) -> None:
    line = broken_line(service.url, [0, 20, None])
    with Client(line.url) as client:
        assert client.version().api == "v1"
    assert line.connections == 3


def test_a_lost_answer_does_not_submit_twice(idle: Any, broken_line: Any, request_of: Request) -> None:
    # The first answer is cut off: the service has the job, the client does not know.
    line = broken_line(str(idle.base_url), [30, 30, None])
    with Client(line.url) as client:
        job = client.submit(request_of(labels={"suite": "lost-answer"}))
    assert line.connections == 3
    (listed,) = idle.get("/v1/jobs", params={"label": "suite:lost-answer"}).json()["items"]
    assert listed["id"] == job.id


def test_a_broken_download_goes_on(service: Any, done: Any, broken_line: Any, tmp_path: Path) -> None:
    with Client(service.url) as direct:
        whole = direct.job(done["id"]).download(tmp_path / "whole.parquet").read_bytes()
    # The resource and the manifest come over the first connection, which is cut inside of the file.
    line = broken_line(service.url, [9000, 3000, 0, 2500])
    with Client(line.url) as client:
        path = client.job(done["id"]).download(tmp_path / "parts.parquet")
    assert path.read_bytes() == whole
    assert line.connections > 1
    assert names_in(tmp_path) == ["parts.parquet", "whole.parquet"]


def test_a_wrong_digest_leaves_nothing(service: Any, done: Any, tmp_path: Path) -> None:
    with Client(service.url) as client:
        file = next(file for file in client.job(done["id"]).result().files if file.name == "selection.parquet")
        target = tmp_path / "kept.parquet"
        target.write_bytes(b"old")
        with pytest.raises(ProblemError) as caught:
            download(client.transport, file.url, target, sha256="0" * 64, size=file.bytes)
        assert caught.value.status == 412
        # A file that has changed on the way, under the promised tag.
        stored = service.home / "jobs" / done["id"] / file.name
        content = stored.read_bytes()
        try:
            stored.write_bytes(content[:-1] + b"?")
            with pytest.raises(DownloadDamaged):
                download(client.transport, file.url, target, sha256=file.sha256, size=file.bytes)
        finally:
            stored.write_bytes(content)
        with pytest.raises(KeyError, match=r"selection\.parquet"):
            client.job(done["id"]).download(target, name="nothing")
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["kept.parquet"]
    assert hashlib.sha256(content).hexdigest() == file.sha256


def test_broken_events_go_on(service: Any, done: Any, broken_line: Any) -> None:
    line = broken_line(service.url, [700, 500, 0])
    with Client(service.url) as direct, Client(line.url) as broken:
        job = direct.job(done["id"])
        whole = list(job.events())
        assert list(Job(broken.transport, job.resource).events()) == whole
    assert line.connections > 3


def test_the_client_starts_fast() -> None:
    code = "import sys, tamis.service.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numba", "numpy", "pyarrow", "sqlalchemy", "fastapi"} & set(loaded)


@pytest.mark.parametrize("scores", [[1.0], {3: float("inf"), 5: 1.0}, [1e151, 0.0], ["a", "b"]])
def test_answers_that_the_service_would_refuse_are_not_sent(scores: Any) -> None:
    rows = np.array([3, 5])
    with pytest.raises(Invalid, match="score"):
        next(answers_to(Question(0, rows, rows, rows, None), scores))
