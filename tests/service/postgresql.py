"""A real PostgreSQL server for the tests: in a folder of its own, over a socket in it, as a user who is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from tamis.service.store.models import metadata

SHARED: Final = "shared"
"""The database of most tests: emptied after each, which is quicker than to make one for each."""

NOT_DURABLE: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
"""What the tests ask of the server is right answers, not that they survive a power cut."""


def programs() -> Path | None:
    """Find the folder of the server's programs: Debian keeps them out of PATH."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Server:
    """A running server; `close` ends it and removes its data."""

    def __init__(self, bin_folder: Path) -> None:
        self._bin = bin_folder
        # Not below pytest's folder: a socket's path has a hundred characters at most, and others may not enter there.
        self.folder = Path(tempfile.mkdtemp(prefix="tamis-pg-"))
        self._user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=tamis", "--no-sync")
        self.start()

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://tamis@/{database}?host={self.folder}"

    def new_database(self, name: str, encoding: str = "UTF8") -> str:
        """Make an empty database; give its address."""
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0"))
        return self.url(name)

    def clear(self) -> None:
        """Empty the shared database."""
        engine = sa.create_engine(self.url(SHARED), poolclass=sa.NullPool)
        with engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())

    def start(self) -> None:
        options = " ".join(f"-c {option}" for option in ("listen_addresses=", *NOT_DURABLE))
        self._run("pg_ctl", "start", "--wait", "--log", str(self.folder / "log"), "-o", f"-k {self.folder} {options}")

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "--mode=fast")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        # Files and not pipes: the server inherits them and would keep a pipe open for ever.
        with (self.folder / "programs.log").open("ab") as log:
            done = subprocess.run(
                [str(self._bin / program), "--pgdata", str(self.folder / "data"), *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **as_user,
            )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {(self.folder / 'programs.log').read_text()}")
