"""The exact solution of a transport problem by network simplex on a growing graph of near pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tamis.selectors.errors import TamisError
from tamis.selectors.features.transport.problem import Costs, Floats, Problem, Transport

GRAPH_NEIGHBOURS = 32
"""Near pairs of a row, and of a target, that the exact solver starts from."""

SIMPLEX_STEPS = 10**9
"""Pivots of the network simplex at most: a bound that no problem which fits in memory meets."""

REDUCED_COST_TOLERANCE = 1e-9
"""A pair left out whose reduced cost is above minus this can't lower the distance by more than this."""


def solve_exact(problem: Problem) -> Transport:
    """Solve by network simplex on near pairs, adding every pair that the dual finds cheaper until there is none."""
    import ot  # here: a slow import that few jobs need
    from scipy.sparse import coo_array

    n, m = problem.costs.shape
    pairs = np.unique(np.concatenate([*_near_pairs(problem.costs), _corner_pairs(problem)]))
    rounds = 0
    while True:
        rounds += 1
        rows, columns = pairs // m, pairs % m
        graph = coo_array((_costs_at(problem.costs, rows, columns), (rows, columns)), shape=(n, m))
        _, log = ot.emd(problem.a, problem.b, graph, numItermax=SIMPLEX_STEPS, log=True, check_marginals=False)
        if log["warning"] is not None:
            raise TamisError(f"The exact transport was not solved: {log['warning']}")
        f, g = np.asarray(log["u"]), np.asarray(log["v"])
        cheaper = [_cheaper(problem.costs, start, f, g) for start in problem.costs.starts]
        more = np.setdiff1d(np.concatenate(cheaper), pairs)
        if not len(more):
            break
        pairs = np.union1d(pairs, more)
    return Transport("exact", problem.value(f, g), f, g, rounds, 0.0, True, upper=float(log["cost"]))


def _near_pairs(costs: Costs) -> Iterator[npt.NDArray[np.int64]]:
    """Yield codes row * m + target of each row's nearest targets, and of each target's nearest rows of every block."""
    m = len(costs.targets)
    for start in costs.starts:
        block = costs.block(start)
        rows = np.arange(start, start + len(block))
        k = min(GRAPH_NEIGHBOURS, m)
        yield (rows[:, None] * m + np.argpartition(block, k - 1, axis=1)[:, :k]).ravel()
        k = min(max(1, GRAPH_NEIGHBOURS // len(costs.starts)), len(block))
        yield ((np.argpartition(block, k - 1, axis=0)[:k] + start) * m + np.arange(m)).ravel()


def _corner_pairs(problem: Problem) -> npt.NDArray[np.int64]:
    """Return the pairs of the north-west corner rule: with them, there is a feasible plan."""
    n, m = problem.costs.shape
    ends = np.union1d(np.cumsum(problem.a)[:-1], np.cumsum(problem.b)[:-1])
    middles = (np.concatenate([[0.0], ends]) + np.concatenate([ends, [1.0]])) / 2
    rows = np.minimum(np.searchsorted(np.cumsum(problem.a), middles), n - 1)
    columns = np.minimum(np.searchsorted(np.cumsum(problem.b), middles), m - 1)
    near = [(rows + by) * m + columns for by in (-1, 0, 1)]  # where the sums' rounding cuts a mass in two
    codes = np.concatenate(near)
    return codes[(codes >= 0) & (codes < n * m)]


def _costs_at(costs: Costs, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> Floats:
    found = np.empty(len(rows))
    for start in costs.starts:
        block = costs.block(start)
        inside = slice(*np.searchsorted(rows, [start, start + len(block)]).tolist())
        found[inside] = block[rows[inside] - start, columns[inside]]
    return found


def _cheaper(costs: Costs, start: int, f: Floats, g: Floats) -> npt.NDArray[np.int64]:
    block = costs.block(start)
    rows, columns = np.nonzero(block - f[start : start + len(block), None] - g < -REDUCED_COST_TOLERANCE)
    return (rows + start) * len(g) + columns
