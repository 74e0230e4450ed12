"""Tells whoever watches a job that its kernels are being compiled: nothing else happens for that long."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from numba.core import event

COMPILING = "this selector's kernels are compiled, this once: up to a minute"
"""What is told."""


class _Once(event.Listener):
    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell: Callable[[], None] | None = tell

    def on_start(self, event: Any) -> None:
        # One at a time, whatever thread: numba holds its compiler's lock.
        if self._tell is not None:
            tell, self._tell = self._tell, None
            tell()

    def on_end(self, event: Any) -> None:
        pass


def telling(tell: Callable[[], None]) -> AbstractContextManager[None]:
    """Call `tell` before the first kernel that is compiled in this process meanwhile, and not loaded from the cache.

    In whichever thread needs that kernel.
    """
    told: AbstractContextManager[None] = event.install_listener("numba:compile", _Once(tell))
    return told
