"""What the kernels of GAIS must give, in plain loops."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    shifted = [math.exp(value - top) for value in values]
    return [value / sum(shifted) for value in shifted]


def leaky(x: float) -> float:
    return x if x > 0 else x * float(np.float32(0.2))


def attention_layer(
    h: list[list[float]],
    source: Sequence[float],
    target: Sequence[float],
    neighbours: NDArray[np.int32],
    log_weights: Array,
) -> tuple[list[list[float]], list[list[float]]]:
    """One head: (attention paid, the weighted sum of the neighbours' h)."""
    paid, mixed = [], []
    for i in range(len(h)):
        logits = []
        for s, j in enumerate(neighbours[i]):
            own = sum(a * x for a, x in zip(target, h[i], strict=True))
            other = sum(a * x for a, x in zip(source, h[j], strict=True))
            logits.append(leaky(own + other) + float(log_weights[i, s]))
        alpha = softmax(logits)
        paid.append(alpha)
        mixed.append([sum(a * h[j][c] for a, j in zip(alpha, neighbours[i], strict=True)) for c in range(len(h[i]))])
    return paid, mixed


def network(x: Array, neighbours: NDArray[np.int32], log_weights: Array, weights: Sequence[Array]) -> list[list[float]]:
    """Class probabilities of every node, as the paper writes the layers (no reordering)."""
    w1, source1, target1, b1, w2, source2, target2, b2 = (np.asarray(part, np.float64) for part in weights)
    heads, width = 4, 8
    hidden: list[list[float]] = [[] for _ in x]
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        h = (np.asarray(x, np.float64) @ w1[:, part]).tolist()
        _, mixed = attention_layer(h, source1[part].tolist(), target1[part].tolist(), neighbours, log_weights)
        for i, row in enumerate(mixed):
            for c, value in enumerate(row):
                o = value + b1[head * width + c]
                hidden[i].append(o if o > 0 else math.exp(o) - 1)
    g = (np.array(hidden) @ w2).tolist()
    _, logits = attention_layer(g, source2.tolist(), target2.tolist(), neighbours, log_weights)
    return [softmax([value + b2[c] for c, value in enumerate(row)]) for row in logits]


def loss(
    x: Array,
    neighbours: NDArray[np.int32],
    log_weights: Array,
    weights: Sequence[Array],
    labels: Sequence[int],
    class_weights: Sequence[float],
) -> float:
    probabilities = network(x, neighbours, log_weights, weights)
    shares = [class_weights[label] for label in labels]
    terms = [-share * math.log(p[label]) for share, p, label in zip(shares, probabilities, labels, strict=True)]
    return sum(terms) / sum(shares)


def distances(points: Array) -> NDArray[np.float64]:
    wide = points.astype(np.float64)
    result: NDArray[np.float64] = ((wide[:, None] - wide[None]) ** 2).sum(axis=-1)
    return result


def window_candidates(order: Sequence[int], buckets: Sequence[int], window: int) -> list[set[int]]:
    """Rows within a window of the sorted order that share the bucket, for every row."""
    found: list[set[int]] = [set() for _ in order]
    for place, row in enumerate(order):
        for other in range(max(0, place - window), min(len(order), place + window + 1)):
            if other != place and buckets[order[other]] == buckets[row]:
                found[row].add(order[other])
    return found


def hash_key(row: Array, view: Array, bits: int) -> tuple[tuple[int, ...], float]:
    """Sign bits, and the place in order, of a row."""
    signs = tuple(int(sum(float(a) * float(b) for a, b in zip(row, view[bit], strict=True)) > 0) for bit in range(bits))
    return signs, sum(float(a) * float(b) for a, b in zip(row, view[-1], strict=True))


def greedy_cover(
    relation: Sequence[Sequence[tuple[int, int]]],
    members: Sequence[int],
    quota: int,
    mass: Sequence[int],
    kept: set[int],
    barred: set[int],
    least: int = 0,
    full: int = 1024,
) -> tuple[list[int], list[int]]:
    """Picks and gains of a class: every step looks at every row. relation[j]: (row represented, strength)."""
    covered = dict.fromkeys(range(len(mass)), 0)

    def cover(j: int) -> None:
        for i, strength in relation[j]:
            covered[i] = max(covered[i], strength)

    for j in sorted(kept & set(members)):
        cover(j)
    picks: list[int] = []
    gains: list[int] = []
    while len(picks) < quota:
        left = [j for j in members if j not in kept and j not in barred and j not in picks]
        if not left:
            break
        gain = {j: sum(mass[i] * max(0, strength - covered[i]) for i, strength in relation[j]) for j in left}
        best = min(left, key=lambda j: (-gain[j], j))
        if gain[best] < least:
            break
        if gain[best] == 0:
            for i in members:
                covered[i] = full if i in kept or i in picks else 0
            continue
        picks.append(best)
        gains.append(gain[best])
        cover(best)
    return picks, gains
