"""Removing files: those of deleted jobs, and of what is kept no longer. Every step can be cut off and is done again."""

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
"""Between two sweeps of a worker."""

ASIDE: Final = ".removed-"
"""Before the name of a folder that is being removed: out of everybody's way in one step, whatever its size."""

UNFINISHED_SECONDS: Final = 3600.0
"""A temporary file of the cache that is older, and than every running job, was left by a process that was killed."""

CLOCK_SECONDS: Final = 60.0
"""By how much the clocks of the database and of a file server may differ."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("tamis.retention")


class Retention:
    """What is kept, and the removal of the rest."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def sweep(self) -> None:
        """Do all there is to do: see the methods. Raises StorageError when the database does not answer."""
        self.expire_results()
        for job_id in self._store.removals.promised():
            self.remove_files(job_id)
        for folder in self._settings.jobs_dir.glob(f"{ASIDE}*"):  # a removal that was cut off
            _remove(folder)
        self.trim_signals()

    def remove_files(self, job_id: str) -> None:
        """Remove the files of a job as its deletion promised."""
        folder = self._settings.job_dir(job_id)
        aside = folder.with_name(f"{ASIDE}{job_id}-{secrets.token_hex(4)}")

        def put_away() -> None:
            try:
                folder.rename(aside)
            except FileNotFoundError:
                pass  # it never wrote anything, or this was done before
            except OSError as error:
                raise StorageError(f"the folder {folder} can't be removed: {error.strerror}") from error

        self._store.removals.keep_promise(job_id, put_away)
        _remove(aside)

    def expire_results(self) -> None:
        """Take away the results of jobs that finished too long ago, and of the oldest beyond the bytes to keep."""
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
        """Remove signals that no job used for too long, the longest unused beyond the bytes to keep, and leftovers.

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
    """A thread that sweeps now and then, beside a worker's loop."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Have it end after what it is at."""
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
    """Remove a folder that was put aside; what stays is tried again by the next sweep."""
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
