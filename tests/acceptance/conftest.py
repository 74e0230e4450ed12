"""A service as users run it: `tamis serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest


class Service(NamedTuple):
    """A running service."""

    url: str
    home: Path


@contextmanager
def served(home: Path, log: Path) -> Iterator[Service]:
    """Run `tamis serve` on a free port."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tamis.service.cli", "serve", "--port", "0"],
            env={**os.environ, "TAMIS_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    try:
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None, log.read_text()
        yield Service(url.group(), home)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, kernel_cache: Path) -> Iterator[Service]:
    """Start a service with a home of its own; it is stopped at the end of the module."""
    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(kernel_cache)
    with served(home, home / "service.log") as service:
        yield service


@pytest.fixture
def home(tmp_path: Path, kernel_cache: Path) -> Path:
    """A TAMIS_HOME."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").symlink_to(kernel_cache)
    return home


@pytest.fixture
def serve_at(tmp_path: Path) -> Iterator[Callable[[Path], Service]]:
    """Start a service with this home; it is stopped at the end of the test."""
    with ExitStack() as stack:
        yield lambda home: stack.enter_context(served(home, tmp_path / "service.log"))
