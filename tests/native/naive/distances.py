"""What the distance kernels and all that stands on them must give, in plain Python loops."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


def squared(left: Sequence[float] | NDArray[np.float32], right: Sequence[float] | NDArray[np.float32]) -> float:
    return sum((float(a) - float(b)) ** 2 for a, b in zip(left, right, strict=True))


def nearest(queries: Matrix, rows: Matrix, k: int, others_only: bool = False) -> list[list[int]]:
    """Up to k rows for each query, by distance and then by number."""
    found = []
    for q, query in enumerate(queries):
        pairs = sorted((squared(query, row), r) for r, row in enumerate(rows) if not (others_only and r == q))
        found.append([r for _, r in pairs[:k]])
    return found


def largest_products(queries: Matrix, rows: Matrix, k: int) -> list[list[int]]:
    found = []
    for query in queries:
        pairs = sorted(
            (-sum(float(a) * float(b) for a, b in zip(query, row, strict=True)), r) for r, row in enumerate(rows)
        )
        found.append([r for _, r in pairs[:k]])
    return found
