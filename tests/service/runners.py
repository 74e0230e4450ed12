"""A runner that does what the selector's parameters say: units that take time, deaths, deafness, every failure."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from tamis.selectors.errors import Cancelled, DataError, StorageError
from tamis.selectors.run.observer import Observer
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.schema.response import Progress

HOARD: list[bytearray] = []
"""What a job leaves in its process."""


def run(spec: JobSpec, fingerprint: str | None, out: Path, environment: Any, observer: Observer, answer: Any) -> None:
    """Do `units` units of `seconds` each, every one marked when it is done; before unit `at`, do `act`."""
    params: dict[str, Any] = dict(spec.selector.params)
    units, at = params.get("units", 1), params.get("at", 0)
    started = _append(out / "attempts", os.getpid())
    for unit in range(units):
        if (out / f"unit-{unit}").exists():
            continue
        if unit == at and (started <= params.get("times", 1_000_000)):
            _act(params.get("act", ""), out, observer)
        if observer.cancelled():
            raise Cancelled
        time.sleep(params.get("seconds", 0))
        _append(out / "computed", unit)
        (out / f"unit-{unit}").touch()
        observer.progress(
            Progress(
                phase="work",
                phases=["work"],
                units_done=unit + 1,
                units_total=units,
                rows_done=unit + 1,
                rows_total=units,
                fraction=(unit + 1) / units,
            )
        )
    (out / "threads").write_text(str(environment.threads))
    _append(out / "results", os.getpid())


def _compute_for_ever(grow: bool) -> None:
    """Stay inside a kernel, where nothing asks whether to stop; with `grow`, take 8 MiB every few milliseconds."""

    @njit(nogil=True)
    def kernel(state: int, grow: bool) -> int:
        held = [np.ones(1)]
        while state:
            for _ in range(5_000_000):
                state = state * 6364136223846793005 + 1442695040888963407
            if grow:
                held.append(np.ones(2**20))
        return state + len(held)

    kernel(1, grow)


def _append(path: Path, value: int) -> int:
    """Append a line in one write; give the number of lines."""
    with path.open("a") as file:
        file.write(f"{value}\n")
    return len(path.read_text().splitlines())


def _act(act: str, out: Path, observer: Observer) -> None:
    match act:
        case "":
            return
        case "raise":
            raise DataError("row group 3 can't be decoded", shard="a.parquet", row_group=3)
        case "bug":
            raise RuntimeError("secret of the implementation")
        case "storage":
            raise StorageError("the disk does not answer")
        case "disk-full":
            raise OSError(28, "No space left on device")
        case "memory-error":
            raise MemoryError
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "deaf":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            _append(out / "children", child.pid)
            while True:
                sum(range(10_000))
        case "spin":
            _compute_for_ever(False)
        case "swell":
            _compute_for_ever(True)
        case "hoard":
            HOARD.append(bytearray(b"x") * (400 * 2**20))
        case "grow":
            held = []
            while True:
                held.append(bytearray(os.urandom(1024) * 8 * 1024))
                time.sleep(0.02)
        case "talk":
            sys.stdout.write("printed on standard output\n")
            sys.stdout.flush()
            os.write(1, b'{"kind": "outcome", "state": "failed"}\n')
            os.write(2, b"written to standard error\n")
            observer.log("info", "logged", unit=7)
        case _:
            raise AssertionError(act)
