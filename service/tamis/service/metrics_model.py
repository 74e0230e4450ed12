"""Metrics of jobs: workers count, the store sums, the API shows the sums.

Workers come and go, and several workers and API processes share one database. Counts of workers are therefore summed in
the database, and every API process shows the same sums: one of them is enough for a scrape, and nothing has to find the
workers or outlive them. Counts that a worker has not stored yet, of two seconds at most, are lost when it is killed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

SUM: Final = "sum"
"""Label of a distribution's sum, beside its buckets' upper bounds."""

INFINITE: Final = "+Inf"


class Key(NamedTuple):
    """Key of a stored total."""

    name: str
    selector: str
    label: str  # of a count: its label's value, or empty; of a distribution: a bucket's upper bound, or SUM


@dataclass(frozen=True, slots=True)
class Count:
    """Counter; the metric is its name with ``_total``."""

    name: str
    help: str
    label: str | None = None  # the name of a label beside the selector


@dataclass(frozen=True, slots=True)
class Distribution:
    """Histogram."""

    name: str
    help: str
    bounds: tuple[float, ...]  # upper bounds of the buckets, ascending; one without a bound follows

    def bucket(self, value: float) -> str:
        """Return the label of the bucket of `value`."""
        index = bisect_left(self.bounds, value)
        return INFINITE if index == len(self.bounds) else repr(self.bounds[index])


QUEUE_WAIT: Final = Distribution(
    "tamis_queue_wait_seconds",
    "How long a job waited in the queue before an attempt started, pauses between attempts included.",
    (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0),
)
ATTEMPT: Final = Distribution(
    "tamis_attempt_seconds",
    "How long an attempt at a job ran.",
    (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0),
)
UNIT: Final = Distribution(
    "tamis_unit_seconds",
    "How long a unit of work took that had to be computed.",
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0),
)
PEAK_MEMORY: Final = Distribution(
    "tamis_attempt_peak_memory_bytes",
    "The most memory that an attempt's process was seen to hold, mapped files aside.",
    tuple(float(2**power) for power in range(27, 38)),  # 128 MiB to 128 GiB
)
ATTEMPTS: Final = Count("tamis_attempts", "Attempts that ended, by how.", "outcome")
RETRIES: Final = Count("tamis_retries", "Attempts that were not their job's first.")
ROWS_READ: Final = Count("tamis_rows_read", "Rows that jobs read; a row read in two phases counts twice.")
BYTES_READ: Final = Count("tamis_bytes_read", "Bytes of the columns that jobs read, decoded.")

DISTRIBUTIONS: Final = (QUEUE_WAIT, ATTEMPT, UNIT, PEAK_MEMORY)
COUNTS: Final = (ATTEMPTS, RETRIES, ROWS_READ, BYTES_READ)


class Tally:
    """Counts of one worker that are not stored yet."""

    def __init__(self) -> None:
        self._amounts: dict[Key, float] = {}

    def count(self, what: Count, selector: str, amount: float = 1, label: str = "") -> None:
        """Add to a count."""
        self._add(Key(what.name, selector, label), amount)

    def observe(self, what: Distribution, selector: str, value: float) -> None:
        """Add one value to a distribution."""
        self._add(Key(what.name, selector, what.bucket(value)), 1)
        self._add(Key(what.name, selector, SUM), value)

    def take(self) -> dict[Key, float]:
        """Return the counts and reset them."""
        taken, self._amounts = self._amounts, {}
        return taken

    def put_back(self, amounts: Mapping[Key, float]) -> None:
        """Add back counts that could not be stored."""
        for key, amount in amounts.items():
            self._add(key, amount)

    def _add(self, key: Key, amount: float) -> None:
        self._amounts[key] = self._amounts.get(key, 0) + amount
