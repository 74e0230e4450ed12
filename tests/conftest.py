"""Shared fixtures: the conformance data, small corpora, an environment to run jobs in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tamis.native import source_digest

if TYPE_CHECKING:
    from tamis.selectors.jobs.open import Environment

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
FIRST = (
    "acceptance/test_every_selector",  # compiles the kernels of all
    "acceptance/test_bad_input",
    "acceptance/test_demo",
    "acceptance/test_crashes",  # the longest, and a process that is killed while it compiles has done so for nothing
    "acceptance",
    "service",
)
"""The order of tests that start services; the others are short, and even out the ends of what runs them."""
KERNELS = "tamis-kernels"


def pytest_configure(config: pytest.Config) -> None:
    """Have the kernels that this process compiles kept where those of the services that tests start are.

    Before numba is imported, which reads this once: so nothing that imports it may be imported above.
    """
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache is not None:
        os.environ.setdefault("NUMBA_CACHE_DIR", str(cache.mkdir(KERNELS) / f"numba-{source_digest()}"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long files first, so that none is left for one process at the end."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT / "tests").as_posix()
        return next((place for place, start in enumerate(FIRST) if name.startswith(start)), len(FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def conformance() -> Path:
    """The data computed with the papers' own code."""
    folder = SHARED / "conformance"
    if not folder.is_dir():
        pytest.skip("../shared/conformance is not here: it comes with the project's workplace, not with a clone")
    return folder


@pytest.fixture(scope="session")
def demo_data() -> Path:
    """The small real corpus that ships with the project."""
    return ROOT / "tests" / "data" / "demo"


@pytest.fixture(scope="session")
def kernel_cache(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled kernels, kept from one test run to the next where pytest keeps a cache."""
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    return tmp_path_factory.mktemp("kernels") if cache is None else cache.mkdir(KERNELS)


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have the selector `climb`, which asks, found in this process; gives the folder that others need on their path."""
    from tamis.selectors.jobs import catalogue

    folder = ROOT / "tests" / "asking"
    monkeypatch.syspath_prepend(folder)
    catalogue.reload()
    yield folder
    catalogue.reload()


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Environment]:
    """Make an environment with a cache of its own: ``environment(threads=2)``."""
    from tamis.selectors.datasets import LocalStorage
    from tamis.selectors.jobs.open import Environment

    def make(threads: int = 2, cache: str = "cache") -> Environment:
        return Environment(LocalStorage(), tmp_path / cache, threads)

    return make
