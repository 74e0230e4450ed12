"""How many bytes each column of a Parquet file takes, from its footer.

pyarrow knows, but its Python classes for a column chunk let a C++ exception through when a footer contradicts itself,
and that ends the process (seen with version 26: "Definition level histogram size mismatch"). Footers come from users
and are read in the service, so the few numbers that are wanted are read here. Field numbers are from parquet.thrift,
the encoding is Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_STOP = 0
_TRUE, _FALSE, _BYTE = 1, 2, 3
_INTEGERS = (4, 5, 6)  # i16, i32, i64: zigzag varints
_DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 7, 8, 9, 10, 11, 12
_MAX_DEPTH = 32

_FILE_ROW_GROUPS = 4  # fields of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData
_GROUP_COLUMNS = 1
_CHUNK_METADATA = 3
_PATH, _UNCOMPRESSED = 3, 6


class FooterError(ValueError):
    """The footer is not what Thrift's compact protocol allows."""


class ColumnChunk(NamedTuple):
    """One leaf column in one row group."""

    column: str  # its top-level name
    bytes: int  # uncompressed, encoded


def column_chunks(footer: bytes) -> Iterator[list[ColumnChunk]]:
    """Yield the column chunks of each row group in order.

    Parameters
    ----------
    footer : bytes
        The serialised FileMetaData, without its length and the magic.

    Raises
    ------
    FooterError
        When it can't be read.
    """
    reader = _Compact(footer)
    try:
        for field, kind in reader.fields():
            if field != _FILE_ROW_GROUPS or kind != _LIST:
                reader.skip(kind)
                continue
            for _ in range(reader.list_of(_STRUCT)):
                yield _row_group(reader)
    except (IndexError, UnicodeDecodeError) as error:
        raise FooterError("it ends too early or holds what is no text") from error


def _row_group(reader: _Compact) -> list[ColumnChunk]:
    chunks: list[ColumnChunk] = []
    for field, kind in reader.fields():
        if field == _GROUP_COLUMNS and kind == _LIST:
            chunks.extend(_chunk(reader) for _ in range(reader.list_of(_STRUCT)))
        else:
            reader.skip(kind)
    return chunks


def _chunk(reader: _Compact) -> ColumnChunk:
    name, size = "", 0
    for outer, kind in reader.fields():
        if outer != _CHUNK_METADATA or kind != _STRUCT:
            reader.skip(kind)
            continue
        for field, inner in reader.fields():
            if field == _PATH and inner == _LIST:
                parts = [reader.text() for _ in range(reader.list_of(_BINARY))]
                name = parts[0] if parts else ""
            elif field == _UNCOMPRESSED and inner in _INTEGERS:
                size = reader.integer()
            else:
                reader.skip(inner)
    return ColumnChunk(name, max(0, size))


class _Compact:
    """A reader of Thrift's compact protocol; IndexError past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield (number, type) of a struct's fields; the caller reads or skips each value."""
        number = 0
        while True:
            head = self._byte()
            if head == _STOP:
                return
            number = number + (head >> 4) if head >> 4 else self.integer()
            yield number, head & 15

    def list_of(self, kind: int) -> int:
        """Read the head of a list whose elements are `kind`; return its length."""
        length, found = self._list_head()
        if length and found != kind:
            raise FooterError("a list holds another type than the format says")
        return length

    def integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def text(self) -> str:
        length = self._varint()
        self._advance(length)
        return self._data[self._place - length : self._place].decode()

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over one value."""
        if depth > _MAX_DEPTH:
            raise FooterError("it is nested too deeply")
        if kind in _INTEGERS:
            self._varint()
        elif kind == _BINARY:
            self._advance(self._varint())
        elif kind in (_TRUE, _FALSE):
            pass  # of a field, the type is the value
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind in (_LIST, _SET):
            length, inner = self._list_head()
            for _ in range(length):
                self.skip(_BYTE if inner in (_TRUE, _FALSE) else inner, depth + 1)
        elif kind == _BYTE:
            self._advance(1)
        elif kind == _DOUBLE:
            self._advance(8)
        elif kind == _MAP:
            length = self._varint()
            kinds = self._byte() if length else 0
            for _ in range(length):
                self.skip(kinds >> 4, depth + 1)
                self.skip(kinds & 15, depth + 1)
        else:
            raise FooterError(f"it holds a value of the unknown type {kind}")

    def _list_head(self) -> tuple[int, int]:
        head = self._byte()
        length = self._varint() if head >> 4 == 15 else head >> 4
        if length > len(self._data):
            raise FooterError("a list is longer than the footer")
        return length, head & 15

    def _byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1]

    def _varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise FooterError("a number has more than 64 bits")

    def _advance(self, count: int) -> None:
        self._place += count
        if self._place > len(self._data):
            raise IndexError(self._place)
