"""JSON bodies: read within a limit, parsed strictly, validated, and every error told with its place."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any, Generic, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ValidationError

from tamis.selectors.errors import Invalid
from tamis.service.api.problems import BadRequest, BodyTooLarge, UnsupportedMediaType

Shape = TypeVar("Shape", bound=BaseModel)

EXACT_INTEGERS = 2**53
"""Floats below are whole numbers without loss."""

DISCARDED_BYTES = 64 * 2**20
"""How much of a body that is too large is read all the same: a client that still sends would miss the answer."""

MAX_ERRORS = 100
"""Errors told at once."""


@dataclass(frozen=True)
class Body(Generic[Shape]):
    """A validated body."""

    shape: Shape
    document: Any  # as it was sent
    sha256: str  # of the canonical form: sorted keys, no white space


def json_body(shape: type[Shape]) -> Callable[[Request], Awaitable[Body[Shape]]]:
    """Make the dependency that reads a body of `shape`. Its schema is declared with `request_body`."""

    async def read(request: Request) -> Body[Shape]:
        _check_media_type(request.headers.get("content-type"))
        document = parse(await _read(request, request.app.state.service.limits.max_body_bytes))
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        return Body(validate(shape, document), document, hashlib.sha256(canonical).hexdigest())

    return read


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


async def _read(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > limit + DISCARDED_BYTES:
            break
    if size > limit:
        raise BodyTooLarge(
            f"The body is larger than {limit} bytes: name the shards by globs, or register the dataset and refer to it."
        )
    return b"".join(chunks)


def parse(content: bytes) -> Any:
    """Parse JSON as RFC 8259 has it: no NaN, no lone surrogates, no numbers beyond a double's range.

    Raises
    ------
    BadRequest
        It is no JSON.
    Invalid
        It holds a NUL character or a number that overflows, which nothing behind this point could store.
    """
    try:
        document = pydantic_core.from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.") from error
    _check_values(document)
    return document


def _check_values(document: Any) -> None:
    pending: list[tuple[str, Any]] = [("", document)]
    while pending:
        pointer, value = pending.pop()
        if isinstance(value, str) and "\0" in value:
            raise Invalid("The text holds a NUL character (\\u0000): remove it.", pointer=pointer)
        if isinstance(value, float) and not math.isfinite(value):
            raise Invalid("The number is too large for a double.", pointer=pointer)
        if isinstance(value, dict):
            for key, item in value.items():
                if "\0" in key:
                    raise Invalid("A field's name holds a NUL character (\\u0000): remove it.", pointer=pointer)
                pending.append((f"{pointer}/{escape(key)}", item))
        elif isinstance(value, list):
            pending.extend((f"{pointer}/{index}", item) for index, item in enumerate(value))


def validate(shape: type[Shape], document: Any) -> Shape:
    """Validate strictly: no text for a number, no number for a truth value; 1e6 is a whole number all the same.

    Raises
    ------
    Invalid
        With a pointer for each field at fault.
    """
    try:
        return shape.model_validate_json(pydantic_core.to_json(_whole_numbers(document)), strict=True)
    except ValidationError as error:
        errors = field_errors(error, document)
        detail = "; ".join(f"{item['pointer'] or 'the body'}: {item['detail']}" for item in errors[:5])
        more = f" (and {len(errors) - 5} more)" if len(errors) > 5 else ""
        raise Invalid(f"The request does not fit: {detail}{more}.", errors=errors[:MAX_ERRORS]) from error


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_INTEGERS:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return value


def field_errors(error: ValidationError, document: Any) -> list[dict[str, str]]:
    """Give a pointer and a sentence for each error; of a union, only the member that the caller meant."""
    found = [
        (
            *_place(item["loc"], document, missing=item["type"] == "missing"),
            str(item["type"]),
            str(item["msg"]).removeprefix("Value error, "),
        )
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    kept: list[dict[str, str]] = []
    for pointer, value, kind, detail in found:
        others = [(other, name) for other, _, name, _ in found if (other, name) != (pointer, kind)]
        inside = any(other.startswith(f"{pointer}/") for other, _ in others)
        beside = any(other == pointer for other, _ in others)
        # "should be a string" beside errors inside of an object: the caller meant the object.
        meant_other = kind in {"string_type", "model_type", "dict_type"} and (
            inside or (beside and _is_of(value, kind, others, pointer))
        )
        entry = {"pointer": pointer, "detail": detail}
        if not meant_other and entry not in kept:
            kept.append(entry)
    return kept


def _is_of(value: Any, kind: str, others: Sequence[tuple[str, str]], pointer: str) -> bool:
    """Whether another error at the same place fits the value's type better than this one of `kind`."""
    names = {name for other, name in others if other == pointer}
    if isinstance(value, str):
        return kind != "string_type"
    if isinstance(value, dict):
        return kind == "string_type" and names != {"string_type"}
    return False


def _place(location: tuple[int | str, ...], document: Any, *, missing: bool) -> tuple[str, Any]:
    """Turn pydantic's location into a pointer and the value there, leaving out the names of a union's members."""
    pointer, value = "", document
    for position, part in enumerate(location):
        absent = missing and position == len(location) - 1
        if isinstance(value, dict) and (part in value or absent):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue
        pointer += f"/{escape(str(part))}"
    return pointer, value


def escape(part: str) -> str:
    """Escape one part of a JSON Pointer."""
    return part.replace("~", "~0").replace("/", "~1")
