"""Every error a user can meet: a stable ``code`` (the problem+json slug) and, where it is known, the place at fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class TamisError(Exception):
    """Something went wrong in Tamis."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    """The HTTP status that tells it best; the service uses it, the library ignores it."""

    def __init__(self, detail: str | None = None, *, pointer: str | None = None, **where: Any) -> None:
        """Build the error.

        Parameters
        ----------
        detail : str, optional
            What happened and what to do next; the class docstring's first line when left out.
        pointer : str, optional
            JSON Pointer (RFC 6901) to the field of the request that is at fault.
        **where
            The place in the data (``shard``, ``row_group``, ``column``, ``row``, ``line``); JSON values only.
        """
        self.detail = detail if detail is not None else (self.__doc__ or "").strip().splitlines()[0]
        self.pointer = pointer
        self.where: Mapping[str, Any] = {key: value for key, value in where.items() if value is not None}
        super().__init__(self.detail)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.detail, self.pointer, dict(self.where))


def _rebuild(kind: type[TamisError], detail: str, pointer: str | None, where: dict[str, Any]) -> TamisError:
    return kind(detail, pointer=pointer, **where)


class Invalid(TamisError):
    """The request is not valid."""

    code = "invalid-request"
    status = 422

    def __init__(
        self,
        detail: str | None = None,
        *,
        pointer: str | None = None,
        errors: Sequence[Mapping[str, str]] | None = None,
        **where: Any,
    ) -> None:
        super().__init__(detail, pointer=pointer, **where)
        self.errors = list(errors or [])


class Infeasible(Invalid):
    """The budget and the quotas can't be met together."""

    code = "infeasible"


class NotFound(TamisError):
    """There is no such thing."""

    code = "not-found"
    status = 404


class Conflict(TamisError):
    """The job is not in a state that allows this."""

    code = "conflict"
    status = 409


class Forbidden(TamisError):
    """This uri lies outside the places the service may read."""

    code = "forbidden"
    status = 403


class InputsChanged(TamisError):
    """A shard changed since the job was accepted."""

    code = "inputs-changed"
    status = 412


class DataError(TamisError):
    """A shard holds data that can't be used."""

    code = "bad-data"
    status = 422


class UnknownSelector(Invalid):
    """There is no selector of that name."""

    code = "unknown-selector"


class Cancelled(TamisError):
    """The job was cancelled."""

    code = "cancelled"
    status = 409


class OutOfLimits(TamisError):
    """The job needs more than its limits allow."""

    code = "limit-exceeded"
    status = 422


class StorageError(TamisError):
    """Storage did not answer as it should."""

    code = "storage"
    status = 503
