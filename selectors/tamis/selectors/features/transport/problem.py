"""Transport problems: costs between rows and targets, in memory or computed in blocks, and bounds of the optimum."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tamis.native.math.elementary import exponentials, logarithms
from tamis.native.neighbours.panels import pack
from tamis.native.transport import sinkhorn
from tamis.native.transport.costs import sphere_costs

Floats = npt.NDArray[np.float64]

Matrix = npt.NDArray[np.float32]

BLUR = 0.01
"""Square root of the last temperature (GeomLoss' blur, as released)."""

Solver = Literal["released", "converged", "exact"]

BLOCK_ROWS = 512
"""Rows whose costs are computed, kept and swept at a time: the same for any number of threads."""

KEPT_COST_BYTES = 2**29
"""Costs kept in memory; what goes beyond is computed anew in every sweep, in O(rows + targets) memory."""


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
    """The costs of n rows to m targets, block by block: in memory while they fit, computed anew beyond.

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


class Problem:
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


def bracket(problem: Problem, f: Floats, g: Floats) -> tuple[float, float]:
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
