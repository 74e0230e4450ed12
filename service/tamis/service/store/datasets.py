"""Registered datasets."""

from __future__ import annotations

import hashlib
import json
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from tamis.selectors.errors import NotFound
from tamis.service.store import cursors
from tamis.service.store.database import Database
from tamis.service.store.ids import is_id, new_id
from tamis.service.store.job_rows import AnyRow
from tamis.service.store.jobs import refuse_used
from tamis.service.store.models import datasets
from tamis.service.store.records import Dataset, DatasetPage, Json, Registration

DEFAULT_PAGE: Final = 50
"""Default number of datasets on a page."""

_COLUMNS: Final = tuple(column for column in datasets.c if column.name != "manifest_sha256")


class Datasets:
    """Registration, reading and removal of datasets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(
        self, *, owner: str, manifest: Json, digest: str, rows: int | None, shards: int, bytes: int
    ) -> Registration:
        """Store a resolved manifest; the same owner, manifest and digest return the same dataset."""
        manifest_sha256 = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        same = (
            sa.select(*_COLUMNS)
            .where(datasets.c.owner == owner, datasets.c.digest == digest)
            .where(datasets.c.manifest_sha256 == manifest_sha256)
        )
        try:
            with self._database.write() as connection:
                found = connection.execute(same).first()
                if found is not None:
                    return Registration(Dataset(**found._mapping), created=False)
                row = connection.execute(
                    sa.insert(datasets)
                    .values(
                        id=new_id("ds_"),
                        owner=owner,
                        digest=digest,
                        manifest_sha256=manifest_sha256,
                        manifest=manifest,
                        rows=rows,
                        shards=shards,
                        bytes=bytes,
                        created_at=self._database.now(connection),
                    )
                    .returning(*_COLUMNS)
                ).one()
                return Registration(Dataset(**row._mapping), created=True)
        except IntegrityError:
            # On PostgreSQL two registrations run side by side: the second meets the first's row here.
            with self._database.read() as connection:
                return Registration(Dataset(**connection.execute(same).one()._mapping), created=False)

    def get(self, dataset_id: str, *, owner: str | None = None) -> Dataset:
        """Return one dataset; with `owner`, only one of this owner. Raises NotFound."""
        with self._database.read() as connection:
            dataset = Dataset(**_select(connection, dataset_id)._mapping)
        if owner is not None and dataset.owner != owner:
            raise NotFound(f"there is no dataset {dataset_id!r}")
        return dataset

    def list(self, *, owner: str | None = None, limit: int = DEFAULT_PAGE, cursor: str | None = None) -> DatasetPage:
        """List datasets, newest first. Raises BadCursor."""
        query = sa.select(*_COLUMNS).order_by(datasets.c.id.desc()).limit(limit + 1)
        if owner is not None:
            query = query.where(datasets.c.owner == owner)
        if cursor is not None:
            query = query.where(datasets.c.id < cursors.decode(cursor))
        with self._database.read() as connection:
            found = connection.execute(query).all()
        items = [Dataset(**row._mapping) for row in found[:limit]]
        return DatasetPage(items, cursors.encode(items[-1].id) if len(found) > limit else None)

    def delete(self, dataset_id: str) -> None:
        """Forget a dataset. Raises NotFound; Conflict while an active job uses it."""
        with self._database.write() as connection:
            _select(connection, dataset_id, lock=True)
            refuse_used(connection, dataset_id)
            connection.execute(sa.delete(datasets).where(datasets.c.id == dataset_id))


def _select(connection: Connection, dataset_id: str, *, lock: bool = False) -> AnyRow:
    query = sa.select(*_COLUMNS).where(datasets.c.id == dataset_id)
    row = connection.execute(query.with_for_update() if lock else query).first() if is_id(dataset_id) else None
    if row is None:
        raise NotFound(f"there is no dataset {dataset_id!r}")
    return row
