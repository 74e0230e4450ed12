"""The one door to the bytes of datasets: what a uri names, and how it is read.

Local files are served here, buckets by :mod:`tamis.selectors.datasets.storage.s3`. Another store is another class with
the methods of :class:`Storage`: nothing else in the package knows what a path is.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import io
import itertools
import mmap
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from tamis.selectors.errors import DataError, Forbidden, InputsChanged, Invalid, TamisError
from tamis.selectors.schema.request import MAX_SHARDS

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
MAGIC = re.compile(r"[*?\[]")
"""What makes a part of a path a glob."""

_PERCENT = re.compile(r"((?:%[0-9A-Fa-f]{2})+)")

MAX_LOOKED = 1_000_000
"""Names that one glob may look at."""

KERNEL_FOLDERS = (Path("/proc"), Path("/sys"))
"""What looks like files there is the kernel talking: never data, and some of it is secret."""

_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY)
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe put in its place must not make us wait


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file as it was when it was looked at."""

    uri: str  # absolute; what a manifest says and a report shows
    path: str  # what the storage opens: for local files the real path, symbolic links resolved
    size: int  # bytes
    version: str  # changes when the content may have changed: time, size and inode of a local file, or an ETag


class Storage(Protocol):
    """The operations that a dataset needs of a store."""

    max_files: int
    """Files that one manifest may name."""

    def expand(self, uri: str) -> list[StoredFile]:
        """Return the file that `uri` names, or the files that match it as a glob, sorted by uri.

        Raises
        ------
        Forbidden
            When it lies outside the places that may be read.
        Invalid
            When nothing is there, or the scheme is not served.
        """
        ...

    def open(self, file: StoredFile, *, mapped: bool = True) -> pa.NativeFile:
        """Open `file` for random access; `mapped` allows it to be mapped into memory instead of read.

        What is not mapped must be closed.

        Raises
        ------
        InputsChanged
            When it is gone, or is no longer the file that `expand` saw.
        """
        ...

    def version(self, file: StoredFile) -> str | None:
        """Return the present version, or None when the file no longer exists."""
        ...

    def blame(self, file: StoredFile, error: DataError) -> TamisError:
        """Return why `file` could not be read: that its store failed, or `error`, which blames its content."""
        ...


class _Descriptor(io.FileIO):
    """A file that closes itself when it is dropped: pyarrow lets go of Python files without closing them."""

    def __del__(self) -> None:
        self.close()


class LocalStorage:
    """Local files, by path or ``file://`` uri.

    Parameters
    ----------
    roots : sequence of Path, optional
        The folders (or files) that may be read; every readable path when None. Symbolic links and ``..`` are resolved
        before the comparison, of the roots too.
    base : Path, optional
        What relative paths start from; the working directory when None.
    setting : str
        What the roots are called where they are set, for messages.
    max_files : int
        How many files a manifest may name.

    Notes
    -----
    A path is resolved and compared with the roots once, and then opened folder by folder without following any
    symbolic link: whoever swaps a folder or a file for a link in between gets an error, not another file.
    In globs, ``**`` does not go through symbolic links.

    A mapped file that somebody truncates while it is read kills the reading process (SIGBUS). So only job processes
    map; whatever runs in the service opens with ``mapped=False``.
    """

    def __init__(
        self,
        roots: Sequence[Path] | None = None,
        *,
        base: Path | None = None,
        setting: str = "data roots",
        max_files: int = MAX_SHARDS,
    ) -> None:
        self._roots = None if roots is None else [Path(os.path.realpath(root)) for root in roots]
        self._base = Path.cwd() if base is None else Path(base).absolute()
        self._setting = setting
        self.max_files = max_files

    def expand(self, uri: str) -> list[StoredFile]:
        """See :meth:`Storage.expand`."""
        literal, pattern = self._paths(uri)
        # A file of exactly this name wins over its reading as a glob: names may hold brackets.
        if not MAGIC.search(pattern) or os.path.lexists(literal):
            return [self._literal(uri, literal)]
        self._check_base(uri, pattern)
        matches = (path for path in _Glob(uri).matches(pattern) if _counts(path))
        paths = list(itertools.islice(dict.fromkeys(matches), self.max_files + 1))
        if len(paths) > self.max_files:
            raise Invalid(f"{uri} matches more than {self.max_files} files: a manifest holds no more here.")
        if not paths:
            raise Invalid(f"{uri} matches no file.")
        return sorted(self._all_stored(uri, paths), key=lambda file: file.uri)

    def open(self, file: StoredFile, *, mapped: bool = True) -> pa.NativeFile:
        """See :meth:`Storage.open`."""
        try:
            descriptor = _open_without_links(file.path)
        except OSError as error:
            raise InputsChanged(f"{file.uri} can't be opened any more: {error.strerror}.", shard=file.uri) from error
        try:
            if _version(os.fstat(descriptor)) != file.version:
                raise InputsChanged(f"{file.uri} was changed or replaced since it was opened first.", shard=file.uri)
            if file.size == 0:
                return pa.BufferReader(b"")
            if mapped:
                # Of the descriptor that was checked, not of the path: what is there now may be another file.
                return pa.BufferReader(pa.py_buffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)))
            return pa.PythonFile(_Descriptor(os.dup(descriptor)), mode="r")
        finally:
            os.close(descriptor)

    def version(self, file: StoredFile) -> str | None:
        """See :meth:`Storage.version`."""
        try:
            return _version(os.stat(file.path))  # noqa: PTH116 -- the path is opaque text here
        except OSError:
            return None

    def blame(self, file: StoredFile, error: DataError) -> TamisError:
        """See :meth:`Storage.blame`."""
        return error

    def _paths(self, uri: str) -> tuple[str, str]:
        """Return the absolute path that `uri` names and the glob that it means."""
        scheme = _SCHEME.match(uri)
        if "\0" in uri or "%00" in uri:
            raise Invalid(f"{uri!r} is not a path: it holds a NUL character.")
        try:
            os.fsencode(uri)
        except UnicodeEncodeError:
            raise Invalid(f"{uri!r} is not a path: it holds half of a surrogate pair.") from None
        if scheme is None:
            path = os.path.join(self._base, os.path.expanduser(uri) if uri.startswith("~/") else uri)  # noqa: PTH111, PTH118 -- no normalisation
            return path, path
        if scheme[1].lower() != "file":
            raise Invalid(f"{uri}: '{scheme[1]}://' is not served; local paths are (a path, or file:///…), and s3://.")
        host, slash, rest = uri[scheme.end() :].partition("/")
        if host not in ("", "localhost") or not slash:
            raise Invalid(f"{uri} names no local path; write file:///folder/name with three slashes.")
        parts = _PERCENT.split("/" + rest)  # every second part is percent-encoded
        decoded = [os.fsdecode(unquote_to_bytes(part)) if odd % 2 else part for odd, part in enumerate(parts)]
        escaped = [glob.escape(part) if odd % 2 else part for odd, part in enumerate(decoded)]
        return "".join(decoded), "".join(escaped)

    def _check_base(self, uri: str, pattern: str) -> None:
        """Refuse a glob that starts, or walks back, outside of the roots."""
        if self._roots is None:
            return
        parts = pattern.split("/")
        first = next(index for index, part in enumerate(parts) if MAGIC.search(part))
        if ".." in parts[first:]:
            raise Forbidden(f"{uri}: '..' after a wildcard is not allowed.")
        self._check(uri, os.path.realpath("/".join(parts[:first]) or "/"))

    def _check(self, uri: str, real: str) -> None:
        if any(Path(real).is_relative_to(folder) for folder in KERNEL_FOLDERS):
            raise Forbidden(f"{uri} is no file but a door to the kernel (/proc, /sys), and is never read.")
        if self._roots is not None and not any(Path(real).is_relative_to(root) for root in self._roots):
            if not self._roots:
                raise Forbidden(f"{uri} may not be read, nor anything else, as {self._setting} is empty.")
            raise Forbidden(f"{uri} lies outside the places the service may read ({self._setting}).")

    def _literal(self, uri: str, path: str) -> StoredFile:
        self._check(uri, os.path.realpath(path))  # before anything tells whether it exists
        return self._stored(uri, path)

    def _all_stored(self, uri: str, paths: Sequence[str]) -> list[StoredFile]:
        """Return the files of a glob; one that can't be used is refused, and so are the others with it.

        To pass it over would shift the row numbers of all later files.
        """
        files: list[StoredFile] = []
        errors: list[Invalid] = []
        for path in paths:
            try:
                files.append(self._stored(uri, path))
            except Invalid as error:
                errors.append(error)
        if errors:
            more = f" So do {len(errors) - 1} more." if len(errors) > 1 else ""
            raise Invalid(
                f"{errors[0].detail} {uri} matches it by its name: mend or remove it, or name the files.{more}"
            )
        return files

    def _stored(self, uri: str, path: str) -> StoredFile:
        real = os.path.realpath(path)
        # 'link/..' is not the link's parent: only a path without '..' may be shortened as text.
        path = real if ".." in path.split("/") else os.path.normpath(path)
        self._check(uri, real)
        named = "" if uri.endswith(path) else f" (matched by {uri})"
        try:
            status = os.stat(real)  # noqa: PTH116 -- as above
        except FileNotFoundError:
            if os.path.islink(path):  # noqa: PTH114 -- as above
                raise Invalid(f"{path}{named} is a link to {real}, where there is no file.") from None
            raise Invalid(f"There is no file {path}{named}.") from None
        except OSError as error:
            raise Invalid(f"{path}{named} can't be read: {error.strerror}.") from error
        if stat.S_ISDIR(status.st_mode):
            raise Invalid(f"{path}{named} is a folder; name its files, for example {path}/*.parquet.")
        if not stat.S_ISREG(status.st_mode):
            raise Invalid(f"{path}{named} is not a regular file.")
        if not os.access(real, os.R_OK):
            raise Invalid(f"{path}{named} can't be read: permission denied.")
        return StoredFile(Path(path).as_uri(), real, status.st_size, _version(status))


class _Glob:
    """Finds what a pattern matches, as `glob` does, but with an end: it counts what it looks at."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._looked = 0

    def matches(self, pattern: str) -> Iterator[str]:
        """Yield the paths that match an absolute pattern, some perhaps twice."""
        if pattern.endswith("/"):  # folders only
            return iter(())
        parts = [part for part in pattern.split("/") if part]
        if parts[-1] == "**":
            parts.append("*")
        pairs = itertools.pairwise([*parts, ""])
        return self._below("/", [part for part, following in pairs if part != "**" or following != "**"])

    def _below(self, folder: str, parts: list[str]) -> Iterator[str]:
        part, rest = parts[0], parts[1:]
        if part == "**":
            yield from self._below(folder, rest)
            for entry in self._entries(folder):
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    yield from self._below(entry.path, parts)
            return
        if MAGIC.search(part):
            fits = re.compile(fnmatch.translate(part)).match
            hidden = part.startswith(".")
            found = [e.path for e in self._entries(folder) if fits(e.name) and (hidden or not e.name.startswith("."))]
        else:
            path = os.path.join(folder, part)  # noqa: PTH118 -- no normalisation
            found = [path] if self._exists(folder, path) else []
        for path in found:
            if rest:
                yield from self._below(path, rest)
            else:
                yield path

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                found = list(itertools.islice(entries, MAX_LOOKED - self._looked + 1))
        except NotADirectoryError:
            return []
        except OSError as error:
            self._refuse_closed(folder, error)
            return []
        self._looked += len(found)
        if self._looked > MAX_LOOKED:
            raise Invalid(f"{self._uri} looks at more than {MAX_LOOKED:,} files: name the folder more closely.")
        return found

    def _exists(self, folder: str, path: str) -> bool:
        """Return whether there is an entry `path` in a folder that the pattern matched."""
        try:
            os.lstat(path)
        except NotADirectoryError:
            return False
        except OSError as error:
            self._refuse_closed(folder, error)
            return False
        return True

    def _refuse_closed(self, folder: str, error: OSError) -> None:
        """Refuse a folder that the pattern matches and that can't be entered; one that does not exist matches nothing.

        To pass it over, as a shell does, would leave its rows out and shift the numbers of all later ones.
        """
        if error.errno == errno.ENOENT and not os.path.islink(folder):  # noqa: PTH114 -- the path is opaque text here
            return
        if error.errno == errno.ENOENT and os.path.exists(folder):  # noqa: PTH110 -- as above
            return
        raise Invalid(
            f"{folder} can't be read: {error.strerror}. {self._uri} matches it by its name: mend or remove it, or name "
            "the files."
        )


def _counts(path: str) -> bool:
    """Return whether a match counts: a file, or an entry that can't be examined and must be reported."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 -- the path is opaque text here
    except OSError:
        return True


def _open_without_links(path: str) -> int:
    """Open an absolute path for reading; fails wherever a symbolic link has been put since it was resolved."""
    *folders, name = path.split("/")[1:]
    folder = os.open("/", _FOLDER)
    try:
        for part in folders:
            above, folder = folder, os.open(part, _FOLDER, dir_fd=folder)
            os.close(above)
        return os.open(name, _FILE, dir_fd=folder)
    finally:
        os.close(folder)


def _version(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
