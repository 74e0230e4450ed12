"""Validation errors of a document: pydantic's errors as JSON Pointers, with sentences that say what fits."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import BaseModel, ValidationError

OTHER_TYPE: Final = frozenset({"string_type", "model_type", "dict_type", "list_type"})
OTHER_FIELDS: Final = frozenset({"missing", "extra_forbidden"})
FAR: Final = 1000
"""Farther than any number of fields that are missing or too many."""

SENTENCES: Final = 100
"""Errors that are told with the names of fields; a document can have a hundred thousand."""

FIELDS_NAMED: Final = 20
"""A sentence names at most so many fields."""


@dataclass(frozen=True)
class _Found:
    """One of pydantic's errors, and where it is in the document."""

    pointer: str
    kind: str
    detail: str
    members: tuple[
        tuple[str, str], ...
    ]  # (pointer, name) of each union on the way, and which of its members this is of


def field_errors(error: ValidationError, document: Any, shape: type[BaseModel]) -> list[dict[str, str]]:
    """Give a pointer and a sentence for each error; of a union, only the members that come nearest to what was sent.

    Parameters
    ----------
    error : ValidationError
        What `shape` said of `document`.
    document
        JSON values.
    shape : type of BaseModel
        Its fields are named where one that is sent is none of them.
    """
    found = [
        _locate(item["loc"], document, str(item["type"]), str(item["msg"]).removeprefix("Value error, "))
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    distances: dict[tuple[str, str], int] = {}
    for one in found:
        for pointer, name in one.members:
            distances[pointer, name] = distances.get((pointer, name), 0) + _distance(one, pointer)
    nearest: dict[str, int] = {}
    for (pointer, _), distance in distances.items():
        nearest[pointer] = min(distance, nearest.get(pointer, distance))
    kept: dict[tuple[str, str], _Found] = {}
    for one in found:
        if all(distances[member] == nearest[member[0]] for member in one.members):
            kept.setdefault((one.pointer, one.detail), one)
    return [
        {"pointer": one.pointer, "detail": _sentence(one, shape) if place < SENTENCES else one.detail}
        for place, one in enumerate(kept.values())
    ]


def escape(part: str) -> str:
    """Escape one part of a JSON Pointer (RFC 6901, section 3)."""
    return part.replace("~", "~0").replace("/", "~1")


def _distance(one: _Found, union: str) -> int:
    """Return how far an error is from the caller's intention for a union's member: a type far, a field a little."""
    if one.pointer == union and one.kind in OTHER_TYPE:
        return FAR
    return int(one.kind in OTHER_FIELDS and one.pointer.rpartition("/")[0] == union)


def _locate(location: tuple[int | str, ...], document: Any, kind: str, detail: str) -> _Found:
    """Turn pydantic's location into a pointer, leaving out the names of unions' members, which are no fields."""
    pointer, value = "", document
    members: list[tuple[str, str]] = []
    for position, part in enumerate(location):
        absent = kind == "missing" and position == len(location) - 1
        if isinstance(value, dict) and (part in value or absent):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            members.append((pointer, str(part)))
            continue
        pointer += f"/{escape(str(part))}"
    return _Found(pointer, kind, detail, tuple(members))


def _sentence(one: _Found, shape: type[BaseModel]) -> str:
    """Return a hint at the fields that fit, where their names tell."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in one.pointer.split("/")[1:]]
    if one.kind == "extra_forbidden" and parts:
        known = _fields_at(shape, parts[:-1])
        close = difflib.get_close_matches(parts[-1], known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return f"{one.detail}.{hint} The fields are: {_listed(known)}" if known else one.detail
    if one.kind == "model_type" and (known := _fields_at(shape, parts)):
        return f"{one.detail} with fields of: {_listed(known)}"
    return one.detail


def _listed(names: Sequence[str]) -> str:
    others = f" and {len(names) - FIELDS_NAMED} more" if len(names) > FIELDS_NAMED else ""
    return ", ".join(names[:FIELDS_NAMED]) + others


def _fields_at(shape: type[BaseModel], parts: Sequence[str]) -> list[str]:
    """Return the names of the fields that the object at a place may have; of a union, those of all members."""
    schema = _schema(shape)
    places = [schema]
    for part in parts:
        places = [found for place in places for found in _inside(_members(place, schema), part)]
    names = (name for place in places for member in _members(place, schema) for name in member.get("properties", {}))
    return list(dict.fromkeys(names))


@cache
def _schema(shape: type[BaseModel]) -> dict[str, Any]:
    return shape.model_json_schema()


def _members(place: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Follow references and unions."""
    if "$ref" in place:
        return _members(schema["$defs"][place["$ref"].rpartition("/")[2]], schema)
    unions = [*place.get("anyOf", ()), *place.get("oneOf", ())]
    return [found for member in unions for found in _members(member, schema)] if unions else [place]


def _inside(members: Sequence[dict[str, Any]], part: str) -> Iterator[dict[str, Any]]:
    for member in members:
        if part in member.get("properties", {}):
            yield member["properties"][part]
        elif "items" in member and part.isdecimal():
            yield member["items"]
        elif isinstance(member.get("additionalProperties"), dict):
            yield member["additionalProperties"]
