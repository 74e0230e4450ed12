"""SemDeDup: rows that mean the same as another are left out (Abbas et al., arXiv 2303.09540, section 3).

Embeddings of length 1 are clustered by k-means. Within a cluster rows stand in an order, the one most worth keeping
first; a row is a semantic duplicate where its cosine similarity to any row before it exceeds 1 - ε. That earlier row
may be a duplicate itself, as in the authors' code, which takes the maximum over the upper triangle of the similarity
matrix: so one number a row decides for every ε, and selections are nested.

Preselected rows come first in their clusters: what is like them counts as a duplicate. Rows of `exclude` come last:
they make no other row a duplicate, whatever `keep` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue

from tamis.native.math import rng
from tamis.native.neighbours import duplicates, kmeans
from tamis.native.neighbours import panels as distances
from tamis.native.simd.tile import LANES
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.in_order import Constraints
from tamis.selectors.features.embeddings import Matrix, matrix_bytes
from tamis.selectors.features.neighbours import read_vectors
from tamis.selectors.run.greedy_selector import GreedySelector, Order
from tamis.selectors.run.opened import Job
from tamis.selectors.run.parallel import in_threads
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost
from tamis.selectors.schema.request import Shape
from tamis.selectors.schema.response import Notice

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ROWS_PER_CLUSTER = 1000
"""Rows a cluster, where the number of clusters is left open. The paper has 50,000 clusters for 440 million rows and
reports little difference between numbers of clusters."""

SAMPLE_PER_CLUSTER = 64
"""Rows a cluster that its centre is trained on."""

TRAINING_STEPS = 10

FIRST = 2.0
"""Score of a row that no row of its cluster comes before: the largest cosine distance there is."""

PAIRS_A_BLOCK = 1 << 24
"""Pairs of rows compared in one call: about a second at 1024 dimensions."""

PASSES = TRAINING_STEPS + 2

PAIRS_PER_SECOND = 3e8
"""Rows compared with others in 64 dimensions, a CPU second; for estimates."""


@dataclass(frozen=True)
class SemDeDupFacts:
    """Measurements of a selection for its report."""

    distances: Floats  # (n,) cosine distance of each row to the nearest earlier row of its cluster
    clusters: int


class SemDeDupParams(Shape):
    """Parameters of SemDeDup."""

    clusters: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description=f"k of k-means. Left out: one for every {ROWS_PER_CLUSTER} rows."
    )
    keep: Literal["farthest", "closest", "random"] = Field(
        "farthest",
        description="Which row of a group of duplicates is kept: the one farthest from its cluster's centre (as in the "
        "paper), the one closest to it, or any.",
    )
    epsilon: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None,
        description="ε: rows whose cosine similarity to an earlier row exceeds 1 - ε are not taken, even where the "
        "budget is not spent. Left out: the budget decides.",
    )


class SemDeDup(GreedySelector):
    """Leave out semantic duplicates; excluded rows make no others duplicates."""

    name: ClassVar[str] = "semdedup"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Leaves out rows whose embedding is close to that of another row."
    citation: ClassVar[str] = "Abbas et al., SemDeDup, arXiv:2303.09540."
    cost: ClassVar[str] = (
        "One pass over the embeddings, k-means on a sample, each row against its own cluster. 8 bytes a value."
    )
    Params: ClassVar[type[SemDeDupParams]] = SemDeDupParams

    params: SemDeDupParams

    def needs(self) -> Needs:
        """Embeddings."""
        return Needs(roles=("embedding",), target=False)

    def _clusters(self, n: int) -> int:
        """Return k; 1 while the rows are not counted."""
        return min(self.params.clusters or max(1, math.ceil(n / ROWS_PER_CLUSTER)), max(1, n))

    def order(self, run: Run) -> Order:
        """Cluster, find how near each row is to an earlier one of its cluster, take the least near first."""
        constraints = run.constraints()
        run.begin("read", run.candidates)
        data = read_vectors(run, run.candidates, "cosine")
        run.begin("cluster", *[run.candidates] * PASSES)
        clusters, codes, apart = self._cluster(run, data)
        run.begin("compare", run.candidates)
        order = self._keep_order(run, codes, apart, constraints)
        scores = self._distances(run, data, order, np.searchsorted(codes[order], np.arange(clusters + 1)))
        best_first = np.lexsort((np.arange(len(scores)), -scores))
        eligible = best_first[constraints.eligible[best_first]]
        rows, stopped = constraints.take(eligible), None
        if self.params.epsilon is not None:
            within = len(rows)
            rows = constraints.take(eligible[scores[eligible] >= self.params.epsilon])
            stopped = self._stopped(len(rows)) if len(rows) < within else None
        if stopped is None:
            constraints.check_taken(np.concatenate([constraints.preselected, rows]))
        return Order(rows, scores, stopped=stopped, facts=SemDeDupFacts(scores, clusters))

    def _cluster(self, run: Run, data: Matrix) -> tuple[int, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Return the number of clusters, each row's cluster and its squared distance to the centre."""
        n = len(data)
        key = run.stream("semdedup.clusters")
        clusters = self._clusters(n)
        start = data[kmeans.sample_rows(key, n, clusters)]
        sample = data[kmeans.sample_rows(key, n, SAMPLE_PER_CLUSTER * clusters)]
        each = in_threads(run, rows=n)
        centres = kmeans.means(kmeans.in_blocks(sample), start, TRAINING_STEPS, each=each).centres
        panels, blocks = distances.pack(centres), kmeans.in_blocks(data)
        parts = list(each(lambda block: distances.assign(blocks[block], centres, panels), range(len(blocks))))
        return clusters, np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _keep_order(
        self, run: Run, codes: npt.NDArray[np.int32], apart: npt.NDArray[np.float32], constraints: Constraints
    ) -> npt.NDArray[np.int32]:
        """Order rows by cluster; in it the preselected first, in their order, then by `keep`, the excluded last."""
        n = len(codes)
        worth: npt.NDArray[np.floating] = rng.uniform(run.stream("semdedup.keep"), 0, n)
        if self.params.keep != "random":
            worth = -apart if self.params.keep == "farthest" else apart
        kept = len(constraints.preselected)
        places = np.where(constraints.eligible, kept, kept + 1)
        places[constraints.preselected] = np.arange(kept)
        return np.lexsort((np.arange(n), worth, places, codes)).astype(np.int32)

    def _distances(self, run: Run, data: Matrix, order: npt.NDArray[np.int32], starts: Ints) -> Floats:
        """Return the cosine distance of every row to the nearest earlier row of its cluster."""
        panels, first = distances.pack_groups(data, order, starts)
        blocks = list(_blocks(first))
        squared = np.empty(len(data), np.float32)
        whole = distances.read_only(data)

        def compare(block: int) -> None:
            for cell, begin, end in blocks[block]:
                duplicates.nearest_earlier(whole, panels, cell, begin, end, squared)

        for _ in in_threads(run, rows=len(data))(compare, range(len(blocks))):
            pass
        return np.where(np.isinf(squared), FIRST, squared.astype(np.float64) / 2)

    def _stopped(self, taken: int) -> Notice:
        detail = (
            f"After {taken:,} rows all others are out of bounds or semantic duplicates, more similar than 1 - epsilon "
            "to an earlier row of their cluster. The budget is not spent."
        )
        return Notice(code="duplicates-left-out", detail=detail)

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Return the ε that the selection amounts to, and how many duplicates it and the random draw hold."""
        chosen = decision.choice.rows[~decision.choice.preselected]
        facts: SemDeDupFacts = decision.facts
        scores = facts.distances
        least = float(scores[chosen].min()) if len(chosen) else None
        return {
            "clusters": facts.clusters,
            "least_distance_to_an_earlier_row": least,
            "nearer_than_that_among_random_rows": (
                None if least is None else int(np.count_nonzero(scores[random.rows] < least))
            ),
            "quantiles_of_the_distance": {
                f"{share:g}": float(value)
                for share, value in zip(
                    (0.01, 0.1, 0.25, 0.5, 0.75), np.quantile(scores, (0.01, 0.1, 0.25, 0.5, 0.75)), strict=True
                )
            }
            if len(scores)
            else {},
        }

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Read, cluster, compare."""
        dataset, n = job.candidates, job.candidates.rows or 0
        bytes_to_read = 4 * n * dataset.dimension("embedding")
        clusters = self._clusters(n)
        trained = min(n, SAMPLE_PER_CLUSTER * clusters)
        second = PAIRS_PER_SECOND / max(1.0, dataset.dimension("embedding") / 64)
        return [
            PhaseCost("read", len(dataset.units), bytes_to_read, bytes_to_read / 1e9),
            PhaseCost("cluster", 0, 0, (n + TRAINING_STEPS * trained) * clusters / second),
            PhaseCost("compare", 0, 0, n * n / clusters / second),
            PhaseCost("report", 0, 0, 1e-7 * n),
        ]

    def memory(self, job: Job, threads: int) -> int:
        """Vectors, their copy in clusters, and the centres."""
        n = job.candidates.rows or 0
        centres = 12 * threads * self._clusters(n) * job.candidates.dimension("embedding")
        return 2 * matrix_bytes(job.candidates, "embedding") + centres + 60 * n


def _blocks(first_panel: Ints) -> Iterator[list[tuple[int, int, int]]]:
    """Cut the work of all clusters into blocks of about `PAIRS_A_BLOCK`: (cluster's first panel, first, last) each."""
    block: list[tuple[int, int, int]] = []
    pairs = 0
    for cell, end in zip(first_panel[:-1].tolist(), first_panel[1:].tolist(), strict=True):
        begin = cell
        for panel in range(cell, end):
            pairs += LANES * LANES * (panel - cell + 1)
            if pairs >= PAIRS_A_BLOCK:
                block.append((cell, begin, panel + 1))
                yield block
                block, pairs, begin = [], 0, panel + 1
        if begin < end:
            block.append((cell, begin, end))
    if block:
        yield block
