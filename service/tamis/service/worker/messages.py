"""What supervisor and job process say to each other: one JSON object a line, over the job process's own pipes.

To the job process: ``order`` (once), then ``cancel``. From it: ``ready`` (once), ``progress``, ``log``, ``work``, and
last ``outcome``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypedDict

MAX_LINE: Final = 64 * 2**20
"""Bytes of one message; a job of a hundred thousand shards is far below."""

Message = Mapping[str, Any]


class Order(TypedDict):
    """The job to run."""

    kind: Literal["order"]
    job_id: str
    spec: dict[str, Any]  # a resolved `JobSpec`
    fingerprint: str | None  # of the result that it was accepted for
    out: str  # the folder of its result
    threads: int


class Work(TypedDict):
    """What was done since the last message of this kind."""

    kind: Literal["work"]
    rows: int  # read
    bytes: int  # read, decoded
    unit_seconds: list[float]  # of each unit that was computed


class Outcome(TypedDict):
    """How the job ended."""

    kind: Literal["outcome"]
    state: Literal["succeeded", "failed", "cancelled"]
    problem: dict[str, Any] | None  # for failed
    retry: bool  # for failed: whether the same job may succeed when it is tried again
    progress: dict[str, Any] | None  # the last


def encode(message: Message) -> bytes:
    """Make the line of a message."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self, longest: int = MAX_LINE) -> None:
        self._rest = bytearray()
        self._longest = longest

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give the lines that `data` completes, without their ends; a line beyond the longest is cut there."""
        self._rest += data
        while True:
            end = self._rest.find(b"\n")
            if end < 0 and len(self._rest) <= self._longest:
                return
            length = end if 0 <= end <= self._longest else self._longest
            line = bytes(self._rest[:length])
            del self._rest[: length + (length == end)]
            yield line
