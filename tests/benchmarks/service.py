"""The service: how soon a small job starts and a large one stops, what polling costs, a queue drained.

Every benchmark starts a service of its own on one machine with SQLite, whose processors clients, API and jobs share.
Kernels are compiled before.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.harness import ROOT, Yielded, benchmark

if TYPE_CHECKING:
    import httpx

DEMO = ROOT / "tests" / "data" / "demo"
CLI = [sys.executable, "-m", "tamis.service.cli"]
IDLE_SECONDS = 1.0
"""Before each job whose start is measured: the worker has a warm process by then."""
POLLS_PER_SECOND = 100


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """Make a folder for the state of services, which find the kernels that were compiled before."""
    with tempfile.TemporaryDirectory(prefix="tamis-bench-") as folder:
        cache = Path(os.environ["TAMIS_HOME"]) / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        (Path(folder) / "cache").symlink_to(cache.resolve())
        yield Path(folder)


@contextlib.contextmanager
def served(home: Path, *options: str) -> Iterator[httpx.Client]:
    """Run `tamis serve` and give a client of it."""
    import httpx

    with (home / "service.log").open("ab") as log:
        process = subprocess.Popen(
            [*CLI, "serve", "--port", "0", *options],
            env={**os.environ, "TAMIS_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None, (home / "service.log").read_text()
        with httpx.Client(base_url=url.group(), timeout=120, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.wait(120)
        process.stdout.close()


def request(selector: str, shards: str, rows: int, seed: int) -> dict[str, Any]:
    """Make a request over the demo's text."""
    asked: dict[str, Any] = {
        "dataset": {"shards": [shards], "columns": {"text": "text"}},
        "selector": {"name": selector},
        "budget": {"rows": rows},
        "seed": seed,
    }
    if selector == "dsir":
        asked["target"] = {"datasets": [{"shards": [str(DEMO / "targets" / "python.parquet")]}]}
    return asked


def submit(client: httpx.Client, body: dict[str, Any]) -> str:
    """Submit a job and return its path."""
    accepted = client.post("/v1/jobs", json=body)
    assert accepted.is_success, accepted.text
    return str(accepted.headers["Location"])


def over(client: httpx.Client, path: str) -> dict[str, Any]:
    """Wait until a job has succeeded."""
    while not (job := client.get(path, headers={"Prefer": "wait=60"}).json())["terminal"]:
        pass
    assert job["state"] == "succeeded", job
    found: dict[str, Any] = job
    return found


def seconds(job: dict[str, Any], since: str, until: str) -> float:
    """Return the seconds between two moments of a job."""
    return (datetime.fromisoformat(job[until]) - datetime.fromisoformat(job[since])).total_seconds()


def quantile(values: list[float], share: float) -> float:
    """Return the value that a share of the values lies below."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@benchmark(full={"jobs": 50, "burst": 10}, toy={"jobs": 1, "burst": 2})
def latency(jobs: int, burst: int) -> Iterator[Yielded]:
    """From submission to start, of one job after another and of several at once, on an idle service."""
    pool = str(DEMO / "pool" / "*.parquet")
    with home() as folder, served(folder) as client:
        over(client, submit(client, request("random", pool, 100, 0)))
        alone = []
        for seed in range(jobs):
            time.sleep(IDLE_SECONDS)
            job = over(client, submit(client, request("random", pool, 100, 1 + seed)))
            alone.append(seconds(job, "created_at", "started_at"))
        paths = [submit(client, request("random", pool, 100, 10**6 + seed)) for seed in range(burst)]
        together = [over(client, path) for path in paths]
    waits = [seconds(job, "created_at", "started_at") for job in together]
    for name, values in ((f"one at a time, {jobs}", alone), (f"{burst} at once", waits)):
        told = {"submit to running, s": name, "p50": statistics.median(values), "p99": quantile(values, 0.99)}
        yield told | {"largest": max(values)}
    runs = [seconds(job, "started_at", "finished_at") for job in together]
    yield f"Each of the {burst} ran for {statistics.median(runs):.3f} s (median)."


LONG: dict[str, tuple[str, dict[str, Any]]] = {
    "ccs": ("scores", {"name": "ccs", "params": {"hard_end": "low", "beta": 0.2}}),
    "ccs, swept": ("outputs", {"name": "ccs", "params": {"source": "snapshot", "outputs": "logits", "beta": "sweep"}}),
    "stratified": ("scores", {"name": "stratified"}),
    "moderate": ("vectors", {"name": "moderate"}),
    "kcenter": ("vectors", {"name": "kcenter"}),
    "facility_location": ("vectors", {"name": "facility_location", "params": {"neighbors": 16}}),
}
"""Jobs with phases that are one kernel, or a sort, over all rows: their data and selector."""


def write_columns(folder: Path, rows: int, vectors: int) -> None:
    """Write columns of scores and of vectors."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, rows)
    scores = pa.table({"score": draw.normal(size=rows), "group": pa.array(labels).cast(pa.string()), "label": labels})
    pq.write_table(scores, folder / "scores.parquet", row_group_size=200_000)
    values = pa.array(draw.normal(size=vectors * 10).astype(np.float32))
    embedding = pa.FixedSizeListArray.from_arrays(values, 10)
    table = pa.table({"embedding": embedding, "label": labels[:vectors]})
    pq.write_table(table, folder / "vectors.parquet")
    pq.write_table(table.append_column("logits", embedding), folder / "outputs.parquet")


@benchmark(
    full={"rows": 5_000_000, "vectors": 200_000, "repeat": 5, "jobs": list(LONG), "delay": 4.0},
    toy={"rows": 200_000, "vectors": 3000, "repeat": 1, "jobs": ["ccs", "kcenter"], "delay": 0.1},
)
def cancel(rows: int, vectors: int, repeat: int, jobs: list[str], delay: float) -> Iterator[Yielded]:
    """From the request to cancel to the end, at random moments of jobs over large data."""
    chance = random.Random(3)
    with home() as folder, served(folder) as client:
        write_columns(folder, rows, vectors)
        for name in jobs:
            data, selector = LONG[name]
            body: dict[str, Any] = {
                "dataset": {"shards": [str(folder / f"{data}.parquet")]},
                "selector": selector,
                "budget": {"fraction": 0.2},
            }
            if data == "outputs":
                body["target"] = {"datasets": [{"shards": [str(folder / "outputs.parquet")]}]}
            moments = [_cancelled(client, body | {"seed": seed}, delay * chance.random()) for seed in range(repeat)]
            yield {"job": name, "phase when it was cancelled, seconds to the end": ", ".join(moments)}


def _cancelled(client: httpx.Client, body: dict[str, Any], delay: float) -> str:
    """Cancel a job some seconds after it began to compute; return its phase and how long the end took."""
    path = submit(client, body)
    while (job := client.get(path).json())["state"] == "queued" or job["progress"] is None:
        if job["terminal"]:
            return "it was over"
        time.sleep(0.02)
    time.sleep(delay)
    asked_at = time.monotonic()
    if client.post(f"{path}/cancel").status_code == 409:
        return "it was over"
    phase = (client.get(path).json()["progress"] or {}).get("phase")
    while not (job := client.get(path).json())["terminal"]:
        time.sleep(0.02)
    assert job["state"] == "cancelled", job
    return f"{phase} {time.monotonic() - asked_at:.2f}"


@benchmark(full={"copies": 150, "repeat": 5}, toy={"copies": 1, "repeat": 1})
def polls(copies: int, repeat: int) -> Iterator[Yielded]:
    """The run time of a DSIR job over copies of the demo's pool, with and without a hundred polls a second."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    times: dict[bool, list[float]] = {False: [], True: []}
    polling = []
    with home() as folder:
        table = pa.concat_tables([pq.read_table(path) for path in sorted((DEMO / "pool").glob("*.parquet"))])
        pool = str(folder / "pool.parquet")
        pq.write_table(pa.concat_tables([table] * copies), pool, row_group_size=5000)
        with served(folder) as client:
            over(client, submit(client, request("dsir", pool, 1000, 0)))
            for seed in range(2 * repeat):
                shutil.rmtree(folder / "signals")  # what is found there is not computed
                (folder / "signals").mkdir()
                path = submit(client, request("dsir", pool, 1000, 1 + seed))
                if polled := seed % 2 == 1:
                    polling.append(_poll(client, path))
                times[polled].append(seconds(over(client, path), "started_at", "finished_at"))
    rate, service, own = (statistics.mean(values) for values in zip(*polling, strict=True))
    for name, took in (("no polls", times[False]), (f"{rate:.0f} polls a second", times[True])):
        told: dict[str, Any] = {"run time of a DSIR job, s": name, "best": min(took), "median": statistics.median(took)}
        yield told | {"all": ", ".join(f"{one:.2f}" for one in took)}
    best, median = (100 * (of(times[True]) / of(times[False]) - 1) for of in (min, statistics.median))
    yield (
        f"Slower by {best:.1f} % (best), {median:.1f} % (median). A poll takes {1000 * service:.2f} CPU-ms of the "
        f"service and {1000 * own:.2f} of the client."
    )


def _poll(client: httpx.Client, path: str) -> tuple[float, float, float]:
    """Poll a job a hundred times a second until it is over.

    The client is the plainest there is, for it shares the processors with the job.

    Returns
    -------
    tuple of float
        Polls a second that were reached; CPU seconds of the service and of this client for one poll.
    """
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 80)
    before = _service_seconds(client), time.process_time()
    started, count, ended = time.monotonic(), 0, False
    while not ended:
        connection.request("GET", path)
        ended = b'"terminal":true' in connection.getresponse().read()
        count += 1
        time.sleep(max(0.0, started + count / POLLS_PER_SECOND - time.monotonic()))
    took = time.monotonic() - started
    connection.close()
    return count / took, (_service_seconds(client) - before[0]) / count, (time.process_time() - before[1]) / count


def _service_seconds(client: httpx.Client) -> float:
    """CPU seconds of the API's process so far."""
    found = re.search(r"^process_cpu_seconds_total (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


@benchmark(full={"jobs": 1000}, toy={"jobs": 4})
def drain(jobs: int) -> Iterator[Yielded]:
    """A queue of small jobs that waits for two workers."""
    pool = str(DEMO / "pool" / "part-0.parquet")
    with home() as folder, served(folder, "--no-worker") as client:
        started = time.monotonic()
        made = {client.post("/v1/jobs", json=request("random", pool, 10, seed)).json()["id"] for seed in range(jobs)}
        submitted = time.monotonic() - started
        environment = {**os.environ, "TAMIS_HOME": str(folder), "TAMIS_THREADS": "2"}
        with (folder / "worker.log").open("ab") as log:
            workers = [subprocess.Popen([*CLI, "worker"], env=environment, stderr=log) for _ in range(2)]
        started = time.monotonic()
        try:
            while not all(job["terminal"] for job in _all(client)):
                time.sleep(0.5)
            drained = time.monotonic() - started
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait(60)
        ended = _all(client)
    yield {
        "jobs": jobs,
        "submitted a second": jobs / submitted,
        "drained in s, the workers' start included": drained,
        "drained a second": jobs / drained,
        "states": str(dict(Counter(job["state"] for job in ended))),
        "attempts": str(dict(Counter(job["attempts"] for job in ended))),
        "lost": len(made - {job["id"] for job in ended}),
    }


def _all(client: httpx.Client) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = client.get("/v1/jobs", params={"limit": 1000} | ({"cursor": cursor} if cursor else {})).json()
        jobs += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return jobs
