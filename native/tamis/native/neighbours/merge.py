"""Merging lists of nearest rows that were found part by part."""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel


@kernel
def merge_lists(scores, rows, more_scores, more_rows, first):
    """Merge lists of later rows into lists of earlier ones: the best first, equal scores by lower row number.

    Parameters
    ----------
    scores : float32 [queries, k]
        Updated; -inf where nothing was found.
    rows : int64 [queries, k]
        Updated; -1 where nothing was found.
    more_scores : float32 [queries, j], read-only
    more_rows : int32 [queries, j], read-only
        Numbers in their part, -1 where nothing was found; all of them lie behind those of ``rows``.
    first : int
        Number of the part's first row.
    """
    k, j = scores.shape[1], more_scores.shape[1]
    old_scores, old_rows = np.empty(k, np.float32), np.empty(k, np.int64)
    for query in range(len(scores)):
        old_scores[:] = scores[query]
        old_rows[:] = rows[query]
        left = right = 0
        for place in range(k):
            later = right < j and more_rows[query, right] >= 0
            earlier = old_rows[left] >= 0
            if later and (not earlier or more_scores[query, right] > old_scores[left]):
                scores[query, place] = more_scores[query, right]
                rows[query, place] = first + more_rows[query, right]
                right += 1
            elif earlier:
                scores[query, place] = old_scores[left]
                rows[query, place] = old_rows[left]
                left += 1
            else:
                break


def list_arrays(n_queries: int, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Empty lists for `merge_lists`."""
    return np.full((n_queries, k), -np.inf, np.float32), np.full((n_queries, k), -1, np.int64)
