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
from tamis.selectors.datasets.formats.parquet_footer import FooterError, column_chunks
from tamis.selectors.datasets.role_types import is_text
from tamis.selectors.datasets.shard import DAMAGE, Inspected, Ints, Shard, Unit, check_text, content_digest, reason_of
from tamis.selectors.datasets.storage.local import Storage, StoredFile
from tamis.selectors.errors import DataError

MAGIC = b"PAR1"
_TAIL = 8  # length of the footer and the magic
_CACHED_FOOTERS = 32
MEASURED_CHUNKS = 5_000
"""Column chunks whose sizes are read from a footer; one takes about 15 microseconds."""

FETCH_BYTES = 4 * 2**20
"""Of a column, at a time, from a store that is no local disk."""

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
    try:
        columns = _column_bytes(footer[:-_TAIL], rows, names)
    except FooterError as error:
        raise DataError(f"The Parquet footer of {file.uri} is damaged: {error}.", shard=file.uri) from error
    _footers.put(file, metadata)
    return Inspected(
        schema=schema,
        digest=digest,
        bytes=int(sizes.sum()),
        rows=metadata.num_rows,
        piece_rows=rows,
        piece_bytes=sizes,
        column_bytes=columns,
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
    source = storage.open(shard.file)
    groups = list(range(unit.start, unit.stop))
    offset = int(shard.inspected.piece_rows[: unit.start].sum())  # of the unit's first row in the shard
    done = 0

    def locate(row: int | None) -> dict[str, Any]:
        place, number = shard.piece_of(offset + done + (row or 0))
        return {place: number} if row is None else {place: number, "row": offset + done + row}

    try:
        metadata = _footers.get(shard.file)
        rows, repeated = _plan(shard, slice(unit.start, unit.stop), names)
        # What is mapped is there already; of anything else a column chunk would be fetched whole, however large.
        fetched = 0 if isinstance(source, pa.BufferReader) else FETCH_BYTES
        reader = pq.ParquetFile(
            source,
            metadata=metadata,
            read_dictionary=repeated,
            page_checksum_verification=True,
            pre_buffer=False,
            buffer_size=fetched,
        )
        if metadata is None:
            _footers.put(shard.file, reader.metadata)
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


def _column_bytes(footer: bytes, rows: Ints, names: Collection[str]) -> dict[str, Ints]:
    """Return the uncompressed bytes of each column in each row group, int64[row groups].

    After MEASURED_CHUNKS column chunks the rest is taken to be like those before: they are estimates anyway.
    """
    sizes = {name: np.zeros(len(rows), np.int64) for name in names}
    seen = 0
    for measured, chunks in enumerate(column_chunks(footer)):
        if measured >= len(rows):
            raise FooterError("it holds more row groups than it says")
        for chunk in chunks:
            if chunk.column in sizes:
                sizes[chunk.column][measured] += chunk.bytes
        seen += len(chunks)
        if seen > MEASURED_CHUNKS:
            known = slice(0, measured + 1)
            for size in sizes.values():
                size[measured + 1 :] = rows[measured + 1 :] * (size[known].sum() / max(1, rows[known].sum()))
            break
    return sizes


def _plan(shard: Shard, groups: slice, names: Sequence[str]) -> tuple[int, list[str]]:
    """Return rows a batch, from what the row groups' columns take, and the columns to read as dictionaries.

    A column of few distinct strings is small in the file and may be huge once decoded: what the footer says of its size
    says nothing. Read as a dictionary it stays small, and the batches are cut before it is decoded.
    """
    assert shard.schema is not None
    rows = shard.inspected.piece_rows[groups]
    rows, held = rows[rows > 0], rows > 0
    widths = {name: shard.inspected.column_bytes[name][groups][held] / rows for name in names}
    repeated = [
        name for name in names if is_text(shard.schema.field(name).type) and widths[name].min() < REPEATED_BYTES
    ]
    widest = float(np.sum(list(widths.values()), axis=0).max())
    return max(1, min(MAX_BATCH_ROWS, int(MAX_BATCH_BYTES / max(widest, 1.0)))), repeated


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
