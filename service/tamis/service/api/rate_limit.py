"""Rate limit: one token bucket per caller, in this process.

Several processes behind one address each allow the whole rate: the limit keeps one caller from taking a process away
from the others, and is no quota. Written here as it is twenty lines; libraries for it bring storages and decorators.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

BURST_SECONDS: Final = 2.0
"""Size of a burst: the requests of this many seconds may come at once after a pause."""

MAX_CALLERS: Final = 10_000
"""Maximum number of buckets; beyond it the least recently used is dropped, which is full by then."""


class TokenBuckets:
    """Buckets that fill by `rate` tokens a second, up to `BURST_SECONDS` of it. Thread-safe."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._full = max(1.0, rate * BURST_SECONDS)
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted
        self._lock = threading.Lock()

    def take(self, caller: Hashable) -> float:
        """Take a token; returns 0.0, or the seconds until there is one."""
        with self._lock:
            now = self._clock()
            tokens, since = self._buckets.pop(caller, (self._full, now))
            tokens = min(self._full, tokens + (now - since) * self._rate)
            taken = tokens >= 1.0
            self._buckets[caller] = (tokens - taken, now)
            if len(self._buckets) > MAX_CALLERS:
                self._buckets.popitem(last=False)
            return 0.0 if taken else (1.0 - tokens) / self._rate
