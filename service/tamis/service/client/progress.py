"""Progress bar of a job on stderr: phase, rate, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tamis.service.schema import JobProgress, JobResource


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Callable[[JobResource], None]]:
    """Draw a bar while the block runs; yields a function that shows a job."""
    with phase_bar(console) as bar:
        yield lambda job: bar.show(job.state, job.progress, job.waiting_reason)


@contextmanager
def phase_bar(console: Console | None = None) -> Iterator[PhaseBar]:
    """Draw a bar while the block runs, for a job with or without a service; off a terminal nothing is drawn."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    console = console or Console(stderr=True)
    # Where there is nothing to draw on, rich would leave an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as progress:
        yield PhaseBar(progress)


class PhaseBar:
    """Bar of one job, with the rate of its phase."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("queued", total=1.0, note="")
        self._phase = ""
        self._began = 0.0
        self._rows_before = 0

    def show(self, state: str | None, at: JobProgress | None, note: str | None = None) -> None:
        """Show progress, or the state of a job without progress or that waits."""
        if at is None or state == "waiting":
            self._progress.update(self._task, description=state or "queued", note=note or "")
            return
        if at.phase != self._phase:
            self._phase, self._began, self._rows_before = at.phase, time.monotonic(), at.rows_done
        seconds = time.monotonic() - self._began
        rate = (at.rows_done - self._rows_before) / seconds if seconds > 0 else 0.0
        parts = [f"{rate:,.0f} rows/s"] if rate > 0 else []
        if at.eta_seconds is not None:
            parts.append(f"{at.eta_seconds:.0f} s left")
        self._progress.update(self._task, description=at.phase, completed=at.fraction, note=", ".join(parts))
