"""What supervisor and job process say to each other: one JSON object a line, over the job process's own pipes.

To the job process: ``answers`` (one for each round that was answered), ``order``, then ``cancel`` perhaps. From it:
``ready``, then for its order ``progress``, ``log``, ``work`` and ``outcome``, and ``ready`` again where it takes
another order. Arrays are base64 of their bytes, little-endian.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypedDict

MAX_LINE: Final = 64 * 2**20
"""Bytes of one message; a job of a hundred thousand shards is far below, and so are the answers to a million rows."""

Message = Mapping[str, Any]


class RoundAnswers(TypedDict):
    """What was answered in one round."""

    kind: Literal["answers"]
    round: int
    rows: str  # int64
    scores: str  # float64; NaN: no score


class Order(TypedDict):
    """The job to run."""

    kind: Literal["order"]
    job_id: str
    attempt: int
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


class Asked(TypedDict):
    """What the job asks; where its rows are is in a file beside its result."""

    round: int
    rows: str  # int64


class Outcome(TypedDict):
    """How the attempt ended."""

    kind: Literal["outcome"]
    state: Literal["succeeded", "failed", "cancelled", "waiting"]
    question: Asked | None  # for waiting
    problem: dict[str, Any] | None  # for failed
    progress: dict[str, Any] | None  # the last
    again: bool  # whether the process takes another order


def encode(message: Message) -> bytes:
    """Make the line of a message."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def packed(array: bytes) -> str:
    """Write the bytes of an array into a message."""
    return base64.b64encode(array).decode()


def unpacked(text: str) -> bytes:
    """Read the bytes of an array from a message."""
    return base64.b64decode(text)


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
