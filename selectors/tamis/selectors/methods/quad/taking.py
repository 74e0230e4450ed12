"""The rows that Quad takes: of accepted pulls while budget and bounds allow, or by the quota rule over clusters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tamis.native.greedy import bandit, limits
from tamis.native.sampling import strata
from tamis.selectors.decision.in_order import Constraints
from tamis.selectors.methods.quad.bandit import Arms, quantile
from tamis.selectors.run.run import Run

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Intake:
    """Takes rows in the order they are offered, as far as a job's budget and bounds allow.

    Parameters
    ----------
    run : Run
        The job, in a phase begun with its candidates; progress is reported to it.
    constraints : Constraints
        Budget and bounds; the preselected rows count as taken.
    usable : ndarray, shape (n,), bool
        Rows offered that are not usable are passed over. May change between two calls.
    """

    def __init__(self, run: Run, constraints: Constraints, usable: npt.NDArray[np.bool_]) -> None:
        self.usable = usable
        self._run, self._constraints = run, constraints
        self._parts: list[Ints] = []
        self._count = self._reported = 0
        self._state = constraints.limits()
        limits.take_all(self._state, constraints.preselected)

    def __call__(self, rows: Ints) -> bool:
        """Take what fits of `rows`; return whether more could be taken."""
        taken = limits.take_fitting(self._state, rows[self.usable[rows]])
        self._parts.append(taken)
        self._count += len(taken)
        done = len(self.usable) * min(self._count, self._constraints.max_rows) // max(1, self._constraints.max_rows)
        self._run.advance(rows=done - self._reported)
        self._reported = done
        return self._open()

    def _open(self) -> bool:
        left, slack_spent = self._state.counters.tolist()
        closed = self._state.closed.copy()
        if slack_spent:
            closed |= self._state.have >= self._state.lower
        return left > 0 and not bool(closed.all())

    @property
    def rows(self) -> Ints:
        """The rows taken, in order, without the preselected ones."""
        return np.concatenate([np.empty(0, np.int64), *self._parts])

    @property
    def below_minimum(self) -> int:
        """Strata with less than their minimum."""
        return int(np.count_nonzero(self._state.have < self._state.lower))


def quota_order(arms: Arms, influence: Floats, share: float) -> tuple[Ints, Floats, float]:
    """Order the rows of the clusters whose mean influence exceeds a quantile of all: in turns, a row of each at a time.

    So every prefix has the same number of rows of each cluster, as long as it has that many.

    Parameters
    ----------
    arms : Arms
        Rows in random order.
    influence : ndarray, shape (n,), float64
        NaN: not known; such rows are left out.
    share : float
        The quantile, from 0 to 1.

    Returns
    -------
    ndarray of int64, ndarray (K,) float64, float
        Rows, the clusters' means (NaN: nothing is known of it), and tau.
    """
    values = influence[arms.rows]
    known = ~np.isnan(values)
    rows, codes = arms.rows[known], np.repeat(np.arange(len(arms.sizes)), arms.sizes)[known]
    starts = np.searchsorted(codes, np.arange(len(arms.sizes) + 1)).astype(np.int64)
    means = np.empty(len(arms.sizes))
    bandit.means_of(influence[rows], starts, means)
    if not len(rows):
        return rows, means, np.nan
    tau = quantile(np.sort(influence[rows]), share)
    places = np.arange(len(rows)) - starts[codes]
    wanted = np.flatnonzero(means[codes] > tau)
    turns = strata.turns(np.diff(starts))
    return rows[wanted[np.lexsort((turns[codes[wanted]], places[wanted]))]], means, tau
