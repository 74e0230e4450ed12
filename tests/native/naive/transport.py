"""What the kernels of transport and whitening must give, in plain Python loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Rows = Sequence[Sequence[float]]


def covariance(rows: Rows) -> tuple[list[float], list[list[float]]]:
    n, d = len(rows), len(rows[0])
    mean = [math.fsum(row[i] for row in rows) / n for i in range(d)]
    return mean, [
        [math.fsum((row[i] - mean[i]) * (row[j] - mean[j]) for row in rows) / n for j in range(d)] for i in range(d)
    ]


def product(left: Rows, right: Rows) -> list[list[float]]:
    return [
        [math.fsum(line[k] * right[k][j] for k in range(len(right))) for j in range(len(right[0]))] for line in left
    ]


def cholesky(matrix: Rows) -> list[list[float]]:
    d = len(matrix)
    lower = [[0.0] * d for _ in range(d)]
    for i in range(d):
        for j in range(i + 1):
            rest = matrix[i][j] - math.fsum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    return lower


def cost(left: Sequence[float], right: Sequence[float]) -> float:
    return math.sqrt(abs(2 - 2 * math.fsum(float(a) * float(b) for a, b in zip(left, right, strict=True))))


def softmin(shifts: Sequence[float], costs: Sequence[float], epsilon: float) -> float:
    terms = [shift - c / epsilon for shift, c in zip(shifts, costs, strict=True)]
    largest = max(terms)
    return -epsilon * (largest + math.log(math.fsum(math.exp(term - largest) for term in terms)))


def released_sinkhorn(costs: Any, diameter: float) -> tuple[float, list[float], list[float]]:
    """GeomLoss' symmetric loop with uniform weights, blur 0.01 and scaling 0.5, from its description."""
    n, m = len(costs), len(costs[0])
    columns = [[float(costs[i][j]) for i in range(n)] for j in range(m)]
    lines = [[float(value) for value in line] for line in costs]
    f, g = [0.0] * n, [0.0] * m

    def both(epsilon: float) -> tuple[list[float], list[float]]:
        by_target = [value / epsilon - math.log(m) for value in g]
        by_row = [value / epsilon - math.log(n) for value in f]
        return [softmin(by_target, line, epsilon) for line in lines], [
            softmin(by_row, line, epsilon) for line in columns
        ]

    schedule = [diameter**2]
    step = 2 * math.log(diameter)
    while step > 2 * math.log(0.01):
        schedule.append(math.exp(step))
        step += 2 * math.log(0.5)
    schedule.append(0.01**2)
    f, g = both(schedule[0])
    for epsilon in schedule:
        new_f, new_g = both(epsilon)
        f = [(a + b) / 2 for a, b in zip(f, new_f, strict=True)]
        g = [(a + b) / 2 for a, b in zip(g, new_g, strict=True)]
    f, g = both(schedule[-1])
    return math.fsum(f) / n + math.fsum(g) / m, f, g


def merged(lists: Sequence[tuple[Sequence[float], Sequence[int]]], k: int) -> list[tuple[float, int]]:
    pairs = sorted((-score, row) for scores, rows in lists for score, row in zip(scores, rows, strict=True))
    return [(-score, row) for score, row in pairs[:k]]
