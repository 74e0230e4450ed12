"""Greedy coverage of a batch, class by class: which rows represent the others best.

Facility location on a sparse relation: a row i may be represented by its nearest neighbours j of the same class, and by
itself. A pick's gain is the mass of the rows it represents better than the picks before it did; when every row is
represented in full, all that is left starts over as a next layer. Lazily evaluated: gains only fall within a layer
(Minoux: Accelerated greedy algorithms for maximizing submodular set functions, 1978). Integers throughout, so that
order decides nothing; equal gains go to the lower row. All of it is ours.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece
from tamis.native.greedy.heap import make_heap
from tamis.native.neighbours.small_sets import NO_NEIGHBOUR, row_of

FULL = 1024
"""A relation as strong as a row's to itself."""
MASS = 100
"""Mass of a row that counts in full; the gains of a row are in units of MASS * FULL."""

_ROW_BITS = 32
_ROW_MASK = np.int64(2**32 - 1)


class Relation(NamedTuple):
    """The rows that each row may represent, listed by the representing row."""

    starts: NDArray[np.int64]  # [n + 1]
    rows: NDArray[np.int32]  # [starts[n]], the rows that a row may represent, itself among them
    strengths: NDArray[np.int32]  # [starts[n]], 1 to FULL


@kernel
def attention_strengths(alpha1, alpha2, strengths):
    """Strength of each neighbour's tie by the attention paid to it: its share of the most that is paid to a neighbour.

    Parameters
    ----------
    alpha1, alpha2 : float32 [n, k + 1, heads], float32 [n, k + 1]
        Of `tamis.native.learning.gat.Activations`.
    strengths : int32 [n, k]
        Overwritten: 1 to FULL.
    """
    n, k = strengths.shape
    heads = alpha1.shape[2]
    paid = np.empty(k, np.float32)
    for i in range(n):
        most = np.float32(0.0)
        for s in range(k):
            total = alpha1[i, s + 1, 0]
            for head in range(1, heads):
                total += alpha1[i, s + 1, head]
            paid[s] = total / np.float32(heads) + alpha2[i, s + 1]
            most = max(most, paid[s])
        for s in range(k):
            share = paid[s] / most if most > 0 else np.float32(0.0)
            strengths[i, s] = max(1, np.int32(share * np.float32(FULL)))


@kernel
def own_share(keys, labels, shares):
    """Share of each row's neighbours, keys int64 [n, k], that have its label: float32 [n]; 1 without neighbours."""
    n, k = keys.shape
    for i in range(n):
        same = there = 0
        for s in range(k):
            if keys[i, s] != NO_NEIGHBOUR:
                there += 1
                same += labels[row_of(keys[i, s])] == labels[i]
        shares[i] = np.float32(same) / np.float32(there) if there else np.float32(1.0)


@kernel
def relate(keys, ties, labels, limit, starts, rows, strengths):
    """Turn lists of neighbours around: for every row, those that have it among their nearest of their class.

    Parameters
    ----------
    keys : int64 [n, k]
        Neighbours, nearest first.
    ties : int32 [n, k]
        Strength of each neighbour's tie, 1 to FULL.
    labels : int32 [n]
    limit : int
        At most so many neighbours of the same class represent a row.
    starts : int64 [n + 1]
        Overwritten.
    rows, strengths : int32 [n (k + 1)]
        Overwritten up to starts[n]; each row's list ascends, the row itself in it with FULL.

    Returns
    -------
    int
        starts[n].
    """
    n, k = keys.shape
    starts[:] = 0
    for pass_ in range(2):
        for i in range(n):
            if pass_ == 0:
                starts[i + 1] += 1
            else:
                rows[starts[i]] = i
                strengths[starts[i]] = FULL
                starts[i] += 1
            related = 0
            for s in range(k):
                if keys[i, s] == NO_NEIGHBOUR or related == limit:
                    break
                j = row_of(keys[i, s])
                if labels[j] == labels[i]:
                    related += 1
                    if pass_ == 0:
                        starts[j + 1] += 1
                    else:
                        rows[starts[j]] = i
                        strengths[starts[j]] = ties[i, s]
                        starts[j] += 1
        if pass_ == 0:
            for i in range(n):
                starts[i + 1] += starts[i]
            # From here on starts[i] is where row i's next entry goes; the last pass leaves the end of each list.
    for i in range(n, 0, -1):
        starts[i] = starts[i - 1]
    starts[0] = 0
    return starts[n]


@piece
def _larger(heap, one, other):
    return one > other


_sift_down = make_heap(_larger).sift_down


@piece
def _entry(gain, row):
    return gain << _ROW_BITS | (_ROW_MASK - row)


@piece
def _gain(row, relation, mass, covered):
    """Mass of the rows that `row` represents better than the picks so far."""
    total = np.int64(0)
    for at in range(relation.starts[row], relation.starts[row + 1]):
        i = relation.rows[at]
        total += np.int64(mass[i]) * max(0, relation.strengths[at] - covered[i])
    return total


@piece
def _cover(row, relation, covered):
    for at in range(relation.starts[row], relation.starts[row + 1]):
        i = relation.rows[at]
        covered[i] = max(covered[i], relation.strengths[at])


@piece
def _fill_heap(members, relation, mass, covered, state, heap):
    size = 0
    for row in members:
        if state[row] == 0:
            heap[size] = _entry(_gain(row, relation, mass, covered), np.int64(row))
            size += 1
    for at in range(size // 2 - 1, -1, -1):
        _sift_down(heap, heap, size, at)
    return size


@kernel
def cover_class(members, quota, least, relation, mass, state, picks, gains):
    """Pick rows of one class, one after the other, each with the largest gain.

    Parameters
    ----------
    members : int32 [m]
        Rows of the class.
    quota : int
        Rows to pick, at most.
    least : int
        End before a pick that gains less; 0: never.
    relation : Relation
    mass : int32 [n]
        1 to MASS.
    state : int8 [n]
        0: may be picked; 1: picked; 2: may not be. Rows of the class that are picked at entry cover others already.
        Changed.
    picks : int32 [quota]
        Overwritten: the rows in the order picked.
    gains : int64 [n]
        Overwritten for the members: a pick's gain when it was picked; for the others an upper bound of what they would
        gain next, exact where the last layer looked at them last.

    Returns
    -------
    int
        Rows picked.
    """
    covered = np.zeros(len(mass), np.int32)
    heap = np.empty(len(members), np.int64)
    for row in members:
        if state[row] == 1:
            _cover(row, relation, covered)
    size = _fill_heap(members, relation, mass, covered, state, heap)
    for at in range(size):
        gains[_ROW_MASK - (heap[at] & _ROW_MASK)] = heap[at] >> _ROW_BITS
    picked = 0
    while picked < quota and size > 0:
        row = _ROW_MASK - (heap[0] & _ROW_MASK)
        known = heap[0] >> _ROW_BITS
        gain = _gain(row, relation, mass, covered)
        gains[row] = gain
        if gain < known:
            heap[0] = _entry(gain, row)
            _sift_down(heap, heap, size, 0)
            continue
        if gain < least:
            break
        if gain == 0:  # every row is represented in full: what is left is covered anew
            for i in members:
                covered[i] = FULL if state[i] == 1 else 0
            size = _fill_heap(members, relation, mass, covered, state, heap)
            continue
        picks[picked] = row
        picked += 1
        state[row] = 1
        _cover(row, relation, covered)
        size -= 1
        heap[0] = heap[size]
        if size > 0:
            _sift_down(heap, heap, size, 0)
    return picked


class Cover(NamedTuple):
    """The result of a batch's coverage."""

    order: NDArray[np.int32]  # [n], a row's place among the picks of its class, -1 where it was not picked
    gains: NDArray[np.int64]  # [n], of a pick when it was picked; else a bound of what the row would gain next


def cover_batch(
    relation: Relation,
    labels: NDArray[np.int32],
    quotas: NDArray[np.int64],
    mass: NDArray[np.int32],
    state: NDArray[np.int8],
    least: int,
) -> Cover:
    """Cover every class of a batch; see `cover_class`.

    Parameters
    ----------
    relation : Relation
    labels : int32 [n]
    quotas : int64 [classes]
        Rows to pick of each class, at most.
    mass : int32 [n]
    state : int8 [n]
        Changed.
    least : int
    """
    order = np.full(len(labels), -1, np.int32)
    gains = np.zeros(len(labels), np.int64)
    members = np.argsort(labels, kind="stable").astype(np.int32)
    bounds = np.searchsorted(labels[members], np.arange(len(quotas) + 1))
    for code in np.flatnonzero(np.diff(bounds)).tolist():
        own = members[bounds[code] : bounds[code + 1]]
        picks = np.empty(min(int(quotas[code]), len(own)), np.int32)
        picked = cover_class(own, len(picks), least, relation, mass, state, picks, gains)
        order[picks[:picked]] = np.arange(picked)
    return Cover(order, gains)


def relation_of(keys: NDArray[np.int64], ties: NDArray[np.int32], labels: NDArray[np.int32], limit: int) -> Relation:
    """Relation of a batch's neighbours; see `relate`."""
    n, k = keys.shape
    starts = np.empty(n + 1, np.int64)
    rows, strengths = np.empty(n * (k + 1), np.int32), np.empty(n * (k + 1), np.int32)
    used = relate(keys, ties, labels, limit, starts, rows, strengths)
    return Relation(starts, rows[:used], strengths[:used])
