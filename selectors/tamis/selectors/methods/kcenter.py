"""k-center: rows so that no row is far from all of them, chosen greedily, each the farthest from those before it.

The radius that k rows chosen so leave is at most twice the smallest possible one (Gonzalez, 1985). `rank` is the order
in which they were taken, so that a prefix of a selection is the smaller selection; rows of an earlier selection come
first, and what is taken is far from them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue

from tamis.native.greedy import farthest_first
from tamis.native.math import rng
from tamis.selectors.decision.budget import resolve_budget
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.in_order import Constraints
from tamis.selectors.decision.ranking import Rows
from tamis.selectors.errors import Infeasible, Invalid
from tamis.selectors.features.coverage import represented
from tamis.selectors.features.embeddings import Matrix, matrix_bytes
from tamis.selectors.features.neighbours import MetricParams, read_vectors
from tamis.selectors.run.greedy_selector import GreedySelector, Order
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost
from tamis.selectors.schema.response import Notice

Floats = npt.NDArray[np.float64]


WORK_A_CALL = 2 * 10**9
"""Coordinates compared between two looks at whether the job was cancelled: a tenth of a second."""

COORDINATES_PER_SECOND = 2.5e10
"""Compared by one core; for estimates."""

SHARE_COMPARED = 0.25
"""Of all pairs of a row and a centre, those that the greedy choice looks at; for estimates."""

DISTANCES_SHOWN = 200
"""Points of the curve of distances in the report."""

STATE_BYTES = 16
"""Of the greedy choice, a row."""


class KCenterParams(MetricParams):
    """Parameters of k-center."""

    start: Annotated[int, Field(ge=0)] | Literal["random", "central"] = Field(
        "random",
        description="The first row: a row number, 'random' (by the seed) or 'central' (the nearest to the mean). Where "
        "rows are preselected, those are the start instead.",
    )
    min_distance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0,
        description="No row is taken that is nearer than this to one taken before; the selection then ends below its "
        "budget. For the cosine metric: between vectors of length 1, so sqrt(2 (1 - cosine)).",
    )
    weighted: bool = Field(
        True,
        description="A selected row weighs as many rows as it is the nearest selected one of, itself included. false: "
        "weights are 1, and scores of rows not selected are upper bounds; saves comparing all rows with all selected.",
    )


@dataclass(frozen=True)
class KCenterFacts:
    """Measurements of a selection for its report."""

    distances: Floats  # (k,) of each row from those taken before it
    covered: tuple[float, float] | None  # mean and largest distance of a row from the selection, where measured


class KCenter(GreedySelector):
    """Greedy k-center."""

    name: ClassVar[str] = "kcenter"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Takes the row farthest from all taken so far, again and again: diverse, no gaps."
    citation: ClassVar[str] = (
        "Gonzalez, Clustering to minimize the maximum intercluster distance, 1985; as a coreset: Sener and Savarese, "
        "Active learning for convolutional neural networks: a core-set approach, arXiv:1708.00489."
    )
    cost: ClassVar[str] = (
        "One pass over the embeddings, then rows x selected x dimensions coordinates at 2.5e10 a CPU second (for the "
        "weights; the choice itself looks at a tenth to a half of them). 4 bytes a value and 30 a row."
    )
    Params: ClassVar[type[KCenterParams]] = KCenterParams

    params: KCenterParams

    def needs(self) -> Needs:
        """Embeddings."""
        return Needs(roles=("embedding",), target=False)

    def order(self, run: Run) -> Order:
        """Read the vectors, take the farthest row until the budget is spent, count what each represents."""
        constraints = run.constraints()
        run.begin("read", run.candidates)
        data = read_vectors(run, run.candidates, self.params.metric)
        run.begin("choose", run.candidates)
        state, status = self._take_rows(run, constraints, data)
        rows, distances = farthest_first.taken(state)
        kept = len(constraints.preselected)
        scores = np.sqrt(np.maximum(state.keys, 0.0))
        weights = None
        covered: tuple[float, float] | None = None
        if self.params.weighted:
            run.begin("represent", run.candidates)
            places, scores = represented(run, data, data[rows])
            places[rows] = np.arange(len(rows))  # of equal vectors, a selected one stands for itself
            weights = np.bincount(places, minlength=len(rows)).astype(np.float64)
            covered = float(scores.mean()), float(scores.max())
        scores[rows] = 0.0
        scores[rows[kept:]] = _finite(distances[kept:])
        stopped = self._stopped(constraints, state, len(rows)) if status == farthest_first.NEAR else None
        facts = KCenterFacts(distances[kept:], covered)
        return Order(rows[kept:], scores, weights=weights, stopped=stopped, facts=facts)

    def _take_rows(self, run: Run, constraints: Constraints, data: Matrix) -> tuple[farthest_first.Traversal, int]:
        free = constraints.eligible.copy()
        start = constraints.preselected
        if len(start) == 0:
            start = np.array([self._start(run, constraints, data)], np.int64)
            free[start] = False
        bounds = constraints.limits()
        state = farthest_first.begin(data, free, start, bounds, least_distance=self.params.min_distance)
        status, told, most = farthest_first.WORKING, 0, max(1, constraints.max_rows)
        while status == farthest_first.WORKING:
            run.check_cancelled()
            status = farthest_first.advance(state, WORK_A_CALL)
            done = len(data) * min(most, int(state.counters[0]) - len(constraints.preselected)) // most
            run.advance(rows=max(0, done - told))
            told = max(told, done)
        if status != farthest_first.NEAR:
            constraints.check_taken(farthest_first.taken(state)[0])
        return state, status

    def _start(self, run: Run, constraints: Constraints, data: Matrix) -> int:
        """Return the first row."""
        fits = _fits_first(constraints)
        given = self.params.start
        if isinstance(given, int):
            if given >= len(data):
                raise Invalid(
                    f"The start is row {given}, but the dataset has {len(data)} rows, numbered from 0.",
                    pointer="/selector/params/start",
                )
            if not fits[given]:
                raise Invalid(
                    f"The start, row {given}, may not be taken: it is excluded, or larger than budget and bounds "
                    "allow.",
                    pointer="/selector/params/start",
                )
            return given
        if not fits.any():
            raise Infeasible(
                f"Every row is larger than the budget of {constraints.amount} and the bounds allow: nothing can be "
                "taken.",
                pointer=constraints.amount.pointer,
            )
        if given == "central":
            return farthest_first.central_row(data, fits)
        return int(np.argmax(np.where(fits, rng.uniform(run.stream("kcenter.start"), 0, len(data)), -1.0)))

    def _stopped(self, constraints: Constraints, state: farthest_first.Traversal, count: int) -> Notice:
        short = int(np.count_nonzero(state.limits.have < constraints.lower))
        below = f" {short} strata are below their minimum." if short else ""
        return Notice(
            code="stopped-at-min-distance",
            detail=f"The selection ends with {count:,} rows, below the budget of {constraints.amount}: every row that "
            f"may be taken is nearer than min_distance = {self.params.min_distance:g} to a selected one.{below}",
        )

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Return each row's distance from those before it, step by step, and how well all rows are covered."""
        facts: KCenterFacts = decision.facts
        mean, radius = (None, None) if facts.covered is None else facts.covered
        return {
            "metric": self.params.metric,
            "distance_when_taken": _thinned(facts.distances),
            "mean_distance": mean,
            "covering_radius": radius,
        }

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Read, choose, count what each row represents, measure."""
        dataset = job.candidates
        bytes_to_read = matrix_bytes(dataset, "embedding")
        compare = bytes_to_read / 4 * self._rows(job) / COORDINATES_PER_SECOND
        represent = [PhaseCost("represent", 0, 0, compare)] if self.params.weighted else []
        return [
            PhaseCost("read", len(dataset.units), bytes_to_read, bytes_to_read / 1e9),
            PhaseCost("choose", 0, 0, SHARE_COMPARED * compare),
            *represent,
            PhaseCost("report", len(dataset.units), bytes_to_read, bytes_to_read / 1e9),
        ]

    def memory(self, job: Job, threads: int) -> int:
        """Vectors, the state of the choice, and the selected vectors twice over."""
        rows, dataset = job.candidates.rows or 0, job.candidates
        selected = 2 * 4 * dataset.dimension("embedding") * self._rows(job)
        return matrix_bytes(dataset, "embedding") + (STATE_BYTES + 24) * rows + selected

    def _rows(self, job: Job) -> int:
        """Return the rows to select; of a budget in size it is known only that they are no more than all."""
        rows = job.candidates.rows or 0
        return rows if job.spec.budget.size is not None else resolve_budget(job.spec.budget, rows).value if rows else 0


def _fits_first(constraints: Constraints) -> npt.NDArray[np.bool_]:
    """Return which rows may be the first one, (n,)."""
    sizes: Rows | int = 1 if constraints.sizes is None else constraints.sizes
    codes = np.zeros(1, np.int64) if constraints.codes is None else constraints.codes
    reserved = constraints.lower.sum() - constraints.lower
    fits: npt.NDArray[np.bool_] = constraints.eligible & (
        sizes <= np.minimum(constraints.upper, constraints.amount.value - reserved)[codes]
    )
    return fits


def _finite(distances: Floats) -> Floats:
    """Give the start, which nothing was taken before, the largest distance of the others."""
    known = np.isfinite(distances)
    return np.where(known, distances, distances[known].max(initial=0.0))


def _thinned(distances: Floats) -> list[JsonValue]:
    """Return [step, distance] of at most `DISTANCES_SHOWN` steps, first and last among them."""
    steps = np.arange(len(distances))[np.isfinite(distances)]
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), DISTANCES_SHOWN)).astype(np.int64))
    return [[int(step) + 1, float(distances[step])] for step in steps[shown]]
