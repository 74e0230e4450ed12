"""Ask and tell: a selector names rows, a caller scores them, and the selection goes on with the scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.selectors.datasets import Dataset
from tamis.selectors.datasets.row_ids import read_ids
from tamis.selectors.decision.ranking import Rows
from tamis.selectors.errors import Invalid, TamisError
from tamis.selectors.schema.answers import Scores

MAX_ROWS: Final = 1_000_000
"""Rows of one question: its answer comes by HTTP, and is held whole."""


class Question:
    """Rows whose scores a job needs before it goes on.

    Attributes
    ----------
    round : int
        Number of the question; rises within a job.
    rows : ndarray, shape (rows,), int64
        Row numbers over the whole dataset, no two the same, in the order they were asked.
    """

    def __init__(self, round: int, rows: Rows, candidates: Dataset) -> None:
        if rows.dtype != np.int64 or rows.ndim != 1 or len(np.unique(rows)) != len(rows):
            raise ValueError("a question names rows once each, as int64")
        if len(rows) > MAX_ROWS:
            raise Invalid(
                f"The selector asks about {len(rows):,} rows at once; {MAX_ROWS:,} are possible in a round.",
                pointer="/selector/params",
            )
        self.round: Final = round
        self.rows: Final = rows
        self._candidates = candidates

    def __repr__(self) -> str:
        return f"<Question {self.round}: {len(self.rows)} rows>"

    @property
    def shards(self) -> npt.NDArray[np.int32]:
        """Each row's shard: an index into the manifest's resolved list, int32."""
        return (np.searchsorted(self._shard_starts, self.rows, side="right") - 1).astype(np.int32)

    @property
    def shard_rows(self) -> Rows:
        """Each row's number inside its shard."""
        return self.rows - self._shard_starts[self.shards]

    @cached_property
    def ids(self) -> pa.Array | None:
        """Each row's id in the type the dataset has it in; None where the manifest names no id column.

        Reads the id column of every unit that holds one of the rows.
        """
        if not self._candidates.columns.has("id"):
            return None
        order = np.argsort(self.rows)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return read_ids(self._candidates, self.rows[order]).combine_chunks().take(pa.array(place))

    def table(self) -> pa.Table:
        """Return the columns ``row``, ``shard``, ``shard_row`` and, where there are ids, ``id``."""
        columns = {"row": pa.array(self.rows), "shard": pa.array(self.shards), "shard_row": pa.array(self.shard_rows)}
        return pa.table(columns if self.ids is None else columns | {"id": self.ids})

    @property
    def _shard_starts(self) -> Rows:
        starts = self._candidates.shard_starts
        if starts is None:
            raise RuntimeError("rows must be counted before they are asked about")
        return starts


Answer = Callable[[Question], npt.ArrayLike | Sequence[float | None]]
"""Gives a score for each row of a question, in its order; NaN or None where a row has none. Larger is better."""


class Waiting(TamisError):
    """The job waits for scores that its selector asked for."""

    code = "waiting"
    status = 409

    def __init__(self, question: Question) -> None:
        super().__init__(f"The job waits for the scores of {len(question.rows):,} rows (round {question.round}).")
        self.question = question

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.question,)


class Answered(NamedTuple):
    """A question with its answer."""

    round: int
    rows: Rows  # shape (rows,), int64, as they were asked
    scores: Scores  # shape (rows,), float64; NaN: no score


class Answers:
    """The answers so far, from which a restarted job goes on; an :data:`Answer`."""

    def __init__(self, answered: Iterable[Answered] = ()) -> None:
        self._answered = {one.round: one for one in answered}

    def __call__(self, question: Question) -> Scores:
        """Give the scores of a question that was answered.

        Raises
        ------
        Waiting
            It was not yet.
        TamisError
            Other rows were answered in this round: the job is not the one that asked.
        """
        found = self._answered.get(question.round)
        if found is None:
            raise Waiting(question)
        if not np.array_equal(found.rows, question.rows):
            raise TamisError(
                f"The rows asked in round {question.round} are others than those that were answered: "
                "submit the job again."
            )
        return found.scores

    def digest(self) -> str | None:
        """Name all answers; see :func:`digest_of`."""
        return digest_of(self._answered[round] for round in sorted(self._answered))


def digest_of(answered: Iterable[Answered]) -> str | None:
    """Return the sha256 (hex) of answers in the order of their rounds; None when there are none."""
    digest = None
    for one in answered:
        digest = digest or hashlib.sha256()
        scores = np.where(np.isnan(one.scores), np.nan, one.scores) + 0.0  # one NaN, and no -0.0
        digest.update(f"{one.round} {len(one.rows)}\n".encode())
        digest.update(one.rows.astype("<i8").tobytes())
        digest.update(scores.astype("<f8").tobytes())
    return None if digest is None else digest.hexdigest()
