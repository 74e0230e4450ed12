"""One leg of the benchmark: Tamis, timed phase by phase in a process of its own, from an empty cache.

    python dsir_tamis.py JOB.json WORK_FOLDER THREADS

Prints one JSON object: CPU and wall seconds of loading the kernels, of each phase and of the whole job, and peak RSS.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tamis.service.process_setup import prepare_process
from tamis.service.settings import Settings


def peak_rss() -> int:
    """Return this process's largest resident memory in bytes; getrusage would count the parent's from before exec."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class PhaseClock:
    """An observer that notes the CPU seconds each phase took."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, float]] = []

    def progress(self, progress: Any) -> None:
        """Mark the first word of a new phase."""
        if not self.marks or self.marks[-1][0] != progress.phase:
            self.marks.append((progress.phase, time.process_time()))

    def log(self, level: str, message: str, **fields: Any) -> None:
        """Do nothing."""

    def read(self, rows: int, size: int) -> None:
        """Do nothing."""

    def unit(self, unit: Any) -> None:
        """Do nothing."""

    def cancelled(self) -> bool:
        return False

    def seconds(self, end: float) -> dict[str, float]:
        ends = [mark for _, mark in self.marks[1:]] + [end]
        return {name: stop - start for (name, start), stop in zip(self.marks, ends, strict=True)}


def main(job: str, work: str, threads: int) -> None:
    """Load the kernels, run the job."""
    prepare_process(Settings.from_environment())
    start, wall = time.process_time(), time.perf_counter()
    from tamis.native import warmup
    from tamis.selectors.datasets import LocalStorage
    from tamis.selectors.jobs.execute import execute
    from tamis.selectors.jobs.open import Environment
    from tamis.selectors.schema.request import JobSpec

    imported = time.perf_counter()
    warmup()
    loaded, loaded_wall = time.process_time(), time.perf_counter()
    spec = JobSpec.model_validate_json(Path(job).read_text())
    clock = PhaseClock()
    manifest = execute(spec, Path(work) / "out", Environment(LocalStorage(), Path(work) / "cache", threads), clock)
    end, end_wall = time.process_time(), time.perf_counter()
    print(
        json.dumps(
            {
                "kernels": loaded - start,
                "kernels_wall": loaded_wall - wall,
                "import_wall": imported - wall,
                **clock.seconds(end),
                "whole": end - loaded,
                "whole_wall": end_wall - loaded_wall,
                "peak_rss": peak_rss(),
                "selected": manifest.totals.rows,
                "sha256": manifest.files[0].sha256,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
