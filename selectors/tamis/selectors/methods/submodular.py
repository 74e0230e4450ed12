"""Facility location, graph cut and saturated coverage: rows that stand for all others, chosen greedily.

Three submodular functions of one similarity matrix (:mod:`tamis.native.neighbours.similarities`): all pairs of a small
dataset, pairs of nearest neighbours of a larger one. Greedy choices have at least 1 - 1/e of the best value of a
monotone function (Nemhauser, Wolsey and Fisher, 1978); `rank` is their order, so that a prefix of a selection is the
smaller selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue

from tamis.native.greedy import limits, submodular
from tamis.native.neighbours import similarities
from tamis.native.neighbours.similarities import Similarities
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.in_order import Constraints
from tamis.selectors.features.embeddings import Matrix, matrix_bytes
from tamis.selectors.features.neighbours import (
    EXACT_ROWS,
    PAIR_BYTES,
    MetricParams,
    Neighbours,
    graph_bytes,
    graph_seconds,
    neighbour_graph,
    passes,
    read_vectors,
)
from tamis.selectors.run.greedy_selector import GreedySelector, Order
from tamis.selectors.run.opened import Job
from tamis.selectors.run.parallel import in_threads, one_by_one
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost
from tamis.selectors.schema.response import Notice

LEAST_NEIGHBOURS, MOST_NEIGHBOURS = 32, 256
"""Neighbours a row, where the request leaves them to the budget. Together, the lists of the rows selected should be
able to reach every row; beyond the most, the graph takes more memory than the vectors."""

PAIRS_A_CALL = 20_000_000
"""Pairs looked at between two looks at whether the job was cancelled: a fraction of a second."""

GAINS_SHOWN = 200
"""Points of the curve of gains in the report."""

PAIR_SECONDS = 4e-8
"""CPU seconds a pair of neighbours costs the greedy choice; for estimates."""


class GreedyParams(MetricParams):
    """Parameters that the functions share."""

    neighbors: Neighbours | None = Field(
        None,
        description="k: similarities to the k nearest neighbours count, all others are 0. Left out: all pairs of up to "
        f"{EXACT_ROWS} rows, beyond that the rows divided by those to select, {LEAST_NEIGHBOURS} to {MOST_NEIGHBOURS}.",
    )


class FacilityLocationParams(GreedyParams):
    """Parameters of facility location."""


class GraphCutParams(GreedyParams):
    """Parameters of the graph cut."""

    tradeoff: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.5,
        description="λ: what similarity among the selected rows costs. 0: the most central rows. The function is "
        "monotone up to 0.5.",
    )


class SaturatedCoverageParams(GreedyParams):
    """Parameters of saturated coverage."""

    saturation: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1,
        description="α: a row counts as covered once the selected rows are as similar to it as this share of all rows "
        "together.",
    )


def _thinned(values: npt.NDArray[np.float64]) -> list[JsonValue]:
    """Return [step, value] of at most `GAINS_SHOWN` steps, first and last among them."""
    steps = np.unique(np.linspace(0, len(values) - 1, min(len(values), GAINS_SHOWN)).astype(np.int64))
    return [[int(step) + 1, float(values[step])] for step in steps]


@dataclass(frozen=True)
class GreedyFacts:
    """Measurements of a selection for its report."""

    pairs: Similarities
    gains: npt.NDArray[np.float64]  # of the preselected rows, then of each row taken
    preselected: int


class _Greedy(GreedySelector):
    """Greedy maximisation of a submodular function of similarities; subclasses give the function."""

    revision: ClassVar[int] = 1
    cost: ClassVar[str] = (
        "One pass over the embeddings; a graph of nearest neighbours (kept for later jobs: about 30 CPU seconds for a "
        "million rows of 64 dimensions), then a second or so a million pairs. 8 bytes a value and 50 bytes a neighbour "
        "listed."
    )
    function: ClassVar[int]
    params: GreedyParams

    def needs(self) -> Needs:
        """Embeddings."""
        return Needs(roles=("embedding",), target=False)

    def tradeoff(self) -> float:
        """Return λ or α."""
        return 0.0

    def order(self, run: Run) -> Order:
        """Read the vectors, relate them, take the row that gains most until the budget is spent."""
        constraints = run.constraints()
        run.begin("read", run.candidates)
        data = read_vectors(run, run.candidates, self.params.metric)
        k = self._neighbours(constraints, len(data))
        run.begin("neighbours", *passes(run.candidates))
        pairs = self._relate(run, data, k)
        run.begin("choose")
        state = self._take_rows(run, constraints, pairs)
        rows, gains = submodular.taken(state)
        kept = len(constraints.preselected)
        places, _ = similarities.nearest_chosen(pairs, data, rows, each=in_threads(run))
        weights = np.bincount(places, minlength=len(rows)).astype(np.float64)
        return Order(
            rows[kept:],
            submodular.scores(state),
            weights=weights,
            warnings=_few_neighbours(k, len(rows), len(data)),
            facts=GreedyFacts(pairs, gains, kept),
        )

    def _neighbours(self, constraints: Constraints, n: int) -> int:
        """Return k; 0: all pairs."""
        if self.params.neighbors is not None:
            return self.params.neighbors
        if n <= EXACT_ROWS:
            return 0
        mean_size = 1.0 if constraints.sizes is None else max(1.0, float(constraints.sizes.mean()))
        wanted = round(n * mean_size / constraints.amount.value)
        return min(MOST_NEIGHBOURS, max(LEAST_NEIGHBOURS, wanted))

    def _relate(self, run: Run, data: Matrix, k: int) -> Similarities:
        if k == 0:
            return similarities.of_all_pairs(data, each=one_by_one(run))
        graph = neighbour_graph(run, run.candidates, data, self.params.metric, k)
        return similarities.of_neighbours(graph, each=one_by_one(run))

    def _take_rows(self, run: Run, constraints: Constraints, pairs: Similarities) -> submodular.Greedy:
        bounds = constraints.limits()
        state = submodular.begin(
            pairs,
            bounds,
            function=self.function,
            tradeoff=self.tradeoff(),
            free=constraints.eligible,
            first=constraints.preselected,
        )
        while submodular.advance(state, PAIRS_A_CALL) == submodular.WORKING:
            run.check_cancelled()
        constraints.check_taken(submodular.taken(state)[0])
        return state

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Return the function's value, beside that of the random draw, and the gains step by step."""
        facts: GreedyFacts = decision.facts
        drawn = submodular.begin(
            facts.pairs,
            limits.begin_limits(len(random.rows)),
            function=self.function,
            tradeoff=self.tradeoff(),
            free=np.zeros(run.layout().rows, np.bool_),
            first=random.rows,
        )
        return {
            "objective": float(facts.gains.sum()),
            "objective_random": float(submodular.taken(drawn)[1].sum()),
            "objective_preselected": float(facts.gains[: facts.preselected].sum()) if facts.preselected else None,
            "largest_squared_distance": facts.pairs.largest,
            "pairs_per_row": len(facts.pairs.rows) / max(1, run.layout().rows),
            "gains": _thinned(facts.gains[facts.preselected :]),
        }

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Read, find neighbours, choose, measure."""
        dataset, n = job.candidates, job.candidates.rows or 0
        bytes_to_read = 4 * n * dataset.dimension("embedding")
        pairs = n * self._pairs_per_row(job)
        return [
            PhaseCost("read", len(dataset.units), bytes_to_read, bytes_to_read / 1e9),
            PhaseCost("neighbours", 0, 0, graph_seconds(dataset)),
            PhaseCost("choose", 0, 0, PAIR_SECONDS * pairs),
            PhaseCost("report", 0, 0, PAIR_SECONDS * pairs / 10),
        ]

    def memory(self, job: Job, threads: int) -> int:
        """Vectors, their copy in cells, the graph, and its pairs in both directions."""
        n = job.candidates.rows or 0
        per_row = self._pairs_per_row(job)
        pairs = int(n * per_row * (8 if self._complete(n) else PAIR_BYTES))
        graph = 0 if self._complete(n) else graph_bytes(job.candidates, int(per_row))
        return matrix_bytes(job.candidates, "embedding") + graph + pairs + 80 * n

    def _complete(self, n: int) -> bool:
        return self.params.neighbors is None and n <= EXACT_ROWS

    def _pairs_per_row(self, job: Job) -> float:
        n = job.candidates.rows or 0
        return n if self._complete(n) else self.params.neighbors or LEAST_NEIGHBOURS


def _few_neighbours(k: int, chosen: int, n: int) -> list[Notice]:
    if k == 0 or k * chosen >= n:
        return []
    return [
        Notice(
            code="few-neighbours",
            detail=f"{chosen:,} rows with {k:,} neighbours each can't reach all {n:,} rows: the choice favours dense "
            "places. Ask for more neighbours, or use 'kcenter'.",
        )
    ]


class FacilityLocation(_Greedy):
    """Maximise the sum over all rows of the similarity to the nearest selected row."""

    name: ClassVar[str] = "facility_location"
    summary: ClassVar[str] = "Takes rows so that every row has a similar one among them (k-medoids, greedily)."
    citation: ClassVar[str] = (
        "Mirchandani and Francis, Discrete Location Theory, 1990; lazy greedy: Minoux, Accelerated greedy algorithms "
        "for maximizing submodular set functions, 1978."
    )
    Params: ClassVar[type[FacilityLocationParams]] = FacilityLocationParams

    params: FacilityLocationParams
    function: ClassVar[int] = submodular.FACILITY_LOCATION


class GraphCut(_Greedy):
    """Maximise similarity to all rows less λ times that among the selected rows."""

    name: ClassVar[str] = "graph_cut"
    summary: ClassVar[str] = "Takes central rows that are unlike each other."
    citation: ClassVar[str] = "Iyer et al., Submodular combinatorial information measures, arXiv:2006.15412."
    Params: ClassVar[type[GraphCutParams]] = GraphCutParams

    params: GraphCutParams
    function: ClassVar[int] = submodular.GRAPH_CUT

    def tradeoff(self) -> float:
        """Return λ."""
        return float(self.params.tradeoff)


class SaturatedCoverage(_Greedy):
    """Maximise similarity to all rows, each counted until it is covered well enough."""

    name: ClassVar[str] = "saturated_coverage"
    summary: ClassVar[str] = "Takes rows that together are similar to every row, up to a share of what all rows are."
    citation: ClassVar[str] = (
        "Lin and Bilmes, A class of submodular functions for document summarization, 2011 (section 4.1)."
    )
    Params: ClassVar[type[SaturatedCoverageParams]] = SaturatedCoverageParams

    params: SaturatedCoverageParams
    function: ClassVar[int] = submodular.SATURATED_COVERAGE

    def tradeoff(self) -> float:
        """Return α."""
        return float(self.params.saturation)
