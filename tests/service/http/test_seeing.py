"""What an operator sees of a running service: metrics, logs, request ids."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tamis.service.logs import configure_logs
from tamis.service.metrics_model import ATTEMPTS, PEAK_MEMORY, QUEUE_WAIT, UNIT, Key, Tally
from tamis.service.settings import BadSettings
from tamis.service.store import Store

ROWS = 600 + 80  # of the pool and of the target

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Parse an exposition as Prometheus does; every name and label set may come once only."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def buckets(found: Samples, name: str, **labels: str) -> list[float]:
    """Give a histogram's cumulative counts in the order of their bounds."""
    there = [
        (float(dict(have)["le"]), count)
        for (sample, have), count in found.items()
        if sample == f"{name}_bucket" and labels.items() <= dict(have).items()
    ]
    return [count for _, count in sorted(there)]


def scrape(http: httpx.Client, good: Callable[[Samples], object]) -> Samples:
    """Scrape until what a worker counted has come: it reports every other second."""
    deadline = time.monotonic() + 60
    while not good(found := samples(http.get("/metrics").text)):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def test_a_job_is_seen_in_the_metrics(http: httpx.Client, request_of: Any, finish: Any) -> None:
    before = samples(http.get("/metrics").text)
    dsir = {"selector": "dsir"}
    done = dsir | {"outcome": "succeeded"}
    ran = value(before, "tamis_attempts_total", **done)
    job = finish(http, request_of(selector={"name": "dsir", "params": {"buckets": 977}}))
    assert job["state"] == "succeeded"
    after = scrape(http, lambda found: value(found, "tamis_attempts_total", **done) > ran)
    assert value(after, "tamis_attempts_total", **done) == ran + 1
    assert value(after, "tamis_jobs", state="succeeded", **dsir) >= 1
    for name in ("tamis_queue_wait_seconds", "tamis_attempt_seconds", "tamis_attempt_peak_memory_bytes"):
        assert value(after, f"{name}_count", **dsir) == value(before, f"{name}_count", **dsir) + 1
        assert value(after, f"{name}_sum", **dsir) > value(before, f"{name}_sum", **dsir)
        counts = buckets(after, name, **dsir)
        assert counts == sorted(counts) and counts[-1] == value(after, f"{name}_count", **dsir)
    # The pool and the target are read once for the fit, the pool once more for the weights: all with new parameters.
    rows = value(after, "tamis_rows_read_total", **dsir) - value(before, "tamis_rows_read_total", **dsir)
    assert rows >= ROWS
    assert value(after, "tamis_bytes_read_total", **dsir) - value(before, "tamis_bytes_read_total", **dsir) > 40 * rows
    assert value(after, "tamis_unit_seconds_count", **dsir) > value(before, "tamis_unit_seconds_count", **dsir)
    assert value(after, "tamis_unit_seconds_sum", **dsir) > 0
    host = {"host": socket.gethostname()}
    scrape(http, lambda found: value(found, "tamis_job_memory_bytes", **host) > 2**26)  # the next warm process's
    assert value(after, "tamis_workers") == value(after, "tamis_worker_slots", **host) == 1
    assert value(after, "process_resident_memory_bytes") > 2**26
    answered = {"method": "POST", "route": "/v1/jobs", "status": "202"}
    assert value(after, "tamis_http_request_duration_seconds_count", **answered) >= 1


def test_every_api_process_shows_the_same_sums(store: Store) -> None:
    from tamis.service.api.metrics import Metrics

    other = Store(str(store.database.url))
    tally = Tally()
    tally.count(ATTEMPTS, "dsir", label="succeeded")
    tally.observe(UNIT, "dsir", 0.3)
    for one in (store, other):
        one.totals.add(tally.take())
        tally.observe(UNIT, "dsir", 1e9)
        tally.count(ATTEMPTS, "dsir", label="succeeded")
        tally.count(ATTEMPTS, 'odd "name"\n', label="failed")
    first, second = (samples(Metrics(one).text().decode()) for one in (store, other))
    other.close()
    ours = {key: count for key, count in first.items() if key[0].startswith("tamis_")}
    assert ours.items() <= second.items()
    assert value(first, "tamis_attempts_total", selector="dsir", outcome="succeeded") == 2
    assert value(first, "tamis_attempts_total", selector='odd "name"\n', outcome="failed") == 1
    assert value(first, "tamis_unit_seconds_sum", selector="dsir") == 1e9 + 0.3
    counts = buckets(first, "tamis_unit_seconds", selector="dsir")
    assert counts == [1.0 if bound >= 0.3 else 0.0 for bound in UNIT.bounds] + [2.0]


@pytest.mark.parametrize("what", [QUEUE_WAIT, UNIT, PEAK_MEMORY])
def test_a_value_on_a_bound_belongs_to_its_bucket(what: Any) -> None:
    assert list(what.bounds) == sorted(what.bounds)
    for bound in what.bounds:
        assert float(what.bucket(bound)) == bound
        assert float(what.bucket(math.nextafter(bound, math.inf))) > bound


def test_what_could_not_be_stored_is_counted_again() -> None:
    tally = Tally()
    tally.observe(UNIT, "a", 0.5)
    taken = tally.take()
    assert tally.take() == {}
    tally.observe(UNIT, "a", 0.5)
    tally.put_back(taken)
    assert tally.take() == {Key(UNIT.name, "a", "0.5"): 2, Key(UNIT.name, "a", "sum"): 1.0}


def log_of(service: Any, good: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
    """Read the log until it holds what comes with or after what a client sees."""
    deadline = time.monotonic() + 60
    while not good(lines := [json.loads(line) for line in service.log.read_text().rpartition("\n")[0].splitlines()]):
        assert time.monotonic() < deadline, lines[-20:]
        time.sleep(0.05)
    return lines


def test_every_line_of_the_log_is_an_object(service: Any, http: httpx.Client, done: Any) -> None:
    over = {"event": "attempt over", "job": done["id"]}
    lines = log_of(service, lambda lines: any(over.items() <= line.items() for line in lines))
    assert all({"event", "level", "timestamp", "logger"} <= line.keys() for line in lines)
    of_job = [line for line in lines if line.get("job") == done["id"]]
    assert [line["event"] for line in of_job if line["logger"] != "tamis.job"] == ["job accepted", "attempt started"]
    told = [line for line in of_job if line["logger"] == "tamis.job"]
    assert all((line["attempt"], line["selector"]) == (1, "dsir") for line in told)
    assert "phase fit" in [line["event"] for line in told]
    assert (told[-1]["event"], told[-1]["outcome"]) == ("attempt over", "succeeded")


def test_a_request_and_what_it_caused_have_one_id(service: Any, http: httpx.Client, request_of: Any) -> None:
    answer = http.post("/v1/jobs", json=request_of(seed=31), headers={"X-Request-ID": "run-7/a.1"})
    assert answer.headers["X-Request-ID"] == "run-7/a.1"
    mine = {"request": "run-7/a.1"}.items()
    # A request is logged when its answer is sent: the client may have it before.
    log = log_of(service, lambda lines: any(mine <= line.items() and line["event"] == "request" for line in lines))
    lines = [line for line in log if mine <= line.items()]
    assert [line["event"] for line in lines] == ["job accepted", "request"]
    assert (lines[0]["job"], lines[1]["status"]) == (answer.json()["id"], 202)
    http.post(answer.json()["links"]["cancel"])


@pytest.mark.parametrize("given", ["", 'a"b', "x" * 129, "spaced out"])
def test_an_id_that_is_none_is_replaced(http: httpx.Client, given: str) -> None:
    made = http.get("/v1/jobs/nope", headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", made)


@pytest.mark.parametrize("name", ["TAMIS_LOG_FORMAT", "TAMIS_LOG_LEVEL"])
def test_a_log_setting_that_is_none_is_named(name: str) -> None:
    with pytest.raises(BadSettings, match=f"{name}: 'loud' is not one of"):
        configure_logs({name: "loud"})


def test_logs_for_a_terminal() -> None:
    script = (
        "import logging, structlog\n"
        "from tamis.service.logs import configure_logs\n"
        "configure_logs()\n"
        "log = structlog.get_logger('tamis.x')\n"
        "log.info('left out')\n"
        "log.warning('told', job='job_1')\n"
        "logging.getLogger('library').error('its word')\n"
    )
    environment = {"TAMIS_LOG_FORMAT": "text", "TAMIS_LOG_LEVEL": "warning"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    first, second = done.stderr.splitlines()
    assert "told" in first and "job=job_1" in first and not first.startswith("{")
    assert "its word" in second and done.stdout == ""


def test_a_service_that_drains_answers_and_takes_no_jobs(serve: Any, data: Path, request_of: Any) -> None:
    served = serve("--no-worker", "--drain", "600", TAMIS_DATA_ROOTS=str(data))
    with served.http() as http:
        accepted = http.post("/v1/jobs", json=request_of())
        served.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while "/service" not in [item["pointer"] for item in http.get("/readyz").json()["errors"]]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with served.http() as another:  # a new connection, too
            refused = another.post("/v1/jobs", json=request_of())
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert refused.headers["Retry-After"]
        assert http.get(accepted.headers["Location"]).json()["state"] == "queued"
        assert http.get("/healthz").status_code == 200
    assert served.stop() == 0  # a second signal ends it at once


def test_a_worker_is_checked_from_outside(service: Any, http: httpx.Client, done: Any, serve: Any) -> None:
    def check(home: Path) -> int:
        command = [sys.executable, "-m", "tamis.service.cli", "worker", "--check"]
        return subprocess.run(command, env={**os.environ, "TAMIS_HOME": str(home)}, check=False).returncode

    assert check(service.home) == 0
    assert check(serve("--no-worker").home) == 1
