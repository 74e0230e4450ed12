"""JSON documents from outside: parsed strictly, validated, and every error told with its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from tamis.selectors.errors import Invalid, TamisError

Shape = TypeVar("Shape", bound=BaseModel)

EXACT_INTEGERS: Final = 2**53
"""Floats below are whole numbers without loss."""

MAX_ERRORS: Final = 100
"""Errors told at once."""

ERRORS_IN_DETAIL: Final = 5


class MalformedJson(TamisError):
    """This is not JSON."""

    code = "bad-request"
    status = 400


def parse(content: bytes) -> Any:
    """Parse JSON as RFC 8259 has it: no NaN, no lone surrogates, no numbers beyond a double's range.

    Raises
    ------
    MalformedJson
        It is no JSON.
    Invalid
        It holds a NUL character or a number that overflows, which nothing behind this point could store.
    """
    try:
        document = pydantic_core.from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedJson(f"This is not valid JSON: {error}.") from error
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
