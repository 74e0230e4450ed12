"""Scores that a caller gives, before anybody reckons with them. Needs NumPy only: clients check them too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from tamis.selectors.errors import Invalid

Scores = npt.NDArray[np.float64]

MAX_SCORE: Final = 1e150
"""Largest size of a score: squares of larger ones, and sums of them, are no finite numbers."""


def checked_scores(
    given: npt.ArrayLike | Sequence[float | None],
    rows: Sequence[int] | npt.NDArray[np.int64],
    pointer: str | None = None,
) -> Scores:
    """Check scores of rows that a caller gives: shape, range, NaN.

    Parameters
    ----------
    given : array_like
        A number for each row; NaN or None where a row has none.
    rows : sequence of int
        What they are for, as messages name it.
    pointer : str, optional
        JSON pointer to the scores, where they came in a document.

    Returns
    -------
    ndarray, shape (rows,), float64
        NaN: no score.

    Raises
    ------
    Invalid
        When they are not one number for each row, of :data:`MAX_SCORE` at most in size.
    """
    try:
        scores = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Invalid(f"The scores hold what is no number: {error}.", pointer=pointer) from error
    if scores.shape != (len(rows),):
        raise Invalid(
            f"The scores have the shape {scores.shape}: give one score for each of {len(rows)} rows.", pointer=pointer
        )
    large = np.flatnonzero(np.abs(scores) > MAX_SCORE)
    if len(large):
        first = int(large[0])
        raise Invalid(
            f"The score of row {int(rows[first])} is {scores[first]:g}: scores are of {MAX_SCORE:g} at most in size. "
            "A row without a score has NaN, or null (None).",
            pointer=None if pointer is None else f"{pointer}/{first}",
        )
    return scores
