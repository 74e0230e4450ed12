"""What the kernels of training dynamics must give, in plain Python loops."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple


class Visit(NamedTuple):
    margin: float
    error: float
    entropy: float
    loss: float
    correct: bool


def probabilities(outputs: Sequence[float], kind: str) -> list[float]:
    if kind == "probabilities":
        return list(outputs)
    if kind == "log_probs":
        return [math.exp(x) for x in outputs]
    weights = [math.exp(x - max(outputs)) for x in outputs]
    return [weight / math.fsum(weights) for weight in weights]


def visit(outputs: Sequence[float], label: int, kind: str) -> Visit:
    p = probabilities(outputs, kind)
    return Visit(
        margin=p[label] - max(p[k] for k in range(len(p)) if k != label),
        error=math.sqrt(math.fsum((p[k] - (k == label)) ** 2 for k in range(len(p)))),
        entropy=-math.fsum(x * math.log(x) for x in p if x > 0),
        loss=-math.log(p[label]) if p[label] > 0 else math.inf,
        correct=list(outputs).index(max(outputs)) == label,
    )


class Row:
    """A row's visits, followed one after the other."""

    def __init__(self) -> None:
        self.visits: list[tuple[int, Visit]] = []

    def aum(self) -> float:
        return math.fsum(seen.margin for _, seen in self.visits)

    def el2n(self, end: int) -> float:
        return math.fsum(seen.error for epoch, seen in self.visits if epoch < end)

    def learned(self) -> int:
        return sum(seen.correct for _, seen in self.visits)

    def forgotten(self) -> int:
        states = [False] + [seen.correct for _, seen in self.visits]
        return sum(before and not after for before, after in itertools.pairwise(states))

    def confidences(self) -> list[float]:
        return [math.exp(-seen.loss) for _, seen in self.visits]
