"""Optimal transport between selected rows and targets: Sinkhorn as released, converged, and the exact distance.

Three solvers of one problem, min <P, C> over plans P with marginals a (rows) and b (targets):

- ``released``: one sweep a temperature, from the squared diameter down to blur² (GeomLoss, as TAROT calls it). Cheap,
  and by design not converged: it lies 0.4 to 11 % below the exact distance.
- ``converged``: temperatures cooled slowly, then sweeps at blur² until the marginals hold.
- ``exact``: the network simplex on a graph of near pairs, grown until no pair left out could lower the cost.

Whatever the solver, :func:`bracket` tells how far the exact distance can be: a feasible plan's cost above, a feasible
dual's value below. Marginals and potentials are float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tamis.native.math.elementary import exponentials, logarithms
from tamis.native.neighbours.panels import pack
from tamis.native.transport import sinkhorn
from tamis.native.transport.costs import sphere_costs
from tamis.selectors.errors import TamisError

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Solver = Literal["released", "converged", "exact"]

BLUR = 0.01
"""Square root of the last temperature (GeomLoss' blur, as released)."""

RELEASED_SCALING = 0.5
"""Factor between the roots of two temperatures, as released: 11 or 12 sweeps in all."""

SLOW_SCALING = 0.9
"""The same, where the result is to converge."""

MARGINAL_TOLERANCE = 1e-3
"""Sum of what is missing or too much in the marginals from which a plan counts as converged."""

MAX_SWEEPS = 3000
"""At the last temperature; then the solver gives up and says so."""

RELAXATION = 1.8
"""Each potential is moved so many times as far as Sinkhorn would: an order of magnitude fewer sweeps."""

BLOCK_ROWS = 512
"""Rows whose costs are computed, kept and swept at a time: the same for any number of threads."""

KEPT_COST_BYTES = 2**29
"""Costs kept in memory; what goes beyond is computed anew in every sweep, in O(rows + targets) memory."""

GRAPH_NEIGHBOURS = 32
"""Near pairs of a row, and of a target, that the exact solver starts from."""

SIMPLEX_STEPS = 10**9
"""Pivots of the network simplex at most: a bound that no problem which fits in memory meets."""

REDUCED_COST_TOLERANCE = 1e-9
"""A pair left out whose reduced cost is above minus this can't lower the distance by more than this."""


@dataclass(frozen=True)
class Transport:
    """One problem solved."""

    solver: Solver
    value: float  # <a, f> + <b, g>
    rows: Floats  # (n,) potentials f
    targets: Floats  # (m,) potentials g
    sweeps: int
    marginal_error: float  # sum |P 1 - a| + |P' 1 - b| of the plan of the potentials before the last step
    converged: bool
    lower: float | None = None  # the exact distance lies between these two, where it was asked
    upper: float | None = None

    def summary(self) -> dict[str, Any]:
        """Return what a report says of it, JSON values."""
        gap = None if self.upper is None or self.lower is None else self.upper - self.lower
        return {
            "solver": self.solver,
            "distance": self.value,
            "converged": self.converged,
            "sweeps": self.sweeps,
            "marginal_error": self.marginal_error,
            "exact_distance_between": None if gap is None else [self.lower, self.upper],
            "duality_gap": gap,
        }


class Costs:
    """The costs of n rows to m targets, block by block: kept while they fit, computed anew beyond.

    Parameters
    ----------
    vectors : ndarray, shape (n, d), float32
        Unit vectors.
    targets : ndarray, shape (m, d), float32
        Unit vectors.
    pool : ThreadPoolExecutor, optional
        Blocks are worked on by its threads; the result does not depend on it.
    kept : int
        Bytes of costs to keep.
    """

    def __init__(
        self, vectors: Matrix, targets: Matrix, pool: ThreadPoolExecutor | None = None, kept: int = KEPT_COST_BYTES
    ) -> None:
        self.vectors = vectors
        self.targets = targets
        self._panels = pack(targets, inner=True)
        self.width = self._panels.bias.size
        self._pool = pool
        starts = range(0, len(vectors), BLOCK_ROWS)
        fitting = kept // (4 * self.width * BLOCK_ROWS)
        self._kept: list[Matrix] = self.over(self._compute, list(starts)[:fitting])
        self.starts = list(starts)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and targets."""
        return len(self.vectors), len(self.targets)

    def over(self, work: Callable[[int], Any], starts: Sequence[int]) -> list[Any]:
        """Return what `work` makes of each block, in order."""
        return list(map(work, starts) if self._pool is None else self._pool.map(work, starts))

    def _compute(self, start: int) -> Matrix:
        return sphere_costs(self.vectors[start : start + BLOCK_ROWS], self._panels)

    def padded(self, start: int) -> Matrix:
        """Return the costs of the block that begins at row `start`, padded to whole steps of the kernels."""
        block = start // BLOCK_ROWS
        rows = min(BLOCK_ROWS, len(self.vectors) - start)
        costs = self._kept[block] if block < len(self._kept) else self._compute(start)
        return costs[: -(-rows // sinkhorn.ROWS) * sinkhorn.ROWS]

    def block(self, start: int) -> Matrix:
        """Return the costs of the block that begins at row `start`, float32 (rows, m)."""
        rows = min(BLOCK_ROWS, len(self.vectors) - start)
        return self.padded(start)[:rows, : len(self.targets)]

    def first(self, rows: int) -> Costs:
        """Return the costs of the first rows alone, nothing computed again."""
        fewer = copy.copy(self)
        fewer.vectors = self.vectors[:rows]
        fewer.starts = list(range(0, rows, BLOCK_ROWS))
        return fewer

    def diameter(self) -> float:
        """Length of the diagonal of the box that holds all rows and targets."""
        low = np.minimum(self.vectors.min(axis=0), self.targets.min(axis=0)).astype(np.float64)
        high = np.maximum(self.vectors.max(axis=0), self.targets.max(axis=0)).astype(np.float64)
        return math.sqrt(math.fsum(((high - low) ** 2).tolist()))


def temperatures(diameter: float, blur: float, scaling: float) -> list[float]:
    """Return the temperatures of GeomLoss' epsilon scaling for p = 2, the largest first."""
    steps = np.arange(2 * math.log(diameter), 2 * math.log(blur), 2 * math.log(scaling))
    return [diameter**2, *(math.exp(step) for step in steps.tolist()), blur**2]


def solve(
    costs: Costs,
    row_weights: Floats,
    target_weights: Floats,
    solver: Solver = "released",
    *,
    bounds: bool = False,
) -> Transport:
    """Solve one problem.

    Parameters
    ----------
    costs : Costs
        Of one row and one target or more.
    row_weights, target_weights : ndarray, shapes (n,) and (m,), float64
        Positive, each with the sum 1.
    solver : Solver
        See the module.
    bounds : bool
        Also bracket the exact distance; takes about as long as the released schedule.
    """
    problem = _Problem(costs, row_weights, target_weights)
    found = _exact(problem) if solver == "exact" else _sinkhorn(problem, solver)
    if not bounds:
        return found
    lower, upper = bracket(problem, found.rows, found.targets)
    return replace(found, lower=lower, upper=upper if found.upper is None else found.upper)


# -- Sinkhorn


class _Problem:
    def __init__(self, costs: Costs, a: Floats, b: Floats) -> None:
        if costs.shape != (len(a), len(b)) or not len(a) or not len(b):
            raise ValueError("weights of one row and one target or more are needed, as many as the costs have")
        self.costs, self.a, self.b = costs, a, b
        self.log_a, self.log_b = logarithms(a), logarithms(b)

    def value(self, f: Floats, g: Floats) -> float:
        return math.fsum((self.a * f).tolist()) + math.fsum((self.b * g).tolist())

    def sweep(self, f: Floats, g: Floats, epsilon: float, *, wide: bool = False) -> tuple[Floats, Floats, float]:
        """Return softmins f~(g) and g~(f) at `epsilon`, and the marginal error of the plan of f and g."""
        rows, columns = self._sums(f, g, epsilon, wide)
        low, high = sinkhorn.WIDE_RANGE if wide else sinkhorn.NARROW_RANGE
        bad_rows, bad_columns = (np.flatnonzero(~((sums > low) & (sums < high))) for sums in (rows, columns))
        if not wide and (len(bad_rows) or len(bad_columns)):
            return self.sweep(f, g, epsilon, wide=True)
        rows[bad_rows] = columns[bad_columns] = 1.0
        error = float((np.abs(rows - 1) * self.a).sum() + (np.abs(columns - 1) * self.b).sum())  # in NumPy's one order
        if len(bad_rows) or len(bad_columns):
            error = math.inf
        new_f, new_g = f - epsilon * logarithms(rows), g - epsilon * logarithms(columns)
        self._mend(new_f, bad_rows, new_g, bad_columns, (f, g, epsilon))
        return new_f, new_g, error

    def _sums(self, f: Floats, g: Floats, epsilon: float, wide: bool) -> tuple[Floats, Floats]:
        kind: Any = np.float64 if wide else np.float32
        kernel = sinkhorn.sweep_wide if wide else sinkhorn.sweep_narrow
        n, m = self.costs.shape
        shifts = np.full(self.costs.width, sinkhorn.NO_COLUMN, kind)
        shifts[:m] = (g / epsilon + self.log_b) * sinkhorn.PER_OCTAVE

        def work(start: int) -> tuple[Floats, Floats]:
            block = self.costs.padded(start)
            stop = min(start + BLOCK_ROWS, n)
            sides = np.zeros((2, len(block)), kind)
            sides[0, : stop - start] = f[start:stop] / epsilon * sinkhorn.PER_OCTAVE
            sides[1, : stop - start] = self.a[start:stop]
            steps = np.ascontiguousarray(sides.reshape(2, -1, sinkhorn.ROWS).swapaxes(0, 1))
            columns = np.stack([shifts, np.zeros_like(shifts)])
            row_sums, column_sums = np.empty(len(block)), np.zeros(self.costs.width)
            kernel(block, steps, columns, -sinkhorn.PER_OCTAVE / epsilon, row_sums, column_sums)
            return row_sums[: stop - start], column_sums[:m]

        parts = self.costs.over(work, self.costs.starts)
        columns = np.zeros(m)
        for _, part in parts:
            columns += part
        scaled: Floats = columns / exponentials(self.log_b)
        return np.concatenate([part for part, _ in parts]), scaled

    def _mend(
        self,
        new_f: Floats,
        bad_rows: npt.NDArray[np.int64],
        new_g: Floats,
        bad_columns: npt.NDArray[np.int64],
        at: tuple[Floats, Floats, float],
    ) -> None:
        """Take the softmins anew whose sums left the range of the exponentials, from their largest terms."""
        f, g, epsilon = at
        by_target, by_row = g / epsilon + self.log_b, f / epsilon + self.log_a
        for row in bad_rows.tolist():
            start = row // BLOCK_ROWS * BLOCK_ROWS
            line = np.ascontiguousarray(self.costs.block(start)[row - start])
            new_f[row] = sinkhorn.row_potential(line, by_target, epsilon)
        if len(bad_columns):
            lines = np.concatenate([self.costs.block(start)[:, bad_columns] for start in self.costs.starts]).T
            for column, line in zip(bad_columns.tolist(), lines, strict=True):
                new_g[column] = sinkhorn.row_potential(np.ascontiguousarray(line), by_row, epsilon)


def _sinkhorn(problem: _Problem, solver: Solver) -> Transport:
    """Symmetric Sinkhorn with cooling: both potentials move half way at every temperature (Feydy, GeomLoss)."""
    n, m = problem.costs.shape
    scaling = RELEASED_SCALING if solver == "released" else SLOW_SCALING
    schedule = temperatures(problem.costs.diameter(), BLUR, scaling)
    f, g, error = problem.sweep(np.zeros(n), np.zeros(m), schedule[0])
    for epsilon in schedule:
        new_f, new_g, _ = problem.sweep(f, g, epsilon)
        f, g = (f + new_f) / 2, (g + new_g) / 2
    last, sweeps = schedule[-1], len(schedule) + 2
    if solver == "released":
        f, g, error = problem.sweep(f, g, last)
        return Transport(solver, problem.value(f, g), f, g, sweeps, error, error <= MARGINAL_TOLERANCE)
    relaxation = RELAXATION
    for _ in range(MAX_SWEEPS // 2):
        new_f, _, error = problem.sweep(f, g, last, wide=True)
        sweeps += 2
        if error <= MARGINAL_TOLERANCE:
            break
        if not math.isfinite(error):  # carried too far: begin again from a plain step
            relaxation = 1.0
        f = f + relaxation * (new_f - f)
        _, new_g, _ = problem.sweep(f, g, last, wide=True)
        g = g + relaxation * (new_g - g)
    return Transport(solver, problem.value(f, g), f, g, sweeps, error, error <= MARGINAL_TOLERANCE)


# -- how far the exact distance can be


def bracket(problem: _Problem, f: Floats, g: Floats) -> tuple[float, float]:
    """Return bounds of the exact distance from any potentials.

    Below: g and its c-transform, which are feasible for the dual. Above: the plan of f and g at the last temperature,
    made feasible by scaling down what is too much and spreading the rest (Altschuler, Weed, Rigollet, 2017, algorithm
    2). Of the plan's cost, <P, C> = <P 1, f> + <P' 1, g> - e sum P log(P / ab), the last sum is bounded by its total
    mass alone: the bound is above the plan's cost by e log(n m) at most, 0.002 for millions of entries.
    """
    costs, a, b = problem.costs, problem.a, problem.b
    epsilon = BLUR**2
    f, _, _ = problem.sweep(f, g, epsilon)  # rows hold exactly
    _, columns, _ = problem.sweep(f, g, epsilon)
    scaled = np.minimum(g, columns)  # and no column too much
    rows, columns, _ = problem.sweep(f, scaled, epsilon)
    have = a * exponentials(np.minimum(f - rows, 0.0) / epsilon)
    full = b * exponentials(np.minimum(scaled - columns, 0.0) / epsilon)
    left, missing = a - have, (b - full).astype(np.float32)

    def work(start: int) -> tuple[Floats, float]:
        block = costs.block(start)
        lowest = (block - g.astype(np.float32)).min(axis=1).astype(np.float64)
        return lowest, float((left[start : start + len(block)] * (block * missing).sum(axis=1)).sum())

    parts = costs.over(work, costs.starts)
    transform = np.concatenate([part for part, _ in parts])
    mass, spread = float(have.sum()), float(left.sum())
    upper = math.fsum((have * f).tolist()) + math.fsum((full * scaled).tolist())
    if mass > 0:
        upper -= epsilon * mass * math.log(mass)
    if spread > 0:
        upper += math.fsum(rest for _, rest in parts) / spread
    return problem.value(transform, g), upper


# -- exact


def _exact(problem: _Problem) -> Transport:
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


def _corner_pairs(problem: _Problem) -> npt.NDArray[np.int64]:
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
