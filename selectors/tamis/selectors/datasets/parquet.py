"""Parquet shards: footers, and row groups read in bounded batches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.selectors.datasets.batch import MAX_BATCH_BYTES, MAX_BATCH_ROWS
from tamis.selectors.datasets.columns import is_text
from tamis.selectors.datasets.shard import DAMAGE, Inspected, Shard, Unit, check_text, content_digest, reason_of
from tamis.selectors.datasets.storage import Storage, StoredFile
from tamis.selectors.errors import DataError

MAGIC = b"PAR1"
_TAIL = 8  # length of the footer and the magic
_CACHED_FOOTERS = 32
REPEATED_BYTES = 8
"""Encoded bytes a row below which a text column must be a dictionary of few values: 4 is what a length alone takes."""


class _Footers:
    """Parsed footers of the shards read last, so that a shard of many units is parsed once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], pq.FileMetaData] = OrderedDict()

    def get(self, file: StoredFile) -> pq.FileMetaData | None:
        with self._lock:
            found = self._known.get((file.path, file.version))
            if found is not None:
                self._known.move_to_end((file.path, file.version))
            return found

    def put(self, file: StoredFile, metadata: pq.FileMetaData) -> None:
        with self._lock:
            self._known[file.path, file.version] = metadata
            while len(self._known) > _CACHED_FOOTERS:
                self._known.popitem(last=False)


_footers = _Footers()


def inspect(storage: Storage, file: StoredFile, names: Collection[str]) -> Inspected:
    """Read the footer; `names` are the columns whose bytes are wanted.

    Raises
    ------
    DataError
        When it is no Parquet file, or its footer is damaged.
    """
    with storage.open(file, mapped=False) as source:
        footer = _footer(source, file)
        digest = content_digest(source, file.size, "parquet", footer)
    try:
        reader = pq.ParquetFile(pa.BufferReader(MAGIC + footer))  # a file's metadata are all in its footer
        schema, metadata = reader.schema_arrow, reader.metadata
        _: list[str] = schema.names  # raises for a name that is not UTF-8
    except DAMAGE as error:
        raise DataError(f"The Parquet footer of {file.uri} is damaged: {reason_of(error)}.", shard=file.uri) from error
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    rows = np.array([group.num_rows for group in groups], np.int64)
    sizes = np.array([max(0, group.total_byte_size) for group in groups], np.int64)
    if (rows < 0).any() or int(rows.sum()) != metadata.num_rows:
        raise DataError(f"The Parquet footer of {file.uri} contradicts itself about the rows.", shard=file.uri)
    _footers.put(file, metadata)
    return Inspected(
        schema=schema,
        digest=digest,
        bytes=int(sizes.sum()),
        rows=metadata.num_rows,
        piece_rows=rows,
        piece_bytes=sizes,
        column_bytes={
            name: sum(
                group.column(leaf).total_uncompressed_size for group in groups for leaf in _leaves(metadata, [name])
            )
            for name in names
        },
    )


def _footer(source: pa.NativeFile, file: StoredFile) -> bytes:
    """Return the footer with its length and the magic."""
    if file.size < len(MAGIC) + _TAIL or source.read(len(MAGIC)) != MAGIC:
        raise DataError(f"{file.uri} is not a Parquet file (it does not start with 'PAR1').", shard=file.uri)
    source.seek(file.size - _TAIL)
    tail = source.read(_TAIL)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or length + _TAIL > file.size:
        raise DataError(f"{file.uri} has no Parquet footer at its end: it is truncated or damaged.", shard=file.uri)
    source.seek(file.size - _TAIL - length)
    footer: bytes = source.read(length + _TAIL)
    return footer


def read(storage: Storage, shard: Shard, unit: Unit, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the columns `names` of the unit's row groups in order.

    Raises
    ------
    DataError
        With row group and column where they can be found out.
    """
    assert shard.schema is not None
    source = storage.open(shard.file)
    groups = list(range(unit.start, unit.stop))
    offset = int(shard.inspected.piece_rows[: unit.start].sum())  # of the unit's first row in the shard
    done = 0

    def locate(row: int) -> dict[str, Any]:
        place, number = shard.piece_of(offset + done + row)
        return {place: number, "row": offset + done + row}

    try:
        metadata = _footers.get(shard.file)
        if metadata is None:
            metadata = pq.ParquetFile(source).metadata
            _footers.put(shard.file, metadata)
        rows, repeated = _plan(metadata, shard.schema, groups, names)
        reader = pq.ParquetFile(
            source, metadata=metadata, read_dictionary=repeated, page_checksum_verification=True, pre_buffer=False
        )
        batches = reader.iter_batches(batch_size=rows, row_groups=groups, columns=list(names), use_threads=False)
        while True:
            batch = next(batches, None)
            if batch is None:
                break
            if batch.num_rows == 0:
                continue
            batch = batch.select(list(names))  # a dotted name also names a nested field: that one goes
            check_text(batch, shard.file.uri, locate)
            yield batch
            done += batch.num_rows
    except DAMAGE as error:
        raise _damaged(source, shard, unit, names, error) from error
    if done != unit.rows:
        raise DataError(
            f"{shard.file.uri} holds {done} rows where its footer says {unit.rows}: it is damaged.",
            shard=shard.file.uri,
            row_group=unit.start,
        )


def _leaves(metadata: pq.FileMetaData, names: Collection[str]) -> list[int]:
    paths = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    return [
        leaf for leaf, path in enumerate(paths) if any(path == name or path.startswith(name + ".") for name in names)
    ]


def _plan(
    metadata: pq.FileMetaData, schema: pa.Schema, groups: Sequence[int], names: Sequence[str]
) -> tuple[int, list[str]]:
    """Return rows a batch, from what the row groups' columns take, and the columns to read as dictionaries.

    A column of few distinct strings is small in the file and may be huge once decoded: what the footer says of its size
    says nothing. Read as a dictionary it stays small, and the batches are cut before it is decoded.
    """
    widest = 0.0
    repeated: set[str] = set()
    for name in names:
        leaves = _leaves(metadata, [name])
        for group in groups:
            rows = metadata.row_group(group).num_rows
            if rows == 0:
                continue
            width = sum(metadata.row_group(group).column(leaf).total_uncompressed_size for leaf in leaves) / rows
            if width < REPEATED_BYTES and is_text(schema.field(name).type):
                repeated.add(name)
    for group in groups:
        rows = max(1, metadata.row_group(group).num_rows)
        size = sum(metadata.row_group(group).column(leaf).total_uncompressed_size for leaf in _leaves(metadata, names))
        widest = max(widest, size / rows)
    return max(1, min(MAX_BATCH_ROWS, int(MAX_BATCH_BYTES / max(widest, 1.0)))), sorted(repeated)


def _damaged(source: pa.NativeFile, shard: Shard, unit: Unit, names: Sequence[str], error: Exception) -> DataError:
    """Find the row group and the column that can't be read, by reading each alone."""
    for group in range(unit.start, unit.stop):
        for name in names:
            try:
                reader = pq.ParquetFile(source, page_checksum_verification=True)
                for _ in reader.iter_batches(row_groups=[group], columns=[name], use_threads=False):
                    pass
            except DAMAGE as found:
                return DataError(
                    f"The column '{name}' in row group {group} of {shard.file.uri} can't be read: {reason_of(found)}. "
                    "The file is damaged: write it again.",
                    shard=shard.file.uri,
                    row_group=group,
                    column=name,
                )
    return DataError(f"{shard.file.uri} can't be read: {reason_of(error)}.", shard=shard.file.uri, row_group=unit.start)
