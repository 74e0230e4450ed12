"""An error as `application/problem+json` (RFC 9457): the answer of a request, and the `error` of a failed job."""

from __future__ import annotations

from typing import Any, Final

from tamis.selectors.errors import Invalid, TamisError

TYPE_PREFIX: Final = "urn:tamis:problem:"
"""Before the error's code: the problem's type, the same for all time."""


def problem_of(error: TamisError) -> dict[str, Any]:
    """Say an error in JSON.

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
    """Give a kind of problem its title: the first sentence of its docstring."""
    return (kind.__doc__ or "").strip().splitlines()[0].rstrip(".")
