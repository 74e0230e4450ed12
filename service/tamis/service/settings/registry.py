"""All settings, each defined once. `tamis settings` and the pages' tables show what is written here."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from tamis.selectors.schema.request import MAX_SHARDS as LARGEST_MANIFEST
from tamis.service.settings.definition import Setting, choice_setting, number_setting

_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Destinations of callbacks besides public addresses."""

    names: frozenset[str] = frozenset()  # hosts, wherever they resolve to
    networks: tuple[Network, ...] = ()


def _parse_data_roots(text: str) -> tuple[str, ...] | None:
    parts = [part for part in re.split(":(?!//)", text) if part]  # the colon of a scheme separates nothing
    for part in parts:
        if not part.startswith("/") and not re.fullmatch("s3://[^/*?]+(/[^*?]*)?", part):
            raise ValueError(f"{part!r} is neither an absolute path nor s3://bucket/prefix; separate them by ':'")
    return tuple(parts) or None


def _parse_endpoint(text: str) -> str:
    if not re.fullmatch("https?://[^/?#]+/?", text):
        raise ValueError(f"{text!r} is not http(s)://host or http(s)://host:port")
    return text


def _parse_engine(text: str) -> str:
    if text != "local":
        raise ValueError(f"{text!r} is not an engine of this version; leave it out or set 'local'")
    return text


def _parse_callback_hosts(text: str) -> AllowedHosts:
    names, networks = set(), []
    for entry in filter(None, (part.strip().lower() for part in text.split(","))):
        try:
            networks.append(ipaddress.ip_network(entry))
        except ValueError as error:
            if not _HOST.fullmatch(entry) or "/" in entry:
                raise ValueError(
                    f"{entry!r} is no host name, address or network like 10.0.0.0/8; separate by ','"
                ) from error
            names.add(entry)
    return AllowedHosts(frozenset(names), tuple(networks))


_S3_ENDPOINT_VALUES: Final = "`http(s)://host` or `http(s)://host:port`"

HOME: Final[Setting[Path | None]] = Setting(
    "TAMIS_HOME",
    default="`$XDG_DATA_HOME/tamis`, else `~/.local/share/tamis`",
    values="path",
    meaning="folder of the SQLite database, of results, signals and compiled kernels",
    parse=Path,
    unset=None,
)
DATABASE_URL: Final[Setting[str | None]] = Setting(
    "TAMIS_DATABASE_URL",
    default="SQLite in `TAMIS_HOME`",
    values="`postgresql://…`, `sqlite:////path`",
    meaning="database; PostgreSQL for several hosts, which then share `TAMIS_HOME`",
    parse=str,
    unset=None,
)
DATA_ROOTS: Final = Setting(
    "TAMIS_DATA_ROOTS",
    default="everything; nothing where API keys are required",
    values="absolute paths and `s3://bucket/prefix`, separated by `:`",
    meaning="places that jobs may read; no link and no `..` leads out of them",
    parse=_parse_data_roots,
    unset=None,
)
THREADS: Final = number_setting(
    "TAMIS_THREADS", 1, 1024, default="all", meaning="processors that jobs of one worker use together", unset=None
)
ENGINE: Final = Setting(
    "TAMIS_ENGINE",
    default="`local`",
    values="`local`",
    meaning="engine that computes units of work: threads of the job's process",
    parse=_parse_engine,
    unset="local",
)
RUNNING_PER_OWNER: Final = number_setting(
    "TAMIS_RUNNING_PER_OWNER",
    1,
    10_000,
    default="all",
    meaning="jobs of one owner that run at a time, over all workers",
    unset=None,
)
LEASE_SECONDS: Final = number_setting(
    "TAMIS_LEASE_SECONDS",
    1,
    3600,
    meaning="seconds without a report from its worker after which a job goes on elsewhere",
    unset=15,
)
KEEP_SECONDS: Final = number_setting(
    "TAMIS_KEEP_SECONDS",
    0,
    10**10,
    default="for ever",
    meaning="age at which results of finished jobs are removed; their files then answer 410, and the job stays",
    unset=None,
)
KEEP_BYTES: Final = number_setting(
    "TAMIS_KEEP_BYTES", 0, 2**60, default="unlimited", meaning="size of all results together; the oldest go", unset=None
)
KEEP_SIGNALS_SECONDS: Final = number_setting(
    "TAMIS_KEEP_SIGNALS_SECONDS",
    0,
    10**10,
    default="for ever",
    meaning="seconds since its last use after which a signal, which later jobs could use again, is removed",
    unset=None,
)
KEEP_SIGNALS_BYTES: Final = number_setting(
    "TAMIS_KEEP_SIGNALS_BYTES",
    0,
    2**60,
    default="unlimited",
    meaning="size of all signals together; those not used for longest go",
    unset=None,
)
MAX_BODY_BYTES: Final = number_setting(
    "TAMIS_MAX_BODY_BYTES", 1024, 2**30, default="8 MiB", meaning="size of one request; 413", unset=8 * 2**20
)
MAX_SHARDS: Final = number_setting(
    "TAMIS_MAX_SHARDS",
    1,
    LARGEST_MANIFEST,
    meaning="files of one manifest, globs expanded; 422",
    unset=LARGEST_MANIFEST,
)
MAX_QUEUED_JOBS: Final = number_setting(
    "TAMIS_MAX_QUEUED_JOBS",
    1,
    10**9,
    meaning="jobs of one owner that are queued or wait for answers; 429 with `Retry-After`",
    unset=10_000,
)
REQUESTS_PER_SECOND: Final = number_setting(
    "TAMIS_REQUESTS_PER_SECOND",
    1,
    10**6,
    meaning="requests of one owner to one API process, twice as many at once; 429 with `Retry-After`",
    unset=500,
)
CALLBACK_HOSTS: Final = Setting(
    "TAMIS_CALLBACK_HOSTS",
    default="none",
    values="host names, addresses and networks, separated by `,`",
    meaning="destinations of callbacks besides the public internet: `hooks.internal,10.0.0.0/8`",
    parse=_parse_callback_hosts,
    unset=AllowedHosts(),
)
S3_ENDPOINT: Final[Setting[str | None]] = Setting(
    "AWS_ENDPOINT_URL_S3",
    default="`AWS_ENDPOINT_URL`",
    values=_S3_ENDPOINT_VALUES,
    meaning="server of `s3://` shards",
    parse=_parse_endpoint,
    unset=None,
)
AWS_ENDPOINT: Final[Setting[str | None]] = Setting(
    "AWS_ENDPOINT_URL",
    default="Amazon's",
    values=_S3_ENDPOINT_VALUES,
    meaning="server of `s3://` shards where `AWS_ENDPOINT_URL_S3` is not set",
    parse=_parse_endpoint,
    unset=None,
)
LOG_FORMAT: Final = choice_setting(
    "TAMIS_LOG_FORMAT",
    *("json", "text"),
    meaning="form of the log on standard error: one JSON object a line, or text for reading",
    unset="json",
)
LOG_LEVEL: Final = choice_setting(
    "TAMIS_LOG_LEVEL",
    *("debug", "info", "warning", "error"),
    meaning="least important level that is logged",
    unset="info",
)
SERVICE_URL: Final = Setting(
    "TAMIS_URL",
    default="`http://127.0.0.1:8321`",
    values="URL",
    meaning="address of the service, for the client and the command line",
    parse=str,
    unset="http://127.0.0.1:8321",
)
API_KEY: Final[Setting[str | None]] = Setting(
    "TAMIS_API_KEY",
    default="none",
    values="as `tamis keys create` makes it",
    meaning="API key of the client and the command line",
    parse=str,
    unset=None,
    secret=True,
)

SETTINGS: Final[tuple[Setting[Any], ...]] = (
    *(HOME, DATABASE_URL, DATA_ROOTS, THREADS, ENGINE, RUNNING_PER_OWNER, LEASE_SECONDS),
    *(KEEP_SECONDS, KEEP_BYTES, KEEP_SIGNALS_SECONDS, KEEP_SIGNALS_BYTES),
    *(MAX_BODY_BYTES, MAX_SHARDS, MAX_QUEUED_JOBS, REQUESTS_PER_SECOND, CALLBACK_HOSTS),
    *(S3_ENDPOINT, AWS_ENDPOINT, LOG_FORMAT, LOG_LEVEL, SERVICE_URL, API_KEY),
)
"""Every setting, in the order of the documentation."""
