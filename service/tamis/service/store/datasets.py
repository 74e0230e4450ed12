"""Registered datasets."""

from __future__ import annotations

from tamis.service.store.database import Database
from tamis.service.store.records import Dataset, DatasetPage, Json, Registration

DEFAULT_PAGE = 50
"""Datasets on a page."""


class Datasets:
    """Register, look, delete."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(
        self, *, owner: str, manifest: Json, digest: str, rows: int | None, shards: int, bytes: int
    ) -> Registration:
        """Store a resolved manifest; the same owner, manifest and digest give the same dataset again."""
        raise NotImplementedError

    def get(self, dataset_id: str, *, owner: str | None = None) -> Dataset:
        """Give one dataset; with `owner`, only when it is theirs. Raises NotFound."""
        raise NotImplementedError

    def list(self, *, owner: str | None = None, limit: int = DEFAULT_PAGE, cursor: str | None = None) -> DatasetPage:
        """List datasets, newest first. Raises BadCursor."""
        raise NotImplementedError

    def delete(self, dataset_id: str) -> None:
        """Forget a dataset. Raises NotFound; Conflict while an active job uses it."""
        raise NotImplementedError
