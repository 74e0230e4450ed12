"""The demo, as a user runs it: it finds the target's documents, and never leaves a process behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tamis.selectors import select
from tamis.service.cli.demo import DATA, Domain, job_request

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO = [sys.executable, "-m", "tamis.service.cli.demo"]
SHARE_IN_POOL = {"speeches": 500 / 12_000, "python": 450 / 12_000, "wikipedia": 600 / 12_000}

if not Path("/proc/self/environ").exists():
    pytest.skip("needs /proc to look for processes that were left behind", allow_module_level=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, kernel_cache: Path) -> Path:
    """One home for all, with the kernels that the other tests compile."""
    home = tmp_path_factory.mktemp("demo") / "home"
    home.mkdir()
    (home / "cache").symlink_to(kernel_cache)
    return home


@pytest.fixture(autouse=True)
def nothing_is_left_behind(home: Path) -> Iterator[None]:
    yield
    deadline = time.monotonic() + 60
    while processes_of(home) and time.monotonic() < deadline:
        time.sleep(0.1)  # a killed child may still be on its way out
    left = processes_of(home)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert list(left.values()) == []


def processes_of(home: Path) -> dict[int, str]:
    """Return the processes that run with this TAMIS_HOME, with their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                if f"TAMIS_HOME={home}".encode() in environment:
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended, or belongs to another user
    return found


def is_found(out: Path, target: str) -> list[str]:
    """Check that a selection is of the target's domain, and return the domain of each row."""
    selection = pq.read_table(out / "selection.parquet")
    domains = [name.partition("/")[0] for name in selection["id"].to_pylist()]
    assert len(domains) == len(set(selection["row"].to_pylist())) == 400
    share = domains.count(target) / len(domains)
    assert share > 0.9
    assert share > 18 * SHARE_IN_POOL[target]
    report = json.loads((out / "report.json").read_text())
    told = {group["group"]: group["selected"] for group in report["composition"]["groups"]}
    assert told == {name: domains.count(name) for name in told}
    assert report["evidence"]["distance_held_out"]["kl_reduction_against_random"] > 0.2
    return domains


def test_shows_that_it_selects_the_target_domain(home: Path, tmp_path: Path) -> None:
    arguments = ["--home", str(home), "--out", "demo-out"]
    shown = subprocess.run([*DEMO, *arguments], capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stderr == ""
    assert "times better than random" in shown.stdout
    assert "warning" not in shown.stdout

    domains = is_found(tmp_path / "demo-out", "speeches")
    assert f"{domains.count('speeches') / len(domains):.1%}" in shown.stdout

    # what the README shows is what one sees
    said = [line.rstrip() for line in shown.stdout.splitlines()]
    block = re.search(r"^```\n(domain .*?)\n```$", README, re.MULTILINE | re.DOTALL)
    assert block is not None
    assert [line for line in block[1].splitlines() if line not in said] == []

    # and what one is to type is Python
    lines = re.split(r"or from Python \(.*\):\n\n", shown.stdout)[-1].partition("\nDone")[0]
    code = "\n".join(line[2:].rstrip() for line in lines.splitlines())
    compile(code, "shown", "exec")
    assert "demo-out/request.json" in code
    assert (
        "curl -f http://127.0.0.1:8321/v1/jobs -H 'Content-Type: application/json' -d @demo-out/request.json"
        in shown.stdout
    )


@pytest.mark.parametrize("target", ["python", "wikipedia"])
def test_its_request_selects_the_other_domains(target: str, tmp_path: Path) -> None:
    request = job_request(DATA, Domain(target), 400)
    del request["labels"]
    select(**request, out=tmp_path)
    is_found(tmp_path, target)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_service_too(signum: signal.Signals, home: Path, tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*DEMO, "--keep", "--home", str(home), "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert demo.stdout is not None
    with demo.stdout:
        for line in demo.stdout:
            if "The service is ready" in line:  # the job runs from now on
                break
        demo.send_signal(signum)
        try:
            status = demo.wait(60)
        except subprocess.TimeoutExpired:
            demo.kill()
            status = demo.wait()
        rest = demo.stdout.read()
    assert status == 130, rest
    assert "Stopped" in rest


def test_says_why_the_service_does_not_start(home: Path, tmp_path: Path) -> None:
    shown = subprocess.run(
        [*DEMO, "--home", str(home), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ | {"TAMIS_THREADS": "many"},
    )
    assert shown.returncode == 1
    assert "TAMIS_THREADS" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_says_that_a_folder_is_not_writable(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["--home", str(home), "--out", str(tmp_path / "file" / "out")]
    shown = subprocess.run([*DEMO, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert shown.returncode == 1
    assert str(tmp_path / "file") in shown.stderr
    assert "Traceback" not in shown.stderr
