"""TAROT's layers: the i-th most similar candidate of every target, and the order of rows that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tamis.selectors.decision.ranking import RankedUnit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]

RELEASED_LAYERS = 2000
"""The release ranks no more candidates than this for a target, and comes out short where that is too few."""


@dataclass(frozen=True)
class Layers:
    """In which layer every candidate is, and its most similar target, as far as the lists of neighbours tell."""

    layer: npt.NDArray[np.int32]  # (n,) 0 is the first; `depth` where a row is in no list
    similarity: Matrix  # (n,) the highest in any list; NaN where a row is in none
    target: npt.NDArray[np.int32]  # (n,) of those whose lists hold the row, the most similar (then lowest); -1: none
    depth: int

    @classmethod
    def of(cls, rows: Ints, scores: Matrix, n: int) -> Layers:
        """Make layers of lists of neighbours.

        Parameters
        ----------
        rows : ndarray, shape (m, k), int64
            Candidates of each target, best first; -1 where there are no more.
        scores : ndarray, shape (m, k), float32
            Their similarities.
        n : int
            Candidates.
        """
        m, depth = rows.shape
        layer = np.full(n, depth, np.int32)
        for index in range(depth - 1, -1, -1):
            column = rows[:, index]
            layer[column[column >= 0]] = index
        flat, score = rows.ravel(), scores.ravel()
        number = np.repeat(np.arange(m, dtype=np.int32), depth)
        order = np.lexsort((number, -score, flat))
        order = order[flat[order] >= 0]
        found, first = np.unique(flat[order], return_index=True)
        similarity, target = np.full(n, np.nan, np.float32), np.full(n, -1, np.int32)
        similarity[found] = score[order[first]]
        target[found] = number[order[first]]
        return cls(layer, similarity, target, depth)

    def listed(self, free: npt.NDArray[np.bool_]) -> Ints:
        """Return the free rows that are in a list, by layer, then by similarity, then by row."""
        rows = np.flatnonzero(free & (self.layer < self.depth))
        return rows[np.lexsort((rows, -self.similarity[rows], self.layer[rows]))]


@dataclass(frozen=True)
class Cut:
    """Where a budget ends."""

    whole: int  # layers taken whole
    rows: int  # rows in them
    partial: Ints  # rows of the layer that the budget ends inside, empty where it ends between two
    wanted: int  # how many of those it takes


def cut(ordered: Ints, layers: Layers, taken: int) -> Cut:
    """Find the layer in which the first `taken` of `ordered` rows end."""
    of = layers.layer[ordered]
    if taken >= len(ordered) or of[taken - 1] != of[taken]:
        return Cut(int(of[taken - 1]) + 1, taken, np.empty(0, np.int64), 0)
    first, last = np.searchsorted(of, [of[taken], of[taken] + 1]).tolist()
    return Cut(int(of[taken]), first, ordered[first:last], taken - first)


@dataclass(frozen=True)
class LayerOrder:
    """A ranking by an explicit order of all rows: the key is minus the place, the score minus the layer."""

    keys: Floats  # (n,)
    layer: npt.NDArray[np.int32]  # (n,)
    starts: Ints

    @classmethod
    def of(cls, ordered: Ints, layers: Layers, starts: Ints) -> LayerOrder:
        """Rank rows that are not in `ordered` behind all that are, as equals."""
        keys = np.full(len(layers.layer), -float(len(ordered)))
        keys[ordered] = -np.arange(len(ordered), dtype=np.float64)
        return cls(keys, layers.layer, starts)

    def __call__(self, unit: int) -> RankedUnit:
        """Rank a unit."""
        inside = slice(*self.starts[unit : unit + 2].tolist())
        return RankedUnit(self.keys[inside], (-self.layer[inside]).astype(np.float64))


# -- as released


@dataclass(frozen=True)
class ReleasedSet:
    """The selection of the release for a fixed size."""

    rows: Ints  # in the order of layers
    whole: int
    surplus: int  # rows beyond the budget: where it lands exactly on a layer, the release takes the next one as well
    missing: int  # rows short of it, where the layers that the release ranks run out


def released_set(rows: Ints, n: int, budget: int, potentials: Callable[[Ints], Floats]) -> ReleasedSet:
    """Select as the release does: whole layers while they fit, the rest by the largest potential, defects included.

    Parameters
    ----------
    rows : ndarray, shape (m, k), int64
        Candidates of each target, best first.
    n, budget : int
        Candidates, and how many to take.
    potentials : callable
        Of some rows against all targets, float64.
    """
    taken = np.zeros(n, np.bool_)
    chosen: list[Ints] = []
    count = 0
    for whole in range(min(rows.shape[1], RELEASED_LAYERS)):
        column = rows[:, whole]
        fresh = np.unique(column[column >= 0])
        fresh = fresh[~taken[fresh]]
        if count + len(fresh) > budget:
            if count == budget:
                return ReleasedSet(np.concatenate([*chosen, fresh]), whole, len(fresh), 0)
            order = np.argsort(potentials(fresh), kind="stable")
            return ReleasedSet(np.concatenate([*chosen, fresh[order[-(budget - count) :]]]), whole, 0, 0)
        taken[fresh] = True
        chosen.append(fresh)
        count += len(fresh)
    return ReleasedSet(np.concatenate(chosen), len(chosen), 0, budget - count)


# -- weights and repeats


def potential_weights(potentials: Floats) -> Floats:
    """Return weights of mean 1 that are larger for rows cheaper to transport: 1 + (mean f - f) / (max f - min f).

    Potentials are defined up to a constant, and so must be what is made of them; the release's own (f over its mean)
    is not, and prefers the rows that are farthest from the target.
    """
    spread = float(potentials.max() - potentials.min())
    if not spread > 0:
        return np.ones(len(potentials))
    mean = sum(potentials.tolist()) / len(potentials)
    weights: Floats = 1.0 + (mean - potentials) / spread
    return weights


def released_weights(potentials: Floats) -> Floats:
    """Return the release's weights: the potentials over their mean."""
    mean = sum(potentials.tolist()) / len(potentials)
    weights: Floats = potentials / mean
    return weights


def repeats(weights: Floats) -> Ints:
    """Return whole numbers near to weights of mean 1, as many in all as there are rows (largest remainders)."""
    whole = np.floor(weights)
    counts = whole.astype(np.int64)
    missing = len(weights) - int(counts.sum())
    if missing > 0:
        counts[np.lexsort((np.arange(len(weights)), -(weights - whole)))[:missing]] += 1
    return counts
