"""Errors over HTTP: RFC 9457 problems, the framework's own errors included."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from tamis.selectors.errors import Invalid, TamisError
from tamis.service.problem_details import TYPE_PREFIX, problem_of

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
"""Retry-After of every answer that may be another one soon."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("tamis.api")


class FieldError(BaseModel):
    """One field at fault."""

    pointer: str = Field(
        description="JSON Pointer (RFC 6901) into the body; '/query/…', '/path/…' and '/header/…' name other places."
    )
    detail: str


class Problem(BaseModel):
    """An RFC 9457 problem. More members say where in the data it happened: shard, row_group, column, row, line."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A stable URI: 'urn:tamis:problem:' and the code.")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str
    code: str
    errors: list[FieldError] | None = None


class BadRequest(TamisError):
    """The request can't be understood."""

    code = "bad-request"
    status = 400


class Unauthorized(TamisError):
    """An API key is needed: send it as 'Authorization: Bearer tamis_…'."""

    code = "unauthorized"
    status = 401
    challenge: ClassVar[str] = 'Bearer realm="tamis"'
    """The WWW-Authenticate header, as RFC 6750 has it."""


class InvalidKey(Unauthorized):
    """This API key is unknown, expired or revoked."""

    code = "invalid-key"
    challenge = f'{Unauthorized.challenge}, error="invalid_token"'


class InsufficientScope(TamisError):
    """The API key does not allow this."""

    code = "insufficient-scope"
    status = 403
    challenge: ClassVar[str] = f'{Unauthorized.challenge}, error="insufficient_scope"'


class NotAcceptable(TamisError):
    """There is no representation that the Accept header allows."""

    code = "not-acceptable"
    status = 406


class KeyInFlight(TamisError):
    """A request with this idempotency key is being answered right now; send it again in a second."""

    code = "idempotency-key-in-flight"
    status = 409


class Expired(TamisError):
    """The job's files were removed to make room; submit it again, and the same bytes are made again."""

    code = "expired"
    status = 410


class PreconditionFailed(TamisError):
    """The file is another than If-Match asks for."""

    code = "precondition-failed"
    status = 412


class BodyTooLarge(TamisError):
    """The body is larger than this service accepts."""

    code = "body-too-large"
    status = 413


class UnsupportedMediaType(TamisError):
    """The body has a media type that is not accepted here."""

    code = "unsupported-media-type"
    status = 415


class RangeNotSatisfiable(TamisError):
    """No byte of the file lies in the range."""

    code = "range-not-satisfiable"
    status = 416


class TooManyRequests(TamisError):
    """These are more requests than one caller may send."""

    code = "too-many-requests"
    status = 429


class NotReady(Invalid):
    """The service can't run jobs now."""

    code = "not-ready"
    status = 503


class Draining(TamisError):
    """The service is stopping and takes no new jobs; send the job again in a few seconds."""

    code = "draining"
    status = 503


class Internal(TamisError):
    """The service met an error of its own; its log says more."""

    code: ClassVar[str] = "internal"


FRAMEWORK_CODES = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    413: "body-too-large",
    415: "unsupported-media-type",
}
"""Problem codes of the errors that the framework raises itself, by status."""


def _problem_at(error: TamisError, instance: str) -> dict[str, Any]:
    """Return the problem document of an error that the request for the path `instance` met."""
    return problem_of(error) | {"instance": instance}


def problem_response(error: TamisError, request: Request, headers: Mapping[str, str] | None = None) -> Response:
    """Answer a request with an error."""
    more: dict[str, str] = {}
    if error.status == 503 or isinstance(error, KeyInFlight):
        more["Retry-After"] = str(RETRY_AFTER_SECONDS)
    elif "retry_after" in error.where:
        more["Retry-After"] = str(error.where["retry_after"])
    elif isinstance(error, Unauthorized | InsufficientScope):
        scope = f', scope="{error.where["scope"]}"' if "scope" in error.where else ""
        more["WWW-Authenticate"] = error.challenge + scope
    return JSONResponse(
        _problem_at(error, request.url.path),
        status_code=error.status,
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", **more, **(headers or {})},
    )


Responses = dict[int | str, dict[str, Any]]
"""Declared answers of an endpoint, in FastAPI's form."""


ALWAYS: Final = 500
KEYED: Final = (401, 403, 429, 503)
"""Error statuses of every endpoint that requires an API key; 503 when the store does not answer."""


def error_responses(*statuses: int, more: Responses | None = None, keyed: bool = True) -> Responses:
    """Declare an endpoint's error answers, the common ones included, and `more` answers, for the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/Problem"}
    errors: Responses = {
        status: {"description": http.HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({*statuses, ALWAYS, *(KEYED if keyed else ())})
    }
    return {**(more or {}), **errors}


def register(app: FastAPI) -> None:
    """Make `app` answer every error as a problem."""
    app.add_exception_handler(TamisError, _on_tamis_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameters)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


async def _on_tamis_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TamisError)
    if isinstance(error, NotReady | Draining):
        # Not a fault of the code, and probes come every few seconds: a line without a traceback.
        log.warning(error.detail, code=error.code, path=request.url.path)
    elif error.status >= 500:
        log.error(error.detail, code=error.code, path=request.url.path, exc_info=error)
    return problem_response(error, request)


async def _on_invalid_parameters(request: Request, error: Exception) -> Response:
    """Answer invalid path, query and header parameters; bodies are validated in `bodies`."""
    assert isinstance(error, RequestValidationError)
    errors = [
        {"pointer": "".join(f"/{part}" for part in item["loc"]), "detail": str(item["msg"])} for item in error.errors()
    ]
    detail = "; ".join(f"{item['pointer'].removeprefix('/')}: {item['detail']}" for item in errors)
    refused = BadRequest(f"Parameters do not fit: {detail}.")
    document = _problem_at(refused, request.url.path) | {"errors": errors}
    return JSONResponse(document, status_code=refused.status, media_type=MEDIA_TYPE)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = http.HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    detail = str(error.detail)
    if status == http.HTTPStatus.NOT_FOUND:
        detail = f"There is no path {request.url.path!r} here; the API starts at /v1, its description is /openapi.json."
    elif status == http.HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(allowed_methods(request))
        detail = f"{request.method} is not possible here; {headers['Allow']} is."
    code = FRAMEWORK_CODES.get(status, "http-error")
    document = {
        "type": TYPE_PREFIX + code,
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "instance": request.url.path,
        "code": code,
    }
    return JSONResponse(document, status_code=status, media_type=MEDIA_TYPE, headers=headers)


async def _on_bug(request: Request, error: Exception) -> Response:
    # The server logs it: the framework raises it again once this answer is sent.
    return problem_response(Internal(), request)


def allowed_methods(request: Request) -> list[str]:
    """Return all methods of this path: the router itself names only those of the first route that matches."""
    allowed: set[str] = set()
    for route in request.app.state.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            allowed |= route.methods
    return sorted(allowed)
