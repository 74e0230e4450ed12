"""Notice of kernels that are compiled while a job runs: nothing else happens for that long."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from numba.core import event

COMPILING = "this selector's kernels are compiled, this once: up to a minute"
"""The log line of a job that compiles kernels."""


class _Once(event.Listener):
    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def on_start(self, event: Any) -> None:
        # One at a time, whatever thread: numba holds its compiler's lock.
        if self._callback is not None:
            callback, self._callback = self._callback, None
            callback()

    def on_end(self, event: Any) -> None:
        pass


def on_first_compile(callback: Callable[[], None]) -> AbstractContextManager[None]:
    """Call back once if Numba compiles a kernel inside the block, in any thread; kernels from the cache don't count."""
    listening: AbstractContextManager[None] = event.install_listener("numba:compile", _Once(callback))
    return listening
