"""Every command and every line of Python in the README runs, in the order it is written, against a live service."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors import select
from tamis.selectors.jobs.catalogue import info

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(bash|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
DEFAULT_PORT = "8321"

# What a reader's own typing does: the next command comes after the service has started.
WAIT_UNTIL_READY = "curl -sf --retry 100 --retry-delay 1 --retry-connrefused -o /dev/null localhost:{port}/readyz"


def is_make(block: str) -> bool:
    """Tell the blocks about the checkout itself, which run `make` and would install into it."""
    return any(line.startswith(("make ", "git clone")) for line in block.splitlines())


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", "".join(text for _, text in BLOCKS), re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z-]+)", README))
    assert {"demo", "test"} <= named <= targets


def test_files_that_the_readme_names_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_parameters_and_defaults_are_dsirs() -> None:
    table = README.partition("| parameter | default |")[2].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", table, re.MULTILINE))
    fields = info("dsir").params_schema["properties"]
    assert isinstance(fields, dict)
    assert told
    for name, default in told.items():
        field = fields[name]
        assert isinstance(field, dict)
        try:
            assert json.loads(default.strip("`")) == field["default"], name
        except json.JSONDecodeError:
            assert default.strip("`") == field["default"], name


def test_columns_are_those_of_a_selection(tmp_path: Path) -> None:
    pool = pa.table({"text": ["a b c", "b c d", "x y z"], "id": [7, 8, 9], "group": ["g", "g", "h"]})
    columns = {"text": "text", "id": "id", "group": "group"}
    pq.write_table(pool, tmp_path / "pool.parquet")
    selection = select(
        {"shards": [str(tmp_path / "pool.parquet")], "columns": columns},
        pool.slice(0, 1),
        budget=2,
        strata={"by": "group"},
        out=tmp_path / "out",
    )
    table = README.partition("| column | type |")[2].partition("\n\n")[0]
    told = [name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)]
    assert told == selection.table().column_names


def script(port: int) -> str:
    """Put the README's blocks into one shell script, with the service on another port."""
    parts = ["set -euo pipefail"]
    for language, text in BLOCKS:
        if is_make(text):
            continue
        here = text.replace(f"localhost:{DEFAULT_PORT}", f"localhost:{port}")
        if language == "python":
            parts.append(f".venv/bin/python -W error - <<'END_OF_PYTHON'\n{here}END_OF_PYTHON")
            continue
        started = re.sub(
            r"^(.*tamis serve) &$",
            rf"\1 --port {port} & trap 'kill %1; wait %1 || true' EXIT" + "\n" + WAIT_UNTIL_READY.format(port=port),
            here,
            flags=re.MULTILINE,
        )
        parts.append(started)
    return "\n".join(parts)


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path, kernel_cache: Path) -> None:
    # The reader's folder: a checkout with its virtual environment, where the blocks leave their files.
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / ".tamis").mkdir()
    (tmp_path / ".tamis" / "cache").symlink_to(kernel_cache)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TAMIS_URL": f"http://localhost:{port}",
    }
    shell = subprocess.Popen(
        ["bash", "-c", script(port)],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGTERM)
        output, _ = shell.communicate(timeout=30)
        pytest.fail(f"the README's commands did not end:\n{output}")
    assert shell.returncode == 0, output
    assert pq.read_table(tmp_path / "selection.parquet").num_rows == 400
