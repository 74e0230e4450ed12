"""OpenTelemetry spans of requests, attempts and phases, where its API package is installed.

The API package alone records nothing: whoever wants traces installs the SDK and configures it, as
``opentelemetry-instrument tamis serve`` does for the service and the workers that it starts. The trace of a submission
goes with its job: attempts, hours later and on another host, are part of the caller's trace.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import structlog

try:
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError:
    INSTALLED = False
else:
    INSTALLED = True
    _propagator = TraceContextTextMapPropagator()

if TYPE_CHECKING:
    from opentelemetry.trace import Span

VERSION: Final = version("tamis")  # parses the package's metadata, which is too slow for every span


class RequestSpan:
    """Span of one request."""

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def answered(self, route: str, status: int) -> None:
        """Set route and status, which are known at the end of the request only."""
        if self._span is None:
            return
        self._span.update_name(f"HTTP {route}")
        self._span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            self._span.set_status(trace.StatusCode.ERROR)


@contextmanager
def request_span(method: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
    """Open the span of a request in its caller's trace; log lines inside carry the trace's id."""
    if not INSTALLED:
        yield RequestSpan(None)
        return
    with _tracer().start_as_current_span(
        f"HTTP {method}",
        context=_propagator.extract(headers),
        kind=trace.SpanKind.SERVER,
        attributes={"http.request.method": method},
    ) as span:
        span_context = span.get_span_context()
        known = {"trace": trace.format_trace_id(span_context.trace_id)} if span_context.is_valid else {}
        with structlog.contextvars.bound_contextvars(**known):
            yield RequestSpan(span)


def traceparent() -> str | None:
    """Return the context of the current span in the form of W3C Trace Context; None where there is none."""
    if not INSTALLED:
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


class AttemptSpan:
    """Span of an attempt at a job, with an inner span for each phase."""

    def __init__(self, parent: str | None, attributes: Mapping[str, Any]) -> None:
        """Open the span in the trace of `parent` (W3C Trace Context), or in a new one."""
        self._phase_name: str | None = None
        self._phase: Span | None = None
        self._span: Span | None = None
        if INSTALLED:
            # Not the worker's own context: jobs share nothing but the process.
            within = _propagator.extract({"traceparent": parent} if parent else {}, context.Context())
            self._span = _tracer().start_span(
                "attempt", context=within, kind=trace.SpanKind.CONSUMER, attributes=dict(attributes)
            )

    def phase(self, name: str) -> None:
        """Begin the span of a phase unless it is the current one."""
        if self._span is None or name == self._phase_name:
            return
        now = time.time_ns()
        if self._phase is not None:
            self._phase.end(now)
        self._phase_name = name
        self._phase = _tracer().start_span(
            f"phase {name}", context=trace.set_span_in_context(self._span, context.Context()), start_time=now
        )

    def end(self, outcome: str, problem: Mapping[str, Any] | None) -> None:
        """Close the span and that of its last phase."""
        if self._span is None:
            return
        now = time.time_ns()
        if self._phase is not None:
            self._phase.end(now)
        self._span.set_attribute("tamis.outcome", outcome)
        if problem is not None:
            self._span.set_attribute("error.type", str(problem["code"]))
            self._span.set_status(trace.StatusCode.ERROR, str(problem["detail"]))
        self._span.end(now)


def _tracer() -> trace.Tracer:
    return trace.get_tracer("tamis", VERSION)
