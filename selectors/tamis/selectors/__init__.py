"""Selection algorithms over Arrow shards, as a library of their own: ``from tamis.selectors import select``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tamis.selectors.library import Selection, select

__all__ = ["Selection", "select"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the client and the command line import shapes from here and should start fast.
    if name in __all__:
        from tamis.selectors import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
