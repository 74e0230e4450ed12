"""JSON-lines shards, plain or compressed: cut in whole lines here, parsed by pyarrow.

Every line is checked to be one ``{…}`` and to give one row before and after pyarrow sees it. That is what keeps row
numbers equal to line numbers (pyarrow takes two objects on a line, and one object on two lines), and pyarrow alive: it
dereferences a null pointer on a block whose values are all ``null`` (seen with version 26).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.json as pj

from tamis.selectors.datasets.formats import lines as whole
from tamis.selectors.datasets.formats.lines import (
    Lines,
    compressed_chunks,
    line_start,
    lines_of,
    plain_chunks,
    too_long,
)
from tamis.selectors.datasets.shard import (
    COMPRESSED_TEXT_RATIO,
    Compression,
    Inspected,
    Shard,
    Unit,
    content_digest,
)
from tamis.selectors.datasets.storage.local import Storage, StoredFile
from tamis.selectors.errors import DataError

HEAD_BYTES = 64 * 2**10
"""Whole lines of this much of a shard tell its columns; at least one line."""

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"
_ZSTD = (b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18")  # a frame, a skippable frame
_NEWLINE, _OPEN, _CLOSE, _RETURN = b"\n{}\r"
_INT64 = range(-(2**63), 2**63)


def _chunks(storage: Storage, shard: Shard, unit: Unit) -> Iterator[Lines]:
    """Yield the unit's lines: those whose first byte lies in its range."""
    source, uri = storage.open(shard.file), shard.file.uri
    if shard.compression == "none":
        begin = line_start(source, unit.start, shard.file.size)
        end = line_start(source, unit.stop, shard.file.size)
        buffers, first = plain_chunks(source, begin, end, uri), begin == 0
    else:
        buffers, first = compressed_chunks(source, shard.compression, uri, whole.CHUNK_BYTES), True
    seen = 0
    try:
        for number, buffer in enumerate(buffers):
            lines = lines_of(buffer, first=first and number == 0)
            yield lines
            seen += len(lines.starts)
    except OSError as error:
        raise DataError(
            f"{uri} can't be decompressed after line {seen}: {error}. The file is truncated or damaged.",
            shard=uri,
            line=seen + 1,
        ) from error


# -- opening


def inspect(storage: Storage, file: StoredFile) -> Inspected:
    """Look at the first lines.

    Raises
    ------
    DataError
        When they are no JSON objects, one a line.
    """
    with storage.open(file, mapped=False) as source:
        digest, compression, head = _look(source, file)
    schema = None if head is None else _infer(lines_of(head, first=True), file.uri)
    growth = 1 if compression == "none" else COMPRESSED_TEXT_RATIO
    return Inspected(schema=schema, digest=digest, bytes=file.size * growth, compression=compression)


def _look(source: pa.NativeFile, file: StoredFile) -> tuple[str, Compression, pa.Buffer | None]:
    """Return the file's digest, its compression and its first lines."""
    magic = source.read(4)
    compression: Compression = "gzip" if magic[:2] == _GZIP else "zstd" if magic in _ZSTD else "none"
    if magic[:2] in _UTF16:
        raise DataError(f"{file.uri} is UTF-16; JSON lines is UTF-8: convert it first.", shard=file.uri, line=1)
    digest = content_digest(source, file.size, f"jsonl:{compression}")
    source.seek(0)
    try:
        head = _head(source, file) if compression == "none" else _compressed_head(source, compression, file.uri)
    except OSError as error:
        raise DataError(f"{file.uri} can't be decompressed: {error}.", shard=file.uri) from error
    return digest, compression, head


def _head(source: pa.NativeFile, file: StoredFile) -> pa.Buffer | None:
    limit = min(file.size, HEAD_BYTES + whole.MAX_LINE_BYTES)
    stop = line_start(source, min(HEAD_BYTES, limit), limit)
    if stop == limit < file.size:
        raise too_long(file.uri, "one of the first lines")
    source.seek(0)
    return source.read_buffer(stop) if stop else None


def _compressed_head(source: pa.NativeFile, codec: str, uri: str) -> pa.Buffer | None:
    # Two chunks, as the last line of a small file may come as a chunk of its own.
    taken = list(itertools.islice(compressed_chunks(source, codec, uri, HEAD_BYTES), 2))
    return pa.py_buffer(b"".join(map(bytes, taken))) if taken else None


def _infer(lines: Lines, uri: str) -> pa.Schema | None:
    """Return the columns of the first lines: their types where they are simple, else their first value's kind."""
    types: dict[str, pa.DataType] = {}
    for line in lines.rows.tolist():
        for name, value in _parse(lines.text(line), uri, line + 1).items():
            seen, own = types.get(name, pa.null()), _type_of(value)
            types[name] = own if pa.types.is_null(seen) else _wider(seen, own)
    if len(lines.rows) == 0:
        return None
    return pa.schema([(name.encode("utf-8", "replace").decode(), type_) for name, type_ in types.items()])


def _type_of(value: Any) -> pa.DataType:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if value in _INT64 else pa.uint64() if 0 <= value < 2**64 else pa.float64()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, dict):
        return pa.struct([])
    if isinstance(value, list) and value:
        item = pa.null()
        for element in value:
            item = _type_of(element) if pa.types.is_null(item) else _wider(item, _type_of(element))
        return pa.list_(item)
    return pa.null()


def _wider(seen: pa.DataType, own: pa.DataType) -> pa.DataType:
    """Join two types of one column: numbers to the wider; anything else keeps the first, and reading names the line."""
    if pa.types.is_list(seen) and pa.types.is_list(own):
        return pa.list_(_wider(seen.value_type, own.value_type))
    numbers = (pa.int64(), pa.uint64(), pa.float64())
    if seen in numbers and own in numbers:
        return max(seen, own, key=numbers.index)
    return own if pa.types.is_null(seen) else seen


def _parse(text: bytes, uri: str, line: int | None) -> dict[str, Any]:
    """Parse one line with Python's own parser, which says best what is wrong."""
    where = f"Line {line} of {uri}" if line is not None else f"A line of {uri}"
    try:
        value = json.loads(text.decode())  # given bytes, it takes UTF-16 and surrogates too
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not valid UTF-8 (byte {error.start} of the line).", shard=uri, line=line
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not valid JSON: {error.msg} at character {error.colno}.", shard=uri, line=line
        ) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where} can't be parsed: {error}.", shard=uri, line=line) from error
    if not isinstance(value, dict):
        raise DataError(
            f"{where} holds {_kind(value)}; JSON lines holds one object ({{…}}) a line.", shard=uri, line=line
        )
    return value


def _kind(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names[type(value)]


# -- reading


def read(storage: Storage, shard: Shard, unit: Unit, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the columns of `schema` for the unit's lines in order; a field that a line lacks is null.

    Raises
    ------
    DataError
        With the line, 1-based in the shard.
    """
    uri = shard.file.uri
    before = 0  # lines of the unit before the chunk

    for lines in _chunks(storage, shard, unit):
        if len(lines.rows):
            try:
                table = _table(lines, 0, len(lines.rows), schema)
            except pa.ArrowInvalid as error:
                line, reason = _first_bad(lines, schema), str(error)
                number = _line_number(storage, shard, unit, before + line)
                raise _explain(lines.text(line), schema, uri, number, reason) from error
            yield from table.select(schema.names).to_batches()
        before += len(lines.starts)


def _table(lines: Lines, start: int, stop: int, schema: pa.Schema) -> pa.Table:
    """Parse rows [start, stop) of the chunk; ArrowInvalid unless each is one object that fits `schema`."""
    first = int(lines.starts[lines.rows[start]])
    last = lines.buffer.size if stop == len(lines.rows) else int(lines.ends[lines.rows[stop - 1]])
    if lines.bad is not None and lines.rows[start] <= lines.bad <= lines.rows[stop - 1]:
        raise pa.ArrowInvalid("it is not one JSON object")
    table = pj.read_json(
        pa.BufferReader(lines.buffer.slice(first, last - first)),
        read_options=pj.ReadOptions(use_threads=False, block_size=last - first),
        parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    if table.num_rows != stop - start:
        raise pa.ArrowInvalid("a line holds more than one object, or an object more than one line")
    table.validate(full=True)  # pyarrow takes any bytes between quotes
    return table


def _first_bad(lines: Lines, schema: pa.Schema) -> int:
    """Return the first line of the chunk that can't be read, by halving."""
    low, high = 0, len(lines.rows)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _table(lines, low, middle, schema)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return int(lines.rows[low])


def _explain(text: bytes, schema: pa.Schema, uri: str, line: int, reason: str) -> DataError:
    """Return an error that says what is wrong with a line that pyarrow refused."""
    try:
        value = _parse(text, uri, line)
    except DataError as error:
        return error
    for field in schema:
        held = value.get(field.name)
        if held is None:
            continue
        if isinstance(held, str) and any("\ud800" <= character <= "\udfff" for character in held):
            detail = "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        elif _wider(field.type, _type_of(held)) != field.type or not _same_kind(field.type, _type_of(held)):
            number = f" ({held})" if isinstance(held, int | float) else ""
            detail = f"holds {_kind(held)}{number} where {field.type} is expected, as the first lines of the shard hold"
        else:
            continue
        return DataError(
            f"The field '{field.name}' in line {line} of {uri} {detail}.", shard=uri, column=field.name, line=line
        )
    return DataError(f"Line {line} of {uri} can't be read: {reason.splitlines()[0]}.", shard=uri, line=line)


def _same_kind(expected: pa.DataType, own: pa.DataType) -> bool:
    if pa.types.is_null(own):
        return True
    if pa.types.is_list(expected) or pa.types.is_list(own):
        both = pa.types.is_list(expected) and pa.types.is_list(own)
        return both and _same_kind(expected.value_type, own.value_type)
    numbers = (pa.int64(), pa.uint64(), pa.float64())
    return (expected in numbers and own in numbers) or expected == own


def _line_number(storage: Storage, shard: Shard, unit: Unit, line: int) -> int:
    """Return the 1-based number in the shard of the unit's line `line`; counts the lines before, for errors only."""
    if shard.compression != "none":
        return line + 1
    source = storage.open(shard.file)
    begin = line_start(source, unit.start, shard.file.size)
    earlier = 0
    for start in range(0, begin, whole.CHUNK_BYTES):
        source.seek(start)
        earlier += source.read(min(whole.CHUNK_BYTES, begin - start)).count(b"\n")
    return earlier + line + 1


def line_of_row(storage: Storage, shard: Shard, unit: Unit, row: int) -> int:
    """Return the 1-based line in the shard of the unit's row `row`; reads the unit again, for errors only."""
    before = 0
    for lines in _chunks(storage, shard, unit):
        if row < len(lines.rows):
            return _line_number(storage, shard, unit, before + int(lines.rows[row]))
        row -= len(lines.rows)
        before += len(lines.starts)
    raise IndexError(row)


def count_rows(storage: Storage, shard: Shard, unit: Unit) -> int:
    """Return the number of lines of the unit that are not blank, without parsing them."""
    return sum(len(lines.rows) for lines in _chunks(storage, shard, unit))
