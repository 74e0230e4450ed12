from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tamis.selectors.errors import StorageError
from tamis.service.api.resources import job_resource
from tamis.service.store import IdempotencyKey, Store, idempotency, migrations
from tamis.service.store.models import metadata

from .postgresql import Server

REVISIONS = [script.revision for script in ScriptDirectory.from_config(migrations.config()).walk_revisions()]


@pytest.fixture(params=["sqlite", "postgresql"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Connection]:
    """A connection to a database without any schema."""
    if request.param == "sqlite":
        engine = sa.create_engine(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    else:
        engine = sa.create_engine(_empty(request.getfixturevalue("postgresql")))
    with engine.begin() as connection:
        yield connection
        if request.param == "postgresql":
            connection.rollback()  # a transaction makes and unmakes a schema there: the next test finds nothing
    engine.dispose()


@cache
def _empty(server: Server) -> str:
    return server.new_database("empty")


def differences(connection: sa.Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


def test_models_and_migrations_agree(connection: sa.Connection) -> None:
    migrations.upgrade(connection)
    assert differences(connection) == []


def test_the_comparison_sees_a_difference(connection: sa.Connection) -> None:
    migrations.upgrade(connection)
    connection.execute(sa.text("ALTER TABLE workers ADD COLUMN surplus INTEGER"))
    connection.execute(sa.text("DROP INDEX ix_jobs_owner_id"))
    assert len(differences(connection)) == 2


@pytest.mark.parametrize("revision", REVISIONS)
def test_upgrade_from_every_revision(connection: sa.Connection, revision: str) -> None:
    migrations.upgrade(connection, revision)
    assert migrations.current(connection) == revision
    migrations.upgrade(connection)
    assert migrations.current(connection) == migrations.head()
    assert differences(connection) == []


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_upgrade_keeps_what_is_there(connection: sa.Connection, revision: str) -> None:
    migrations.upgrade(connection, revision)
    then = sa.MetaData()
    then.reflect(connection)
    for table in then.sorted_tables:
        if table.name != "alembic_version":
            connection.execute(table.insert().values({column.name: _some(column) for column in table.columns}))
    migrations.upgrade(connection)
    for table in metadata.sorted_tables:
        count = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        assert count == (table.name in then.tables)


def _some(column: sa.Column[Any]) -> Any:
    if isinstance(column.type, sa.String):
        return "queued"
    if isinstance(column.type, sa.LargeBinary):
        return b""
    return "{}" if isinstance(column.type, sa.JSON) else 1


@pytest.mark.parametrize("revision", REVISIONS)
def test_downgrade_and_upgrade(connection: sa.Connection, revision: str) -> None:
    migrations.upgrade(connection)
    command.downgrade(migrations.config(connection), revision)
    migrations.upgrade(connection)
    assert differences(connection) == []


def test_downgrade_to_nothing(connection: sa.Connection) -> None:
    migrations.upgrade(connection)
    command.downgrade(migrations.config(connection), "base")
    assert sa.inspect(connection).get_table_names() == ["alembic_version"]


@pytest.mark.both_databases
def test_migrating_twice_keeps_the_jobs(store: Store, submit: object) -> None:
    store.workers.report("w", host="h", pid=1, slots=1, running=0)
    store.migrate()
    assert [worker.id for worker in store.workers.live()] == ["w"]
    store.check()


def test_a_newer_database_is_refused(store: Store) -> None:
    with store.database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match=r"'9999'.*upgrade Tamis"):
        store.check()
    with pytest.raises(StorageError, match=r"'9999'.*upgrade Tamis"):
        store.migrate()


def test_an_empty_database_is_told(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "empty.sqlite3").close()
    store = Store(f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    with pytest.raises(StorageError, match="older schema or none"):
        store.check()
    store.close()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_processes_may_migrate_at_once(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if backend == "sqlite":
        store_url = f"sqlite:///{tmp_path / 'home' / 'tamis.sqlite3'}"
    else:
        store_url = request.getfixturevalue("postgresql").new_database("migrated")
    context = multiprocessing.get_context("spawn")
    racing = [context.Process(target=_migrate, args=(store_url,)) for _ in range(3)]
    for one in racing:
        one.start()
    for one in racing:
        one.join(60)
    assert [one.exitcode for one in racing] == [0] * 3
    store = Store(store_url)
    store.check()
    store.close()


def _migrate(url: str) -> None:
    Store(url).migrate()


def test_answers_of_the_version_before_are_replayed(connection: sa.Connection) -> None:
    migrations.upgrade(connection, "0007")
    answer = {
        **{"id": "job_0", "owner": "ann", "state": "succeeded", "terminal": True, "selector": "random"},
        **{"created_at": "2026-01-02T03:04:05.678901Z", "started_at": None, "finished_at": None, "expired_at": None},
        **{"waiting_reason": None, "progress": None, "attempts": 1, "error": None, "fingerprint": "f"},
        **{"request": {"priority": 3}, "labels": {"a": "b"}, "callback": None, "links": {"self": "/v1/jobs/job_0"}},
    }
    row = {"owner": "ann", "key": "k", "body_sha256": "a", "job_id": "job_0", "response": answer, "created_at": 1.0}
    connection.execute(sa.insert(metadata.tables["idempotency_keys"]), row)
    migrations.upgrade(connection)
    replayed = idempotency.replay(connection, "ann", IdempotencyKey("k", "a"), 2.0)
    assert replayed is not None and replayed.replayed
    resource = job_resource(replayed.job).model_dump(mode="json")
    del answer["links"]
    assert {name: resource[name] for name in answer} == answer
