"""Databases that fail, addresses that are refused."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tamis.selectors.errors import StorageError, TamisError
from tamis.service.settings import Settings
from tamis.service.store import NewJob, Store, database

from .postgresql import Server

Submit = Callable[..., Any]


@pytest.fixture
def locked(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    connection = sqlite3.connect(tmp_path / "home" / "tamis.sqlite3", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


def test_a_locked_database(store_url: str, locked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    store = Store(store_url)
    assert store.jobs.list().items == []  # readers do not wait for writers
    with pytest.raises(StorageError, match="locked") as caught:
        store.workers.report("w", host="h", pid=1, slots=1, running=0)
    assert caught.value.code == "storage" and caught.value.status == 503
    store.close()


def test_a_missing_database_is_not_made_anew(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'nothing.sqlite3'}")
    for call in (store.check, store.jobs.list):
        with pytest.raises(StorageError):
            call()
    assert not (tmp_path / "nothing.sqlite3").exists()


def test_a_database_that_vanishes_is_noticed(store: Store, submit: Submit, tmp_path: Path) -> None:
    submit()
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / "home" / f"tamis.sqlite3{suffix}").unlink(missing_ok=True)
    with pytest.raises(StorageError):
        submit()
    with pytest.raises(StorageError):
        store.check()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite3").write_text("this is not a database" * 100)
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    for call in (store.migrate, store.check, store.jobs.list):
        with pytest.raises(StorageError):
            call()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError):
        Store(f"sqlite:///{tmp_path / 'deep' / 'a.sqlite3'}").migrate()


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="folder"):
        Store(f"sqlite:///{tmp_path / 'file' / 'a.sqlite3'}").migrate()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:", "sqlite:///a?x=1"]
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(TamisError, match="TAMIS_DATABASE_URL"):
        Store(url)


def test_a_missing_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(TamisError, match=r"'psycopg' is not installed: pip install 'tamis\[postgres\]'"):
        Store("postgresql://host/db")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    store = Store(f"postgresql://tamis@/db?host={tmp_path}")
    for call in (store.check, store.migrate, store.jobs.list):
        with pytest.raises(StorageError, match="the database does not answer"):
            call()


def test_a_path_with_every_character(tmp_path: Path) -> None:
    settings = Settings.from_environment({"TAMIS_HOME": str(tmp_path / "sp ace%3F?#ü")})
    store = Store(settings.database_url)
    store.migrate()
    store.check()
    assert (tmp_path / "sp ace%3F?#ü" / "tamis.sqlite3").exists()
    store.close()


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_file_system", lambda folder: "nfs4")
    with pytest.raises(TamisError, match="nfs4"):
        Store(f"sqlite:///{tmp_path / 'a.sqlite3'}").migrate()


def test_the_file_system_is_found() -> None:
    assert database._file_system(Path("/proc/self")) == "proc"
    assert database._file_system(Path("/")) not in (None, "proc")


def test_a_database_without_an_encoding(postgresql: Server) -> None:
    """A server that was set up where no locale is has SQL_ASCII, of which the driver gives bytes unless it is told."""
    store = Store(postgresql.new_database("ascii", "SQL_ASCII"))
    with contextlib.closing(store):
        store.migrate()
        new = NewJob(
            owner="zoë", request={}, spec={}, selector="random", fingerprint=None, labels={"Sprache": "日本語"}
        )
        submission = store.jobs.submit(new)
        job = store.jobs.get(submission.job_id)
        assert (job.owner, dict(job.labels)) == ("zoë", {"Sprache": "日本語"})
