"""Folds of visits into one value a row: visits, sums, confidence, correctness, the latest value."""

# mypy: disable-error-code="no-untyped-def"

import numpy as np

from tamis.native.compiled import kernel
from tamis.native.learning.dynamics import exponential, within


@kernel
def fold_visits(rows, epochs, latest, visits):
    """Count each row's visits and keep its latest epoch; returns the first visit whose epoch goes back, or -1.

    Parameters
    ----------
    rows : uint32 [n]
        Below the length of the state.
    epochs : int32 [n]
        0 or more.
    latest : int32 [rows]
        `NO_EPOCH` at first; written to.
    visits : int32 [rows]
        Added to.
    """
    for k in range(len(rows)):
        row = rows[k]
        if epochs[k] < latest[row]:
            return k
        latest[row] = epochs[k]
        visits[row] += 1
    return -1


@kernel
def fold_sum(rows, epochs, values, end, sums):
    """Add values float32 [n] of the visits before the epoch ``end`` to sums float64 [rows]."""
    for k in range(len(rows)):
        if epochs[k] < end:
            sums[rows[k]] += values[k]


@kernel
def fold_confidence(rows, losses, sums, squares):
    """Add p[y] = exp(-loss) and its square, of losses float32 [n], to sums and squares, float64 [rows]."""
    for k in range(len(rows)):
        p = exponential(within(-np.float64(losses[k])))
        sums[rows[k]] += p
        squares[rows[k]] += p * p


@kernel
def fold_correct(rows, correct, last, learned, forgotten):
    """Follow each row's learning: it is forgotten where it was right at one visit and is wrong at the next.

    Parameters
    ----------
    rows, correct : uint32 [n], uint8 [n]
    last : uint8 [rows]
        Whether the last visit was right; 0 at first. Written to.
    learned, forgotten : int32 [rows]
        Visits that were right; times it was forgotten. Added to.
    """
    for k in range(len(rows)):
        row = rows[k]
        forgotten[row] += last[row] > correct[k]
        learned[row] += correct[k]
        last[row] = correct[k]


@kernel
def fold_latest(rows, values, latest):
    """Keep the value of each row's last visit: values float32 [n] to latest float32 [rows]."""
    for k in range(len(rows)):
        latest[rows[k]] = values[k]
