"""A bandit whose arms are clusters of rows: who is pulled next, and what a pull's reward changes.

Zhang et al., arXiv:2409.16986, section 3 (Quad). An arm's score is its mean reward and a bonus for being pulled rarely,

    CS_j = sums_j / T_j + alpha sqrt(2 ln(T) / (T_j + 1)),

of which a round takes the best arms. The whole state is five numbers an arm and one more.
"""

# mypy: disable-error-code="no-untyped-def"

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.greedy.heap import largest_first, make_heap
from tamis.native.math.elementary import natural_log

EXHAUSTED = -9999999.0
"""What the authors' code gives a cluster that is too small for another pull, as its sum and its score."""


class Bandit(NamedTuple):
    """The state of K arms; `begin` makes it."""

    sums: NDArray[np.float64]  # [K], rewards met, in proportion to what they count
    updates: NDArray[np.float64]  # [K], what they count: T_j
    pulls: NDArray[np.int64]  # [K]
    accepted: NDArray[np.int64]  # [K], pulls whose reward was large enough
    scores: NDArray[np.float64]  # [K], CS_j; -inf: no pull is left (release: EXHAUSTED)
    total: NDArray[np.float64]  # [1], T: the sum of the updates


class Neighbours(NamedTuple):
    """Which arms learn from a pull of which, an arm itself among them."""

    starts: NDArray[np.int64]  # [K + 1]
    arms: NDArray[np.int32]  # [starts[K]]
    shares: NDArray[np.float64]  # [starts[K]], 1 - distance / threshold; 1 of the arm itself


def begin(arms: int) -> Bandit:
    """State of arms that were never pulled."""
    return Bandit(
        sums=np.zeros(arms),
        updates=np.zeros(arms),
        pulls=np.zeros(arms, np.int64),
        accepted=np.zeros(arms, np.int64),
        scores=np.zeros(arms),
        total=np.zeros(1),
    )


def alone(arms: int) -> Neighbours:
    """Arms that learn from their own pulls only."""
    return Neighbours(np.arange(arms + 1), np.arange(arms, dtype=np.int32), np.ones(arms))


def neighbours_within(distances: NDArray[np.floating], threshold: float) -> Neighbours:
    """Arms that are nearer than a threshold, with shares that fall from 1 to 0 there.

    Parameters
    ----------
    distances : float [K, K]
        Symmetric, 0 on the diagonal.
    threshold : float
        Above 0.
    """
    wide = distances.astype(np.float64)
    near = wide < threshold
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(near.sum(axis=1))])
    shares = 1.0 - wide[near] / threshold
    return Neighbours(starts, np.nonzero(near)[1].astype(np.int32), shares)


@kernel
def _near(centres, limit, arm, near):
    """Write which centres are nearer to one than the root of a limit, and their squared distances; return how many."""
    ids, squares = near
    count = 0
    for other in range(len(centres)):
        squared = 0.0
        for column in range(centres.shape[1]):
            apart = np.float64(centres[arm, column]) - np.float64(centres[other, column])
            squared += apart * apart
            if squared >= limit:
                break
        if squared < limit:
            ids[count], squares[count] = other, squared
            count += 1
    return count


def near_centres(
    centres: NDArray[np.float32], threshold: float, most: int, check: Callable[[], None] = lambda: None
) -> Neighbours:
    """Arms whose centres are nearer than a threshold, with shares that fall from 1 to 0 there.

    Parameters
    ----------
    centres : float32 [K, d]
    threshold : float
        Above 0.
    most : int
        Pairs.
    check : callable
        Called between arms; may raise.

    Raises
    ------
    ValueError
        There are more pairs.
    """
    data = np.ascontiguousarray(centres, np.float32)
    near = np.empty(len(data), np.int32), np.empty(len(data))
    starts, ids, shares = np.zeros(len(data) + 1, np.int64), [near[0][:0]], [near[1][:0]]
    for arm in range(len(data)):
        check()
        count = _near(data, threshold * threshold, arm, near)
        if starts[arm] + count > most:
            raise ValueError(f"more than {most:,} pairs")
        starts[arm + 1] = starts[arm] + count
        ids.append(near[0][:count].copy())
        shares.append(1.0 - np.sqrt(near[1][:count]) / threshold)
    return Neighbours(starts, np.concatenate(ids), np.concatenate(shares))


_sift_down = make_heap(largest_first).sift_down


@kernel
def choose(bandit, capacity, released, chosen):
    """Write the arms of a round, best score first, and return how many there are.

    Parameters
    ----------
    bandit : Bandit
        Arms without a pull left that are come across are marked as exhausted. They stay so, unless ``released``: there
        `rescore` raises those that no pull has told of again.
    capacity : int64 [K]
        Pulls that each arm has at most.
    released : bool
    chosen : int32 [m]
    """
    scores = bandit.scores
    heap = np.empty(len(scores), np.int32)
    size = 0
    for arm in range(len(scores)):
        if scores[arm] > -np.inf:
            heap[size] = arm
            size += 1
    for place in range(size // 2 - 1, -1, -1):
        _sift_down(scores, heap, size, place)
    count = 0
    while size > 0 and count < len(chosen):
        arm = heap[0]
        size -= 1
        heap[0] = heap[size]
        _sift_down(scores, heap, size, 0)
        if bandit.pulls[arm] < capacity[arm]:
            chosen[count] = arm
            count += 1
        elif released:
            bandit.sums[arm] = scores[arm] = EXHAUSTED
        else:
            scores[arm] = -np.inf
    return count


@kernel
def learn(bandit, arms, rewards, accepted, neighbours, released):
    """Count the pulls of a round, in the order they were chosen in.

    Parameters
    ----------
    bandit : Bandit
    arms : int32 [m]
        Pulled.
    rewards : float64 [m]
        NaN: the pull told nothing; it counts as a pull only.
    accepted : bool [m]
    neighbours : Neighbours
    released : bool
        Neighbours count an update as a whole one, although they get a share of the reward: so they are drawn towards 0.
    """
    for k in range(len(arms)):
        arm = arms[k]
        bandit.pulls[arm] += 1
        bandit.accepted[arm] += accepted[k]
        if np.isnan(rewards[k]):
            continue
        for place in range(neighbours.starts[arm], neighbours.starts[arm + 1]):
            other, share = neighbours.arms[place], neighbours.shares[place]
            counted = 1.0 if released else share
            bandit.sums[other] += rewards[k] * share
            bandit.updates[other] += counted
            bandit.total[0] += counted


@kernel
def rescore(bandit, origin, alpha, released):
    """Compute all scores anew.

    Parameters
    ----------
    bandit : Bandit
    origin : float
        What is taken off the mean rewards: tau, where they are influences.
    alpha : float
        Of the bonus, in the unit of the rewards.
    released : bool
        Exhausted arms get a score as all others do, and come back where it is high.
    """
    total = bandit.total[0]
    spread = 2.0 * natural_log(total) if total > 0.0 else 0.0
    for arm in range(len(bandit.scores)):
        if not released and bandit.scores[arm] == -np.inf:
            continue
        updates = bandit.updates[arm]
        mean = bandit.sums[arm] / updates - origin if updates > 0.0 else 0.0
        bandit.scores[arm] = mean + alpha * np.sqrt(spread / (updates + 1.0))


@kernel
def means_of(values, starts, means):
    """Write the mean of every part, float64 [m], without the values that are NaN; NaN where nothing is left.

    Parameters
    ----------
    values : float64 [n]
    starts : int64 [m + 1]
    means : float64 [m]
    """
    for k in range(len(means)):
        total, count = 0.0, 0
        for place in range(starts[k], starts[k + 1]):
            if not np.isnan(values[place]):
                total += values[place]
                count += 1
        means[k] = total / count if count else np.nan
