"""The pages: every block on every page runs, in the order it is written; links, sizes and generated tables hold."""

from __future__ import annotations

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

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEFAULT_PORT = "8321"
MAX_README_BYTES = 9 * 1024
MAX_LINE = 120

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("selectors", "service", "native", "docker")
    for path in (ROOT / folder).rglob("*.md")
)
"""All pages but the README, which comes first below."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of every block of a page that is to be run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(bash|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def without_blocks(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """Return the anchor of a heading, as renderers of Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading.casefold()).strip().replace(" ", "-")


# What a reader's own typing does: the next command comes after the service has started.
WAIT_UNTIL_READY = "curl -sf --retry 100 --retry-delay 1 --retry-connrefused -o /dev/null localhost:{port}/readyz"


def is_make(block: str) -> bool:
    """Tell the blocks about the checkout itself, which run `make` and would install into it."""
    return any(line.startswith(("make ", "git clone")) for line in block.splitlines())


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", "".join(text for _, text in blocks("README.md")), re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z-]+)", README))
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link of a page names a file, and every anchor a heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert linked.exists(), f"{page} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page} links to {target}"


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_lines_of_prose_are_short(page: str) -> None:
    long = [line for line in without_blocks(page).splitlines() if len(line) > MAX_LINE and not line.startswith("|")]
    assert long == []


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= MAX_README_BYTES


def test_generated_tables_are_as_the_code_has_them() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tamis.service.cli.reference", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


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


def script(page: str, port: int) -> str:
    """Put a page's blocks into one shell script, with the service on another port."""
    parts = ["set -euo pipefail"]
    for language, text in blocks(page):
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
@pytest.mark.parametrize("page", [page for page in ["README.md", *PAGES] if blocks(page)])
def test_every_block_runs(page: str, tmp_path: Path, kernel_cache: Path) -> None:
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
        "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(kernel_cache / "pages")),
    }
    shell = subprocess.Popen(
        ["bash", "-c", script(page, port)],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGTERM)
        output, _ = shell.communicate(timeout=30)
        pytest.fail(f"the blocks of {page} did not end:\n{output}")
    assert shell.returncode == 0, output
    if page == "README.md":
        assert pq.read_table(tmp_path / "selection.parquet").num_rows == 400
