"""Shards and units: what is known of a file before its data are read, and how it is cut."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tamis.selectors.datasets.storage.local import StoredFile
from tamis.selectors.errors import DataError
from tamis.selectors.schema.request import Format

Compression = Literal["none", "gzip", "zstd"]

TARGET_UNIT_BYTES = 32 * 2**20
"""Uncompressed, all columns: enough work to hide what a unit costs to start, little enough to repeat after a crash."""

MAX_UNIT_ROWS = 2**20
COMPRESSED_TEXT_RATIO = 4
"""What a compressed JSON-lines shard is taken to grow by; only estimates use it."""

DIGEST_ENDS = 64 * 2**10
DIGEST_BLOCKS = 64
DIGEST_BLOCK = 4 * 2**10
"""A file's digest covers its size, its first and last DIGEST_ENDS bytes and that many blocks evenly spread between."""

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises over a damaged file; ArrowMemoryError among them, when a damaged length asks for terabytes."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Inspected:
    """The facts in the head or the footer of a file."""

    schema: pa.Schema | None  # None: a JSON-lines file without a line
    digest: str
    bytes: int  # uncompressed, an estimate where the format does not tell
    rows: int | None = None
    piece_rows: Ints = field(default_factory=lambda: np.empty(0, np.int64))  # of row groups or record batches
    piece_bytes: Ints = field(default_factory=lambda: np.empty(0, np.int64))  # uncompressed
    compression: Compression = "none"
    streaming: bool = False  # Arrow: the streaming format, which has no footer
    column_bytes: Mapping[str, Ints] = field(default_factory=dict)  # Parquet: of a column asked for, in each row group
    starts: Ints = field(default_factory=lambda: np.empty(0, np.int64))  # streaming: the byte where each batch starts


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a dataset."""

    index: int
    file: StoredFile
    format: Format
    rows: int | None  # None: JSON lines not counted yet
    inspected: Inspected = field(repr=False, compare=False)
    declared_rows: int | None = None  # by the manifest
    declared_sha256: str | None = None
    entry: int = 0  # index into the manifest's own list of shards, where a glob is one entry

    @property
    def compression(self) -> Compression:
        return self.inspected.compression

    @property
    def digest(self) -> str:
        """Sha256 over the format, the size and a sample of the content: see DIGEST_BLOCKS."""
        return self.inspected.digest

    @property
    def schema(self) -> pa.Schema | None:
        return self.inspected.schema

    def piece_of(self, row: int) -> tuple[str, int]:
        """Return what holds the shard's row number `row`: ("row_group" or "record_batch", its number)."""
        ends = np.cumsum(self.inspected.piece_rows)
        return _PIECE[self.format], int(np.searchsorted(ends, row, side="right"))


_PIECE = {"parquet": "row_group", "arrow": "record_batch"}


@dataclass(frozen=True, slots=True)
class Unit:
    """A range of one shard: the unit of work, of retry and of resume."""

    index: int  # over the dataset
    shard: int
    start: int  # row group, record batch or byte
    stop: int
    rows: int | None  # None: JSON lines not counted yet
    bytes: int  # uncompressed, all columns; an estimate where the format does not tell
    digest: str  # of the shard, and the range


def content_digest(source: pa.NativeFile, size: int, kind: str, footer: bytes = b"") -> str:
    """Return the sha256 (hex) of `kind`, `size`, `footer` and a sample of the file, or all of it when it is small."""
    digest = hashlib.sha256(f"{kind}:{size}:{len(footer)}:".encode())
    digest.update(footer)
    blocks = [(0, DIGEST_ENDS), (max(0, size - DIGEST_ENDS), DIGEST_ENDS)]
    if size > 2 * DIGEST_ENDS + DIGEST_BLOCKS * DIGEST_BLOCK:
        step = (size - 2 * DIGEST_ENDS - DIGEST_BLOCK) / (DIGEST_BLOCKS - 1)
        blocks[1:1] = [(DIGEST_ENDS + int(block * step), DIGEST_BLOCK) for block in range(DIGEST_BLOCKS)]
    else:
        blocks = [(0, size)]
    for start, length in blocks:
        source.seek(start)
        digest.update(source.read(length))
    return digest.hexdigest()


def pack(rows: Sequence[int] | Ints, sizes: Sequence[int] | Ints) -> Iterator[tuple[int, int]]:
    """Pack consecutive pieces into ranges (start, stop) of about TARGET_UNIT_BYTES and at most MAX_UNIT_ROWS.

    A piece is never cut, so one that is larger is a range of its own.
    """
    start, taken_rows, taken_bytes = 0, 0, 0
    for piece, (piece_rows, piece_bytes) in enumerate(zip(rows, sizes, strict=True)):
        full = taken_rows + piece_rows > MAX_UNIT_ROWS or taken_bytes + piece_bytes > TARGET_UNIT_BYTES
        if full and piece > start:
            yield start, piece
            start, taken_rows, taken_bytes = piece, 0, 0
        taken_rows += int(piece_rows)
        taken_bytes += int(piece_bytes)
    if len(rows) > start:
        yield start, len(rows)


def cut(shard: Shard, first: int) -> list[Unit]:
    """Cut `shard` into units, numbered from `first`; the cut depends on the file alone."""
    found = shard.inspected
    ranges: list[tuple[int, int, int | None, int]] = []  # start, stop, rows, bytes
    if shard.format != "jsonl":
        for start, stop in pack(found.piece_rows, found.piece_bytes):
            part = slice(start, stop)
            rows = int(found.piece_rows[part].sum())
            if rows:
                ranges.append((start, stop, rows, int(found.piece_bytes[part].sum())))
    elif shard.compression != "none":
        ranges.append((0, shard.file.size, None, found.bytes))
    else:
        for start in range(0, shard.file.size, TARGET_UNIT_BYTES):
            stop = min(start + TARGET_UNIT_BYTES, shard.file.size)
            ranges.append((start, stop, None, stop - start))
    return [
        Unit(first + number, shard.index, start, stop, rows, size, f"{shard.digest}:{start}-{stop}")
        for number, (start, stop, rows, size) in enumerate(ranges)
    ]


def reason_of(error: Exception) -> str:
    """Return the first line of what went wrong, to end a sentence with."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def canonical_digest(value: Any) -> str:
    """Return the sha256 (hex) of `value`'s canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_text(batch: pa.RecordBatch, uri: str, locate: Callable[[int | None], dict[str, Any]]) -> None:
    """Check what Arrow does not check as it reads: UTF-8, and offsets and indices that stay inside their buffers.

    Parameters
    ----------
    batch : pa.RecordBatch
    uri : str
        The shard's.
    locate : callable
        From a row of `batch`, None for no one row, to the place of it (``row``, ``row_group``), for the error.

    Raises
    ------
    DataError
        With shard, column and place of the first bad row.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            row = _first_invalid(column)
            reason = "it is not valid UTF-8" if "UTF8" in str(error) else str(error)
            raise DataError(
                f"A value of the column '{name}' of {uri} can't be used: {reason}.",
                shard=uri,
                column=name,
                **locate(row),
            ) from error


def _valid(array: pa.Array, *, full: bool = True) -> bool:
    try:
        array.validate(full=full)
    except pa.ArrowInvalid:
        return False
    return True


def _first_invalid(column: pa.Array) -> int | None:
    """Return the first row that is not valid; None when the structure as a whole is not."""
    if not _valid(column, full=False):
        return None
    if pa.types.is_dictionary(column.type) and not _valid(column.dictionary):
        code = _first_invalid(column.dictionary)
        if code is None:
            return None
        row = int(pc.index(pc.equal(column.indices, code).fill_null(False), True).as_py())
        return row if row >= 0 else None  # a value that no row has
    low, high = 0, len(column)  # the first invalid row lies in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        if _valid(column.slice(low, middle - low)):
            low = middle
        else:
            high = middle
    return low
