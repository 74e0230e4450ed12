"""A service as users run it: `tamis serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest


class Service(NamedTuple):
    """A running service."""

    url: str
    home: Path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, kernel_cache: Path) -> Iterator[Service]:
    """Start a service with a home of its own; it is stopped at the end of the module."""
    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(kernel_cache)
    with (home / "service.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tamis.service.cli", "serve", "--port", "0"],
            env={**os.environ, "TAMIS_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None, (home / "service.log").read_text()
        yield Service(url.group(), home)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
