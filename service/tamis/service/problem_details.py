"""Problem details (RFC 9457) of an error: the answer of a request, and the `error` of a failed job."""

from __future__ import annotations

from typing import Any, Final

from tamis.selectors.errors import Invalid, TamisError

TYPE_PREFIX: Final = "urn:tamis:problem:"
"""Prefix of the stable problem types; the error's code follows."""


def problem_of(error: TamisError) -> dict[str, Any]:
    """Convert an error to a problem document.

    Returns
    -------
    dict
        ``type``, ``title``, ``status``, ``detail``, ``code``, the place in the data (``shard``, ``row_group``, …) and,
        where fields of the request are at fault, ``errors`` with ``pointer`` and ``detail``.
    """
    errors = [dict(one) for one in error.errors] if isinstance(error, Invalid) else []
    if error.pointer is not None and not errors:
        errors = [{"pointer": error.pointer, "detail": error.detail}]
    return {
        **error.where,
        "type": TYPE_PREFIX + error.code,
        "title": title_of(type(error)),
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        **({"errors": errors} if errors else {}),
    }


def title_of(kind: type[TamisError]) -> str:
    """Return the title of an error class: the first line of its docstring."""
    return (kind.__doc__ or "").strip().splitlines()[0].rstrip(".")
