"""Shards in buckets: ``s3://bucket/key``, of Amazon S3 or of a server that speaks its protocol.

Region and credentials come from where the AWS SDK looks for them: the environment, its configuration files, the host.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from tamis.selectors.datasets.storage.local import MAGIC, StoredFile
from tamis.selectors.errors import DataError, Forbidden, InputsChanged, Invalid, StorageError, TamisError
from tamis.selectors.schema.request import MAX_SHARDS

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

SCHEME = "s3://"

LOOKING_THREADS = 16
"""Objects asked for their ETag at once: a request waits for the network, not for a core."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_SDK_ERROR = re.compile(r"AWS Error ([A-Z_0-9]+)")
_DENIED = frozenset(
    {"ACCESS_DENIED", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "EXPIRED_TOKEN"}
)


class BucketStorage:
    """Objects of S3, by ``s3://bucket/key``; keys are taken as they are written, not percent-decoded.

    Parameters
    ----------
    roots : sequence of str
        The ``s3://bucket`` or ``s3://bucket/prefix`` that may be read; a prefix ends at a slash or at the key's end.
    endpoint : str, optional
        ``http(s)://host[:port]`` of a server other than Amazon's.
    setting : str
        What the roots are called where they are set, for errors.
    max_files : int
        Files that one uri may match.

    Notes
    -----
    A file's version is its ETag and size. pyarrow asks for ranges without naming an ETag, so that a read is trusted
    only when the ETag is the same after it as before: `Dataset.read` asks.
    """

    def __init__(
        self,
        roots: Sequence[str],
        *,
        endpoint: str | None = None,
        setting: str = "data roots",
        max_files: int = MAX_SHARDS,
    ) -> None:
        self._roots = [root.removeprefix(SCHEME).rstrip("/") for root in roots]
        self._endpoint = endpoint
        self._setting = setting
        self.max_files = max_files

    @cached_property
    def _files(self) -> S3FileSystem:
        from pyarrow.fs import S3FileSystem  # loads and starts the AWS SDK

        if self._endpoint is None:
            return S3FileSystem()
        scheme, _, host = self._endpoint.partition("://")
        return S3FileSystem(scheme=scheme, endpoint_override=host.rstrip("/"))

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_files"}  # a connection stays here

    def expand(self, uri: str) -> list[StoredFile]:
        """See :meth:`Storage.expand`."""
        bucket, key = self._parsed(uri)
        parts = key.split("/")
        magic = next((index for index, part in enumerate(parts) if MAGIC.search(part)), None)
        if magic is None:
            self._check(uri, f"{bucket}/{key}")
            return [self._stored(uri, f"{bucket}/{key}")]
        self._check(uri, "/".join([bucket, *parts[:magic]]))
        # An object of exactly this name wins over its reading as a glob: keys may hold brackets.
        if self._is_file(uri, f"{bucket}/{key}"):
            return [self._stored(uri, f"{bucket}/{key}")]
        paths = self._matching(uri, "/".join([bucket, *parts[:magic]]), parts[magic:])
        if len(paths) > self.max_files:
            raise Invalid(f"{uri} matches more than {self.max_files} files: a manifest holds no more here.")
        if not paths:
            raise Invalid(f"{uri} matches no file.")
        with ThreadPoolExecutor(min(LOOKING_THREADS, len(paths)), "tamis-look") as pool:
            return list(pool.map(lambda path: self._stored(uri, path), sorted(paths)))

    def open(self, file: StoredFile, *, mapped: bool = True) -> pa.NativeFile:
        """See :meth:`Storage.open`; nothing is ever mapped."""
        try:
            source = self._files.open_input_file(file.path)
        except FileNotFoundError:
            raise InputsChanged(f"{file.uri} can't be opened any more: it is gone.", shard=file.uri) from None
        except OSError as error:
            raise _storage_error(file.uri, error) from error
        if _version(source) != file.version:
            raise InputsChanged(f"{file.uri} was changed or replaced since it was opened first.", shard=file.uri)
        return source

    def version(self, file: StoredFile) -> str | None:
        """See :meth:`Storage.version`."""
        try:
            with self._files.open_input_file(file.path) as source:
                return _version(source)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _storage_error(file.uri, error) from error

    def blame(self, file: StoredFile, error: DataError) -> TamisError:
        """See :meth:`Storage.blame`."""
        if isinstance(error.__cause__, OSError) and _SDK_ERROR.search(str(error.__cause__)):
            return _storage_error(file.uri, error.__cause__)
        return error

    def _parsed(self, uri: str) -> tuple[str, str]:
        bucket, _, key = uri.removeprefix(SCHEME).partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise Invalid(f"{uri!r} names no bucket: write s3://bucket/key.")
        if not key or key.endswith("/"):
            raise Invalid(f"{uri} names no object; name its objects, for example {uri.rstrip('/')}/*.parquet.")
        if "\0" in key or any(0xD800 <= ord(letter) <= 0xDFFF for letter in key):
            raise Invalid(f"{uri!r} holds a character that no key holds.")
        if not {"", ".", ".."}.isdisjoint(key.split("/")):
            # As a key it names itself, but servers and proxies on the way shorten it to another.
            raise Forbidden(f"{uri}: a key with '//', '/./' or '/../' is not read.")
        return bucket, key

    def _check(self, uri: str, path: str) -> None:
        if not any(path == root or path.startswith(f"{root}/") for root in self._roots):
            raise Forbidden(
                f"{uri} lies outside the places the service may read ({self._setting}; buckets are named there as "
                "s3://bucket/prefix)."
            )

    def _is_file(self, uri: str, path: str) -> bool:
        try:
            return bool(self._files.get_file_info(path).is_file)
        except OSError as error:
            raise _refusal(uri, error) from error

    def _stored(self, uri: str, path: str) -> StoredFile:
        found = f"{SCHEME}{path}"
        named = "" if found == uri else f" (matched by {uri})"
        try:
            with self._files.open_input_file(path) as source:
                return StoredFile(found, path, source.size(), _version(source))
        except FileNotFoundError:
            raise Invalid(f"There is no object {found}{named}.") from None
        except OSError as error:
            raise _refusal(f"{found}{named}", error) from error

    def _matching(self, uri: str, base: str, pattern: Sequence[str]) -> list[str]:
        """List the objects under `base` whose further parts match `pattern`, wildcards as in a shell."""
        from pyarrow.fs import FileSelector

        recursive = len(pattern) > 1 or pattern[0] == "**"
        try:
            found = self._files.get_file_info(FileSelector(base, recursive=recursive))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _refusal(uri, error) from error
        return [
            info.path
            for info in found
            if info.is_file and _matches(info.path.removeprefix(f"{base}/").split("/"), pattern)
        ]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a key match those of a pattern; as in a shell, no wildcard matches a leading dot."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        hidden = next((index for index, part in enumerate(parts) if part.startswith(".")), len(parts))
        return any(_matches(parts[skipped:], pattern[1:] or ["*"]) for skipped in range(hidden + 1))
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _version(source: pa.NativeFile) -> str:
    metadata = source.metadata()
    etag = metadata.get("ETag", metadata.get(b"ETag", b""))
    etag = etag.decode() if isinstance(etag, bytes) else etag
    return f"{etag.strip(chr(34))}-{source.size():x}"


def _refusal(what: str, error: OSError) -> TamisError:
    """Return an error that says why a bucket or an object can't be read: by the request's fault or the store's."""
    found = _SDK_ERROR.search(str(error))
    code = found[1] if found else ""
    if code == "NO_SUCH_BUCKET":
        return Invalid(f"{what}: there is no such bucket.")
    if code in _DENIED:
        return Invalid(f"{what} can't be read: the store refuses the service's credentials ({code}).")
    return _storage_error(what, error)


def _storage_error(what: str, error: OSError) -> StorageError:
    found = _SDK_ERROR.search(str(error))
    return StorageError(
        f"{what} can't be read: the object store did not answer as it should ({found[1]})."
        if found
        else f"{what} can't be read: {error}."
    )
