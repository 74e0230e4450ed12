"""Greedy maximisation of submodular functions by definition: every function evaluated on every set."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Similarity = NDArray[np.float64]


def facility_location(s: Similarity, chosen: Sequence[int], _: float) -> float:
    return float(sum(max((s[i, j] for j in chosen), default=0.0) for i in range(len(s))))


def graph_cut(s: Similarity, chosen: Sequence[int], tradeoff: float) -> float:
    everything = sum(s[i, j] for i in range(len(s)) for j in chosen)
    return float(everything - tradeoff * sum(s[i, j] for i in chosen for j in chosen))


def saturated_coverage(s: Similarity, chosen: Sequence[int], tradeoff: float) -> float:
    return float(sum(min(sum(s[i, j] for j in chosen), tradeoff * sum(s[i])) for i in range(len(s))))


FUNCTIONS: list[Callable[[Similarity, Sequence[int], float], float]] = [
    facility_location,
    graph_cut,
    saturated_coverage,
]


def may_take(
    row: int,
    taken: Sequence[int],
    budget: int,
    codes: Sequence[int],
    lower: Sequence[int],
    upper: Sequence[int],
    sizes: Sequence[int],
) -> bool:
    """Whether the budget, the row's maximum and everybody else's open minimum allow a row."""
    have = [sum(sizes[k] for k in taken if codes[k] == stratum) for stratum in range(len(lower))]
    mine = codes[row]
    others = sum(max(0, lower[s] - have[s]) for s in range(len(lower)) if s != mine)
    return have[mine] + sizes[row] <= upper[mine] and sum(have) + sizes[row] + others <= budget


def greedy(
    function: int,
    s: Similarity,
    budget: int,
    tradeoff: float,
    free: Sequence[bool],
    first: Sequence[int],
    codes: Sequence[int],
    lower: Sequence[int],
    upper: Sequence[int],
) -> list[int]:
    """Best row first, then the best beside it, and so on; the lower of two that are as good. Every row counts 1."""
    value = FUNCTIONS[function]
    taken = list(first)
    while True:
        able = [
            row
            for row in range(len(s))
            if free[row] and row not in taken and may_take(row, taken, budget, codes, lower, upper, [1] * len(s))
        ]
        if not able:
            return taken
        before = value(s, taken, tradeoff)
        gains = {row: round(value(s, [*taken, row], tradeoff) - before, 6) for row in able}
        taken.append(max(able, key=lambda row: (gains[row], -row)))
