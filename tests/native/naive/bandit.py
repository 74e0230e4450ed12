"""The cluster bandit by its definition, in dictionaries."""

import math
from collections.abc import Mapping, Sequence

EXHAUSTED = -9999999.0


class Bandit:
    """Arms 0 … K - 1 with everything that `tamis.native.greedy.bandit` keeps of them."""

    def __init__(self, arms: int, near: Mapping[int, Mapping[int, float]], released: bool) -> None:
        self.near, self.released = near, released
        self.sums = dict.fromkeys(range(arms), 0.0)
        self.updates = dict.fromkeys(range(arms), 0.0)
        self.pulls = dict.fromkeys(range(arms), 0)
        self.accepted = dict.fromkeys(range(arms), 0)
        self.scores = dict.fromkeys(range(arms), 0.0)
        self.total = 0.0

    def choose(self, capacity: Sequence[int], most: int) -> list[int]:
        """Walk the arms from the best down; of equal ones the lower first."""
        chosen: list[int] = []
        for arm in sorted(self.scores, key=lambda arm: (-self.scores[arm], arm)):
            if len(chosen) == most:
                break
            if self.scores[arm] == -math.inf:
                continue
            if self.pulls[arm] < capacity[arm]:
                chosen.append(arm)
            elif self.released:
                self.sums[arm] = self.scores[arm] = EXHAUSTED
            else:
                self.scores[arm] = -math.inf
        return chosen

    def learn(self, arm: int, reward: float, accepted: bool) -> None:
        self.pulls[arm] += 1
        self.accepted[arm] += accepted
        if math.isnan(reward):
            return
        for other, share in self.near[arm].items():
            self.sums[other] += reward * share
            self.updates[other] += 1.0 if self.released else share
            self.total += 1.0 if self.released else share

    def rescore(self, origin: float, alpha: float) -> None:
        for arm, updates in self.updates.items():
            if self.scores[arm] == -math.inf and not self.released:
                continue
            mean = self.sums[arm] / updates - origin if updates else 0.0
            spread = 2 * math.log(self.total) if self.total else 0.0
            self.scores[arm] = mean + alpha * math.sqrt(spread / (updates + 1))
