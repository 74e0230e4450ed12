"""The files of a result: their names, and how each appears whole or not at all, with the digest of what was meant."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tamis.selectors.errors import StorageError
from tamis.selectors.schema.response import ResultFile
from tamis.selectors.signals.store import fsync_folder

SELECTION = "selection.parquet"
SCORES = "scores.parquet"
REPORT = "report.json"
DECISION = "decision.json"
MODEL = "model.arrow"
RESULT = "result.json"

PARQUET = "application/vnd.apache.parquet"
ARROW = "application/vnd.apache.arrow.file"
JSON = "application/json"


class DigestingFile(io.RawIOBase):
    """A file being written, and the sha256 of all that was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._sha256.update(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        return self.size

    def describe(self, name: str, media_type: str, rows: int | None) -> ResultFile:
        """Return what was meant to be in the file, whatever is on disk."""
        return ResultFile(name=name, media_type=media_type, rows=rows, bytes=self.size, sha256=self._sha256.hexdigest())


@contextlib.contextmanager
def published(path: Path) -> Iterator[DigestingFile]:
    """Open a file that takes the name `path` when the block ends well, and is removed when it does not.

    It is written under a temporary name in the same folder, made durable, then renamed: a reader never sees half of it.

    Yields
    ------
    DigestingFile
        To write to.

    Raises
    ------
    StorageError
        When the folder can't be written (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                sink = DigestingFile(file)
                yield sink
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path.name} can't be written to {path.parent}: {error.strerror or error}.") from error


def publish_bytes(path: Path, content: bytes, media_type: str) -> ResultFile:
    """Write `content` to `path`, whole or not at all; raise `StorageError` when it can't be."""
    with published(path) as file:
        file.write(content)
    return file.describe(path.name, media_type, None)


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes; raise `OSError` when it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(folder: Path, expected: ResultFile) -> None:
    """Compare a file with its description.

    Raises
    ------
    StorageError
        When it is not there, or its size or its bytes are others.
    """
    path = folder / expected.name
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise StorageError(f"{expected.name} has {size} bytes, but {expected.bytes} were written: it was damaged.")
        if file_sha256(path) != expected.sha256:
            raise StorageError(f"{expected.name} does not have the sha256 it was written with: it was damaged.")
    except OSError as error:
        raise StorageError(f"{expected.name} can't be read back from {folder}: {error.strerror or error}.") from error
