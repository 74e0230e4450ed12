"""Access to the database: connections, transactions, its clock, and errors as StorageError."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from tamis.selectors.errors import StorageError, TamisError
from tamis.service.store import migrations

BUSY_SECONDS: Final = 5.0
"""Longest wait of a SQLite transaction for another's lock."""

POOL_SIZE: Final = 8
POOL_OVERFLOW: Final = 56
"""Connections beyond `POOL_SIZE`: together more than a server has threads, so that no request waits for one."""

POOL_TIMEOUT_SECONDS: Final = 10.0

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)
"""File systems whose locks and shared memory are not safe for SQLite's write-ahead log."""


_IMMEDIATE: Final = "tamis_immediate"


class BadDatabaseUrl(TamisError):
    """TAMIS_DATABASE_URL names no database that Tamis can use."""

    code = "bad-settings"
    status = 500


class Database:
    """Transactions on SQLite or PostgreSQL; failures raise StorageError."""

    def __init__(self, url: str) -> None:
        self.url: Final = _parsed(url)
        self.is_sqlite: Final = self.url.get_backend_name() == "sqlite"
        self._engine = self._sqlite_engine("rw") if self.is_sqlite else _postgresql_engine(self.url)
        self._writer = self._engine.execution_options(**{_IMMEDIATE: True})

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection in a transaction that reads one state of the database."""
        with _storage_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a connection in a writing transaction, committed at the end unless an error leaves the block."""
        with _storage_errors(), self._writer.begin() as connection:
            yield connection

    def now(self, connection: Connection) -> float:
        """Return the time in seconds since the epoch, of the database server, so that all hosts agree on leases."""
        if self.is_sqlite:
            return time.time()
        return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())

    def one_at_a_time(self, connection: Connection, key: int) -> None:
        """Take the advisory lock `key` until this transaction ends, waiting for other transactions."""
        if not self.is_sqlite:  # which has one writer at a time anyhow
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))

    def migrate(self) -> None:
        """Create the database or bring it to this version's schema; several processes at once wait for each other."""
        if not self.is_sqlite:
            with _storage_errors(), self._engine.begin() as connection:
                migrations.upgrade(connection)
            return
        _create_folder(self._sqlite_file.parent)
        _refuse_network_file_system(self._sqlite_file.parent)
        # Altering a table in SQLite copies and drops it: with foreign keys on, that would delete what refers to it.
        engine = self._sqlite_engine("rwc", foreign_keys=False)
        try:
            with _storage_errors(), engine.execution_options(**{_IMMEDIATE: True}).begin() as connection:
                migrations.upgrade(connection)
        finally:
            engine.dispose()

    def check(self) -> None:
        """Raise StorageError unless the database answers and has this version's schema."""
        with self.read() as connection:
            migrations.check(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @property
    def _sqlite_file(self) -> Path:
        return Path(self.url.database or "").absolute()

    def _sqlite_engine(self, mode: str, *, foreign_keys: bool = True) -> Engine:
        path = self._sqlite_file
        # Only `migrate` may create the file: a database that vanished is an error, not an empty database.
        address = f"file:{quote(str(path))}?mode={mode}"

        def connect() -> sqlite3.Connection:
            # No isolation level: transactions are begun below, not by the driver's guess.
            connection = sqlite3.connect(
                address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
            return connection

        engine = sa.create_engine(
            "sqlite://",
            creator=connect,
            poolclass=sa.QueuePool,
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=POOL_TIMEOUT_SECONDS,
        )

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # A deferred transaction that reads and then writes fails at once when another wrote in between.
            immediate = connection.get_execution_options().get(_IMMEDIATE, False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

        @event.listens_for(engine, "connect")
        def remember_file(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
            record.info["file"] = _identity(path)

        @event.listens_for(engine, "checkout")
        def same_file(connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
            # A connection outlives the removal of its file and would go on writing to nowhere.
            if record.info["file"] != _identity(path):
                raise exc.DisconnectionError

        return engine


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"can't create the database's folder {folder}: {error.strerror}") from error


def _postgresql_engine(url: URL) -> Engine:
    try:
        return sa.create_engine(
            url,
            # Of a database in SQL_ASCII, which a server without a locale makes, the driver would give bytes.
            connect_args={"client_encoding": "utf8"},
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            pool_pre_ping=True,
        )
    except ModuleNotFoundError as error:
        raise BadDatabaseUrl(
            f"TAMIS_DATABASE_URL: the driver {error.name!r} is not installed: pip install 'tamis[postgres]'"
        ) from error


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise BadDatabaseUrl(
            "TAMIS_DATABASE_URL is not a database URL, as sqlite:////path or postgresql://…"
        ) from error
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise BadDatabaseUrl(f"TAMIS_DATABASE_URL: {backend!r} is not supported; use sqlite or postgresql")
    if not parsed.database or parsed.database == ":memory:" or parsed.query:
        raise BadDatabaseUrl("TAMIS_DATABASE_URL: SQLite needs the path of a file and no parameters")
    return parsed


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except exc.IntegrityError:
        raise
    except exc.DBAPIError as error:
        raise StorageError(f"the database does not answer: {_first_line(error.orig)}") from error
    except exc.TimeoutError as error:
        raise StorageError("the database does not answer: every connection is in use") from error
    except sqlite3.Error as error:
        raise StorageError(f"the database does not answer: {_first_line(error)}") from error


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _refuse_network_file_system(folder: Path) -> None:
    kind = _file_system(folder.resolve())
    if kind in NETWORK_FILE_SYSTEMS:
        raise BadDatabaseUrl(
            f"{folder} is on a network file system ({kind}), where SQLite loses data; "
            "set TAMIS_HOME to a local disk or TAMIS_DATABASE_URL to a PostgreSQL server"
        )


def _file_system(folder: Path) -> str | None:
    """Return the kernel's name of the type of file system that holds `folder` (absolute, resolved)."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None  # not Linux: unknown
    found: tuple[int, str] | None = None
    for line in mounts:
        fields = line.split(" ")
        # The kernel writes space, tab, newline and backslash as octal escapes.
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        depth = len(point.parts)
        if folder.is_relative_to(point) and (found is None or depth >= found[0]):
            found = depth, fields[fields.index("-") + 1]
    return found and found[1]
