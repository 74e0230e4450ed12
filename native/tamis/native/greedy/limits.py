"""Limits of a greedy choice: a budget, and a minimum and maximum a stratum, in rows or in units of size.

A row may be taken while its stratum stays within its maximum and what is left of the budget covers the minimums still
open in the other strata. The first row that would break one of these ends what that one bounds: its stratum, or all
strata beyond their minimums.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece

NO_MAX = np.iinfo(np.int64).max

_LEFT = 0
_SLACK_SPENT = 1


class Limits(NamedTuple):
    """The amounts taken, and the bounds; `begin_limits` makes it."""

    codes: NDArray[np.int32]  # [n], stratum of each row; empty: all of stratum 0
    sizes: NDArray[np.int64]  # [n], what a row counts; empty: 1 each
    have: NDArray[np.int64]  # [strata], taken so far
    lower: NDArray[np.int64]  # [strata]
    upper: NDArray[np.int64]  # [strata]; NO_MAX: none
    closed: NDArray[np.bool_]  # [strata]
    counters: NDArray[np.int64]  # [2], left of the budget; whether only open minimums may take more


def begin_limits(
    budget: int,
    *,
    codes: NDArray[np.int32] | None = None,
    lower: NDArray[np.int64] | None = None,
    upper: NDArray[np.int64] | None = None,
    sizes: NDArray[np.int64] | None = None,
) -> Limits:
    """Limits that nothing was taken of."""
    if codes is None and any(bound is not None and len(bound) > 1 for bound in (lower, upper)):
        raise ValueError("bounds of several strata need the stratum of each row")
    known = next((len(bound) for bound in (lower, upper) if bound is not None), 1)
    least = np.zeros(known, np.int64) if lower is None else np.array(lower, np.int64)
    most = np.full(known, NO_MAX) if upper is None else np.array(upper, np.int64)
    if len(least) != len(most):
        raise ValueError("lower and upper bounds must be of the same strata")
    return Limits(
        codes=np.empty(0, np.int32) if codes is None else np.array(codes, np.int32),
        sizes=np.empty(0, np.int64) if sizes is None else np.array(sizes, np.int64),
        have=np.zeros(len(least), np.int64),
        lower=least,
        upper=most,
        closed=np.zeros(len(least), np.bool_),
        counters=np.array([budget, 0], np.int64),
    )


@piece
def stratum_of(limits, row):
    return np.int64(limits.codes[row]) if len(limits.codes) else 0


@piece
def _size_of(limits, row):
    return limits.sizes[row] if len(limits.sizes) else 1


@piece
def is_closed(limits, stratum):
    """Whether a stratum is closed to further rows; once closed, it stays so."""
    if limits.counters[_SLACK_SPENT] != 0 and limits.have[stratum] >= limits.lower[stratum]:
        return True
    return limits.closed[stratum]


@piece
def fits(limits, row):
    """Whether a row may be taken; if not, what bounds it is closed."""
    stratum, size = stratum_of(limits, row), _size_of(limits, row)
    if is_closed(limits, stratum):
        return False
    if size > limits.upper[stratum] - limits.have[stratum]:
        limits.closed[stratum] = True
        return False
    reserved = 0
    for other in range(len(limits.lower)):
        if other != stratum:
            reserved += max(0, limits.lower[other] - limits.have[other])
    if size > limits.counters[_LEFT] - reserved:
        limits.counters[_SLACK_SPENT] = 1
        limits.closed[stratum] = True
        return False
    return True


@piece
def take(limits, row):
    """Count a row as taken, whether it fits or not."""
    size = _size_of(limits, row)
    limits.have[stratum_of(limits, row)] += size
    limits.counters[_LEFT] -= size


@kernel
def take_all(limits, rows):
    """Count rows int64 [k] as taken."""
    for k in range(len(rows)):
        take(limits, rows[k])


@kernel
def _mark_fitting(limits, rows, mask):
    for k in range(len(rows)):
        mask[k] = fits(limits, rows[k])
        if mask[k]:
            take(limits, rows[k])


def take_fitting(limits: Limits, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Go through rows int64 [n] in their order and take those that fit: int64 [k]."""
    mask = np.empty(len(rows), np.bool_)
    _mark_fitting(limits, rows, mask)
    return rows[mask]
