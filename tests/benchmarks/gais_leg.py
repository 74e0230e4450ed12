"""One GAIS job over a folder of shards: prints CPU and wall seconds by phase, and the peak RSS, as JSON.

The process is set up as the service sets up a job's: one thread a library, its allocators, the common kernels loaded.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tamis.service.process_setup import prepare_process
from tamis.service.settings import Settings

prepare_process(Settings.from_environment())  # before anything loads a numeric library

import pyarrow as pa  # noqa: E402

from tamis.native import warmup_common  # noqa: E402
from tamis.selectors.datasets import LocalStorage  # noqa: E402
from tamis.selectors.jobs.execute import execute  # noqa: E402
from tamis.selectors.jobs.open import Environment  # noqa: E402
from tamis.selectors.run.observer import Unobserved  # noqa: E402
from tamis.selectors.schema.request import JobSpec  # noqa: E402


class Clock(Unobserved):
    """Notes when each phase begins."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, float, float]] = []

    def log(self, level: str, message: str, **fields: Any) -> None:
        """Note a phase's begin."""
        if message.startswith("phase "):
            self.mark(fields["phase"])

    def mark(self, name: str) -> None:
        """Note a moment."""
        self.marks.append((name, time.perf_counter(), time.process_time()))


def main() -> None:
    """Run the job in ``sys.argv[1]`` into the folder ``sys.argv[2]`` with ``sys.argv[3]`` threads."""
    spec = JobSpec.model_validate(json.loads(Path(sys.argv[1]).read_text()))
    work = Path(sys.argv[2])
    pa.set_cpu_count(1)
    warmup_common()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = Clock()
    clock.mark("open")
    execute(spec, work / "out", Environment(LocalStorage(), work / "cache", int(sys.argv[3])), clock)
    clock.mark("end")
    marks = clock.marks
    result: dict[str, float] = {
        "warm_rss": before * 1024,
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    for (name, wall, cpu), (_, next_wall, next_cpu) in pairwise(marks):
        result |= {f"{name}_wall": next_wall - wall, f"{name}_cpu": next_cpu - cpu}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
