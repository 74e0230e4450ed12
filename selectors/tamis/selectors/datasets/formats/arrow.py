"""Arrow IPC shards, in the file format and in the streaming format.

Rows and sizes of record batches are read from the messages' headers, so that opening a shard reads no data. Arrow's own
reader gives them only together with the (perhaps compressed) data; hence the few lines here that read flatbuffers, the
headers' encoding. Field numbers are from Arrow's Message.fbs and File.fbs, format version 1.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tamis.selectors.datasets.shard import DAMAGE, Inspected, Shard, Unit, check_text, content_digest, reason_of
from tamis.selectors.datasets.storage.local import Storage, StoredFile
from tamis.selectors.errors import DataError

MAGIC = b"ARROW1"
_FEATHER_1 = b"FEA1"
_CONTINUATION = b"\xff\xff\xff\xff"
_TRAILER = 10  # length of the footer and the magic
_MAX_HEADER = 2**28
_RECORD_BATCH = 3  # MessageHeader's members: 1 Schema, 2 DictionaryBatch, 3 RecordBatch
_MESSAGE_TYPE, _MESSAGE_HEADER, _MESSAGE_BODY = 1, 2, 3  # fields of Message
_BATCH_LENGTH = 0  # field of RecordBatch
_FOOTER_BATCHES = 3  # field of Footer: a vector of Block
_BLOCK = struct.Struct("<qi4xq")  # offset, length of the header, length of the body


class _Table:
    """A flatbuffer's table: fields by number, absent ones as None."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        vtable = position - struct.unpack_from("<i", data, position)[0]
        if not 0 <= vtable <= len(data) - 4:
            raise struct.error("a vtable outside of the buffer")
        self._vtable = vtable
        self._size = struct.unpack_from("<H", data, vtable)[0]

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _at(self, number: int) -> int | None:
        entry = 4 + 2 * number
        if entry + 2 > self._size:
            return None
        offset = struct.unpack_from("<H", self._data, self._vtable + entry)[0]
        return self._position + offset if offset else None

    def scalar(self, number: int, form: str) -> int:
        place = self._at(number)
        return 0 if place is None else int(struct.unpack_from(form, self._data, place)[0])

    def table(self, number: int) -> _Table:
        place = self._at(number)
        if place is None:
            raise struct.error("a table is missing")
        return _Table(self._data, place + struct.unpack_from("<I", self._data, place)[0])

    def structs(self, number: int, form: struct.Struct) -> list[tuple[int, ...]]:
        place = self._at(number)
        if place is None:
            return []
        place += struct.unpack_from("<I", self._data, place)[0]
        count = struct.unpack_from("<I", self._data, place)[0]
        if count * form.size > len(self._data):
            raise struct.error("a vector outside of the buffer")
        return [form.unpack_from(self._data, place + 4 + index * form.size) for index in range(count)]


class _Message(NamedTuple):
    kind: int
    rows: int  # of a record batch
    header: int  # bytes before the body, prefix and padding included
    body: int


def _message(source: pa.NativeFile, start: int) -> _Message | None:
    """Read the message's header at `start`; None at the end of a stream."""
    source.seek(start)
    prefix = source.read(8)
    if len(prefix) == 0 or prefix[:8] in (_CONTINUATION + bytes(4), bytes(8)) or prefix == bytes(4):
        return None
    modern = prefix[:4] == _CONTINUATION
    if modern and len(prefix) < 8:
        raise struct.error("the file ends inside a message")
    length = struct.unpack_from("<i", prefix, 4 if modern else 0)[0]
    if length == 0 and not modern:
        return None
    first = 8 if modern else 4  # before Arrow 0.15 there was no continuation marker
    if not 0 < length <= _MAX_HEADER:
        raise struct.error("a message's length makes no sense")
    source.seek(start + first)
    data = source.read(length)
    if len(data) < length:
        raise struct.error("the file ends inside a message")
    root = _Table.root(data)
    kind, body = root.scalar(_MESSAGE_TYPE, "<B"), root.scalar(_MESSAGE_BODY, "<q")
    rows = root.table(_MESSAGE_HEADER).scalar(_BATCH_LENGTH, "<q") if kind == _RECORD_BATCH else 0
    if body < 0 or rows < 0:
        raise struct.error("a message's length makes no sense")
    return _Message(kind, rows, first + length, body)


def inspect(storage: Storage, file: StoredFile) -> Inspected:
    """Read the schema and the headers of all record batches.

    Raises
    ------
    DataError
        When it is no Arrow IPC file, or is truncated or damaged.
    """
    with storage.open(file, mapped=False) as source:
        return _inspect(source, file)


def _inspect(source: pa.NativeFile, file: StoredFile) -> Inspected:
    head = source.read(8)
    if head[:4] == _FEATHER_1:
        raise DataError(
            f"{file.uri} is a Feather version 1 file: write it again as Arrow IPC (Feather version 2).", shard=file.uri
        )
    streaming = head[:6] != MAGIC
    if streaming and head[:4] != _CONTINUATION and not 0 < int.from_bytes(head[:4], "little") <= _MAX_HEADER:
        raise DataError(f"{file.uri} is not an Arrow IPC file or stream.", shard=file.uri)
    try:
        rows, sizes, starts = _walk(source, file.size) if streaming else _blocks(source, file.size)
        source.seek(0)
        schema = (pa.ipc.open_stream(source) if streaming else pa.ipc.open_file(source)).schema
        _: list[str] = schema.names  # raises for a name that is not UTF-8
    except (struct.error, *DAMAGE) as error:
        raise DataError(f"{file.uri} is truncated or damaged: {reason_of(error)}.", shard=file.uri) from error
    return Inspected(
        schema=schema,
        digest=content_digest(source, file.size, "arrow"),
        bytes=sum(sizes),
        rows=sum(rows),
        piece_rows=np.array(rows, np.int64),
        piece_bytes=np.array(sizes, np.int64),
        streaming=streaming,
        starts=np.array(starts, np.int64),
    )


def _blocks(source: pa.NativeFile, size: int) -> tuple[list[int], list[int], list[int]]:
    source.seek(max(0, size - _TRAILER))
    trailer = source.read(_TRAILER)
    if len(trailer) < _TRAILER or trailer[4:] != MAGIC:
        raise struct.error("there is no footer at its end")
    length = int.from_bytes(trailer[:4], "little")
    if not 0 < length <= size - _TRAILER:
        raise struct.error("its footer's length makes no sense")
    source.seek(size - _TRAILER - length)
    blocks = _Table.root(source.read(length)).structs(_FOOTER_BATCHES, _BLOCK)
    rows, sizes = [], []
    for start, header, body in blocks:
        if min(start, header, body) < 0 or start + header + body > size:
            raise struct.error("a record batch lies outside of the file")
        message = _message(source, start)
        if message is None or message.kind != _RECORD_BATCH:
            raise struct.error("its footer points to what is no record batch")
        rows.append(message.rows)
        sizes.append(body)
    return rows, sizes, [start for start, _, _ in blocks]


def _walk(source: pa.NativeFile, size: int) -> tuple[list[int], list[int], list[int]]:
    rows: list[int] = []
    sizes: list[int] = []
    starts: list[int] = []
    place = 0
    while place < size:
        message = _message(source, place)
        if message is None:
            break
        after = place + message.header + message.body
        if after > size:
            raise struct.error("the file ends inside a record batch")
        if message.kind == _RECORD_BATCH:
            rows.append(message.rows)
            sizes.append(message.body)
            starts.append(place)
        place = after
    return rows, sizes, starts


def read(storage: Storage, shard: Shard, unit: Unit, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the columns `names` of the unit's record batches in order, without a copy where they are not compressed.

    Raises
    ------
    DataError
        With the record batch, and the column and row where they are known.
    """
    assert shard.schema is not None
    uri = shard.file.uri
    options = pa.ipc.IpcReadOptions(
        included_fields=[shard.schema.get_field_index(name) for name in names], use_threads=False
    )
    offset = int(shard.inspected.piece_rows[: unit.start].sum())
    number = unit.start

    def locate(row: int | None) -> dict[str, Any]:
        return {"record_batch": number} if row is None else {"record_batch": number, "row": offset + row}

    try:
        batches = _batches(storage.open(shard.file), shard, unit, options)
        for number in range(unit.start, unit.stop):
            batch = next(batches).select(list(names))
            if batch.num_rows != shard.inspected.piece_rows[number]:
                raise DataError(f"Record batch {number} of {uri} is damaged.", shard=uri, record_batch=number)
            check_text(batch, uri, locate)
            yield batch
            offset += batch.num_rows
    except DAMAGE as error:
        raise DataError(
            f"Record batch {number} of {uri} can't be read: {reason_of(error)}. The file is damaged: write it again.",
            shard=uri,
            record_batch=number,
        ) from error


def _batches(
    source: pa.NativeFile, shard: Shard, unit: Unit, options: pa.ipc.IpcReadOptions
) -> Iterator[pa.RecordBatch]:
    if not shard.inspected.streaming:
        file = pa.ipc.open_file(source, options=options)
        for number in range(unit.start, unit.stop):
            yield file.get_batch(number)
        return
    stream = pa.ipc.open_stream(source, options=options)
    skipped = 0
    if not any(map(_holds_dictionary, shard.schema.types if shard.schema else [])):
        source.seek(int(shard.inspected.starts[unit.start]))  # nothing that comes before is needed
        skipped = unit.start
    for number in range(skipped, unit.stop):
        batch = stream.read_next_batch()
        if number >= unit.start:
            yield batch


def _holds_dictionary(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return True
    return any(_holds_dictionary(type_.field(index).type) for index in range(type_.num_fields))
