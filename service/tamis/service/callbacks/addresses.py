"""Allowed destinations of callbacks: public addresses, and the hosts and networks that the operator named.

A caller chooses the url, and the service sends from inside the operator's network: without a check it would reach what
the caller can't (server-side request forgery). A name is resolved once, every address is checked, and the connection is
made to one that was: a name that resolves to another one a moment later (DNS rebinding) changes nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import httpx

from tamis.selectors.errors import Forbidden, Invalid
from tamis.service.settings import CALLBACK_HOSTS, AllowedHosts

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

Resolve = Callable[[str, int], Sequence[str]]
"""Function from a host's name and a port to its addresses; raises OSError when there are none."""

PORTS: Final = {"http": 80, "https": 443}

_TEXT: Final = re.compile(r"[\x21-\x5b\x5d-\x7e]+")  # what a URL may be written in: no space, no backslash
_NAME: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_NUMBER: Final = re.compile(r"\d+|0x[0-9a-f]*")

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Parts of a URL."""

    url: httpx.URL
    host: str  # lower case, without brackets
    port: int
    literal: Address | None  # the host, where it is an address


def resolve(host: str, port: int) -> Sequence[str]:
    """Resolve a name with this machine's resolver."""
    resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in resolved))


def parse_url(url: str) -> Endpoint:
    """Parse the URL of a callback.

    Raises
    ------
    Invalid
        It is no http(s) url, names a user, or writes its host in a way that programs read differently.
    """
    try:
        parsed = httpx.URL(url) if _TEXT.fullmatch(url) else None
    except httpx.InvalidURL:
        parsed = None
    if parsed is None or parsed.scheme not in PORTS or not parsed.raw_host:
        raise Invalid("A callback goes to an http:// or https:// URL.")
    if parsed.userinfo:
        raise Invalid("A callback's URL names no user and no password: the signature shows who sent it.")
    port = PORTS[parsed.scheme] if parsed.port is None else parsed.port
    if not 0 < port < 2**16:
        raise Invalid(f"The callback's port {port} is none.")
    host = parsed.raw_host.decode("ascii").lower()
    return Endpoint(parsed, host, port, _literal(host))


def _literal(host: str) -> Address | None:
    if ":" in host:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            address = None
        if address is None or address.scope_id is not None:
            raise Invalid(f"The callback's host {host!r} is no IPv6 address.")
        return address
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        try:
            return ipaddress.IPv4Address(host)
        except ValueError:
            raise Invalid(
                f"The callback's host {host!r} is no IPv4 address: write it as four decimal numbers."
            ) from None
    if not _NAME.fullmatch(host.removesuffix(".")):
        raise Invalid(f"The callback's host {host!r} is no host name.")
    return None


def checked_addresses(endpoint: Endpoint, allowed: AllowedHosts, resolve: Resolve) -> Sequence[Address]:
    """Resolve a host to addresses, all of which are allowed.

    Raises
    ------
    Forbidden
        One of them may not.
    OSError
        The name does not resolve.
    """
    if endpoint.literal is not None:
        addresses: list[Address] = [endpoint.literal]
    else:
        resolved = resolve(endpoint.host, endpoint.port)
        addresses = [ipaddress.ip_address(address.partition("%")[0]) for address in resolved]
    if endpoint.host.removesuffix(".") not in allowed.names:
        for address in addresses:
            if not is_public(address) and not any(address in network for network in allowed.networks):
                # Without the address: the caller may not know the names of this network.
                raise Forbidden(
                    f"The callback's host {endpoint.host} is not on the public internet: the service sends there only "
                    f"when its operator allows it ({CALLBACK_HOSTS.variable})."
                )
    return addresses


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet; an embedded IPv4 address decides."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
