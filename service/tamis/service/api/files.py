"""Files of a result over HTTP: strong validators, ranges and preconditions as RFC 9110 has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import FileResponse
from starlette.datastructures import MutableHeaders

from tamis.selectors.errors import StorageError
from tamis.selectors.schema.response import ResultFile
from tamis.service.api.problems import PreconditionFailed, RangeNotSatisfiable, problem_response

MAX_RANGES: Final = 16
"""Maximum number of ranges of one request; beyond, the whole file is the answer."""

_ENTITY_TAG = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_RANGE = re.compile(r"(\d*)-(\d*)", re.ASCII)
_MAX_DIGITS = 18


def file_response(request: Request, path: Path, file: ResultFile, *, filename: str) -> Response:
    """Answer GET or HEAD for a file whose sha256 is its strong ETag.

    Parameters
    ----------
    path : Path
        Where it is.
    file : ResultFile
        What the result's manifest says of it.
    filename : str
        Under which name a browser saves it.

    Raises
    ------
    PreconditionFailed
        If-Match names other content.
    StorageError
        The file is not there, or has another size than was written.
    """
    tag = f'"{file.sha256}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    wanted = request.headers.get("if-match")
    if wanted is not None and not matches_etag(wanted, tag, weak=False):
        raise PreconditionFailed
    known = request.headers.get("if-none-match")
    if known is not None and matches_etag(known, tag, weak=True):
        return Response(status_code=304, headers=headers)
    try:
        status = path.stat()
    except OSError as error:
        raise StorageError(f"{file.name} can't be read: {error.strerror}. Resume or resubmit the job.") from error
    if status.st_size != file.bytes:
        raise StorageError(f"{file.name} has {status.st_size} bytes, but {file.bytes} were written: it was damaged.")
    scope_headers = MutableHeaders(scope=request.scope)
    ranges = _ranges(scope_headers.get("range"), scope_headers.get("if-range"), tag, file.bytes)
    if ranges == []:
        return problem_response(
            RangeNotSatisfiable(f"The file has {file.bytes} bytes; no byte of it lies in the range."),
            request,
            {"Content-Range": f"bytes */{file.bytes}", **headers},
        )
    # The transport below reads these headers once more: it gets what was decided here.
    del scope_headers["range"]
    del scope_headers["if-range"]
    if ranges is not None:
        scope_headers["range"] = "bytes=" + ",".join(f"{first}-{last}" for first, last in ranges)
    return FileResponse(path, headers=headers, media_type=file.media_type, filename=filename, stat_result=status)


def _ranges(value: str | None, if_range: str | None, tag: str, size: int) -> list[tuple[int, int]] | None:
    """Read a Range header.

    Returns
    -------
    list of (first, last), or None
        Requested bytes, bounds included; empty when none of them exists; None for the whole file: no range, one
        that is malformed or in another unit (which RFC 9110 has ignored), or an If-Range that does not hold.
    """
    if value is None or (if_range is not None and if_range.strip() != tag):
        return None
    unit, separator, listed = value.partition("=")
    parts = [part.strip() for part in listed.split(",") if part.strip()]
    if not separator or unit.strip().casefold() != "bytes" or not parts or len(parts) > MAX_RANGES:
        return None
    ranges: list[tuple[int, int]] = []
    for part in parts:
        match = _RANGE.fullmatch(part)
        if match is None or part == "-" or max(map(len, match.groups())) > _MAX_DIGITS:
            return None
        first, last = match.groups()
        if first and last and int(first) > int(last):
            return None
        if not first:
            start, end = max(0, size - int(last)), size - 1
        else:
            start, end = int(first), min(int(last), size - 1) if last else size - 1
        if start <= end:
            ranges.append((start, end))
    return ranges


def matches_etag(listed: str, tag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags (or ``*``) holds `tag`; weak comparison ignores ``W/``, strong refuses it."""
    if listed.strip() == "*":
        return True
    tags = [match.group(0) for match in _ENTITY_TAG.finditer(listed)]
    if weak:
        return tag.removeprefix("W/") in [other.removeprefix("W/") for other in tags]
    return not tag.startswith("W/") and tag in tags


FILE_HEADERS: Final[Mapping[str, Any]] = {
    "ETag": {"description": "The sha256 of the file, in quotes.", "schema": {"type": "string"}},
    "Accept-Ranges": {"description": "'bytes'.", "schema": {"type": "string"}},
    "Content-Disposition": {"description": "The name to save it under.", "schema": {"type": "string"}},
}
