"""Datasets: a manifest opened, its shards cut into units, and the readers of its roles."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.selectors.datasets.batch import BadRow, RoleBatch, conform, slices
from tamis.selectors.datasets.columns import RoleColumns, ShardSchema, column_names, first_there, resolve
from tamis.selectors.datasets.formats import arrow, jsonl, parquet
from tamis.selectors.datasets.manifest import check_rows, open_shards
from tamis.selectors.datasets.role_types import VECTOR_ROLES
from tamis.selectors.datasets.shard import Shard, Unit, canonical_digest, cut, reason_of
from tamis.selectors.datasets.storage.local import Storage, StoredFile
from tamis.selectors.errors import DataError, InputsChanged, Invalid, StorageError
from tamis.selectors.schema.request import Manifest, Role, ShardRef

_HASH_BYTES = 8 * 2**20

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """An opened manifest. Nothing of it changes; several threads may read at once; it can be pickled."""

    manifest: Manifest  # as it was given
    storage: Storage
    shards: Sequence[Shard]
    units: Sequence[Unit]
    columns: RoleColumns
    digest: str  # of the shards' contents, in order, and of the role columns: a copy elsewhere has the same
    pointer: str = "/dataset"  # JSON Pointer of the manifest in the request, for errors

    @classmethod
    def open(
        cls,
        manifest: Manifest,
        storage: Storage,
        *,
        needs: Collection[Role],
        either: Sequence[Role] = (),
        pointer: str = "/dataset",
    ) -> Dataset:
        """Open `manifest`: expand globs, read footers and headers, check the role columns in every shard.

        Parameters
        ----------
        manifest : Manifest
        storage : Storage
        needs : collection of Role
            Roles that must have a column; other roles have one only when the manifest names it.
        either : sequence of Role
            Roles of which one must have a column; where the manifest names none, the first that all shards have.
        pointer : str
            JSON Pointer of the manifest in the request, for errors.

        Raises
        ------
        Invalid
            A uri that names nothing, a shard named twice, an unknown format, a wrong column or type, a wrong declared
            number of rows; with the pointer, and shard and column where they are at fault.
        Forbidden
            A uri outside of what may be read.
        DataError
            A shard that is not what its format says, or is damaged.
        """
        names = column_names(manifest.columns, {*needs, *either}, pointer)
        shards = open_shards(manifest, storage, names, pointer)
        schemas = [ShardSchema(shard.file.uri, shard.format, shard.schema) for shard in shards]
        columns = resolve(
            manifest.columns, {*needs, *first_there(manifest.columns, either, schemas, pointer)}, schemas, pointer
        )
        units: list[Unit] = []
        for shard in shards:
            units.extend(cut(shard, len(units)))
        digest = canonical_digest([[shard.digest for shard in shards], columns.key(columns.roles)])
        return cls(manifest, storage, shards, units, columns, digest, pointer)

    # -- rows

    @cached_property
    def rows(self) -> int | None:
        """Rows of all shards; None while JSON-lines shards are not counted."""
        counts = [shard.rows for shard in self.shards]
        return None if None in counts else sum(count for count in counts if count is not None)

    @cached_property
    def bytes(self) -> int:
        """Uncompressed bytes of the role columns (Parquet), or of whole files where the format tells no more."""
        names = self.columns.columns_read(self.columns.roles)
        return sum(
            sum(int(shard.inspected.column_bytes[name].sum()) for name in names)
            if shard.format == "parquet"
            else shard.inspected.bytes
            for shard in self.shards
        )

    @cached_property
    def row_starts(self) -> Ints | None:
        """Number of each unit's first row over the whole dataset, int64[units + 1]; None while rows are unknown."""
        return _starts([unit.rows for unit in self.units])

    @cached_property
    def shard_starts(self) -> Ints | None:
        """Number of each shard's first row over the whole dataset, int64[shards + 1]; None while rows are unknown."""
        return _starts([shard.rows for shard in self.shards])

    def count_rows(self, unit: Unit) -> int:
        """Return a unit's rows, counting a JSON-lines unit's lines that are not blank.

        Raises
        ------
        DataError
            When a compressed shard is damaged.
        """
        if unit.rows is not None:
            return unit.rows
        return jsonl.count_rows(self.storage, self.shards[unit.shard], unit)

    def with_rows(self, counts: Sequence[int]) -> Dataset:
        """Return the dataset with the rows of every unit known.

        Parameters
        ----------
        counts : sequence of int
            What :meth:`count_rows` returns for each unit, in order.

        Raises
        ------
        Invalid
            When a shard has another number of rows than the manifest declares.
        """
        if len(counts) != len(self.units):
            raise ValueError(f"{len(counts)} counts for {len(self.units)} units")
        totals = [0] * len(self.shards)
        for unit, count in zip(self.units, counts, strict=True):
            if unit.rows not in (None, count):
                raise ValueError(f"unit {unit.index} has {unit.rows} rows, not {count}")
            totals[unit.shard] += int(count)
        shards = [replace(shard, rows=total) for shard, total in zip(self.shards, totals, strict=True)]
        for shard in shards:
            check_rows(shard, self.pointer)
        units = [replace(unit, rows=int(count)) for unit, count in zip(self.units, counts, strict=True)]
        return replace(self, shards=shards, units=units)

    def locate(self, rows: npt.ArrayLike) -> tuple[npt.NDArray[np.int32], Ints]:
        """Return where rows are: shard int32[k] and number inside the shard int64[k].

        Raises
        ------
        Invalid
            When a row is not in the dataset.
        """
        starts = self.shard_starts
        if starts is None:
            raise ValueError("rows are not counted yet")
        wanted = np.asarray(rows, dtype=np.int64)
        outside = (wanted < 0) | (wanted >= starts[-1])
        if outside.any():
            row = int(wanted[outside][0])
            raise Invalid(f"There is no row {row}: the dataset has {int(starts[-1])}, counted from 0.")
        shard = np.searchsorted(starts, wanted, side="right") - 1  # past shards without rows
        return shard.astype(np.int32), wanted - starts[shard]

    # -- reading

    def read(self, unit: Unit, roles: Collection[Role]) -> Iterator[RoleBatch]:
        """Yield the unit's rows in order, only the columns of `roles` read, in bounded batches.

        Raises
        ------
        DataError
            Data that can't be read or used; with shard, column and place (row group and row, or line).
        InputsChanged
            The file is gone or was replaced.
        """
        dimensions = {role: self.dimension(role) for role in roles if role in VECTOR_ROLES}
        file = self.shards[unit.shard].file
        try:
            yield from self._read(unit, roles, dimensions)
        except DataError as error:
            self._check_version(file)
            blamed = self.storage.blame(file, error)
            if blamed is error:
                raise
            raise blamed from error
        except OSError as error:
            raise StorageError(f"{file.uri} can't be read: {reason_of(error)}.", shard=file.uri) from error
        # A file that was replaced while it was read may have given some of the old and some of the new.
        self._check_version(file)

    def dimension(self, role: Role) -> int:
        """Return the length of a role's vectors: the schema's, or else the first row's; 0 when there are no rows."""
        known = self.columns[role].dimension
        if known is not None:
            return known
        for unit in self.units:
            for batch in self._read(unit, [role], {}):
                return int(batch.columns[role].type.list_size)
        return 0

    def _read(self, unit: Unit, roles: Collection[Role], dimensions: Mapping[Role, int]) -> Iterator[RoleBatch]:
        shard = self.shards[unit.shard]
        names = self.columns.columns_read(roles)
        if not names:
            raise ValueError("no role to read")
        start = 0
        for physical in self._physical(shard, unit, names):
            for part in slices(physical):
                arrays: dict[Role, pa.Array] = {}
                for role in roles:
                    try:
                        arrays[role] = conform(self.columns[role], part, dimensions.get(role))
                    except BadRow as error:
                        raise self._blame(unit, start + error.row, error) from None
                yield RoleBatch(start, part.num_rows, arrays)
                start += part.num_rows

    def reading(self, unit: Unit, roles: Collection[Role]) -> dict[str, Any]:
        """Return, as JSON values, everything but the file's bytes that decides what :meth:`read` yields.

        A JSON-lines shard is read in the types that all shards of the dataset agree on: next to others it may read as
        something else than alone.
        """
        key = self.columns.key(roles)
        shard = self.shards[unit.shard]
        if shard.format != "jsonl":
            return key
        asked = self.columns.json_schema(self.columns.columns_read(roles), shard.schema)
        return key | {"json": {field.name: str(field.type) for field in asked}}

    def _physical(self, shard: Shard, unit: Unit, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        if shard.format == "parquet":
            return parquet.read(self.storage, shard, unit, names)
        if shard.format == "arrow":
            return arrow.read(self.storage, shard, unit, names)
        return jsonl.read(self.storage, shard, unit, self.columns.json_schema(names, shard.schema))

    def refuse(self, unit: int, row: int, role: Role, detail: str) -> DataError:
        """Return the error that the value of `role` in row `row` of a unit can't be used, with where it is."""
        names = ", ".join(self.columns[role].columns_read())
        return self._blame(self.units[unit], row, BadRow(row, detail, names))

    def _blame(self, unit: Unit, row: int, error: BadRow) -> DataError:
        """Return an error that names the place of the unit's row `row`."""
        shard = self.shards[unit.shard]
        uri = shard.file.uri
        place: dict[str, Any]
        if shard.format == "jsonl":
            line = jsonl.line_of_row(self.storage, shard, unit, row)
            text, place = f"line {line}", {"line": line}
        else:
            row += int(shard.inspected.piece_rows[: unit.start].sum())
            piece, number = shard.piece_of(row)
            text, place = f"row {row} ({piece.replace('_', ' ')} {number})", {piece: number, "row": row}
        return DataError(
            f"The column '{error.column}' of {uri} can't be used at {text}: {error.detail}",
            shard=uri,
            column=error.column,
            **place,
        )

    # -- the files

    def verify(self) -> None:
        """Check that every file is still the one that was opened.

        Raises
        ------
        InputsChanged
            With the first shard that is not.
        """
        for shard in self.shards:
            self._check_version(shard.file)

    def _check_version(self, file: StoredFile) -> None:
        version = self.storage.version(file)
        if version != file.version:
            happened = "is gone" if version is None else "was changed or replaced"
            raise InputsChanged(f"{file.uri} {happened} since the dataset was opened.", shard=file.uri)

    def check_declared(self) -> None:
        """Read the files whose sha256 the manifest declares, and compare.

        Raises
        ------
        DataError
            With the first shard whose content is another.
        """
        for shard in self.shards:
            if shard.declared_sha256 is None:
                continue
            digest = hashlib.sha256()
            source = self.storage.open(shard.file)
            while block := source.read(_HASH_BYTES):
                digest.update(block)
            if digest.hexdigest() != shard.declared_sha256:
                raise DataError(
                    f"{shard.file.uri} has the sha256 {digest.hexdigest()}; the manifest declares "
                    f"{shard.declared_sha256}.",
                    pointer=f"{self.pointer}/shards/{shard.entry}/sha256",
                    shard=shard.file.uri,
                )

    def resolved(self) -> Manifest:
        """Return the manifest with its globs expanded to absolute uris, and the format where it is the same for all."""
        shards = [
            shard.file.uri
            if shard.declared_rows is None and shard.declared_sha256 is None
            else ShardRef(uri=shard.file.uri, rows=shard.declared_rows, sha256=shard.declared_sha256)
            for shard in self.shards
        ]
        formats = {shard.format for shard in self.shards}
        return self.manifest.model_copy(
            update={"shards": shards, "format": formats.pop() if len(formats) == 1 else None}
        )


def _starts(counts: Sequence[int | None]) -> Ints | None:
    if None in counts:
        return None
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(counts, np.int64))])
