"""The command line as people use it: real processes, their output and their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tamis.service.cli.serve import _listen, _resolved

Request = Callable[..., dict[str, Any]]
Tamis = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tamis(service: Any, tmp_path: Path) -> Tamis:
    """Run a command against the shared service: ``tamis("status", job_id)``."""

    def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TAMIS_URL": service.url, "COLUMNS": "200", **more.pop("env", {})}
        return subprocess.run(
            [sys.executable, "-m", "tamis.service.cli", *arguments],
            env=environment,
            cwd=more.pop("cwd", tmp_path),
            capture_output=True,
            text=True,
            timeout=300,
            **more,
        )

    return run


@pytest.fixture
def job_file(request_of: Request, tmp_path: Path) -> Callable[..., str]:
    """Write a job file: ``job_file(budget={"rows": 3})``."""

    def write(**changes: Any) -> str:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(request_of(**changes)))
        return str(path)

    return write


def refused(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_submit_wait_download(tamis: Tamis, job_file: Any, tmp_path: Path) -> None:
    planned = tamis("plan", job_file(), "--json")
    assert json.loads(planned.stdout)["rows"] == 600
    assert "600" in tamis("plan", job_file()).stderr
    submitted = tamis("submit", job_file())
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.strip()
    assert job_id.startswith("job_")
    waited = tamis("wait", job_id, "--json")
    assert (waited.returncode, json.loads(waited.stdout)["state"]) == (0, "succeeded")
    assert "succeeded" in tamis("status", job_id).stderr
    assert tamis("status", job_id).stdout == ""
    assert tamis("download", job_id, "-o", "chosen.parquet").returncode == 0
    assert pq.read_table(tmp_path / "chosen.parquet").num_rows == 40
    assert json.loads(tamis("report", job_id).stdout)
    assert "phase" in tamis("logs", job_id).stderr
    assert job_id in [job["id"] for job in json.loads(tamis("jobs", "--json").stdout)]
    assert job_id in tamis("jobs", "--state", "succeeded", "--limit", "1000").stderr
    refused(tamis("cancel", job_id), 1, "succeeded")
    refused(tamis("resume", job_id), 1, "succeeded")
    assert tamis("delete", job_id).returncode == 0
    refused(tamis("status", job_id), 1, job_id, "tamis jobs")


def test_submit_from_stdin_and_wait(tamis: Tamis, request_of: Request) -> None:
    done = tamis("submit", "-", "--wait", "--json", input=json.dumps(request_of()))
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "succeeded")


def test_relative_paths_are_the_callers(tamis: Tamis, job_file: Any, data: Path) -> None:
    path = job_file(
        dataset={"shards": ["pool-0*.parquet", {"uri": "pool-1.parquet"}]},
        target={"datasets": [{"shards": ["target.parquet"]}]},
    )
    planned = tamis("plan", path, "--json", cwd=data)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["rows"] == 600


def test_a_plan_is_said_in_words(tamis: Tamis, job_file: Any, data: Path) -> None:
    small = {
        "dataset": {"shards": [f"{data}/pool-0.parquet"]},
        "target": None,
        "selector": {"name": "random"},
        "budget": {"rows": 1},
    }
    said = tamis("plan", job_file(**small)).stderr
    for words in ("300 in 1 shard\n", " 1 row\n", "1 unit of work, 0 already done\n", "under a second: draw, report\n"):
        assert words in re.sub(r" +\n", "\n", said)
    assert "600 in 2 shards" in tamis("plan", job_file()).stderr


def test_a_listed_job_is_one_line(tamis: Tamis, job_file: Any) -> None:
    labels = {f"label-{number}": "x" * 60 for number in range(8)}
    job_id = tamis("submit", job_file(labels=labels, budget={"rows": 7})).stdout.strip()
    listed = tamis("jobs", "--label", "label-0=" + "x" * 60, env={"COLUMNS": "80"}).stderr.splitlines()
    assert len(listed) == 2
    assert listed[1].startswith(f"{job_id} ")
    assert all(f"{key}={value}" in listed[1] for key, value in labels.items())


def test_a_failed_job_is_1(tamis: Tamis, failed: Any, job_file: Any) -> None:
    refused(tamis("wait", failed["id"]), 1, failed["error"]["detail"][:40])
    waited = tamis("submit", job_file(limits={"seconds": 1e-6}), "--wait")
    assert waited.returncode == 1
    assert waited.stdout.startswith("job_")
    assert "Traceback" not in waited.stderr


def test_what_is_wrong_is_said(tamis: Tamis, job_file: Any, tmp_path: Path) -> None:
    refused(tamis("submit", job_file(budget={"rows": "x"})), 1, "/budget/rows")
    for command in ("submit", "plan"):
        done = tamis(command, job_file(budget={"rows": 601}))
        refused(done, 1, "asks 601 rows", "/budget/rows")
        assert "stratum" not in done.stderr
    refused(tamis("submit", job_file(selector={"name": "dsr"})), 1, "dsr", "/selector/name", "tamis selectors")
    refused(tamis("plan", job_file(dataset={"shards": ["none.parquet"]})), 1, "none.parquet", "/dataset/shards/0")
    refused(tamis("submit", str(tmp_path / "none.json")), 2, "none.json")
    refused(tamis("submit"), 2)
    refused(tamis("submit", job_file(), "--nonsense"), 2)
    refused(tamis("jobs", "--state", "done"), 2, "succeeded")
    refused(tamis("jobs", "--label", "x"), 2)
    refused(tamis("status", "job_x", env={"TAMIS_URL": "http://127.0.0.1:9"}), 1, "tamis serve", "TAMIS_URL")
    refused(tamis("status", "job_x", env={"TAMIS_URL": "nonsense"}), 1)
    refused(tamis("status", "job_x", "--url", "localhost:abc"), 1, "http://localhost:abc is no address", "Invalid port")
    (tmp_path / "broken.json").write_text('{"dataset": ')
    refused(tamis("submit", "broken.json"), 1, "JSON")
    (tmp_path / "list.json").write_text("[]")
    refused(tamis("submit", "list.json"), 2, "object")


def test_help_and_version(tamis: Tamis) -> None:
    assert tamis("--version").stdout.strip() == version("tamis")
    shown = tamis("--help")
    assert shown.returncode == 0
    for command in (
        "serve",
        "worker",
        "select",
        "submit",
        "status",
        "wait",
        "download",
        "cancel",
        "plan",
        "warmup",
        "keys",
    ):
        assert command in shown.stdout


def test_selectors(tamis: Tamis) -> None:
    assert "dsir" in [item["name"] for item in json.loads(tamis("selectors", "--json").stdout)]
    assert "ngrams" in tamis("selectors", "dsir").stdout
    refused(tamis("selectors", "nope"), 1, "dsir")


def test_selectors_without_a_service(service: Any, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TAMIS_URL"}
    environment["TAMIS_HOME"] = str(tmp_path / "home")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tamis.service.cli", "selectors", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    there = run("--url", service.url)
    here = run()
    assert (here.returncode, here.stderr, here.stdout) == (0, "", there.stdout)
    assert json.loads(run("--json").stdout) == json.loads(run("--json", "--url", service.url).stdout)
    assert "ngrams" in run("dsir").stdout
    assert json.loads(run("dsir", "--json").stdout)["name"] == "dsir"
    refused(run("dsri"), 1, "dsir")


def test_settings(tamis: Tamis) -> None:
    environment = {"TAMIS_HOME": "/srv/tamis", "TAMIS_API_KEY": "tamis_hush", "TAMIS_LOG_LEVEL": "debug"}
    listed = {row["name"]: row for row in json.loads(tamis("settings", "--json", env=environment).stdout)}
    assert listed["TAMIS_LOG_LEVEL"] == {
        "name": "TAMIS_LOG_LEVEL",
        "value": "debug",
        "default": "info",
        "values": "debug, info, warning, error",
        "meaning": "least important level that is logged",
    }
    table = tamis("settings", env=environment).stdout
    assert all(name in table for name in listed) and "/srv/tamis" in table and "hush" not in table
    refused(tamis("settings", env={"TAMIS_THREADS": "two"}), 1, "TAMIS_THREADS")


@pytest.fixture
def home(tmp_path: Path, kernel_cache: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").symlink_to(kernel_cache)
    return home


def test_select_without_a_service(
    tamis: Tamis, job_file: Any, home: Path, tmp_path: Path, http: Any, done: Any
) -> None:
    env = {"TAMIS_HOME": str(home)}
    out = tmp_path / "out"
    selected = tamis("select", job_file(), "-o", str(out), "--json", "--threads", "1", env=env)
    assert selected.returncode == 0, selected.stderr
    assert json.loads(selected.stdout)["totals"]["rows"] == 40
    # The same bytes as the service's.
    assert (out / "selection.parquet").read_bytes() == http.get(done["links"]["selection"]).content
    kept = tamis("select", job_file(exclude=[str(out / "selection.parquet")]), "-o", str(tmp_path / "next"), env=env)
    assert kept.returncode == 0, kept.stderr
    said = kept.stderr.splitlines()
    assert said[-1] == f"40 of 600 rows selected: {tmp_path / 'next' / 'selection.parquet'}"
    assert "" not in said
    refused(tamis("select", job_file(budget={"rows": 0}), "-o", "bad", env=env), 1, "/budget/rows")
    refused(tamis("select", job_file(dataset={"shards": ["/none"]}), "-o", "bad", env=env), 1, "/none")
    assert not (tmp_path / "bad").exists()


def test_warmup(tamis: Tamis, home: Path) -> None:
    warmed = tamis("warmup", env={"TAMIS_HOME": str(home)})
    assert (warmed.returncode, warmed.stdout) == (0, "")
    assert " s" in warmed.stderr


def test_serve_listens_on_this_machine_only_without_a_key(tamis: Tamis, home: Path) -> None:
    env = {"TAMIS_HOME": str(home)}
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        refused(tamis("serve", "--host", host, "--port", "0", env=env), 1, host, "tamis keys create", "127.0.0.1")
    refused(tamis("serve", "--host", "no such host", "--port", "0", env=env), 2, "no such host")
    # A key that opens nothing any more does not count.
    assert tamis("keys", "create", "ann", "--days", "0", env=env).returncode == 0
    refused(tamis("serve", "--host", "0.0.0.0", "--port", "0", env=env), 1, "tamis keys create")


def test_serve_says_what_it_can_not_use(tamis: Tamis, service: Any, home: Path) -> None:
    env = {"TAMIS_HOME": str(home)}
    port = service.url.rpartition(":")[2]
    refused(tamis("serve", "--port", port, env=env), 1, "in use", "--port")
    refused(tamis("serve", "--port", "0", env=env | {"TAMIS_DATA_ROOTS": "relative"}), 1, "TAMIS_DATA_ROOTS")
    refused(tamis("serve", "--port", "0", env=env | {"TAMIS_MAX_BODY_BYTES": "x"}), 1, "TAMIS_MAX_BODY_BYTES")
    refused(tamis("serve", "--port", "0", env=env | {"TAMIS_DATABASE_URL": "mysql://x"}), 1, "TAMIS_DATABASE_URL")
    refused(tamis("worker", env=env | {"TAMIS_THREADS": "0"}), 1, "TAMIS_THREADS")


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """An answer is two writes, and Nagle's algorithm would hold back the second for 40 ms."""
    listener = _listen(_resolved("127.0.0.1", 0))

    async def no_delay_on_the_servers_side() -> int:
        connected: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            connected.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(answer, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await connected

    assert asyncio.run(no_delay_on_the_servers_side()) == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_with_its_worker(serve: Any, signum: signal.Signals) -> None:
    served = serve()
    time.sleep(1)
    assert served.stop(signum) == 0
    in_group = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    assert f"--parent {served.process.pid}" not in in_group
    assert "Traceback" not in served.log.read_text()


def test_a_killed_service_takes_its_worker_along(serve: Any) -> None:
    served = serve()
    time.sleep(1)
    served.kill()
    deadline = time.monotonic() + 30
    while (
        f"--parent {served.process.pid}"
        in subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_logs_are_json_lines(service: Any, http: Any, done: Any) -> None:
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert not [line for line in lines if line.get("logger", "").startswith("alembic")]
    requests = [line for line in lines if line["event"] == "request"]
    assert {"method", "path", "route", "status", "seconds", "timestamp", "level"} <= set(requests[0])
