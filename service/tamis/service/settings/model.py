"""`Settings`: the operator's choices, read from the environment once at a process's entry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from tamis.service.settings import registry
from tamis.service.settings.definition import BadSettings
from tamis.service.settings.registry import AllowedHosts

DATABASE_FILE: Final = "tamis.sqlite3"


@dataclass(frozen=True, slots=True)
class Keep:
    """Bounds of what is kept on disk; None: no bound."""

    seconds: int | None = None  # since the job finished, or since a signal was used
    bytes: int | None = None  # of all together; the oldest go first


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds of what one caller may ask for."""

    max_body_bytes: int = registry.MAX_BODY_BYTES.unset
    max_shards: int = registry.MAX_SHARDS.unset
    max_queued_jobs: int = registry.MAX_QUEUED_JOBS.unset
    requests_per_second: int = registry.REQUESTS_PER_SECOND.unset


@dataclass(frozen=True)
class Settings:
    """The operator's choices; `tamis.service.settings.registry` gives the meaning of each."""

    home: Path
    database_url: str
    data_roots: tuple[str, ...] | None  # None: every readable path
    s3_endpoint: str | None  # None: Amazon's
    engine: str
    threads: int
    lease_seconds: float
    running_per_owner: int | None
    keep: Keep  # results of finished jobs
    keep_signals: Keep
    callback_hosts: AllowedHosts
    limits: RequestLimits

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read and check the settings.

        Parameters
        ----------
        environ : mapping, optional
            ``os.environ`` when left out.

        Raises
        ------
        BadSettings
            A value can't be used; the detail names the variable.
        """
        environ = os.environ if environ is None else environ
        home = (registry.HOME.read(environ) or _default_home(environ)).expanduser().absolute()
        return cls(
            home=home,
            database_url=registry.DATABASE_URL.read(environ) or f"sqlite:///{quote(str(home / DATABASE_FILE))}",
            data_roots=registry.DATA_ROOTS.read(environ),
            s3_endpoint=registry.S3_ENDPOINT.read(environ) or registry.AWS_ENDPOINT.read(environ),
            engine=registry.ENGINE.read(environ),
            threads=registry.THREADS.read(environ) or len(os.sched_getaffinity(0)),
            lease_seconds=registry.LEASE_SECONDS.read(environ),
            running_per_owner=registry.RUNNING_PER_OWNER.read(environ),
            keep=Keep(registry.KEEP_SECONDS.read(environ), registry.KEEP_BYTES.read(environ)),
            keep_signals=Keep(registry.KEEP_SIGNALS_SECONDS.read(environ), registry.KEEP_SIGNALS_BYTES.read(environ)),
            callback_hosts=registry.CALLBACK_HOSTS.read(environ),
            limits=RequestLimits(
                max_body_bytes=registry.MAX_BODY_BYTES.read(environ),
                max_shards=registry.MAX_SHARDS.read(environ),
                max_queued_jobs=registry.MAX_QUEUED_JOBS.read(environ),
                requests_per_second=registry.REQUESTS_PER_SECOND.read(environ),
            ),
        )

    @property
    def jobs_dir(self) -> Path:
        """Folder of the results, one folder a job."""
        return self.home / "jobs"

    @property
    def signals_dir(self) -> Path:
        """Folder of the signals, shared by all jobs: the cache of `tamis.selectors.jobs.execute.Environment`."""
        return self.home / "signals"

    @property
    def cache_dir(self) -> Path:
        """Folder of the compiled kernels."""
        return self.home / "cache"

    def job_dir(self, job_id: str) -> Path:
        """Return the folder of one job's result."""
        return self.jobs_dir / job_id

    def create_folders(self) -> None:
        """Create `home` and the folders in it, readable by this user only. Raises BadSettings."""
        for folder in (self.home, self.jobs_dir, self.signals_dir, self.cache_dir):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise BadSettings(f"{registry.HOME.variable}: can't create {folder}: {error.strerror}") from error


def _default_home(environ: Mapping[str, str]) -> Path:
    data = environ.get("XDG_DATA_HOME", "")
    return Path(data if data.startswith("/") else "~/.local/share") / "tamis"
