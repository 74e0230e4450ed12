"""Set-up of every computing process, before numba, numpy or pyarrow are imported."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import Final

from tamis.native import source_digest
from tamis.service.settings import Settings

ONE_THREAD: Final = (
    "OMP_NUM_THREADS",  # Arrow's pool for computing follows it too
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
"""Variables of thread pools that stay at one thread: parallelism is over units, in the engine's threads."""

MUST_COME_LATER: Final = ("numba", "numpy", "pyarrow")
"""Libraries that read their settings once, at import."""

ARENAS: Final = 2
"""Number of heaps of glibc's allocator."""

_PR_SET_PDEATHSIG: Final = 1
_M_ARENA_MAX: Final = -8


def prepare_process(settings: Settings) -> None:
    """Set the variables that the numeric libraries read at import; child processes inherit them.

    Raises
    ------
    RuntimeError
        One of them is imported already: the call came too late to matter.
    """
    late = [name for name in MUST_COME_LATER if name in sys.modules]
    if late:
        raise RuntimeError(f"prepare_process must run before {', '.join(late)} is imported")
    settings.create_folders()
    for name in ONE_THREAD:
        os.environ[name] = "1"
    # Numba keys a cached kernel on its own file alone: the folder's name carries the digest of all of them.
    os.environ["NUMBA_CACHE_DIR"] = str(settings.cache_dir / f"numba-{source_digest()}")
    # Intel's vector library rounds differently from one processor to the next; the same bytes are promised on all.
    os.environ["NUMBA_DISABLE_INTEL_SVML"] = "1"
    # Arrow's own pool and glibc's arena a thread keep what batches leave: a third of a job's memory (tests/benchmarks).
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # musl has no arenas to limit
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def die_with_parent(parent: int, signum: signal.Signals) -> None:
    """Request from the kernel that `signum` is sent to this process when its parent dies, for whatever reason.

    Parameters
    ----------
    parent : int
        The parent's process id; when another one adopted this process already, the signal is sent at once.
    signum : signal.Signals
        The signal.
    """
    if sys.platform != "linux":
        return  # elsewhere the end of the parent's pipe is the only sign
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        signal.raise_signal(signum)
