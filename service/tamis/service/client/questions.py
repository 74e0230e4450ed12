"""Questions of a job, and the requests that answer them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from tamis.selectors.schema.answers import checked_scores
from tamis.service.schema import JobQuestion

ANSWERS_AT_ONCE: Final = 50_000
"""Rows answered by one request: about 2 MB, below the limit of a service."""

Scores: TypeAlias = npt.ArrayLike | Sequence[float | None] | Mapping[int, float | None]
"""Scores in the order of a question's rows, or by row for some of them; None or NaN: the row has no score."""


@dataclass(frozen=True)
class Question:
    """Rows whose scores a job waits for; larger scores are better.

    Attributes
    ----------
    round : int
        Number of the question; rises within a job.
    rows : ndarray, shape (n,), int64
        Row numbers over the whole dataset, without those that were answered before.
    shards, shard_rows : ndarray, shape (n,), int64
        Each row's shard (an index into the resolved list) and its number inside it.
    ids : list or None
        Each row's id, where the manifest names an id column.
    """

    round: int
    rows: npt.NDArray[np.int64]
    shards: npt.NDArray[np.int64]
    shard_rows: npt.NDArray[np.int64]
    ids: list[Any] | None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Question {self.round}: {len(self)} rows>"


def question_of(pages: Sequence[JobQuestion]) -> Question:
    """Join the pages of one question."""
    rows, shards, shard_rows = (
        np.concatenate([np.array(getattr(page, name), np.int64) for page in pages])
        for name in ("rows", "shards", "shard_rows")
    )
    ids = None if pages[0].ids is None else [id for page in pages for id in page.ids or ()]
    return Question(pages[0].round, rows, shards, shard_rows, ids)


def answers_to(question: Question, scores: Scores) -> Iterator[dict[str, Any]]:
    """Yield the bodies of the requests that answer a question.

    Raises
    ------
    Invalid
        The scores are not one number for each row of the question, or too large for the service.
    """
    rows: list[int] = question.rows.tolist()
    if isinstance(scores, Mapping):
        rows, scores = list(scores), list(scores.values())
    checked = checked_scores(scores, rows)
    for start in range(0, len(rows), ANSWERS_AT_ONCE):
        part = slice(start, start + ANSWERS_AT_ONCE)
        values = [None if math.isnan(score) else score for score in checked[part].tolist()]
        yield {"round": question.round, "rows": [int(row) for row in rows[part]], "scores": values}
