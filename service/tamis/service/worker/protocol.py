"""Protocol between supervisor and job process: one JSON object a line, over the job process's pipes.

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
"""Maximum length in bytes of one message: far above a job of 100,000 shards and answers of a million rows."""

Message = Mapping[str, Any]


class RoundAnswers(TypedDict):
    """Answers of one round."""

    kind: Literal["answers"]
    round: int
    rows: str  # int64
    scores: str  # float64; NaN: no score


class Order(TypedDict):
    """Job to run."""

    kind: Literal["order"]
    job_id: str
    attempt: int
    spec: dict[str, Any]  # a resolved `JobSpec`
    fingerprint: str | None  # of the result that it was accepted for
    out: str  # the folder of its result
    threads: int


class Work(TypedDict):
    """Work done since the last message of this kind."""

    kind: Literal["work"]
    rows: int  # read
    bytes: int  # read, decoded
    unit_seconds: list[float]  # of each unit that was computed


class QuestionRows(TypedDict):
    """Question of a job; a file beside the job's result has the rows' shards and ids."""

    round: int
    rows: str  # int64


class Outcome(TypedDict):
    """Outcome of an attempt."""

    kind: Literal["outcome"]
    state: Literal["succeeded", "failed", "cancelled", "waiting"]
    question: QuestionRows | None  # for waiting
    problem: dict[str, Any] | None  # for failed
    progress: dict[str, Any] | None  # the last
    reusable: bool  # whether the process takes another order


def encode(message: Message) -> bytes:
    """Encode a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def packed(array: bytes) -> str:
    """Encode the bytes of an array for a message."""
    return base64.b64encode(array).decode()


def unpacked(text: str) -> bytes:
    """Decode the bytes of an array from a message."""
    return base64.b64decode(text)


class Lines:
    """Splitter of a stream of bytes into lines."""

    def __init__(self, longest: int = MAX_LINE) -> None:
        self._rest = bytearray()
        self._longest = longest

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that `data` completes, without line ends; a longer line than `longest` is cut."""
        self._rest += data
        while True:
            end = self._rest.find(b"\n")
            if end < 0 and len(self._rest) <= self._longest:
                return
            length = end if 0 <= end <= self._longest else self._longest
            line = bytes(self._rest[:length])
            del self._rest[: length + (length == end)]
            yield line
