"""Metrics in Prometheus' text format: of this API process, and of all workers and jobs from the store."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tamis.selectors.errors import StorageError
from tamis.service.metrics_model import COUNTS, DISTRIBUTIONS, INFINITE, SUM, Count, Distribution, Key
from tamis.service.store import Store, Worker

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds; the last is the longest long poll."""

disable_created_metrics()  # type: ignore[no-untyped-call] # a second time series for each of ours, of no use to anybody


class Metrics:
    """Metrics of one application."""

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # of this API process: memory, CPU seconds, open files
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
    """Prometheus collector that reads the store at every scrape, so that no counter drifts from it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> Iterator[Metric]:
        return iter(())  # registering must not read the store, which may not be there yet

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("tamis_build", "What is running.", value={"version": version("tamis")})
        up = GaugeMetricFamily("tamis_store_up", "Whether the store answers.")
        jobs = GaugeMetricFamily("tamis_jobs", "Jobs by state and selector.", labels=("state", "selector"))
        age = GaugeMetricFamily("tamis_queue_age_seconds", "How long the job that waits longest has waited.")
        measured: list[Metric] = []
        try:
            for (state, selector), count in sorted(self._store.jobs.counts().items()):
                jobs.add_metric((str(state), selector), count)
            age.add_metric((), self._store.jobs.oldest_queued_age() or 0.0)
            measured += _of_workers(self._store.workers.live())
            totals = self._store.totals.read()
            measured += [_count(what, totals) for what in COUNTS]
            measured += [_distribution(what, totals) for what in DISTRIBUTIONS]
            up.add_metric((), 1)
        except StorageError:
            up.add_metric((), 0)
        yield from (up, jobs, age, *measured)


def _of_workers(live: Sequence[Worker]) -> list[Metric]:
    workers = GaugeMetricFamily("tamis_workers", "Workers that reported lately.", value=len(live))
    slots = GaugeMetricFamily("tamis_worker_slots", "Jobs that these workers run at a time.", labels=("host",))
    memory = GaugeMetricFamily(
        "tamis_job_memory_bytes",
        "Resident memory of these workers' job processes, mapped files aside.",
        labels=("host",),
    )
    hosts: dict[str, list[Worker]] = defaultdict(list)
    for worker in live:
        hosts[worker.host].append(worker)
    for host, there in sorted(hosts.items()):
        slots.add_metric((host,), sum(worker.slots for worker in there))
        memory.add_metric((host,), sum(worker.memory_bytes for worker in there))
    return [workers, slots, memory]


def _count(what: Count, totals: Mapping[Key, float]) -> Metric:
    labels = ("selector",) if what.label is None else ("selector", what.label)
    family = CounterMetricFamily(what.name, what.help, labels=labels)
    for key, value in sorted(totals.items()):
        if key.name == what.name:
            family.add_metric((key.selector,) if what.label is None else (key.selector, key.label), value)
    return family


def _distribution(what: Distribution, totals: Mapping[Key, float]) -> Metric:
    family = HistogramMetricFamily(what.name, what.help, labels=("selector",))
    kept: dict[str, dict[str, float]] = defaultdict(dict)
    for key, value in totals.items():
        if key.name == what.name:
            kept[key.selector][key.label] = value
    for selector, values in sorted(kept.items()):
        total = values.pop(SUM, 0.0)
        # By their numbers, not their names: an earlier version may have cut its buckets elsewhere.
        counts = [(float(bound), count) for bound, count in values.items()]
        buckets = [
            (INFINITE if bound == math.inf else repr(bound), sum(count for other, count in counts if other <= bound))
            for bound in (*what.bounds, math.inf)
        ]
        family.add_metric((selector,), buckets, total)
    return family
