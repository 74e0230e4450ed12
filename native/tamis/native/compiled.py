"""How the functions of this package are compiled."""

from typing import Any

import numba

njit: Any = numba.njit  # its stubs do not know all options

kernel: Any = njit(nogil=True, cache=True)
"""Called from Python: serial, without the interpreter's lock, kept in the cache."""

piece: Any = njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Called from kernels alone and cached as part of them; no entry from Python, which takes long to compile."""

inlined: Any = njit(nogil=True, inline="always")
"""A piece with one caller, written into it before compilation: a large piece is compiled once only."""
