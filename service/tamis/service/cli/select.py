"""Jobs without a service, and the compilation of kernels."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import typer

from tamis.selectors.errors import Cancelled
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.schema.response import Progress, ResultManifest
from tamis.service.api.documents import validate
from tamis.service.cli.output import console
from tamis.service.client.job import SELECTION
from tamis.service.client.progress import PhaseBar, phase_bar
from tamis.service.process_setup import prepare_process
from tamis.service.schema import JobProgress, SelectorResource
from tamis.service.settings import DATA_ROOTS, Settings

if TYPE_CHECKING:
    from pydantic import JsonValue

    from tamis.selectors.run.observer import UnitDone

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as in shells."""


class _Watcher:
    """Observer that draws the progress and passes Ctrl-C on to the job."""

    def __init__(self, bar: PhaseBar) -> None:
        self._bar = bar
        self._began = time.monotonic()
        self.interrupted = threading.Event()

    def progress(self, progress: Progress) -> None:
        seconds = time.monotonic() - self._began
        left = seconds * (1 - progress.fraction) / progress.fraction if progress.fraction else None
        self._bar.show(None, JobProgress(**progress.model_dump(), eta_seconds=left))

    def log(self, level: str, message: str, **fields: JsonValue) -> None:
        if level in {"warning", "error"}:
            console.print(f"{level}: {message}", markup=False)

    def read(self, rows: int, size: int) -> None:
        """Do nothing: the bar shows progress."""

    def unit(self, unit: UnitDone) -> None:
        """Do nothing."""

    def cancelled(self) -> bool:
        return self.interrupted.is_set()

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        """Stop within one unit of work."""
        self.interrupted.set()


def run_locally(document: dict[str, Any], out: Path, threads: int | None) -> ResultManifest:
    """Run a job in this process and leave its result in `out`. Signals are shared with the service of TAMIS_HOME.

    Raises
    ------
    TamisError
        What is wrong, and where.
    typer.Exit
        It was interrupted.
    """
    settings = Settings.from_environment()
    settings = settings if threads is None else replace(settings, threads=threads)
    spec = validate(JobSpec, document)
    prepare_process(settings)
    from tamis.selectors.datasets import open_storage
    from tamis.selectors.jobs.execute import execute
    from tamis.selectors.jobs.open import Environment

    environment = Environment(
        open_storage(settings.data_roots, s3_endpoint=settings.s3_endpoint, setting=DATA_ROOTS.variable),
        settings.signals_dir,
        settings.threads,
    )
    with phase_bar(console) as bar:
        watcher = _Watcher(bar)
        signal.signal(signal.SIGINT, watcher.interrupt)
        signal.signal(signal.SIGTERM, watcher.interrupt)
        try:
            manifest = execute(spec, out, environment, watcher)
        except Cancelled:
            console.print("Interrupted. Finished units are kept: the same command goes on from them.")
            raise typer.Exit(INTERRUPTED) from None
    for notice in manifest.warnings:
        console.print(f"warning: {notice.detail}", markup=False)
    totals = manifest.totals
    console.print(f"{totals.rows:,} of {totals.candidates:,} rows selected: {out / SELECTION}", markup=False)
    return manifest


def installed_selectors(name: str | None = None) -> list[SelectorResource]:
    """List the selectors of this installation, plugins included, or only the one of a name.

    Raises
    ------
    UnknownSelector
        There is none of that name.
    """
    prepare_process(Settings.from_environment())
    from tamis.selectors.jobs.catalogue import catalogue, info

    found = catalogue() if name is None else [info(name)]
    return [SelectorResource.model_validate(one.model_dump()) for one in found]


def compile_kernels() -> float:
    """Compile all kernels into the cache; returns the seconds it took."""
    prepare_process(Settings.from_environment())
    began = time.monotonic()
    from tamis.native.warm import compile_all

    with console.status("Compiling kernels"):
        compile_all()
    return time.monotonic() - began
