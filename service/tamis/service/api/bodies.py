"""JSON bodies of requests, read within a limit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from email.message import Message
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from tamis.service.api.documents import parse, validate
from tamis.service.api.problems import BodyTooLarge, UnsupportedMediaType

Shape = TypeVar("Shape", bound=BaseModel)

DISCARDED_BYTES = 64 * 2**20
"""Bytes read of a body beyond the limit: a client that is still sending would miss the answer."""


@dataclass(frozen=True)
class Body(Generic[Shape]):
    """Validated JSON body of a request."""

    shape: Shape
    document: Any  # as it was sent
    sha256: str  # of the canonical form: sorted keys, no white space


def json_body(
    shape: type[Shape], smaller: str = "name the shards by globs, or register the dataset and refer to it"
) -> Callable[[Request], Coroutine[Any, Any, Body[Shape]]]:
    """Make the dependency that reads a body of `shape`. Its schema is declared with `request_body`.

    Parameters
    ----------
    smaller : str
        How a body that is too large can be made smaller.
    """

    async def read(request: Request) -> Body[Shape]:
        _check_media_type(request.headers.get("content-type"))
        content = await _read(request, request.app.state.service.limits.max_body_bytes, smaller)
        # In a thread: the members of a large body take seconds, and nobody else should wait for them.
        return await run_in_threadpool(_checked, shape, content)

    return read


def _checked(shape: type[Shape], content: bytes) -> Body[Shape]:
    document = parse(content)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    return Body(validate(shape, document), document, hashlib.sha256(canonical).hexdigest())


def request_body(shape: type[BaseModel]) -> dict[str, Any]:
    """Declare a body for the OpenAPI document."""
    schema = {"$ref": f"#/components/schemas/{shape.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _check_media_type(value: str | None) -> None:
    message = Message()
    message["content-type"] = value or "none/none"
    subtype = message.get_content_subtype()
    is_json = message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))
    charset = str(message.get_param("charset", "utf-8")).casefold()
    if not is_json or charset not in {"utf-8", "utf8", "us-ascii"}:
        raise UnsupportedMediaType(
            f"The body's media type is {value!r}: send JSON in UTF-8 with 'Content-Type: application/json'."
        )


async def _read(request: Request, limit: int, smaller: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > limit + DISCARDED_BYTES:
            break
    if size > limit:
        raise BodyTooLarge(f"The body is larger than {limit} bytes: {smaller}.")
    return b"".join(chunks)
