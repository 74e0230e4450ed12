"""Shared fixtures: the conformance data, small corpora, an environment to run jobs in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tamis.selectors.datasets import LocalStorage
from tamis.selectors.jobs import Environment

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


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
    return tmp_path_factory.mktemp("kernels") if cache is None else cache.mkdir("tamis-kernels")


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Environment]:
    """Make an environment with a cache of its own: ``environment(threads=2)``."""

    def make(threads: int = 2, cache: str = "cache") -> Environment:
        return Environment(LocalStorage(), tmp_path / cache, threads)

    return make
