"""Identifiers that sort by time: 48 bits of milliseconds and 80 random bits, in 26 characters of base 32.

Within one process they grow strictly, so that jobs submitted in the same millisecond keep their order.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from typing import Final

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case, in the order of the characters' codes."""

LENGTH: Final = 26
_RANDOM_BITS: Final = 80
_PATTERN: Final = re.compile(r"(?:job|ds)_[0-9a-z]{8,64}")

_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """Make an identifier: `prefix` and 26 characters."""
    global _last  # noqa: PLW0603 - the newest value given, guarded by the lock
    fresh = time.time_ns() // 1_000_000 << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    with _lock:
        # A clock that stood still or went back: the successor of the last value.
        _last = value = fresh if fresh >> _RANDOM_BITS > _last >> _RANDOM_BITS else _last + 1
    return prefix + "".join(ALPHABET[value >> shift & 31] for shift in range(5 * (LENGTH - 1), -1, -5))


def is_id(text: str) -> bool:
    """Whether `text` has the form of the id of a job or a dataset."""
    return _PATTERN.fullmatch(text) is not None
