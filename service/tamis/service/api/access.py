"""Authentication: from the API key of a request to its owner and scopes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from tamis.service.api.context import Service, ServiceDep
from tamis.service.api.origin_check import refuse_foreign
from tamis.service.api.problems import InsufficientScope, InvalidKey, TooManyRequests, Unauthorized
from tamis.service.store import Scope

LOCAL_OWNER: Final = "local"
"""Owner of everything as long as no API key is required."""

READING: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Sender of a request: an owner and its scopes."""

    owner: str  # of the jobs and datasets it makes, and of its idempotency keys
    scopes: frozenset[Scope]

    @property
    def visible_owner(self) -> str | None:
        """Owner whose jobs and datasets the caller may name; None: every owner's."""
        return None if Scope.ADMIN in self.scopes else self.owner


LOCAL_CALLER: Final = Caller(LOCAL_OWNER, frozenset(Scope))
"""The caller of every request where no API key is required."""


def scope_of(method: str) -> Scope:
    """Return the scope that a request needs: `read` for GET and HEAD, `submit` for everything else."""
    return Scope.READ if method in READING else Scope.SUBMIT


async def _caller(request: Request, service: ServiceDep) -> Caller:
    token = _bearer(request.headers.get("authorization", ""))
    try:
        if token is None and service.open_for_now():
            caller = LOCAL_CALLER
        else:
            caller = await run_in_threadpool(_authenticated, service, token, request.method)
    except Unauthorized:
        _count(service, request.client.host if request.client else None)
        raise
    if caller is LOCAL_CALLER:
        refuse_foreign(request.headers, service.names)
    _count(service, (caller.owner,))  # all keys of an owner together
    return caller


def _count(service: Service, who: Hashable) -> None:
    seconds = service.rates.take(who)
    if seconds:
        raise TooManyRequests(
            f"These are more than {service.limits.requests_per_second} requests a second: send them more slowly. "
            "A status can be waited for: GET /v1/jobs/{id} with 'Prefer: wait=30'.",
            retry_after=math.ceil(seconds),
        )


def _authenticated(service: Service, token: str | None, method: str) -> Caller:
    key = None if token is None else service.store.keys.find(token)
    if key is None:
        if not service.requires_key():
            return LOCAL_CALLER
        raise Unauthorized if token is None else InvalidKey
    needed = scope_of(method)
    if not key.scopes & {needed, Scope.ADMIN}:
        raise InsufficientScope(f"This needs an API key with the scope '{needed}'.", scope=str(needed))
    return Caller(key.owner, key.scopes)


def _bearer(header: str) -> str | None:
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.casefold() == "bearer" else None


CallerDep = Annotated[Caller, Depends(_caller)]
"""Sender of the request; 401 without a valid key where one is required, 403 when it does not allow the method."""

key_dependency: Final[Sequence[Any]] = (Depends(_caller),)
"""Dependency of routers and routes: the key is checked before anything else of a request is read."""
