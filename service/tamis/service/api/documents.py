"""Strict parsing and validation of JSON from callers; every error points at its place."""

from __future__ import annotations

import math
from typing import Any, Final, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from tamis.selectors.errors import Invalid, TamisError
from tamis.selectors.schema.validation import escape, field_errors

Shape = TypeVar("Shape", bound=BaseModel)

EXACT_INTEGERS: Final = 2**53
"""Up to this magnitude a double holds every whole number exactly."""

MAX_ERRORS: Final = 100
"""Maximum number of validation errors in one response."""

ERRORS_IN_DETAIL: Final = 5

MAX_VALUES: Final = 1_000_000
"""Maximum number of values in one document, three times that of 100,000 shards: validation holds up other requests."""

MAX_DEPTH: Final = 64
"""Maximum depth of nested arrays and objects; a request needs about 12, and the code that reads them is recursive."""


class MalformedJson(TamisError):
    """This is not JSON."""

    code = "bad-request"
    status = 400


def parse(content: bytes) -> Any:
    """Parse JSON as RFC 8259 has it: no NaN, no lone surrogates, no numbers beyond a double's range.

    Raises
    ------
    MalformedJson
        It is no JSON, or so deep that it is not parsed at all.
    Invalid
        It holds a NUL character, a number that overflows, or more or deeper values than any request needs.
    """
    try:
        document = pydantic_core.from_json(content, allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise MalformedJson(f"Arrays and objects are nested deeper than {MAX_DEPTH} levels.") from error
        raise MalformedJson(f"This is not valid JSON: {error}.") from error
    _check_values(document)
    return document


def _check_values(document: Any) -> None:
    pending: list[tuple[str, Any, int]] = [("", document, 0)]
    seen = 0
    while pending:
        pointer, value, depth = pending.pop()
        seen += 1
        if depth > MAX_DEPTH:
            raise Invalid(f"Arrays and objects are nested deeper than {MAX_DEPTH} levels.", pointer=pointer)
        if seen + len(pending) > MAX_VALUES:
            raise Invalid(f"The document holds more than {MAX_VALUES:,} values: use globs for shards.", pointer=pointer)
        if isinstance(value, str) and "\0" in value:
            raise Invalid("The text holds a NUL character (\\u0000): remove it.", pointer=pointer)
        if isinstance(value, float) and not math.isfinite(value):
            raise Invalid("The number is too large for a double.", pointer=pointer)
        if isinstance(value, dict):
            for key, item in value.items():
                if "\0" in key:
                    raise Invalid("A field's name holds a NUL character (\\u0000): remove it.", pointer=pointer)
                pending.append((f"{pointer}/{escape(key)}", item, depth + 1))
        elif isinstance(value, list):
            pending.extend((f"{pointer}/{index}", item, depth + 1) for index, item in enumerate(value))


def validate(shape: type[Shape], document: Any) -> Shape:
    """Validate strictly: no string for a number, no number for a boolean; floats such as 1e6 pass as whole numbers.

    Raises
    ------
    Invalid
        With a pointer for each field at fault.
    """
    try:
        return shape.model_validate_json(pydantic_core.to_json(_whole_numbers(document)), strict=True)
    except ValidationError as error:
        errors = field_errors(error, document, shape)
        detail = "; ".join(f"{item['pointer'] or 'the whole'}: {item['detail']}" for item in errors[:ERRORS_IN_DETAIL])
        more = f" (and {len(errors) - ERRORS_IN_DETAIL} more)" if len(errors) > ERRORS_IN_DETAIL else ""
        raise Invalid(f"The request does not fit: {detail}{more}.", errors=errors[:MAX_ERRORS]) from error


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_INTEGERS:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return value
