"""Every benchmark and every experiment runs, at toy size; peers that are not installed are skipped, by name."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.benchmarks import harness, results

harness.load()
MODULES = sorted({one.module for one in harness.BENCHMARKS.values()})
ROOT = harness.ROOT


@pytest.fixture(scope="module", autouse=True)
def compiled(kernel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have legs and services find the kernels that other tests compile."""
    home = tmp_path_factory.mktemp("bench")
    (home / "cache").symlink_to(kernel_cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAMIS_HOME", str(home))
        yield


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_a_toy_run(module: str) -> None:
    """Every benchmark of a module gives a table, and together they run every leg of our own."""
    for one in harness.BENCHMARKS.values():
        if one.module != module:
            continue
        record = one.run(toy=True, build_peers=False)
        assert any(block.rows for block in record.blocks), one.name
        assert "|---|" in results.markdown(record)
        assert record.commit and record.machine["cores"] >= 1
    own = [name for name, leg in harness.LEGS.items() if name.rpartition(".")[0] == module and leg.env is None]
    assert not [name for name in own if name not in harness.SESSION.ran]


@pytest.mark.parametrize("name", [name for name, leg in harness.LEGS.items() if leg.env is not None])
def test_a_peer(name: str) -> None:
    """A leg of a peer ran above where its environment is there; else it is skipped, by name and with the reason."""
    if name in harness.SESSION.skipped:
        pytest.skip(harness.SESSION.skipped[name])
    if name not in harness.SESSION.ran:
        pytest.skip("no toy run needs it")


def test_no_script_is_left_out() -> None:
    """Every file of both folders registers a benchmark or a leg, or is imported by one that does."""
    registering = {one.function.__module__ for one in harness.BENCHMARKS.values()}
    registering |= {leg.function.__module__ for leg in harness.LEGS.values()}
    files = {script: ROOT / f"{script.replace('.', '/')}.py" for script in harness.scripts()}
    imported = {name for script in registering for name in _imports(files[script])}
    assert not set(files) - registering - imported


def _imports(path: Path) -> set[str]:
    """Return the names of the modules of the tests' own that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
            found |= {str(node.module), *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def test_no_leg_needs_what_a_peer_lacks() -> None:
    """A module with legs of peers imports nothing at its top but the standard library and the harness."""
    for leg in harness.LEGS.values():
        if leg.env is None:
            continue
        path = ROOT / f"{leg.function.__module__.replace('.', '/')}.py"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                own = name in ("tests.benchmarks.environments", "tests.benchmarks.harness", "tests.benchmarks.jobs")
                assert own or name.partition(".")[0] in sys.stdlib_module_names, (path.name, name)


def test_the_tables_of_the_readme_are_those_of_the_results() -> None:
    text = results.README.read_text(encoding="utf-8")
    assert results.generated(text) == text, "make bench ARGS=--readme"
    marked = {found["name"] for found in results.GENERATED.finditer(text)}
    assert set(harness.BENCHMARKS) <= marked, "every benchmark has its place in the README"
    for path in results.RESULTS.glob("*.jsonl"):
        assert path.stem in marked and results.kept(path.stem)


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(SystemExit, match="There is no benchmark 'nothing'"):
        harness._chosen(["nothing"])
