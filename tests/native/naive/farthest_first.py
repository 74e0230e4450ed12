"""Farthest-first traversal in plain loops: every distance, every step."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def squared_distance(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    return sum((float(a) - float(b)) ** 2 for a, b in zip(left, right, strict=True))


def is_open(
    row: int,
    have: Sequence[int],
    left: int,
    lower: Sequence[int],
    upper: Sequence[int],
    codes: Sequence[int],
    sizes: Sequence[int],
) -> bool:
    """Whether a row fits its stratum's maximum, and what is left of the budget beside the other strata's minimums."""
    own = codes[row]
    reserved = sum(max(0, lower[s] - have[s]) for s in range(len(lower)) if s != own)
    return sizes[row] <= upper[own] - have[own] and sizes[row] <= left - reserved


def traversal(
    data: NDArray[np.float32],
    free: Sequence[bool],
    centres: Sequence[int],
    budget: int,
    *,
    lower: Sequence[int] = (0,),
    upper: Sequence[int] = (2**62,),
    codes: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    least_distance: float = 0.0,
) -> tuple[list[int], list[float]]:
    """Rows in order, those of the start first, and each one's squared distance from the rows before it."""
    n = len(data)
    codes = [0] * n if codes is None else codes
    sizes = [1] * n if sizes is None else sizes
    have, left = [0] * len(lower), budget
    order: list[int] = []
    distances: list[float] = []
    nearest = [float("inf")] * n
    closed = [False] * len(lower)

    def take(row: int) -> None:
        nonlocal left
        order.append(row)
        distances.append(float("inf") if len(order) <= len(centres) else nearest[row])
        have[codes[row]] += sizes[row]
        left -= sizes[row]
        for other in range(n):
            nearest[other] = min(nearest[other], squared_distance(data[other], data[row]))

    for centre in centres:
        take(centre)
    while True:
        candidates = [r for r in range(n) if free[r] and r not in order and not closed[codes[r]]]
        if not candidates:
            return order, distances
        row = max(candidates, key=lambda r: (nearest[r], -r))
        own = codes[row]
        if is_open(row, have, left, lower, upper, codes, sizes):
            if nearest[row] < least_distance**2:
                return order, distances
            take(row)
            continue
        if sizes[row] <= upper[own] - have[own]:  # the budget bounds it: only open minimums may go on
            closed = [c or have[s] >= lower[s] for s, c in enumerate(closed)]
        closed[own] = True
