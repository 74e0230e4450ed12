"""Benchmarks of the service: how soon a small job starts and a large one stops, what polling costs, a queue drained.

``run.py service [latency] [cancel] [polls] [drain]`` starts real services, on the demo's text or made-up columns, and
prints Markdown for tests/benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client as http_client
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
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo"
CLI = [sys.executable, "-m", "tamis.service.cli"]

IDLE_SECONDS = 1.0
"""Before each job whose start is measured: the worker has a warm process by then."""

POLLS_PER_SECOND = 100
COPIES = 150
"""Of the demo's pool, for a job that computes for some seconds."""


@contextlib.contextmanager
def served(home: Path, *options: str) -> Iterator[httpx.Client]:
    """Run `tamis serve` and give a client of it."""
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
        with httpx.Client(base_url=url.group(), timeout=120, trust_env=False) as http:
            yield http
    finally:
        process.terminate()
        process.wait(120)


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


def over(http: httpx.Client, path: str) -> dict[str, Any]:
    """Wait until a job is over."""
    while not (job := http.get(path, headers={"Prefer": "wait=60"}).json())["terminal"]:
        pass
    assert job["state"] == "succeeded", job
    found: dict[str, Any] = job
    return found


def seconds(job: dict[str, Any], since: str, until: str) -> float:
    return (datetime.fromisoformat(job[until]) - datetime.fromisoformat(job[since])).total_seconds()


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def latency(home: Path, count: int) -> None:
    """From submission to start, of one job after another and of ten at once, on a service that does nothing else."""
    pool = str(DEMO / "pool" / "*.parquet")
    with served(home) as http:
        over(http, http.post("/v1/jobs", json=request("random", pool, 100, 0)).headers["Location"])
        alone = []
        for seed in range(count):
            time.sleep(IDLE_SECONDS)
            job = over(http, http.post("/v1/jobs", json=request("random", pool, 100, seed)).headers["Location"])
            alone.append(seconds(job, "created_at", "started_at"))
        paths = [
            http.post("/v1/jobs", json=request("random", pool, 100, 10**6 + seed)).headers["Location"]
            for seed in range(10)
        ]
        burst = [over(http, path) for path in paths]
    print("| submit to running, s | p50 | p99 | largest |\n|---|---|---|---|")
    print(
        f"| one at a time, {count} | {statistics.median(alone):.3f} | {quantile(alone, 0.99):.3f} | {max(alone):.3f} |"
    )
    waits = [seconds(job, "created_at", "started_at") for job in burst]
    print(f"| ten at once | {statistics.median(waits):.3f} | {quantile(waits, 0.99):.3f} | {max(waits):.3f} |")
    runs = [seconds(job, "started_at", "finished_at") for job in burst]
    print(f"\nEach of the ten ran for {statistics.median(runs):.3f} s (median).")


ROWS = 5_000_000
VECTORS = 200_000

LONG: dict[str, tuple[str, dict[str, Any]]] = {
    "ccs": ("scores", {"params": {"hard_end": "low", "beta": 0.2}}),
    "ccs, swept": (
        "outputs",
        {"name": "ccs", "params": {"source": "snapshot", "outputs": "logits", "beta": "sweep"}, "target": "outputs"},
    ),
    "stratified": ("scores", {}),
    "moderate": ("vectors", {}),
    "kcenter": ("vectors", {}),
    "facility_location": ("vectors", {"params": {"neighbors": 16}}),
}
"""Jobs with phases that are one kernel, or a sort, over all rows."""


def cancel(home: Path, repeats: int) -> None:
    """From the request to cancel to the end, at random moments of jobs over large data."""
    chance = random.Random(3)
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, ROWS)
    scores = pa.table({"score": draw.normal(size=ROWS), "group": pa.array(labels).cast(pa.string()), "label": labels})
    pq.write_table(scores, home / "scores.parquet", row_group_size=200_000)
    values = pa.array(draw.normal(size=VECTORS * 10).astype(np.float32))
    vectors = pa.FixedSizeListArray.from_arrays(values, 10)
    table = pa.table({"embedding": vectors, "label": labels[:VECTORS]})
    pq.write_table(table, home / "vectors.parquet")
    pq.write_table(table.append_column("logits", vectors), home / "outputs.parquet")
    print("| job | phase when it was cancelled: seconds to the end |\n|---|---|")
    with served(home) as http:
        for name, (data, asked) in LONG.items():
            selector = {"name": asked.get("name", name), "params": asked.get("params", {})}
            body: dict[str, Any] = {
                "dataset": {"shards": [str(home / f"{data}.parquet")]},
                "selector": selector,
                "budget": {"fraction": 0.2},
            }
            if "target" in asked:
                body["target"] = {"datasets": [{"shards": [str(home / f"{asked['target']}.parquet")]}]}
            seen = []
            for seed in range(repeats):
                accepted = http.post("/v1/jobs", json=body | {"seed": seed})
                assert accepted.is_success, accepted.text
                path = accepted.headers["Location"]
                while (job := http.get(path).json())["state"] == "queued" or job["progress"] is None:
                    assert not job["terminal"], job
                    time.sleep(0.02)
                time.sleep(4 * chance.random())
                asked_at = time.monotonic()
                if http.post(f"{path}/cancel").status_code == 409:
                    seen.append("it was over")
                    continue
                phase = (http.get(path).json()["progress"] or {}).get("phase")
                while not (job := http.get(path).json())["terminal"]:
                    time.sleep(0.02)
                assert job["state"] == "cancelled", job
                seen.append(f"{phase} {time.monotonic() - asked_at:.2f}")
            print(f"| {name} | {', '.join(seen)} |")


def polls(home: Path, repeats: int) -> None:
    """The run time of a job with and without a hundred looks a second at it, in turns."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted((DEMO / "pool").glob("*.parquet"))])
    pool = home / "pool.parquet"
    pq.write_table(pa.concat_tables([table] * COPIES), pool, row_group_size=5000)
    times: dict[bool, list[float]] = {False: [], True: []}
    polling = []
    with served(home) as http:
        over(http, http.post("/v1/jobs", json=request("dsir", str(pool), 1000, 0)).headers["Location"])
        for seed in range(2 * repeats):
            shutil.rmtree(home / "signals")  # what is found there is not computed
            (home / "signals").mkdir()
            polled = seed % 2 == 1
            path = http.post("/v1/jobs", json=request("dsir", str(pool), 1000, seed)).headers["Location"]
            if polled:
                polling.append(_poll(http, path))
            times[polled].append(seconds(over(http, path), "started_at", "finished_at"))
    quiet, busy = (min(times[polled]) for polled in (False, True))
    rate, service, client = (statistics.mean(values) for values in zip(*polling, strict=True))
    print("| run time of a DSIR job, s | best | median | all |\n|---|---|---|---|")
    for name, polled in (("nobody looks", False), (f"{rate:.0f} looks a second", True)):
        took = times[polled]
        print(f"| {name} | {min(took):.2f} | {statistics.median(took):.2f} | {', '.join(f'{t:.2f}' for t in took)} |")
    print(f"\nSlower by {100 * (busy / quiet - 1):.1f} % (best), ", end="")
    print(f"{100 * (statistics.median(times[True]) / statistics.median(times[False]) - 1):.1f} % (median). ", end="")
    print(f"A look takes {1000 * service:.2f} CPU-ms of the service and {1000 * client:.2f} of who looks.")


def _poll(http: httpx.Client, path: str) -> tuple[float, float, float]:
    """Look at a job a hundred times a second until it is over.

    Gives the rate that was reached, and CPU-seconds of the service and of this client for one look. The client is the
    plainest there is, for it shares the processors with the job.
    """
    connection = http_client.HTTPConnection(http.base_url.host, http.base_url.port or 80)
    before = _service_seconds(http), time.process_time()
    started, looks, over = time.monotonic(), 0, False
    while not over:
        connection.request("GET", path)
        over = b'"terminal":true' in connection.getresponse().read()
        looks += 1
        time.sleep(max(0.0, started + looks / POLLS_PER_SECOND - time.monotonic()))
    took = time.monotonic() - started
    after = _service_seconds(http), time.process_time()
    return looks / took, (after[0] - before[0]) / looks, (after[1] - before[1]) / looks


def _service_seconds(http: httpx.Client) -> float:
    """CPU-seconds of the API's process so far."""
    found = re.search(r"^process_cpu_seconds_total (\S+)$", http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def drain(home: Path, count: int) -> None:
    """So many jobs wait; then two workers come."""
    pool = str(DEMO / "pool" / "part-0.parquet")
    with served(home, "--no-worker") as http:
        started = time.monotonic()
        made = {http.post("/v1/jobs", json=request("random", pool, 10, seed)).json()["id"] for seed in range(count)}
        submitted = time.monotonic() - started
        environment = {**os.environ, "TAMIS_HOME": str(home), "TAMIS_THREADS": "2"}
        with (home / "worker.log").open("ab") as log:
            workers = [subprocess.Popen([*CLI, "worker"], env=environment, stderr=log) for _ in range(2)]
        started = time.monotonic()
        states: Counter[str] = Counter()
        while sum(states[state] for state in ("succeeded", "failed", "cancelled")) < count:
            time.sleep(0.5)
            states = Counter(job["state"] for job in _all(http))
        drained = time.monotonic() - started
        jobs = _all(http)
        attempts = Counter(job["attempts"] for job in jobs)
        for worker in workers:
            worker.terminate()
            worker.wait(60)
    lost = len(made - {job["id"] for job in jobs})
    print(f"| {count} jobs | |\n|---|---|")
    print(f"| submitted | {count / submitted:.0f} a second |")
    print(f"| drained by two workers, their start included | {drained:.0f} s, {count / drained:.1f} a second |")
    print(f"| states; attempts; lost | {dict(states)}; {dict(attempts)}; {lost} |")


def _all(http: httpx.Client) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = http.get("/v1/jobs", params={"limit": 1000} | ({"cursor": cursor} if cursor else {})).json()
        jobs += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return jobs


def main() -> None:
    """Run what is asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["latency", "cancel", "polls", "drain"])
    parser.add_argument("--jobs", type=int, default=50, help="whose start is measured")
    parser.add_argument("--repeats", type=int, default=5, help="of the polled job, and of each cancelled one")
    parser.add_argument("--queue", type=int, default=1000, help="jobs to drain")
    parser.add_argument("--cache", type=Path, help="compiled kernels from an earlier run: the cache of its TAMIS_HOME")
    arguments = parser.parse_args()
    legs = {
        "latency": lambda home: latency(home, arguments.jobs),
        "cancel": lambda home: cancel(home, arguments.repeats),
        "polls": lambda home: polls(home, arguments.repeats),
        "drain": lambda home: drain(home, arguments.queue),
    }
    cache = arguments.cache or Path(tempfile.mkdtemp(prefix="tamis-kernels-"))
    for what in arguments.what:
        with tempfile.TemporaryDirectory(prefix="tamis-bench-") as folder:
            (Path(folder) / "cache").symlink_to(cache.resolve())
            legs[what](Path(folder))
            sys.stdout.write("\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
