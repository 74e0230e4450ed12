"""Totals of what workers counted."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from tamis.service.metrics_model import Key
from tamis.service.store.database import Database
from tamis.service.store.models import totals


class Totals:
    """Totals by metric, selector and label."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, amounts: Mapping[Key, float]) -> None:
        """Add `amounts` to the totals, all or none of them."""
        if not amounts:
            return
        # In one order everywhere: two workers that add at once wait for each other, and never in a circle.
        rows = [{**key._asdict(), "value": amounts[key]} for key in sorted(amounts)]
        insert = (sqlite if self._database.is_sqlite else postgresql).insert(totals)
        added = insert.on_conflict_do_update(
            index_elements=[totals.c.name, totals.c.selector, totals.c.label],
            set_={"value": totals.c.value + insert.excluded.value},
        )
        with self._database.write() as connection:
            connection.execute(added, rows)

    def read(self) -> dict[Key, float]:
        """Return all totals."""
        with self._database.read() as connection:
            return {Key(row.name, row.selector, row.label): row.value for row in connection.execute(select(totals))}
