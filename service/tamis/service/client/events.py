"""Parser of Server-Sent Events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """Event of a job."""

    id: int | None
    kind: str  # state, progress, log; end is the last
    data: dict[str, Any]


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """Read events from the lines of a stream; comments are skipped.

    Parameters
    ----------
    lines : iterable of str
        Lines of a ``text/event-stream``, without line ends.

    Yields
    ------
    Event
        Complete events only.
    """
    kind, identifier, data = "message", None, list[str]()
    for line in lines:
        if not line:
            if data:
                yield Event(identifier, kind, json.loads("\n".join(data)))
            kind, identifier, data = "message", None, []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            identifier = int(value)
