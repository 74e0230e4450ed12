"""The default engine: a pool of threads in the job's own process. Kernels and Arrow release the GIL."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from tamis.selectors.signals.store import SignalStore
from tamis.selectors.signals.task import Call, Watch, perform


class _Stoppable:
    """The caller's watch, plus a stop of our own for when a sibling failed."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.stop = threading.Event()

    def read(self, rows: int, size: int) -> None:
        self._watch.read(rows, size)

    def unit(self, call: Call, seconds: float) -> None:
        self._watch.unit(call, seconds)

    def cancelled(self) -> bool:
        return self.stop.is_set() or self._watch.cancelled()


class LocalEngine:
    """`threads` units at a time; the order in which they end decides nothing."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tamis-unit")

    def map(self, calls: Sequence[tuple[str, Call]], store: SignalStore, watch: Watch) -> Iterator[str]:
        """Perform every (key, call), yielding keys as they are done."""
        inner = _Stoppable(watch)
        waiting = iter(calls)
        running: dict[Future[None], str] = {}
        try:
            while True:
                # A few more than threads, so that none waits for this loop; not all, so that a failure ends it soon.
                while len(running) < 2 * self.threads and (item := next(waiting, None)) is not None:
                    running[self._pool.submit(perform, item[1], item[0], store, inner)] = item[0]
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    key = running.pop(future)
                    future.result()
                    yield key
        finally:
            inner.stop.set()
            for future in running:
                future.cancel()
            wait(running)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
