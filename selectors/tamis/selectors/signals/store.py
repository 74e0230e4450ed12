"""Signals: small tables that a selector computes from its data, stored under a name made of everything they depend on.

The file *is* the marker that the work is done: it appears whole or not at all, under a name that covers everything that
decides its content. So a resumed job, and another job with another budget or seed, find it and skip the work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.selectors.errors import StorageError

_METADATA_KEY = b"tamis"


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, plain ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def content_key(*parts: Any) -> str:
    """Return the sha256 (hex) of the canonical JSON of `parts`."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def with_metadata(table: pa.Table, metadata: dict[str, Any]) -> pa.Table:
    """Return `table` carrying `metadata` (JSON values) in its schema."""
    return table.replace_schema_metadata({_METADATA_KEY: canonical_json(metadata).encode()})


def metadata_of(table: pa.Table) -> dict[str, Any]:
    """Return what :func:`with_metadata` stored, or an empty dictionary."""
    raw = (table.schema.metadata or {}).get(_METADATA_KEY)
    return json.loads(raw) if raw else {}


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SignalStore:
    """Content-addressed Arrow IPC files below one folder; safe for many threads and processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.arrow"

    def has(self, key: str) -> bool:
        return self.path(key).is_file()

    def use(self, key: str) -> bool:
        """Whether `key` is there; if so, it counts as used now, and is not among the first to go when room is made."""
        try:
            os.utime(self.path(key))
        except OSError:
            return self.has(key)  # another user's file, or none
        return True

    def publish(self, key: str, table: pa.Table) -> None:
        """Write `table` under `key` unless it is there; whoever comes first wins, and every reader sees a whole file.

        Raises
        ------
        StorageError
            When the folder can't be written (disk full, no permission).
        """
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{key[:16]}-", suffix=".tmp")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    with pa.ipc.new_file(file, table.schema) as writer:
                        writer.write_table(table.combine_chunks())
                    file.flush()
                    os.fsync(file.fileno())
                with contextlib.suppress(FileExistsError):
                    os.link(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)
            fsync_folder(path.parent)
        except OSError as error:
            raise StorageError(f"The signal cache {self.root} can't be written: {error.strerror or error}.") from error

    def read(self, key: str) -> pa.Table:
        """Return the table under `key`, memory-mapped.

        Raises
        ------
        StorageError
            When it is not there or can't be read.
        """
        try:
            with pa.memory_map(str(self.path(key))) as source:
                return pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise StorageError(f"The signal {key[:16]}… can't be read from the cache: {error}.") from error


class Mapped(Sequence[pa.Table]):
    """The results of a map in unit order, each memory-mapped only while it is looked at."""

    def __init__(self, store: SignalStore, keys: Sequence[str]) -> None:
        self._store = store
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, unit: int | slice) -> Any:
        if isinstance(unit, slice):
            return [self._store.read(key) for key in self.keys[unit]]
        return self._store.read(self.keys[unit])

    def column(self, unit: int, name: str) -> np.ndarray[Any, Any]:
        """Return one numeric column of one unit's result, without a copy."""
        column = self[unit].column(name)
        chunks = column.chunks or [pa.array([], column.type)]
        array: np.ndarray[Any, Any] = chunks[0].to_numpy(zero_copy_only=True)
        return array

    def metadata(self) -> Iterator[dict[str, Any]]:
        """Yield the metadata of every unit's result, in unit order."""
        for unit in range(len(self)):
            yield metadata_of(self[unit])
