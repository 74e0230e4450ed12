"""Journal of a job's finished units: one JSON object a line, in a file beside its result."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tamis.selectors.run.observer import UnitDone

JOURNAL: Final = ".units.ndjson"
"""File name; hidden, like everything in a job's folder that is not part of its result."""


class Journal:
    """Writer of the journal of one attempt. Thread-safe."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._attempt = attempt
        self._lock = threading.Lock()
        self._file = (folder / JOURNAL).open("ab", buffering=0)
        # An attempt that was killed may have left half a line.
        content = (folder / JOURNAL).read_bytes()
        self._file.truncate(content.rfind(b"\n") + 1)

    def write(self, unit: UnitDone) -> None:
        """Append a unit."""
        entry = {
            "at": datetime.fromtimestamp(time.time(), UTC).isoformat(),
            "attempt": self._attempt,
            "phase": unit.phase,
            "shard": unit.shard,
            "unit": unit.unit,
            "rows": unit.rows,
            "seconds": unit.seconds,
        }
        with self._lock:
            self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def read_units(folder: Path) -> Iterator[bytes]:
    """Yield the complete lines of a job's journal so far; none where there is no journal."""
    try:
        with (folder / JOURNAL).open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line
    except FileNotFoundError:
        return
