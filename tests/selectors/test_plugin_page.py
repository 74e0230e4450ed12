"""The page about writing a selector: its package is built, installed into an environment, run and type-checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PAGE = Path(__file__).parents[2] / "selectors" / "WRITING_A_SELECTOR.md"
BLOCK = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MAX_LINES = 20
"""Lines of the first selector, imports and blank lines included."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, in a folder of their own."""
    folder = tmp_path_factory.mktemp("project")
    for name, text in BLOCK.findall(PAGE.read_text()):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "my_selectors" / "__init__.py").touch()
    texts = ["a b c d", "one", "two words", "x", None, "the same words again and again", "lone", "p q r"]
    pq.write_table(pa.table({"text": texts}), folder / "pool.parquet", row_group_size=3)
    return folder


@pytest.fixture(scope="module")
def python(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the package installed beside Tamis, in a virtual environment."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    interpreter = folder / "bin" / "python"
    own = subprocess.run(
        [str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    ours = sysconfig.get_path("purelib")
    (Path(own) / "beside.pth").write_text(f"import site; site.addsitedir({ours!r})\n")  # Tamis, and all it needs
    install = ["-m", "pip", "--python", str(interpreter), "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, *install, "--no-index", str(project)], check=True)
    return interpreter


def run(python: Path, project: Path, *arguments: str) -> str:
    environment = {**os.environ, "TAMIS_HOME": str(project / "home")}
    done = subprocess.run([str(python), *arguments], cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_first_selector_is_twenty_lines(project: Path) -> None:
    lines = (project / "my_selectors" / "longest.py").read_text().strip().splitlines()
    assert len(lines) <= MAX_LINES


@pytest.mark.parametrize(
    ("name", "params", "rows"),
    [("longest_documents", {"pattern": "[a-z]+"}, [0, 5]), ("rarest_words", {}, [0, 1])],
)
def test_a_job_runs_it(python: Path, project: Path, name: str, params: dict[str, str], rows: list[int]) -> None:
    job = json.loads((project / "job.json").read_text())
    job["selector"] = {"name": name, "params": params}
    (project / f"{name}.json").write_text(json.dumps(job))
    run(python, project, "-m", "tamis.service.cli", "select", f"{name}.json", "--out", f"result-{name}")
    table = pq.read_table(project / f"result-{name}" / "selection.parquet")
    assert table.column("row").to_pylist() == rows


def test_it_keeps_the_contract(python: Path, project: Path) -> None:
    run(python, project, "-c", "from test_contract import test_contract; test_contract()")


def test_it_passes_strict_type_checks(python: Path, project: Path) -> None:
    cache = project / "mypy-cache"
    command = ["-m", "mypy", "--strict", "--python-executable", str(python), "--cache-dir", str(cache)]
    done = subprocess.run(
        [sys.executable, *command, "my_selectors", "test_contract.py"], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
