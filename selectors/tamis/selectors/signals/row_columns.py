"""Tasks that read row counts, strata and sizes, unit by unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.selectors.schema.request import Role
from tamis.selectors.signals.store import with_metadata
from tamis.selectors.signals.task import UnitReader, unit_task

if TYPE_CHECKING:
    from tamis.selectors.signals.store import Mapped

MAX_NAMES = 100_000
"""Strata, or groups, that a dataset may have: more are ids rather than groups, and take kilobytes each."""

NULL_STRATUM = "null"
"""The stratum of rows whose group or label is null."""


class UnitColumn(Sequence[np.ndarray]):
    """One numeric column of a map's results, unit by unit."""

    def __init__(self, tables: Mapped, name: str) -> None:
        self._tables = tables
        self._name = name

    def __len__(self) -> int:
        return len(self._tables)

    def __getitem__(self, unit: Any) -> Any:
        return self._tables.column(unit, self._name)


class StratumCodes(Sequence[np.ndarray]):
    """Stratum codes unit by unit: each unit's own dictionary translated to the dataset's."""

    def __init__(self, tables: Mapped, codes: Mapping[str, int]) -> None:
        self._tables = tables
        self._codes = codes

    def __len__(self) -> int:
        return len(self._tables)

    def __getitem__(self, unit: Any) -> Any:
        groups = self._tables[unit].column("group").combine_chunks()
        own = np.array([self._codes[name] for name in groups.dictionary.to_pylist()], dtype=np.int32)
        return own[groups.indices.to_numpy()] if len(groups) else np.empty(0, np.int32)


@unit_task("rows.count_unit_rows", revision=1, roles=())
def count_unit_rows(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Count a JSON-lines unit's rows."""
    return with_metadata(pa.table({}), {"rows": reader.dataset.count_rows(reader.unit)})


def _read_names(reader: UnitReader, role: Role) -> pa.Table:
    """Return a role's values as a dictionary column of text; nulls become :data:`NULL_STRATUM`."""
    parts = [pc.fill_null(batch.strings(role), NULL_STRATUM) for batch in reader.batches()]
    whole = pa.chunked_array(parts, pa.string()).combine_chunks()
    return pa.table({"group": pc.dictionary_encode(whole)})


@unit_task("rows.read_groups", revision=1, roles=("group",))
def read_groups(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read the group column."""
    return _read_names(reader, "group")


@unit_task("rows.read_labels", revision=1, roles=("label",))
def read_labels(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read the label column as strata."""
    return _read_names(reader, "label")


@unit_task("rows.read_sizes", revision=1, roles=("size",))
def read_sizes(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read the size column, checked to be whole and not negative."""
    parts = [np.asarray(batch.ints("size"), dtype=np.int64) for batch in reader.batches()]
    return pa.table({"size": np.concatenate(parts) if parts else np.empty(0, np.int64)})
