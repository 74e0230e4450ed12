"""Blocks of work in a job's threads, their results in order: how kernels, which are serial, use more than one core."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tamis.native.neighbours.kmeans import Map
    from tamis.selectors.run.run import Run


def one_by_one(run: Run) -> Map:
    """Return `map` that asks before every block whether the job was cancelled."""

    def each(function: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[Any]:
        for number in numbers:
            run.check_cancelled()
            yield function(number)

    return each


def in_threads(run: Run, *, rows: int = 0) -> Map:
    """Return an ordered map over block numbers for kernels: like `map`, in the job's threads.

    Few more blocks than threads are under way at once, so that their results take little memory. A cancelled job starts
    no further block.

    Parameters
    ----------
    run : Run
        The job.
    rows : int
        Rows that count as done once a call has gone through all its blocks.
    """

    def each(function: Callable[[int], Any], numbers: Iterable[int]) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        blocks = list(numbers)
        done = 0
        with ThreadPoolExecutor(run.engine.threads, thread_name_prefix="tamis-blocks") as pool:
            try:
                for number in blocks:
                    run.check_cancelled()
                    waiting.append(pool.submit(function, number))
                    if len(waiting) > run.engine.threads:
                        yield waiting.popleft().result()
                        done += 1
                        run.advance(rows=rows * done // len(blocks) - rows * (done - 1) // len(blocks))
                while waiting:
                    yield waiting.popleft().result()
                    done += 1
                    run.advance(rows=rows * done // len(blocks) - rows * (done - 1) // len(blocks))
            finally:
                for future in waiting:
                    future.cancel()

    return each
