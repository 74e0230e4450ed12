"""Metrics, and the one middleware: it measures and logs every request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tamis.selectors.errors import StorageError
from tamis.service.store import Store

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds; the last is the longest long poll."""

UNMATCHED: Final = "unmatched"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds: logged only when they fail."""

disable_created_metrics()  # type: ignore[no-untyped-call] # a second time series for each of ours, of no use to anybody

log: structlog.stdlib.BoundLogger = structlog.get_logger("tamis.http")


class Metrics:
    """The metrics of one app."""

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_StoreCollector(store))
        self.requests = Histogram(
            "tamis_http_request_duration_seconds",
            "Time until a request was answered whole.",
            ("method", "route", "status"),
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _StoreCollector(Collector):
    """Reads the store whenever it is asked: no counter can drift from what is there."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> Iterator[Metric]:
        return iter(())  # registering must not read the store, which may not be there yet

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("tamis_build", "What is running.", value={"version": version("tamis")})
        up = GaugeMetricFamily("tamis_store_up", "Whether the store answers.")
        jobs = GaugeMetricFamily("tamis_jobs", "Jobs by state and selector.", labels=("state", "selector"))
        age = GaugeMetricFamily("tamis_queue_age_seconds", "How long the job that waits longest has waited.")
        workers = GaugeMetricFamily("tamis_workers", "Workers that reported lately.")
        try:
            for (state, selector), count in sorted(self._store.jobs.counts().items()):
                jobs.add_metric((str(state), selector), count)
            age.add_metric((), self._store.jobs.oldest_queued_age() or 0.0)
            workers.add_metric((), len(self._store.workers.live()))
            up.add_metric((), 1)
        except StorageError:
            up.add_metric((), 0)
        yield from (up, jobs, age, workers)


class Measured:
    """ASGI middleware: latency by route template, and one log line a request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - started
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = getattr(scope.get("route"), "path_format", UNMATCHED)
            self._metrics.requests.labels(method, route, str(status)).observe(seconds)
            if route not in QUIET or status >= 400:
                log.info("request", method=method, path=scope["path"], route=route, status=status, seconds=seconds)
