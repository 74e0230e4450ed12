"""Middleware: a request id, a span, a latency measurement and a log line for every request."""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tamis.service.api.metrics import Metrics
from tamis.service.tracing import request_span

REQUEST_ID: Final = "X-Request-ID"
"""Header of the request id: the caller's where it is usable, else a new one; on the answer and on every log line."""

UNMATCHED: Final = "unmatched"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes of probes, which come every few seconds: logged only when they fail."""

_USABLE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

log: structlog.stdlib.BoundLogger = structlog.get_logger("tamis.http")


class ObserveRequests:
    """ASGI middleware that observes requests; measurements are labelled by the route's template, a finite set."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500
        headers = Headers(scope=scope)
        received = headers.get(REQUEST_ID, "")
        request_id = received if _USABLE_ID.fullmatch(received) else secrets.token_hex(16)
        method = scope["method"] if scope["method"] in METHODS else "other"

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id), request_span(method, headers) as span:
            try:
                await self._app(scope, receive, watched)
            finally:
                seconds = time.perf_counter() - started
                route = getattr(scope.get("route"), "path_format", UNMATCHED)
                span.answered(route, status)
                self._metrics.requests.labels(method, route, str(status)).observe(seconds)
                if route not in QUIET or status >= 400:
                    log.info("request", method=method, path=scope["path"], route=route, status=status, seconds=seconds)
