"""Chunks of whole lines, from plain and from compressed files, and where each line starts and ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.selectors.errors import DataError

CHUNK_BYTES = 2 * 2**20
"""Read and parsed at once; a longer line is a chunk of its own."""

MAX_LINE_BYTES = 256 * 2**20
"""A longer line is refused: what has no line ends is no JSON-lines file."""

_SCAN_BYTES = 256 * 2**10  # keeps the scan for line ends inside the cache
_BLANKS = b" \t\r"
_BOM = b"\xef\xbb\xbf"
_NEWLINE, _OPEN, _CLOSE, _RETURN = b"\n{}\r"

Ints = npt.NDArray[np.int64]


class Lines(NamedTuple):
    """A chunk of whole lines, with their bounds."""

    buffer: pa.Buffer
    starts: Ints
    ends: Ints  # without the line end
    rows: Ints  # of the lines that are not blank, in order
    bad: int | None  # the first line that is neither blank nor {…}

    def text(self, line: int) -> bytes:
        return bytes(memoryview(self.buffer)[self.starts[line] : self.ends[line]])


def lines_of(buffer: pa.Buffer, *, first: bool) -> Lines:
    """Find the lines of `buffer`, which ends at a line end or at the end of the file."""
    data = np.frombuffer(buffer, np.uint8)
    ends = _newlines(data)
    starts = np.append(0, ends + 1)
    if starts[-1] == len(data):
        starts = starts[:-1]
    else:
        ends = np.append(ends, len(data))
    if first and bytes(data[: len(_BOM)]) == _BOM:
        starts[0] = len(_BOM)
    # Nearly every line is '{…}' and done with here; the rest is looked at one by one.
    size = ends - starts
    last = np.where(size > 0, data[np.maximum(ends - 1, 0)], _NEWLINE)
    last = np.where((last == _RETURN) & (size > 1), data[np.maximum(ends - 2, 0)], last)
    plain = (size > 1) & (last == _CLOSE)
    plain &= data[np.minimum(starts, len(data) - 1)] == _OPEN
    bad: int | None = None
    blank = np.zeros(len(starts), np.bool_)
    for line in np.flatnonzero(~plain).tolist():
        text = bytes(data[starts[line] : ends[line]]).strip(_BLANKS)
        if not text:
            blank[line] = True
        elif bad is None and not (len(text) > 1 and text[0] == _OPEN and text[-1] == _CLOSE):
            bad = line
    return Lines(buffer, starts, ends, np.flatnonzero(~blank), bad)


def _newlines(data: npt.NDArray[np.uint8]) -> Ints:
    parts = [
        np.flatnonzero(data[start : start + _SCAN_BYTES] == _NEWLINE) + start
        for start in range(0, len(data), _SCAN_BYTES)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def line_start(source: pa.NativeFile, place: int, size: int) -> int:
    """Return where the first line starts that starts at `place` or later."""
    if place <= 0 or place >= size:
        return max(0, min(place, size))
    place -= 1  # a line starts at `place` when the byte before ends one
    while place < size:
        source.seek(place)
        block = source.read(min(_SCAN_BYTES, size - place))
        found = block.find(b"\n")
        if found >= 0:
            return int(place + found + 1)
        place += len(block)
    return size


def plain_chunks(source: pa.NativeFile, begin: int, end: int, uri: str) -> Iterator[pa.Buffer]:
    """Yield [begin, end), which starts and ends with whole lines, in chunks of whole lines."""
    want = CHUNK_BYTES
    while begin < end:
        source.seek(begin)
        buffer = source.read_buffer(min(want, end - begin))
        if begin + buffer.size < end:
            kept = _last_line_end(buffer)
            if kept == 0:
                if want >= MAX_LINE_BYTES:
                    raise too_long(uri, f"the line that starts at byte {begin}")
                want = min(2 * want, MAX_LINE_BYTES)
                continue
            buffer = buffer.slice(0, kept)
        yield buffer
        begin += buffer.size
        want = CHUNK_BYTES


def _last_line_end(buffer: pa.Buffer) -> int:
    """Return the bytes up to and with the last line end; 0 when there is none."""
    step, view = _SCAN_BYTES, memoryview(buffer)
    for stop in range(buffer.size, 0, -step):
        start = max(0, stop - step)
        found = bytes(view[start:stop]).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0


def too_long(uri: str, place: str) -> DataError:
    """Return the error for a line longer than MAX_LINE_BYTES."""
    return DataError(
        f"In {uri}, {place} is longer than {MAX_LINE_BYTES // 2**20} MiB. JSON lines holds one object a line: "
        "check that the file is not one large JSON document.",
        shard=uri,
    )


def compressed_chunks(source: pa.NativeFile, codec: str, uri: str, block: int) -> Iterator[pa.Buffer]:
    stream = pa.CompressedInputStream(source, codec)
    parts: list[bytes] = []
    while data := _fill(stream, block):
        cut = data.rfind(b"\n") + 1
        if cut:
            yield pa.py_buffer(b"".join((*parts, data[:cut])))
            parts = []
        if cut < len(data):
            parts.append(data[cut:])
        if sum(map(len, parts)) > MAX_LINE_BYTES:
            raise too_long(uri, "a line")
    if parts:
        yield pa.py_buffer(b"".join(parts))


def _fill(stream: pa.NativeFile, size: int) -> bytes:
    """Read `size` bytes, fewer at the end only: a stream of many members gives no more than one of them at a time."""
    parts: list[bytes] = []
    while size > 0 and (data := stream.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)
