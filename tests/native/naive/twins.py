"""Naive twins: a plain loop, or a function of the standard library, for the kernel of the same name.

They return what the kernel writes or returns, and are as slow and as simple as they can be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

MASK = 2**64 - 1


def means_of(values: Sequence[float], starts: Sequence[int]) -> list[float]:
    parts = [[v for v in values[a:b] if not math.isnan(v)] for a, b in itertools.pairwise(starts)]
    return [sum(part, start=0.0) / len(part) if part else math.nan for part in parts]


def take_all(codes: Sequence[int], sizes: Sequence[int], rows: Sequence[int], strata: int) -> list[int]:
    return [sum(sizes[row] for row in rows if codes[row] == stratum) for stratum in range(strata)]


def multiply(x: Sequence[Sequence[float]], w: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[math.fsum(a * row[j] for a, row in zip(line, w, strict=True)) for j in range(len(w[0]))] for line in x]


def natural_log(x: float) -> float:
    return math.log(x)


def natural_exp(x: float) -> float:
    return math.exp(x)


def philox_block(key_0: int, key_1: int, counter: int) -> tuple[int, int, int, int]:
    """Philox-4x64-10 (Salmon et al., 2011) in Python's whole numbers."""
    a, b, c, d = counter, 0, 0, 0
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (second >> 64) ^ b ^ key_0, second & MASK, (first >> 64) ^ d ^ key_1, first & MASK
        key_0, key_1 = (key_0 + 0x9E3779B97F4A7C15) & MASK, (key_1 + 0xBB67AE8584CAA73B) & MASK
    return a, b, c, d


def merge_lists(
    lists: Sequence[tuple[float, int]], more: Sequence[tuple[float, int]], k: int
) -> list[tuple[float, int]]:
    whole = [entry for entry in (*lists, *more) if entry[1] >= 0]
    return sorted(whole, key=lambda entry: (-entry[0], entry[1]))[:k]


def ordered_bits(key: float) -> float:
    """The order itself: whatever the bits are, they must sort as the keys do."""
    return key


def count_nan(keys: Sequence[float]) -> int:
    return sum(math.isnan(key) for key in keys)


def count_chunks(documents: Sequence[bytes], words: int) -> list[int]:
    return [document.count(b" ") // words + 1 for document in documents]


def cut_chunks(documents: Sequence[bytes], words: int) -> list[bytes]:
    chunks = []
    for document in documents:
        parts = document.split(b" ")
        chunks += [b" ".join(parts[start : start + words]) for start in range(0, len(parts), words)]
    return chunks


def own_share(neighbours: Sequence[Sequence[int]], labels: Sequence[int]) -> list[float]:
    return [
        sum(labels[other] == label for other in near) / len(near) if near else 1.0
        for near, label in zip(neighbours, labels, strict=True)
    ]


def row_potential(costs: Sequence[float], shifts: Sequence[float], epsilon: float) -> float:
    return -epsilon * math.log(math.fsum(math.exp(s - c / epsilon) for s, c in zip(shifts, costs, strict=True)))


def fold_visits(visits: Sequence[tuple[int, int]], rows: int) -> tuple[list[int], list[int]]:
    latest, count = [-1] * rows, [0] * rows
    for row, epoch in visits:
        latest[row], count[row] = epoch, count[row] + 1
    return latest, count


def fold_sum(visits: Sequence[tuple[int, int, float]], end: int, rows: int) -> list[float]:
    sums = [0.0] * rows
    for row, epoch, value in visits:
        sums[row] += value if epoch < end else 0.0
    return sums


def fold_confidence(visits: Sequence[tuple[int, float]], rows: int) -> tuple[list[float], list[float]]:
    sums, squares = [0.0] * rows, [0.0] * rows
    for row, loss in visits:
        sums[row] += math.exp(-loss)
        squares[row] += math.exp(-loss) ** 2
    return sums, squares


def fold_correct(visits: Sequence[tuple[int, int]], rows: int) -> tuple[list[int], list[int]]:
    history: list[list[int]] = [[0] for _ in range(rows)]
    for row, correct in visits:
        history[row].append(correct)
    forgotten = [sum(a > b for a, b in itertools.pairwise(seen)) for seen in history]
    return [sum(seen) for seen in history], forgotten


def fold_latest(visits: Sequence[tuple[int, float]], rows: int) -> list[float]:
    latest = [0.0] * rows
    for row, value in visits:
        latest[row] = value
    return latest


def as_list(array: Any) -> list[Any]:
    values: list[Any] = np.asarray(array).tolist()
    return values
