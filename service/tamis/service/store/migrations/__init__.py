"""Migrations of the schema with Alembic, run from inside the package, without an ini file or a command."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.engine import Connection

from tamis.selectors.errors import StorageError

FOLDER: Final = Path(__file__).parent

UPGRADE_LOCK: Final = 0x74616D6973
"""Key of the PostgreSQL advisory lock that lets one process upgrade at a time ('tamis' in ASCII)."""


def config(connection: Connection | None = None) -> Config:
    """Make Alembic's configuration; with a connection, commands run in its open transaction."""
    made = Config()
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to `revision` in the connection's open transaction.

    Raises
    ------
    StorageError
        The database was written by a newer version of Tamis.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
    _refuse_newer(current(connection))
    command.upgrade(config(connection), revision)


def check(connection: Connection) -> None:
    """Raise StorageError unless the schema is this version's."""
    found = current(connection)
    _refuse_newer(found)
    if found != head():
        raise StorageError(
            "the database has an older schema or none: run `tamis serve` or `tamis worker` to upgrade it"
        )


def current(connection: Connection) -> str | None:
    """Return the database's revision; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    """Return the newest revision of this version."""
    return ScriptDirectory.from_config(config()).get_current_head()


def _refuse_newer(revision: str | None) -> None:
    if revision is None:
        return
    try:
        ScriptDirectory.from_config(config()).get_revision(revision)
    except CommandError as error:
        raise StorageError(
            f"the database is at revision {revision!r}, which this version does not know: upgrade Tamis"
        ) from error
