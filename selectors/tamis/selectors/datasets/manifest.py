"""The shards of a manifest: globs expanded, formats detected, heads and footers read."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from tamis.selectors.datasets.formats import arrow, jsonl, parquet
from tamis.selectors.datasets.shard import Inspected, Shard, reason_of
from tamis.selectors.datasets.storage.local import Storage, StoredFile
from tamis.selectors.errors import DataError, Invalid, StorageError, TamisError
from tamis.selectors.schema.request import Format, Manifest, ShardRef

OPENING_THREADS = 8
"""Shards looked at together at open: they wait for storage, not for a core."""

_SUFFIXES: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class _Listed:
    entry: int  # index into the manifest's shards
    file: StoredFile
    declared: ShardRef | None


def _expand(manifest: Manifest, storage: Storage, pointer: str) -> list[_Listed]:
    listed: list[_Listed] = []
    seen: dict[str, int] = {}
    for entry, shard in enumerate(manifest.shards):
        place = f"{pointer}/shards/{entry}"
        declared = shard if isinstance(shard, ShardRef) else None
        uri = declared.uri if declared is not None else str(shard)
        with _Pointing(place):
            files = storage.expand(uri)
            if len(files) > 1 and declared is not None and (declared.rows is not None or declared.sha256 is not None):
                raise Invalid(f"{uri} matches {len(files)} files; rows and sha256 go with one.")
            for file in files:
                if file.path in seen:
                    raise Invalid(
                        f"{file.uri} is named twice, by shards[{seen[file.path]}] and shards[{entry}]: its rows would "
                        "count double.",
                        shard=file.uri,
                    )
                seen[file.path] = entry
                listed.append(_Listed(entry, file, declared))
            if len(listed) > storage.max_files:
                raise Invalid(f"The manifest names more than {storage.max_files} files: it may not hold more here.")
    return listed


class _Pointing:
    """Adds the pointer to an error that has none."""

    def __init__(self, pointer: str) -> None:
        self._pointer = pointer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, TamisError) and error.pointer is None:
            error.pointer = self._pointer


def _format(manifest: Manifest, file: StoredFile) -> Format:
    if manifest.format is not None:
        return manifest.format
    name = file.uri.lower()
    for suffix in _COMPRESSED:
        bare = name.removesuffix(suffix)
        if bare != name:
            known: Mapping[str, Format] = {end: format_ for end, format_ in _SUFFIXES.items() if format_ == "jsonl"}
            break
    else:
        bare, known = name, _SUFFIXES
    for suffix, format_ in known.items():
        if bare.endswith(suffix):
            return format_
    raise Invalid(
        f"The name of {file.uri} does not tell its format: set format to parquet, arrow or jsonl, or name it "
        f"*.parquet, *.arrow, *.jsonl, *.jsonl.gz or *.jsonl.zst.",
        shard=file.uri,
    )


def _inspect(format_: Format, storage: Storage, file: StoredFile, names: Collection[str]) -> Inspected:
    try:
        if format_ == "parquet":
            return parquet.inspect(storage, file, names)
        return arrow.inspect(storage, file) if format_ == "arrow" else jsonl.inspect(storage, file)
    except DataError as error:
        blamed = storage.blame(file, error)
        if blamed is error:
            raise
        raise blamed from error
    except OSError as error:
        raise StorageError(f"{file.uri} can't be read: {reason_of(error)}.", shard=file.uri) from error


def open_shards(manifest: Manifest, storage: Storage, names: Collection[str], pointer: str) -> list[Shard]:
    """Find the files of `manifest` and look at each, several at a time.

    Parameters
    ----------
    manifest : Manifest
    storage : Storage
    names : collection of str
        The columns that will be read, whose sizes are wanted.
    pointer : str
        JSON Pointer to the manifest.

    Raises
    ------
    TamisError
        What :meth:`Dataset.open` says, of the first shard at fault.
    """
    listed = _expand(manifest, storage, pointer)
    schemas: dict[bytes, pa.Schema] = {}
    lock = threading.Lock()

    def look(index: int) -> Shard:
        item = listed[index]
        with _Pointing(f"{pointer}/shards/{item.entry}"):
            format_ = _format(manifest, item.file)
            found = _inspect(format_, storage, item.file, names)
            if found.schema is not None:
                with lock:  # one object for equal schemas: a hundred thousand shards mostly share one
                    found = replace(found, schema=schemas.setdefault(_identity(found.schema), found.schema))
            declared = item.declared
            shard = Shard(
                index=index,
                file=item.file,
                format=format_,
                rows=found.rows if format_ != "jsonl" or item.file.size else 0,
                inspected=found,
                declared_rows=declared.rows if declared is not None else None,
                declared_sha256=declared.sha256 if declared is not None else None,
                entry=item.entry,
            )
        check_rows(shard, pointer)
        return shard

    if len(listed) == 1:
        return [look(0)]
    with ThreadPoolExecutor(min(OPENING_THREADS, len(listed)), "tamis-open") as pool:
        futures = [pool.submit(look, index) for index in range(len(listed))]
        try:
            return [future.result() for future in futures]  # in order, so the first bad shard is the one that is told
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _identity(schema: pa.Schema) -> bytes:
    identity: bytes = schema.remove_metadata().serialize().to_pybytes()
    return identity


def check_rows(shard: Shard, pointer: str) -> None:
    if shard.rows is not None and shard.declared_rows is not None and shard.rows != shard.declared_rows:
        raise Invalid(
            f"{shard.file.uri} has {shard.rows} rows, not {shard.declared_rows} as the manifest declares.",
            pointer=f"{pointer}/shards/{shard.entry}/rows",
            shard=shard.file.uri,
        )
