"""Settings: all from the environment, read once at a process's entry."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tamis.selectors.errors import TamisError

DATABASE_FILE = "tamis.sqlite3"
DATA_ROOTS = "TAMIS_DATA_ROOTS"
CALLBACK_HOSTS = "TAMIS_CALLBACK_HOSTS"

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class BadSettings(TamisError):
    """A setting has a value that can't be used."""

    code = "bad-settings"
    status = 500


@dataclass(frozen=True, slots=True)
class Keep:
    """How long files are kept, and how many; without bounds when left out."""

    seconds: int | None = None  # since the job finished, or since a signal was used
    bytes: int | None = None  # of all together; the oldest go first


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Where callbacks may go besides public addresses."""

    names: frozenset[str] = frozenset()  # hosts, wherever they resolve to
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What an operator sets; every field has the environment variable of its comment."""

    home: Path  # TAMIS_HOME: database, artefacts and cache of the embedded default
    database_url: str  # TAMIS_DATABASE_URL: SQLite in `home` when left out
    data_roots: tuple[str, ...] | None  # TAMIS_DATA_ROOTS: paths, s3://bucket/prefix; None: every readable path
    s3_endpoint: str | None  # AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL: Amazon's when left out
    engine: str  # TAMIS_ENGINE: "local"
    threads: int  # TAMIS_THREADS: CPUs that this process may use when left out
    lease_seconds: float = 15.0  # TAMIS_LEASE_SECONDS: a job is another's when its worker did not report for so long
    running_per_owner: int | None = (
        None  # TAMIS_RUNNING_PER_OWNER: jobs of one owner that run at a time, over all workers
    )
    keep: Keep = Keep()  # TAMIS_KEEP_SECONDS, TAMIS_KEEP_BYTES: results of finished jobs
    keep_signals: Keep = Keep()  # TAMIS_KEEP_SIGNALS_SECONDS, TAMIS_KEEP_SIGNALS_BYTES: signals that no job used since
    callback_hosts: AllowedHosts = AllowedHosts()  # TAMIS_CALLBACK_HOSTS: names, addresses, networks; ',' between

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
            A value that can't be used; the detail names the variable.
        """
        environ = os.environ if environ is None else environ
        home = Path(environ.get("TAMIS_HOME") or _default_home(environ)).expanduser().absolute()
        return cls(
            home=home,
            database_url=environ.get("TAMIS_DATABASE_URL") or f"sqlite:///{quote(str(home / DATABASE_FILE))}",
            data_roots=_data_roots(environ.get(DATA_ROOTS, "")),
            s3_endpoint=_s3_endpoint(environ),
            engine=_engine(environ.get("TAMIS_ENGINE") or "local"),
            threads=_threads(environ),
            lease_seconds=_number(environ, "TAMIS_LEASE_SECONDS", 1, 3600) or cls.lease_seconds,
            running_per_owner=_number(environ, "TAMIS_RUNNING_PER_OWNER", 1, 10_000),
            keep=_keep(environ, "TAMIS_KEEP"),
            keep_signals=_keep(environ, "TAMIS_KEEP_SIGNALS"),
            callback_hosts=_callback_hosts(environ.get(CALLBACK_HOSTS, "")),
        )

    @property
    def jobs_dir(self) -> Path:
        """Artefacts, one folder a job."""
        return self.home / "jobs"

    @property
    def signals_dir(self) -> Path:
        """Signals, shared by all jobs: the cache of `tamis.selectors.jobs.execute.Environment`."""
        return self.home / "signals"

    @property
    def cache_dir(self) -> Path:
        """Compiled kernels."""
        return self.home / "cache"

    def job_dir(self, job_id: str) -> Path:
        """Where a job writes its result."""
        return self.jobs_dir / job_id

    def create_folders(self) -> None:
        """Create `home` and what lies in it, readable by this user only."""
        for folder in (self.home, self.jobs_dir, self.signals_dir, self.cache_dir):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise BadSettings(f"TAMIS_HOME: can't create {folder}: {error.strerror}") from error


def _default_home(environ: Mapping[str, str]) -> str:
    data = environ.get("XDG_DATA_HOME", "")
    return f"{data}/tamis" if data.startswith("/") else "~/.local/share/tamis"


def _data_roots(value: str) -> tuple[str, ...] | None:
    parts = [part for part in re.split(":(?!//)", value) if part]  # the colon of a scheme separates nothing
    for part in parts:
        if not part.startswith("/") and not re.fullmatch("s3://[^/*?]+(/[^*?]*)?", part):
            raise BadSettings(
                f"{DATA_ROOTS}: {part!r} is neither an absolute path nor s3://bucket/prefix; separate them by ':'"
            )
    return tuple(parts) or None


def _s3_endpoint(environ: Mapping[str, str]) -> str | None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if value := environ.get(name):
            if not re.fullmatch("https?://[^/?#]+/?", value):
                raise BadSettings(f"{name}: {value!r} is not http(s)://host or http(s)://host:port")
            return value
    return None


def _keep(environ: Mapping[str, str], prefix: str) -> Keep:
    return Keep(_number(environ, f"{prefix}_SECONDS", 0, 10**10), _number(environ, f"{prefix}_BYTES", 0, 2**60))


def _number(environ: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """Read a whole number; None when the variable is not set."""
    value = environ.get(name, "")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
        raise BadSettings(f"{name}: {value!r} is not a whole number from {least} to {most}")
    return int(value)


def _callback_hosts(value: str) -> AllowedHosts:
    names, networks = set(), []
    for entry in filter(None, (part.strip().lower() for part in value.split(","))):
        try:
            networks.append(ipaddress.ip_network(entry))
        except ValueError as error:
            if not _HOST.fullmatch(entry) or "/" in entry:
                raise BadSettings(
                    f"{CALLBACK_HOSTS}: {entry!r} is no host name, address or network like 10.0.0.0/8; separate by ','"
                ) from error
            names.add(entry)
    return AllowedHosts(frozenset(names), tuple(networks))


def _engine(value: str) -> str:
    if value != "local":
        raise BadSettings(f"TAMIS_ENGINE: {value!r} is not an engine of this version; leave it out or set 'local'")
    return value


def _threads(environ: Mapping[str, str]) -> int:
    return _number(environ, "TAMIS_THREADS", 1, 1024) or len(os.sched_getaffinity(0))
