"""TAROT's OTM: how many layers to take, by the distance of what a part of the targets selects to the others.

The paper stops at the first increase of the distance. That is noise: the curve is flat around its minimum, and one
layer more or less is decided by a few rows. Here the whole curve is measured in every fold, and the smallest size is
chosen that is as good as the best: on the *plateau*, where the mean excess over the best is below a tolerance or below
its own standard error over the folds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from tamis.native.math import rng
from tamis.selectors.errors import Invalid
from tamis.selectors.features.transport.problem import Costs, Solver, Transport
from tamis.selectors.features.transport.solve import solve

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]

GRID_STEP = 2**0.5
"""Factor between two numbers of layers that are tried: every one at first, where a layer more changes much."""


@dataclass(frozen=True)
class Point:
    """One point of one fold's curve."""

    layers: int
    rows: int
    transport: Transport


@dataclass(frozen=True)
class Curve:
    """Distances by fold and number of layers, and what was chosen."""

    layers: Sequence[int]  # (g,)
    sizes: Sequence[int]  # (g,) rows that so many layers of all targets make
    folds: Sequence[Sequence[Point]]  # (folds, g)
    best: int  # indices into `layers`
    chosen: int
    plateau: tuple[int, int]  # first and last
    without_a_fold: Sequence[int]  # (folds,) what would be chosen without each
    tolerance: float

    def summary(self) -> dict[str, JsonValue]:
        """Return what a report shows of it."""
        distances = np.array([[point.transport.value for point in fold] for fold in self.folds])
        low, high = (self.sizes[index] for index in self.plateau)
        left = [self.sizes[index] for index in self.without_a_fold]
        points: list[JsonValue] = [
            {
                "layers": self.layers[index],
                "rows": self.sizes[index],
                "mean_distance": float(distances[:, index].mean()),
                "standard_error": _standard_error(distances[:, index]),
                "on_plateau": self.plateau[0] <= index <= self.plateau[1],
            }
            for index in range(len(self.layers))
        ]
        folds: list[JsonValue] = [
            {
                "fold": number,
                "layers": [point.layers for point in fold],
                "rows": [point.rows for point in fold],
                "distance": [point.transport.value for point in fold],
                "marginal_error": [point.transport.marginal_error for point in fold],
                "duality_gap": [_gap(point.transport) for point in fold],
                "converged": [point.transport.converged for point in fold],
            }
            for number, fold in enumerate(self.folds)
        ]
        return {
            "chosen_layers": self.layers[self.chosen],
            "chosen_rows": self.sizes[self.chosen],
            "lowest_distance_at_layers": self.layers[self.best],
            "plateau_rows": [low, high],
            "chosen_rows_without_one_fold": [min(left), max(left)],
            "tolerance": self.tolerance,
            "curve": points,
            "folds": folds,
        }


def _gap(transport: Transport) -> float | None:
    return None if transport.upper is None or transport.lower is None else transport.upper - transport.lower


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def grid(most: int) -> list[int]:
    """Return the numbers of layers to try: 1, 2, 3, 4, 6, 8, 12, 17, …, `most`."""
    tried, value = {most}, 1.0
    while value < most:
        tried.add(round(value))
        value = max(value * GRID_STEP, value + 1)
    return sorted(tried)


def choose_size(distances: Floats, tolerance: float) -> tuple[int, int, tuple[int, int]]:
    """Choose a point of a curve.

    Parameters
    ----------
    distances : ndarray, shape (folds, g)
    tolerance : float
        Mean relative excess over the best that still counts as equal.

    Returns
    -------
    int, int, (int, int)
        The best point, the chosen one (the first of the plateau), and the plateau's ends.
    """
    means = distances.mean(axis=0)
    best = int(np.argmin(means))
    excess = distances / distances[:, best : best + 1] - 1  # paired: folds differ more than sizes do
    near = np.array([column.mean() <= max(tolerance, _standard_error(column)) for column in excess.T])
    first = last = best
    while first > 0 and near[first - 1]:
        first -= 1
    while last < len(near) - 1 and near[last + 1]:
        last += 1
    return best, first, (first, last)


def folds_of(targets: int, folds: int, key: Any) -> list[Ints]:
    """Cut the targets, in a random order, into parts of nearly one size."""
    order = np.argsort(rng.random_bits_at(key, np.arange(targets)), kind="stable")
    return [np.sort(part) for part in np.array_split(order, folds)]


def union_order(rows: Ints, scores: Matrix) -> tuple[Ints, Ints]:
    """Return candidates in some targets' lists with a similarity above 0, by layer and row, and each one's layer."""
    m, depth = rows.shape
    layer = np.tile(np.arange(depth), m)
    flat = rows.ravel()
    kept = (flat >= 0) & (scores.ravel() > 0)
    flat, layer = flat[kept], layer[kept]
    order = np.lexsort((flat, layer))
    _, first = np.unique(flat[order], return_index=True)
    first.sort()
    return flat[order][first], layer[order][first]


class Work(NamedTuple):
    """The resources of a measurement."""

    threads: int  # folds measured at a time
    kept_bytes: int  # of costs that all folds keep
    check: Callable[[], None]  # raises when the job was cancelled


def measure(
    neighbours: tuple[Ints, Matrix],
    targets: Matrix,
    vectors: Callable[[Ints], Matrix],
    parts: Sequence[tuple[Ints, Ints]],
    *,
    solver: Solver,
    tolerance: float,
    work: Work,
) -> Curve:
    """Measure the curve of every fold and choose.

    Parameters
    ----------
    neighbours
        Rows and similarities of each target's neighbours, (m, k) each.
    targets : ndarray, shape (m, d), float32
    vectors : callable
        Whitened vectors of candidates.
    parts
        For each fold the targets that select, and those that score.
    solver : Solver
        Of the transport problems.
    tolerance : float
        Mean relative excess over the lowest distance that counts as equally good.
    work : Work
        Threads, memory and cancellation.
    """
    rows, scores = neighbours
    tried = grid(rows.shape[1])

    def fold(layer: Ints, selected: Matrix, scoring: Ints) -> list[Point]:
        costs = Costs(selected, targets[scoring], kept=work.kept_bytes // work.threads)
        b = np.full(len(scoring), 1 / len(scoring))
        points = []
        for count in tried:
            work.check()
            size = int(np.searchsorted(layer, count))
            if size == 0:
                return []  # nothing similar to any of these targets
            points.append(Point(count, size, solve(costs.first(size), np.full(size, 1 / size), b, solver, bounds=True)))
        return points

    measured: list[list[Point]] = []
    with ThreadPoolExecutor(work.threads, thread_name_prefix="tamis-otm") as pool:
        for start in range(
            0, len(parts), work.threads
        ):  # vectors are gathered for as many folds as are measured at a time
            together = parts[start : start + work.threads]
            unions = [union_order(rows[selecting], scores[selecting]) for selecting, _ in together]
            every = np.unique(np.concatenate([ordered for ordered, _ in unions]))
            table = vectors(every)  # one reading for all of them
            waiting = [
                pool.submit(fold, layer, table[np.searchsorted(every, ordered)], scoring)
                for (ordered, layer), (_, scoring) in zip(unions, together, strict=True)
                if len(ordered)
            ]
            measured += [points for points in (future.result() for future in waiting) if points]
    if not measured:
        raise Invalid(
            "No candidate has a similarity above 0 to the targets of any fold: there is no size to choose.",
            pointer="/target",
        )
    _, layer = union_order(rows, scores)
    sizes = np.searchsorted(layer, tried).tolist()
    distances = np.array([[point.transport.value for point in points] for points in measured])
    best, chosen, plateau = choose_size(distances, tolerance)
    without = (
        [choose_size(np.delete(distances, index, axis=0), tolerance)[1] for index in range(len(measured))]
        if len(measured) > 1
        else [chosen]
    )
    return Curve(tried, sizes, measured, best, chosen, plateau, without, tolerance)


# -- as released


@dataclass(frozen=True)
class ReleasedFold:
    """One fold of the release: distances up to the step that failed, and the set of that step."""

    distances: list[float]
    rows: Ints


def released_folds(
    neighbours: tuple[Ints, Matrix],
    targets: Matrix,
    vectors: Callable[[Ints], Matrix],
    *,
    folds: int,
    seed: int,
) -> list[ReleasedFold]:
    """Run the release's OTM: each fold ends at the first distance not below the best, with the set of that step."""
    from sklearn.model_selection import KFold  # here: a slow import that few jobs need

    rows, scores = neighbours
    found = []
    for scoring, selecting in KFold(folds, shuffle=True, random_state=seed).split(targets):
        ordered, layer = union_order(rows[selecting], scores[selecting])
        costs = Costs(vectors(ordered), targets[scoring])
        b = np.full(len(scoring), 1 / len(scoring))
        distances: list[float] = []
        size = 0
        for count in range(1, rows.shape[1] + 1):
            size = int(np.searchsorted(layer, count))
            value = solve(costs.first(size), np.full(size, 1 / size), b).value
            best = min(distances, default=math.inf)
            distances.append(value)
            if value >= best:
                break
        found.append(ReleasedFold(distances, np.sort(ordered[:size])))
    return found
