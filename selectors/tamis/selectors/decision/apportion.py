"""Shares of a budget for groups of rows, and places in a nested order that gives every prefix those shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tamis.native.sampling import strata
from tamis.selectors.decision.ranking import Floats, Rows

UNSHARED = 2.0**52
"""Place in the order of the first row of a group without a share: after the rows of all groups that have one."""


def apportion(populations: Rows, supply: Rows, budget: int) -> Rows:
    """Share a budget out in proportion to the groups' sizes, by largest remainder, to no group more than its supply.

    The part that a group can't take is shared out among the others, again in proportion.

    Parameters
    ----------
    populations : ndarray, shape (groups,), int64
        Sizes of the groups.
    supply : ndarray, shape (groups,), int64
        The most that each group can give.
    budget : int
        Rows to share out.

    Returns
    -------
    ndarray, shape (groups,), int64
        Each group's part; the sum is the smaller of budget and supply.
    """
    shares = np.zeros(len(populations), np.int64)
    open_ = np.ones(len(populations), np.bool_)
    left = min(budget, int(supply.sum()))
    while left > 0 and open_.any():
        part = strata.apportion(np.where(open_, populations, 0), min(left, int(populations[open_].sum())))
        over = open_ & (part > supply)
        if not over.any():
            shares[open_] = part[open_]
            break
        shares[over] = supply[over]
        left -= int(supply[over].sum())
        open_ &= ~over
    return shares


def proportional_positions(positions: npt.NDArray[Any], share: int) -> Floats:
    """Return places between 0 and 1 for the first `share` rows of a group, and above 1 for its other rows.

    Groups that do so, each with its own share, are taken from evenly: any prefix of the whole order holds about the
    same part of every share, and the first sum-of-shares rows are exactly the shares.
    """
    ranks = np.empty(len(positions), np.int64)
    ranks[np.argsort(positions, kind="stable")] = np.arange(len(positions))
    return (ranks + 0.5) / np.float64(share) if share > 0 else ranks.astype(np.float64) + UNSHARED
