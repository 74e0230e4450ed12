"""Removal of files of deleted jobs and of expired results and signals; every step can be interrupted and repeated."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from tamis.selectors.errors import StorageError
from tamis.service.settings import Settings
from tamis.service.store import Store

SWEEP_SECONDS: Final = 60.0
"""Mean time between two sweeps of a worker."""

ASIDE: Final = ".removed-"
"""Prefix of a folder that is being removed: a rename takes it out of use in one step, whatever its size."""

UNFINISHED_SECONDS: Final = 3600.0
"""Age from which a temporary file, older than every running job, is a leftover of a killed process."""

CLOCK_SECONDS: Final = 60.0
"""Largest difference between the clocks of the database and of a file server."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("tamis.retention")


class Retention:
    """Retention policy: expires results and signals, and removes files."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def sweep(self) -> None:
        """Run all removals, one after the other. Raises StorageError when the database does not answer."""
        self.expire_results()
        for job_id in self._store.removals.pending():
            self.remove_files(job_id)
        for folder in self._settings.jobs_dir.glob(f"{ASIDE}*"):  # a removal that was cut off
            _remove(folder)
        self.trim_signals()

    def remove_files(self, job_id: str) -> None:
        """Remove the files of a job whose removal is recorded."""
        folder = self._settings.job_dir(job_id)
        aside = folder.with_name(f"{ASIDE}{job_id}-{secrets.token_hex(4)}")

        def put_away() -> None:
            try:
                folder.rename(aside)
            except FileNotFoundError:
                pass  # it never wrote anything, or this was done before
            except OSError as error:
                raise StorageError(f"the folder {folder} can't be removed: {error.strerror}") from error

        self._store.removals.complete(job_id, put_away)
        _remove(aside)

    def expire_results(self) -> None:
        """Expire the results of jobs that finished too long ago, and the oldest beyond the bytes to keep."""
        keep = self._settings.keep
        if keep.seconds is None and keep.bytes is None:
            return
        finished = self._store.removals.finished()
        sizes = [0] * len(finished)
        if keep.bytes is not None:
            sizes = [_size_of(self._settings.job_dir(job.job_id)) for job in finished]
        held = sum(sizes)
        for job, size in zip(finished, sizes, strict=True):  # the oldest first
            too_old = keep.seconds is not None and job.age > keep.seconds
            too_much = keep.bytes is not None and held > keep.bytes and size > 0
            if (too_old or too_much) and self._store.removals.expire(job.job_id):
                held -= size
                log.info("a result expired", job=job.job_id, age_seconds=job.age, bytes=size)

    def trim_signals(self) -> None:
        """Remove signals unused for too long, the least recently used beyond the bytes to keep, and leftovers.

        Whatever a running job uses it has touched since it started: nothing younger than the oldest of them goes. A job
        that comes to want a signal in the very moment that it goes computes it again in its next attempt.
        """
        keep = self._settings.keep_signals
        oldest_attempt = self._store.removals.oldest_attempt_age()
        now = time.time()
        safe = now - CLOCK_SECONDS - (oldest_attempt or 0.0)
        signals: list[tuple[float, int, Path]] = []
        for entry in _files_below(self._settings.signals_dir):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            if entry.name.endswith(".tmp"):
                if status.st_mtime < min(safe, now - UNFINISHED_SECONDS):
                    Path(entry).unlink(missing_ok=True)
            else:
                signals.append((status.st_mtime, status.st_size, Path(entry)))
        held = sum(size for _, size, _ in signals)
        for used_at, size, path in sorted(signals):
            too_old = keep.seconds is not None and used_at < now - keep.seconds
            too_much = keep.bytes is not None and held > keep.bytes
            if used_at >= safe or not (too_old or too_much):
                continue
            try:
                if path.stat().st_mtime == used_at:  # nobody wanted it in the meantime
                    path.unlink()
                    held -= size
            except FileNotFoundError:
                held -= size


class Sweeper:
    """Thread that runs the retention policy once a minute, beside a worker's loop."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current sweep and wait for the end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        # Not all workers at once, and not while this one starts.
        while not self._stopping.wait(SWEEP_SECONDS * (0.5 + secrets.randbelow(1000) / 1000)):
            try:
                self._retention.sweep()
            except (StorageError, OSError) as error:
                log.warning("what should go was not removed", reason=str(error))


def _remove(folder: Path) -> None:
    """Remove a folder that was put aside; the next sweep tries again where it fails."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        log.error("files can't be removed", folder=str(folder))


def _size_of(folder: Path) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in _files_below(folder))


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _files_below(Path(entry))
                else:
                    yield entry
    except FileNotFoundError:
        return
