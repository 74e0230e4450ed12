"""D2 pruning: hard rows of every region, by messages over a graph of nearest neighbours.

Maharana, Yadav and Bansal, D2 Pruning (arXiv:2310.07931): difficulty spreads to neighbours, so that hard regions count
more than single hard rows; each row taken then makes its neighbours less wanted (:mod:`tamis.native.greedy.d2`). `rank`
is the order in which rows were taken.

The authors' baseline "moderate" and their dense n x n matrices are not followed; nor is their use of raw scores: the
difficulty is scaled to 0 (easiest) to 1 (hardest) first, which turns scores whose low end is hard the right way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue

from tamis.native.greedy import d2
from tamis.native.neighbours import similarities
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.in_order import Constraints
from tamis.selectors.errors import Invalid
from tamis.selectors.features import difficulty
from tamis.selectors.features.difficulty import REASON_DETAILS, REASONS
from tamis.selectors.features.difficulty_params import DifficultyParams, HardEnd
from tamis.selectors.features.embeddings import matrix_bytes
from tamis.selectors.features.neighbours import (
    PAIR_BYTES,
    Metric,
    Neighbours,
    graph_bytes,
    graph_seconds,
    neighbour_graph,
    passes,
    read_vectors,
)
from tamis.selectors.run.greedy_selector import GreedySelector, Order
from tamis.selectors.run.opened import Job
from tamis.selectors.run.parallel import one_by_one
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost
from tamis.selectors.schema.response import Notice

Floats = npt.NDArray[np.float64]

PAIRS_A_CALL = 2_000_000
"""Neighbours looked at between two looks at whether the job was cancelled: about a second at most."""

PAIR_SECONDS = 2e-7
"""CPU seconds a pair of neighbours costs; for estimates."""

WEAK_MESSAGE = 1e-3
"""Where the mean message to a neighbour is below this share, the graph decides next to nothing."""

VALUES_SHOWN = 200
"""Points of the curve of priorities in the report."""

HISTOGRAM_BINS = 20


class D2Params(DifficultyParams):
    """Parameters of D2 pruning."""

    neighbors: Neighbours = Field(10, description="k of the graph. Reference: 10; the paper tries 1 to 15.")
    distance: Metric = Field(
        "euclidean",
        description="'cosine' scales every vector to length 1 first: a squared distance is then 2 (1 - cosine).",
    )
    gamma_forward: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="γ_f: difficulty spreads to a neighbour at distance d by exp(-γ_f d). Reference: 1."
    )
    gamma_reverse: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0,
        description="γ_r: a row taken lowers a neighbour at distance d by exp(-γ_r d) of its own value. 0: by all of "
        "it. The paper tries 0 to 1.",
    )


@dataclass(frozen=True)
class D2Facts:
    """Measurements of a selection for its report."""

    values: Floats  # (k,) of each row when it was taken
    difficulty: Floats  # (n,) from 0 to 1


class D2(GreedySelector):
    """Message passing for balancing diversity and difficulty."""

    name: ClassVar[str] = "d2"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Takes hard rows, spread over the data: difficulty passed along a graph of neighbours."
    citation: ClassVar[str] = (
        "Maharana, Yadav and Bansal, D2 Pruning: message passing for balancing diversity and difficulty in data "
        "pruning, arXiv:2310.07931."
    )
    cost: ClassVar[str] = (
        "One pass over the embeddings; a graph of nearest neighbours (kept for later jobs: about 30 CPU seconds for a "
        "million rows of 64 dimensions), then a second or so for every five million pairs."
    )
    Params: ClassVar[type[D2Params]] = D2Params
    reason_names: ClassVar[Sequence[str]] = REASONS
    reason_details: ClassVar[Mapping[str, str]] = REASON_DETAILS

    params: D2Params

    def needs(self) -> Needs:
        """Embeddings, and what difficulty is made of."""
        needed = difficulty.needs(self.params)
        return needed.model_copy(update={"roles": tuple(dict.fromkeys((*needed.roles, "embedding")))})

    def order(self, run: Run) -> Order:
        """Scale the difficulty, relate rows to their neighbours, pass messages, take the hardest again and again."""
        run.begin(difficulty.PHASE, *([run.candidates] if run.dynamics is None else [run.dynamics]))
        found = difficulty.scores(run, self.params)
        units = range(len(found.columns))
        reasons = np.concatenate([found.reasons(unit) for unit in units])
        hardness = _scaled(np.concatenate([found.columns[unit] for unit in units]), reasons, found.hard_end)
        constraints = run.constraints(reasons, REASONS)
        run.begin("read", run.candidates)
        data = read_vectors(run, run.candidates, self.params.distance)
        run.begin("neighbours", *passes(run.candidates))
        graph = neighbour_graph(run, run.candidates, data, self.params.distance, self.params.neighbors)
        del data
        pairs = similarities.of_neighbours(graph, each=one_by_one(run))
        run.begin("choose")
        state = self._take_rows(run, constraints, pairs, hardness)
        rows, values = d2.taken(state)
        kept = len(constraints.preselected)
        scores = d2.by_row(pairs, state.priorities)
        scores[rows] = values
        warnings = [*found.notices, *self._weak(pairs)]
        facts = D2Facts(values[kept:], hardness)
        return Order(rows[kept:], scores, reasons, warnings=warnings, facts=facts)

    def _take_rows(
        self, run: Run, constraints: Constraints, pairs: similarities.Similarities, hardness: Floats
    ) -> d2.Pruning:
        bounds = constraints.limits()
        state = d2.begin(
            pairs,
            hardness,
            bounds,
            free=constraints.eligible,
            first=constraints.preselected,
            gamma_forward=self.params.gamma_forward,
            gamma_reverse=self.params.gamma_reverse,
        )
        while d2.advance(state, PAIRS_A_CALL) == d2.WORKING:
            run.check_cancelled()
        constraints.check_taken(d2.taken(state)[0])
        return state

    def _weak(self, pairs: similarities.Similarities) -> list[Notice]:
        if len(pairs.squared) == 0:
            return []
        distance = float(np.sqrt(pairs.squared).mean(dtype=np.float64))  # no float64 copy: pairs are many
        if np.exp(-self.params.gamma_forward * distance) >= WEAK_MESSAGE:
            return []
        return [
            Notice(
                code="weak-messages",
                detail=f"Neighbours are {distance:.3g} apart on average, so that messages of exp(-gamma_forward d) all "
                f"but vanish and rows are taken by difficulty alone: choose gamma_forward near {1 / distance:.2g}, "
                "gamma_reverse likewise, or the cosine distance.",
            )
        ]

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Return how hard the rows taken are beside the random draw's, and each row's value when it was taken."""
        facts: D2Facts = decision.facts
        steps = np.unique(np.linspace(0, len(facts.values) - 1, min(len(facts.values), VALUES_SHOWN)).astype(np.int64))
        edges = np.linspace(0.0, 1.0, HISTOGRAM_BINS + 1)
        histograms: dict[str, JsonValue] = {
            name: np.histogram(facts.difficulty[picked.rows], edges)[0].tolist()
            for name, picked in (("selected", decision.choice), ("random", random))
        }
        return {
            "difficulty_edges": edges.tolist(),
            "difficulty": histograms,
            "mean_difficulty": float(facts.difficulty[decision.choice.rows].mean()),
            "mean_difficulty_random": float(facts.difficulty[random.rows].mean()),
            "value_when_taken": [[int(step) + 1, float(facts.values[step])] for step in steps],
        }

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Score, read, find neighbours, choose, measure."""
        difficulty.check(self.params, job)
        dataset = job.candidates
        bytes_to_read = matrix_bytes(dataset, "embedding")
        pairs = 1.5 * (dataset.rows or 0) * self.params.neighbors
        return [
            *difficulty.costs(self.params, job),
            PhaseCost("read", len(dataset.units), bytes_to_read, bytes_to_read / 1e9),
            PhaseCost("neighbours", 0, 0, graph_seconds(dataset)),
            PhaseCost("choose", 0, 0, PAIR_SECONDS * pairs),
            PhaseCost("report", len(dataset.units), bytes_to_read, bytes_to_read / 1e9),
        ]

    def memory(self, job: Job, threads: int) -> int:
        """Vectors, their copy in cells, the graph, and its pairs in both directions."""
        rows = job.candidates.rows or 0
        graph = graph_bytes(job.candidates, self.params.neighbors) + PAIR_BYTES * rows * self.params.neighbors
        return matrix_bytes(job.candidates, "embedding") + graph + difficulty.memory(self.params, job) + 60 * rows


def _scaled(scores: npt.NDArray[np.float32], reasons: npt.NDArray[np.uint8], hard_end: HardEnd | None) -> Floats:
    """Return the difficulty from 0 to 1; 0 for rows without a score, and where all scores are equal.

    Raises
    ------
    Invalid
        When no row has a score.
    """
    fit = reasons == 0
    if not fit.any():
        raise Invalid("No row has a score: nothing tells which rows are hard.", pointer="/dataset/columns/score")
    wide = np.where(fit, scores, 0.0).astype(np.float64)
    low, high = wide[fit].min(), wide[fit].max()
    if high == low:
        return np.zeros(len(wide))
    part = (wide - low) / (high - low)
    hardness: Floats = np.where(fit, 1.0 - part if hard_end == "low" else part, 0.0)
    return hardness
