"""Numba kernels: pure functions on NumPy arrays and Arrow buffers; no I/O, no classes, no settings.

Importing this package imports neither numba nor numpy: `source_digest` names the kernel cache before they load.
"""

import hashlib
from pathlib import Path


def source_digest() -> str:
    """Hash of every source file of this package, to name NUMBA_CACHE_DIR with.

    Numba keys a cached kernel on its own file alone, so that a stale one would survive an edit to a kernel it calls.
    """
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def warmup() -> None:
    """Compile every kernel, or load it from the cache."""
    from tamis.native.warm import compile_all

    compile_all()


def warmup_common() -> None:
    """Compile the kernels that most jobs run, or load them from the cache; a selector brings its own when it runs."""
    from tamis.native.warm import compile_common

    compile_common()
