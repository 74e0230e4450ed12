"""The leg that runs a whole job of Tamis, timed phase by phase, in a process set up as the service sets up a job's."""

from __future__ import annotations

import json
import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Figures, high_water, leg


@leg()
def job(spec: dict[str, Any], work: str, threads: int) -> Figures:
    """Run a job from an empty cache in the folder `work`, which is emptied first.

    Returns
    -------
    dict
        CPU seconds of loading the kernels (``kernels``), of every phase by its name, of the whole (``cpu``); wall
        seconds of the kernels and of the whole.
    """
    shutil.rmtree(work, ignore_errors=True)
    kernels = prepare()
    before, wall = high_water(), time.perf_counter()
    phases = run_job(spec, Path(work) / "out", Path(work) / "cache", threads)
    return {**kernels, **phases, "wall": time.perf_counter() - wall, "before_rss": before}


def prepare() -> Figures:
    """Set this process up as a job's, and load or compile all kernels; return CPU and wall seconds."""
    from tamis.service.process_setup import prepare_process
    from tamis.service.settings import Settings

    prepare_process(Settings.from_environment())  # before anything loads a numeric library
    start, wall = time.process_time(), time.perf_counter()
    from tamis.native import warmup

    warmup()
    return {"kernels": time.process_time() - start, "kernels_wall": time.perf_counter() - wall}


def run_job(spec: dict[str, Any], out: Path, cache: Path, threads: int) -> Figures:
    """Run a job in this process; return CPU seconds of its phases and of the whole."""
    from tamis.selectors.datasets import LocalStorage
    from tamis.selectors.jobs.execute import execute
    from tamis.selectors.jobs.open import Environment
    from tamis.selectors.run.observer import Unobserved
    from tamis.selectors.schema.request import JobSpec

    marks: list[tuple[str, float]] = []

    class Clock(Unobserved):
        def progress(self, progress: Any) -> None:
            if not marks or marks[-1][0] != progress.phase:
                marks.append((progress.phase, time.process_time()))

    start = time.process_time()
    execute(JobSpec.model_validate(spec), out, Environment(LocalStorage(), cache, threads), Clock())
    end = time.process_time()
    phases: dict[str, float] = {}
    for (name, begin), (_, until) in pairwise([*marks, ("end", end)]):
        phases[name] = phases.get(name, 0.0) + until - begin
    return {**phases, "cpu": end - start}


def report(work: str | Path) -> dict[str, Any]:
    """Return the report of a job that ran in `work`."""
    found: dict[str, Any] = json.loads((Path(work) / "out" / "report.json").read_text(encoding="utf-8"))
    return found


def selected(work: str | Path) -> Any:
    """Return the rows that a job in `work` selected."""
    import pyarrow.parquet as pq

    return pq.read_table(Path(work) / "out" / "selection.parquet")["row"].to_numpy()
