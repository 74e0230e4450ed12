"""The store: one object with a part for each concern, over one database."""

from __future__ import annotations

from tamis.service.retry import JobRetry
from tamis.service.store.callbacks import Callbacks
from tamis.service.store.counters import Totals
from tamis.service.store.database import Database
from tamis.service.store.datasets import Datasets
from tamis.service.store.events import Events
from tamis.service.store.file_removals import Removals
from tamis.service.store.jobs import Jobs
from tamis.service.store.keys import Keys
from tamis.service.store.questions import Questions
from tamis.service.store.queue import Queue
from tamis.service.store.workers import Workers


class Store:
    """Durable state of the service in SQLite or PostgreSQL. Thread-safe; one per process is enough.

    Every call is one transaction. A database that does not answer (locked, missing, not migrated) raises
    `tamis.selectors.errors.StorageError`; nothing of SQLAlchemy's leaves the store.

    Attributes
    ----------
    jobs : Jobs
        Callers' operations on jobs: submit, read, cancel, resume, delete, count.
    queue : Queue
        Workers' operations on jobs: claim, heartbeat, finish, give back.
    questions : Questions
        Questions of running jobs, and the answers.
    datasets : Datasets
        Registered manifests.
    events : Events
        Events and log of a job.
    workers : Workers
        Register of workers.
    totals : Totals
        Totals of what workers counted.
    removals : Removals
        Files of jobs to be removed.
    keys : Keys
        API keys.
    callbacks : Callbacks
        Outbox of callbacks, and the secrets that sign them.
    """

    def __init__(self, url: str, *, running_per_owner: int | None = None, retry: JobRetry | None = None) -> None:
        """Connect lazily: nothing is opened before the first call, and nothing is created before `migrate`.

        Parameters
        ----------
        url : str
            ``sqlite:////absolute/path.sqlite3`` or ``postgresql+psycopg://…``.
        running_per_owner : int, optional
            Jobs of one owner that run at a time, over all workers; all may when left out.
        retry : JobRetry, optional
            Decides after a failed attempt whether and when the job runs again; the default's pauses when left out.
        """
        self.database = Database(url)
        self.jobs = Jobs(self.database, running_per_owner)
        self.queue = Queue(self.database, running_per_owner, retry or JobRetry())
        self.questions = Questions(self.database)
        self.datasets = Datasets(self.database)
        self.events = Events(self.database)
        self.workers = Workers(self.database)
        self.totals = Totals(self.database)
        self.removals = Removals(self.database)
        self.keys = Keys(self.database)
        self.callbacks = Callbacks(self.database)

    def migrate(self) -> None:
        """Create the database or bring it to this version's schema; safe to call from several processes at once."""
        self.database.migrate()

    def check(self) -> None:
        """Raise StorageError unless the database answers and has this version's schema (for ``/readyz``)."""
        self.database.check()

    def close(self) -> None:
        """Close all connections."""
        self.database.close()
