"""Origin and Host checks against DNS rebinding and cross-site requests, where no API key is required.

A browser lets any page send requests to 127.0.0.1, and to a name of the page's own that has come to mean 127.0.0.1 (DNS
rebinding), whose answers the page may then read. What a page can't choose is which Host and Origin the browser sends.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

from tamis.selectors.errors import TamisError

LOCALHOST: Final = "localhost"


class ForeignRequest(TamisError):
    """The request may come from a web page."""

    code = "foreign-request"
    status = 403


def refuse_foreign(headers: Mapping[str, str], names: Collection[str]) -> None:
    """Refuse a request without a key that was sent to another name, or by a page of another origin.

    Parameters
    ----------
    headers : mapping of str
        Of the request; names in lower case.
    names : collection of str
        Host names of the service, in lower case, besides ``localhost`` and addresses in numbers.

    Raises
    ------
    ForeignRequest
    """
    host = headers.get("host")  # no browser leaves it out
    if host is not None and not _is_own(host, names):
        raise ForeignRequest(
            f"The request was sent to {host!r}, which is no name of this service. Send it to the address that `tamis "
            "serve` printed, name this one with --host, or make an API key: with a key every name will do."
        )
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.casefold() != (host or "").casefold():
        raise ForeignRequest(
            f"The request comes from a web page of {origin!r}: without an API key the service answers no other pages "
            "than its own."
        )


def _is_own(host: str, names: Collection[str]) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name == LOCALHOST or name.endswith(f".{LOCALHOST}") or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
