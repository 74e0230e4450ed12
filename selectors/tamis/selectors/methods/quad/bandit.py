"""The rounds of Quad: which clusters are pulled, which rows are probed, and what their influence decides.

Zhang et al., arXiv:2409.16986, section 3. The differences from the authors' code, which
:mod:`tamis.selectors.methods.quad.released` reproduces: the rows of a cluster are in a random order, a pull is the next
of them, and the rows probed are the first of those it takes; the last pull of a cluster may be smaller, so that none is
left over; rows without a score are left out of the mean; tau and alpha are in units of the influences probed; and a
cluster that is used up stays so, until none is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tamis.native.greedy import bandit
from tamis.native.greedy.bandit import Bandit, Neighbours

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

Score = Callable[[int, Ints], Floats]
"""Given a round and distinct rows, their influence; NaN where a row has none."""

Take = Callable[[Ints], bool]
"""Given rows in order, takes what budget and bounds allow; returns whether anything may still be taken."""

ESTIMATE_GROWTH = 1.25
"""tau and the unit of alpha are estimated anew once there are this many times the influences of the last estimate."""

NO_ARM = -1
"""Code of rows that belong to no arm."""

Ended = Literal["budget", "no-arm-left", "rounds"]


class Arms(NamedTuple):
    """The rows of every cluster, in the order they are drawn in."""

    rows: Ints  # (n,), cluster by cluster
    starts: Ints  # (K + 1,)

    @classmethod
    def of(cls, codes: Codes, count: int, words: npt.NDArray[np.uint64] | None = None) -> Arms:
        """Sort rows by cluster.

        Parameters
        ----------
        codes : ndarray, shape (n,), int32
            Arm of every row; negative: of none.
        count : int
            K.
        words : ndarray, shape (n,), uint64, optional
            Random: a cluster's rows are in their order; by row number when left out.
        """
        order = np.argsort(codes, kind="stable") if words is None else np.lexsort((words, codes))
        order = order[np.searchsorted(codes[order], 0) :]
        return cls(order, np.searchsorted(codes[order], np.arange(count + 1)).astype(np.int64))

    @property
    def sizes(self) -> Ints:
        """Rows of each arm, (K,)."""
        return np.diff(self.starts)


class Rules(NamedTuple):
    """The parameters of a run of the bandit."""

    arms_per_round: int
    probes: int
    rows_per_pull: int
    tau: float
    alpha: float
    rounds: int | None


@dataclass
class Trace:
    """Every pull, in order, and the state of the bandit after the last."""

    state: Bandit
    arms: Codes  # (p,)
    rounds: Codes  # (p,)
    earlier: Ints  # (p,), pulls of the arm before
    means: Floats  # (p,), of the influences probed; NaN: none had a score
    accepted: npt.NDArray[np.bool_]  # (p,)
    probed: Ints  # (q,), rows
    values: Floats  # (q,), their influence
    scale: Scale
    ended: Ended
    rounds_run: int


class Scale:
    """tau and the unit of alpha: quantile and standard deviation of the influences probed in the arms' first pulls.

    Later pulls do not count: they are of arms chosen for their rewards, which would raise the threshold. An arm's first
    pull is the first that found an influence. Before there is any, tau is NaN, which no mean exceeds.
    """

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._parts: list[Floats] = []
        self._seen = 0
        self.estimated_from = 0
        self.tau = np.nan
        self.mean = self.deviation = 0.0

    def add(self, values: Floats) -> None:
        """Count influences of first pulls; estimate anew where there are many more than before."""
        known = values[~np.isnan(values)]
        self._parts.append(known)
        self._seen += len(known)
        if self._seen > self.estimated_from * ESTIMATE_GROWTH:
            self._estimate()

    def _estimate(self) -> None:
        values = np.sort(np.concatenate(self._parts))
        self._parts = [values]
        self.estimated_from = len(values)
        self.tau = quantile(values, self._quantile)
        self.mean = float(np.cumsum(values)[-1]) / len(values)
        self.deviation = float(np.sqrt(np.cumsum((values - self.mean) ** 2)[-1] / len(values)))


def quantile(ascending: Floats, share: float) -> float:
    """Return a quantile of values in ascending order, one or more, between the two that are next to it."""
    place = share * (len(ascending) - 1)
    below = int(place)
    above = min(below + 1, len(ascending) - 1)
    low, high = float(ascending[below]), float(ascending[above])
    return low + (high - low) * (place - below)


class Round(NamedTuple):
    """The pulls of one round."""

    arms: Codes
    earlier: Ints
    means: Floats
    accepted: npt.NDArray[np.bool_]
    probed: Ints
    values: Floats


def traced(rounds: Sequence[Round], state: Bandit, scale: Scale, ended: Ended) -> Trace:
    """Put the rounds together."""
    none = Round(
        np.empty(0, np.int32),
        np.empty(0, np.int64),
        np.empty(0),
        np.empty(0, np.bool_),
        np.empty(0, np.int64),
        np.empty(0),
    )
    whole = Round(*(np.concatenate(parts) for parts in zip(none, *rounds, strict=True)))
    numbers = np.repeat(np.arange(len(rounds), dtype=np.int32), [len(part.arms) for part in rounds])
    return Trace(
        state,
        whole.arms,
        numbers,
        whole.earlier,
        whole.means,
        whole.accepted,
        whole.probed,
        whole.values,
        scale,
        ended,
        len(rounds),
    )


def pull(arms: Arms, rules: Rules, score: Score, take: Take, neighbours: Neighbours | None = None) -> Trace:
    """Pull arms until the budget is spent, no arm is left, or the rounds are over.

    Parameters
    ----------
    arms : Arms
    rules : Rules
        `tau` a quantile, `alpha` in standard deviations.
    score : callable
        Called once a round, with all rows that it probes.
    take : callable
        Called once a round, with the rows of its accepted pulls, the most rewarding first.
    neighbours : Neighbours, optional
        Arms learn from their own pulls only when left out.
    """
    count = len(arms.sizes)
    state, scale = bandit.begin(count), Scale(rules.tau)
    relations = bandit.alone(count) if neighbours is None else neighbours
    capacity = -(-arms.sizes // rules.rows_per_pull)
    chosen, told = np.empty(min(rules.arms_per_round, count), np.int32), np.zeros(count, np.bool_)
    rounds: list[Round] = []
    ended: Ended = "rounds"
    while rules.rounds is None or len(rounds) < rules.rounds:
        picked = chosen[: bandit.choose(state, capacity, False, chosen)]
        if not len(picked):
            ended = "no-arm-left"
            break
        earlier = state.pulls[picked]
        firsts = arms.starts[picked] + earlier * rules.rows_per_pull
        left = arms.starts[picked + 1] - firsts
        rows, cuts = gathered(arms.rows, firsts, np.minimum(left, rules.probes))
        values = score(len(rounds), rows)
        means = np.empty(len(picked))
        bandit.means_of(values, cuts, means)
        scale.add(values[np.repeat(~told[picked], np.diff(cuts))])
        told[picked[~np.isnan(means)]] = True
        accepted = means > scale.tau
        bandit.learn(state, picked, means, accepted, relations, False)
        bandit.rescore(state, scale.tau, rules.alpha * scale.deviation, False)
        rounds.append(Round(picked.copy(), earlier, means, accepted, rows, values))
        best_first = np.argsort(np.where(accepted, -means, np.inf), kind="stable")[: np.count_nonzero(accepted)]
        lengths = np.minimum(left[best_first], rules.rows_per_pull)
        if not take(gathered(arms.rows, firsts[best_first], lengths)[0]):
            ended = "budget"
            break
    return traced(rounds, state, scale, ended)


def gathered(rows: Ints, firsts: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """Return consecutive rows from several places on, and where each part starts in them."""
    cuts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return rows[np.arange(cuts[-1]) + np.repeat(firsts - cuts[:-1], lengths)], cuts


def expected_influence(arms: Arms, trace: Trace, codes: Codes, rows_per_pull: int | None) -> Floats:
    """Return every row's known or expected influence, float64 (n,).

    Its own where it was probed; else the mean of the pull it belongs to; else that of its cluster's pulls; else that of
    all clusters' first pulls.

    Parameters
    ----------
    arms, trace
        As they were pulled.
    codes : ndarray, shape (n,), int32
        Arm of every row, also of those that could not be pulled; negative: of none.
    rows_per_pull : int or None
        None as released: there a pull's rows are not those that were probed for it.
    """
    known = ~np.isnan(trace.means)
    pulled, means = trace.arms[known], trace.means[known]
    counts, sums = np.bincount(pulled, minlength=len(arms.sizes)), np.zeros(len(arms.sizes))
    np.add.at(sums, pulled, means)
    of_arms = np.where(counts > 0, sums / np.maximum(counts, 1), trace.scale.mean)
    scores = np.where(codes >= 0, of_arms[np.maximum(codes, 0)], trace.scale.mean)
    if rows_per_pull is not None:
        firsts = arms.starts[pulled] + trace.earlier[known] * rows_per_pull
        lengths = np.minimum(arms.starts[pulled + 1] - firsts, rows_per_pull)
        scores[gathered(arms.rows, firsts, lengths)[0]] = np.repeat(means, lengths)
    answered = ~np.isnan(trace.values)
    scores[trace.probed[answered]] = trace.values[answered]
    return scores
