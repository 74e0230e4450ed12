"""Where datasets may lie: local files and buckets behind one storage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from tamis.selectors.datasets.storage.local import LocalStorage, Storage, StoredFile
from tamis.selectors.datasets.storage.s3 import SCHEME, BucketStorage
from tamis.selectors.errors import DataError, TamisError
from tamis.selectors.schema.request import MAX_SHARDS


class PlacedStorage:
    """Gives every uri to the storage of its scheme."""

    def __init__(self, local: LocalStorage, buckets: BucketStorage) -> None:
        self._local = local
        self._buckets = buckets
        self.max_files = local.max_files

    def expand(self, uri: str) -> list[StoredFile]:
        """See :meth:`Storage.expand`."""
        return self._of(uri).expand(uri)

    def open(self, file: StoredFile, *, mapped: bool = True) -> pa.NativeFile:
        """See :meth:`Storage.open`."""
        return self._of(file.uri).open(file, mapped=mapped)

    def version(self, file: StoredFile) -> str | None:
        """See :meth:`Storage.version`."""
        return self._of(file.uri).version(file)

    def blame(self, file: StoredFile, error: DataError) -> TamisError:
        """See :meth:`Storage.blame`."""
        return self._of(file.uri).blame(file, error)

    def _of(self, uri: str) -> Storage:
        return self._buckets if uri.startswith(SCHEME) else self._local


def open_storage(
    roots: Sequence[str] | None = None,
    *,
    s3_endpoint: str | None = None,
    setting: str = "data roots",
    max_files: int = MAX_SHARDS,
) -> Storage:
    """Return the storage of a process.

    Parameters
    ----------
    roots : sequence of str, optional
        What may be read: absolute paths, and ``s3://bucket/prefix``. Every readable path and no bucket when None: a
        path is guarded by its owner and mode, while all buckets are read with one set of credentials.
    s3_endpoint : str, optional
        ``http(s)://host[:port]`` of a server other than Amazon's.
    setting : str
        What the roots are called where they are set, for errors.
    max_files : int
        Files that one manifest may name.
    """
    buckets = [root for root in roots or () if root.startswith(SCHEME)]
    paths = None if roots is None else [Path(root) for root in roots if not root.startswith(SCHEME)]
    return PlacedStorage(
        LocalStorage(paths, setting=setting, max_files=max_files),
        BucketStorage(buckets, endpoint=s3_endpoint, setting=setting, max_files=max_files),
    )
