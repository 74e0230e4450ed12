"""The layout of the project: what keeps `selectors/` from shadowing the standard library, and what may be committed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE_ROOTS = ("native", "selectors", "service")

TOP_LEVEL = {
    *(".ci", ".dockerignore", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md"),
    *("constraints.txt", "docker", "native", "openapi.yaml", "pyproject.toml", "selectors", "service", "tests"),
}

# Written with a class in each, so that this file does not match itself.
FORBIDDEN = {
    "a package registry's host": (
        r"pypi[.]org|pythonhosted[.]org|npmjs[.](?:org|com)|deb[.]debian[.]org|crates[.]io|proxy[.]golang"
    ),
    "a path of a developer's machine": (
        r"(?<![\w.~/-])/(?:work|root|opt/pypi\S*|home/\w+)[/]|/tmp/(?:bash_jobs|team|corpora)"
    ),
}
UNFINISHED = r"\b(?:TO[D]O|FIX[M]E|X[X]X|Not[I]mplementedError)\b"
# The scan's own cases name what it looks for.
CASES = [
    ("a package registry's host", "see https://pypi" + ".org/project/x", True),
    ("a package registry's host", "see https://www.python.org", False),
    ("a path of a developer's machine", "open('/wor" + "k/main/x')", True),
    ("a path of a developer's machine", "open('data/wor" + "k/main/x')", False),
    ("a path of a developer's machine", "/ho" + "me/someone/data", True),
]


def run_python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run this interpreter as a user does: with the current folder first on the path."""
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout: there is no list of tracked files")
    return [Path(name) for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def tracked_text(tracked: list[Path]) -> dict[Path, str]:
    texts = {}
    for path in tracked:
        content = (ROOT / path).read_bytes()
        if b"\0" not in content[:8192]:
            texts[path] = content.decode("utf-8")
    return texts


@pytest.mark.parametrize("source_root", SOURCE_ROOTS)
def test_source_roots_hold_no_module_of_their_own(source_root: str) -> None:
    # An __init__.py here would make `selectors` a package that asyncio imports in place of the standard library's.
    folder = ROOT / source_root
    assert [entry.name for entry in folder.iterdir() if entry.suffix == ".py"] == []
    assert [entry.name for entry in (folder / "tamis").iterdir() if entry.suffix == ".py"] == []
    assert (folder / "tamis" / source_root / "__init__.py").is_file()


def test_standard_selectors_is_found_from_the_repository_root() -> None:
    found = run_python("-c", "import selectors, asyncio, tamis.selectors; print(selectors.__file__)")
    assert found.returncode == 0, found.stderr
    assert ROOT not in Path(found.stdout.strip()).parents


def test_pytest_starts_as_a_module_from_the_repository_root() -> None:
    found = run_python("-m", "pytest", "--version")
    assert found.returncode == 0, found.stderr


def test_a_spawned_child_starts_from_the_repository_root() -> None:
    code = (
        "import asyncio, multiprocessing as m, operator\n"
        "if __name__ == '__main__':\n"
        "    with m.get_context('spawn').Pool(1) as pool: print(pool.apply(operator.add, (20, 22)))\n"
    )
    found = run_python("-c", code)
    assert found.stdout.strip() == "42", found.stderr


def test_top_level_holds_the_agreed_entries_only(tracked: list[Path]) -> None:
    assert {path.parts[0] for path in tracked} <= TOP_LEVEL


@pytest.mark.parametrize(("what", "text", "matches"), CASES)
def test_the_scan_finds_what_it_looks_for(what: str, text: str, matches: bool) -> None:
    assert bool(re.search(FORBIDDEN[what], text)) is matches


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_names(what: str, tracked_text: dict[Path, str]) -> None:
    assert findings(FORBIDDEN[what], tracked_text) == []


def test_nothing_is_left_undone(tracked_text: dict[Path, str]) -> None:
    code = {path: text for path, text in tracked_text.items() if path.suffix in {".py", ".toml", ".yaml", ".md", ""}}
    assert findings(UNFINISHED, code) == []


def test_constraints_pin_plainly() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    names = [line.partition("==")[0].casefold() for line in lines]
    assert len(set(names)) == len(names)


def findings(pattern: str, texts: dict[Path, str]) -> list[str]:
    """Return ``path:line: text`` of every line that matches."""
    return [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if re.search(pattern, line)
    ]
