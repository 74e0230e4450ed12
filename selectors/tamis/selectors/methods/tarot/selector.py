"""TAROT: targeted data selection via optimal transport (Feng et al., ICML 2025, arXiv 2412.00420).

Candidates and targets are gradients of a model's loss, whitened together and scaled to length 1. Layer i holds the i-th
most similar candidate of every target: whole layers are taken while they fit the budget, and the last one is filled
with the rows that are cheapest to transport to the targets. With `mode: otm` the number of layers is an output.

Where we deviate from the authors' code, `release: true` does as it does: rows are whitened by inverse(L)', not by its
transpose; lambda is relative to the covariance's scale; the last layer is filled by the smallest potential, not the
largest; a budget that ends exactly on a layer takes no other one; layers never run out; several checkpoints are
averaged, not the last one taken; and a size is chosen from the whole curve, not at its first increase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import JsonValue

from tamis.native.math import rng, second_moments
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.in_order import Constraints
from tamis.selectors.errors import Invalid
from tamis.selectors.features import gradient_provenance, last_layer_gradients, unigram_gradients
from tamis.selectors.features.gradients import (
    MEANING,
    OFFERED_BYTES,
    ROLES,
    Features,
    Space,
    pooled_moments,
    source_dimension,
)
from tamis.selectors.features.ngrams import check_tokenizer, tables_version
from tamis.selectors.features.transport.problem import KEPT_COST_BYTES
from tamis.selectors.features.whitening import Whitener, make_whitener
from tamis.selectors.methods.tarot import otm
from tamis.selectors.methods.tarot.curve_svg import drawing
from tamis.selectors.methods.tarot.evidence import measure
from tamis.selectors.methods.tarot.layers import LayerOrder, Layers, cut, potential_weights, repeats
from tamis.selectors.methods.tarot.params import FEWEST_LAYERS, TarotParams
from tamis.selectors.methods.tarot.steps import (
    GATHERED_BYTES,
    REASONS,
    TarotFacts,
    Trail,
    decision,
    gatherer,
    solved,
    target_weights,
)
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost, Selector
from tamis.selectors.schema.response import Notice

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]

LISTS_BYTES = 2**29
"""Lists of neighbours held at most; where a budget reaches beyond them, rows follow by their nearest target."""

BYTES_A_NEIGHBOUR = 36
"""Row and similarity, of the lists as they are merged, of a unit's, and sorted into layers."""

TINY_TARGET_ROWS = 50
"""A target with fewer rows is covered by a handful of candidates each: TAROT overfits it."""

FLOPS = 40e9
"""Multiply-adds a CPU-second of similarities, for plans (tests/benchmarks/README.md)."""
DOUBLE_FLOPS = 15e9
"""The same in float64: moments and whitening."""
READ_BYTES_PER_SECOND = 1e9


class Tarot(Selector):
    """Selection by optimal transport on whitened gradients."""

    name: ClassVar[str] = "tarot"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Takes every target's most similar candidates by whitened gradients, layer by layer."
    citation: ClassVar[str] = (
        "Feng, Nie, Liu, Alahi: TAROT: Targeted Data Selection via Optimal Transport. ICML 2025, arXiv:2412.00420."
    )
    cost: ClassVar[str] = (
        "Two passes over the vectors, candidates x targets x dimension multiply-adds; 36 bytes a target and layer."
    )
    Params: ClassVar[type[TarotParams]] = TarotParams

    params: TarotParams

    @classmethod
    def make(cls, params: TarotParams) -> Tarot:
        """Return the variant of these parameters."""
        from tamis.selectors.methods.tarot.released import ReleasedTarot  # here: a subclass of this class

        return ReleasedTarot(params) if params.release else Tarot(params)

    def needs(self) -> Needs:
        """Read what the source is made of, of candidates and targets alike."""
        return Needs(roles=ROLES[self.params.source], target=True)

    # -- the paper's steps

    def select(self, run: Run) -> Decision:
        """Whiten, find neighbours, take layers, weigh."""
        space, trail = self.whiten(run), Trail()
        with ThreadPoolExecutor(run.engine.threads, thread_name_prefix="tamis-transport") as pool:
            decided = self.take(run, space, trail, pool)
            decided = self._weighed(decided, space, trail, pool)
        return replace(decided, warnings=[*decided.warnings, *trail.warnings], facts=TarotFacts(space, trail))

    def take(self, run: Run, space: Space, trail: Trail, pool: ThreadPoolExecutor) -> Decision:
        """Take layers: those that fill the budget, or the number that the curve chooses."""
        return self.otm(run, space, trail) if self.params.mode == "otm" else self.fixed(run, space, trail, pool)

    def whiten(self, run: Run) -> Space:
        """Whiten candidates and targets by their common covariance."""
        params = self.params
        run.begin("features")
        features = Features(params.source)
        if params.source == "text":
            table = unigram_gradients.fit(run, params.ngrams, params.dimension)
            features = Features("text", params.ngrams.features(), {"unigrams": run.share("unigrams", table)})
        elif params.source == "last_layer":
            table = last_layer_gradients.fit(run, params.dimension)
            features = Features("last_layer", {}, {"classifier": run.share("classifier", table)})
        datasets = [run.candidates, *run.targets]
        run.begin("moments", *datasets)
        dimension = source_dimension(features, datasets, params.dimension)
        moments = pooled_moments(run, features, dimension)
        whitener = self.make_whitener(moments)
        run.begin("neighbours", *run.targets, run.candidates)
        return Space.make(run, features, whitener)

    def make_whitener(self, moments: second_moments.Moments) -> Whitener:
        """Return the whitening of the pooled moments."""
        return make_whitener(moments, self.params.whitening, self.params.regularization)

    def fixed(self, run: Run, space: Space, trail: Trail, pool: ThreadPoolExecutor) -> Decision:
        """Take whole layers while they fit, the last by the smallest potential."""
        constraints = run.constraints()
        layers, enough = self._layers(run, space, constraints)
        run.begin("transport")
        ordered = layers.listed(constraints.eligible)
        taken = constraints.count_fitting(ordered)
        if enough and taken:
            end = cut(ordered, layers, taken)
            trail.details |= {
                "whole_layers": end.whole,
                "rows_in_whole_layers": end.rows,
                "rows_of_the_last_layer": end.wanted,
                "rows_it_has": len(end.partial),
            }
            if end.wanted:
                problem = solved(space, end.partial, self.params.solver, target_weights(run), pool)
                trail.problems["last_layer"] = problem
                order = np.lexsort((end.partial, problem.rows))
                ordered[end.rows : end.rows + len(end.partial)] = end.partial[order]
                cost = problem.rows[order]
                trail.details["potential_gap_at_cut"] = float(cost[end.wanted] - cost[end.wanted - 1])
        starts = run.layout().starts
        ranked = LayerOrder.of(ordered, layers, starts)
        choice = run.choose(ranked, REASONS)
        fresh = choice.rows[~choice.preselected]
        if not enough or (layers.layer[fresh] == layers.depth).any():
            ranked = self._beyond(run, space, layers, ordered, constraints, trail)
            choice = run.choose(ranked, REASONS)
        return decision(choice, ranked, layers)

    def _layers(self, run: Run, space: Space, constraints: Constraints) -> tuple[Layers, bool]:
        """Return layers that reach as deep as the budget needs, and whether they do."""
        n, m = run.layout().rows, len(space.targets)
        gone = run.excluded
        most = max(FEWEST_LAYERS, LISTS_BYTES // (BYTES_A_NEIGHBOUR * m))
        depth = min(self.params.first_depth(constraints.max_rows, m, n), most)
        while True:
            rows, scores = space.neighbours(min(depth, n), gone)
            layers = Layers.of(rows, scores, n)
            ordered = layers.listed(constraints.eligible)
            if constraints.is_filled_by(ordered):
                return layers, True
            if depth >= min(n, most):
                return layers, False
            depth = min(2 * depth, most)

    def _beyond(
        self, run: Run, space: Space, layers: Layers, ordered: Ints, constraints: Constraints, trail: Trail
    ) -> LayerOrder:
        """Rank the rows that are in no list, behind those that are, by the similarity to their nearest target."""
        mapped = space.best()
        score = np.concatenate([mapped.column(unit, "score") for unit in range(len(mapped))])
        target = np.concatenate([mapped.column(unit, "target") for unit in range(len(mapped))])
        rest = constraints.eligible.copy()
        rest[ordered] = False
        rows = np.flatnonzero(rest)
        rows = rows[np.lexsort((rows, -score[rows]))]
        unlisted = layers.layer == layers.depth
        layers.similarity[unlisted], layers.target[unlisted] = score[unlisted], target[unlisted]
        trail.warnings.append(
            Notice(
                code="beyond-the-layers",
                detail=f"The budget reaches beyond the {layers.depth:,} nearest candidates of every target that are "
                "ranked in layers: further rows follow by their similarity to the nearest target.",
            )
        )
        return LayerOrder.of(np.concatenate([ordered, rows]), layers, run.layout().starts)

    def otm(self, run: Run, space: Space, trail: Trail) -> Decision:
        """Choose the number of layers by the curve of the distance to targets that did not select."""
        constraints = run.constraints()
        n, m = run.layout().rows, len(space.targets)
        if m < self.params.folds:
            raise Invalid(
                f"The target has {m} rows, fewer than folds = {self.params.folds}.", pointer="/selector/params/folds"
            )
        depth = self.params.first_depth(n, m, n)
        neighbours = space.neighbours(depth, run.excluded)
        run.begin("transport")
        parts = []
        folds = otm.folds_of(m, self.params.folds, run.stream("tarot.folds"))
        for selecting in folds:
            scoring = np.setdiff1d(np.arange(m), selecting)
            if len(scoring) > self.params.scoring_targets:
                draw = rng.random_bits_at(run.stream("tarot.scoring"), scoring)
                scoring = np.sort(scoring[np.argsort(draw, kind="stable")[: self.params.scoring_targets]])
            parts.append((selecting, scoring))
        curve = otm.measure(
            neighbours,
            space.targets,
            gatherer(space, otm.union_order(*neighbours)[0]),
            parts,
            solver=self.params.solver,
            tolerance=self.params.plateau,
            work=otm.Work(run.engine.threads, KEPT_COST_BYTES, run.check_cancelled),
        )
        trail.curve = curve
        if curve.best == len(curve.layers) - 1 and depth < n:
            trail.warnings.append(
                Notice(
                    code="curve-still-falling",
                    detail=f"The distance is lowest at the {depth} layers that the curve ends at: more rows may do "
                    "better. Raise selector.params.layers.",
                )
            )
        layers = Layers.of(*neighbours, n)
        ordered, of = otm.union_order(*neighbours)
        ordered = ordered[: int(np.searchsorted(of, curve.layers[curve.chosen]))]
        inside = layers.listed(constraints.eligible)
        inside = inside[np.isin(inside, ordered)]
        size = len(inside)
        rows = constraints.take_within_maximums(inside)
        low, high = (curve.sizes[index] for index in curve.plateau)
        detail = f"The size was chosen by the curve: {size:,} rows; {low:,} to {high:,} are as good."
        if len(rows) < size:
            detail = (
                f"The curve chooses {size:,} rows, of which budget and bounds allow {len(rows):,}: raise the budget."
            )
        ranked = LayerOrder.of(rows, layers, run.layout().starts)
        notice = Notice(code="size-chosen-by-otm", detail=detail)
        choice = run.choose_in_order(ranked, rows, REASONS, stopped=notice)
        return decision(choice, ranked, layers)

    def _weighed(self, decided: Decision, space: Space, trail: Trail, pool: ThreadPoolExecutor) -> Decision:
        """Weigh the selected rows by their potentials, where the parameters say so."""
        if self.params.weights == "uniform" or not len(decided.choice.rows):
            return decided
        problem = solved(space, decided.choice.rows, self.params.solver, self.weights_of_targets(space.run), pool)
        trail.problems["selection"] = problem
        weights = self.weights_of_rows(problem.rows)
        more: dict[str, Any] = {"potential": pa.array(problem.rows), "repeats": pa.array(repeats(weights), pa.int64())}
        choice = decided.choice.weighted(weights)
        return replace(decided, choice=choice, columns={**decided.columns, **more})

    def weights_of_targets(self, run: Run) -> Floats:
        """Return the weights of the targets in the transport of the selection, summing to 1."""
        return target_weights(run)

    def weights_of_rows(self, potentials: Floats) -> Floats:
        """Return the weights of the selected rows by their potentials."""
        return potential_weights(potentials)

    # -- the report

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Measure how far from the target selection, random draw and all rows are; show layers and curve."""
        facts: TarotFacts = decision.facts
        measured, trail = measure(run, facts.space, decision.choice, random), facts.trail
        return {
            "meaning": MEANING[self.params.source],
            "layers": dict(trail.details),
            "transport_problems": {name: problem.summary() for name, problem in trail.problems.items()},
            "otm": None if trail.curve is None else {**trail.curve.summary(), "drawing": drawing(trail.curve)},
            **measured,
        }

    # -- plan

    def data_version(self) -> str:
        """Return the version of the tokenizer's character tables."""
        return tables_version(self.params.ngrams.tokenizer) if self.params.source == "text" else ""

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Two passes over the vectors, the similarities between, and the decision."""
        self.check(job)
        d = self._dimension(job)
        n = job.candidates.rows or 0
        m = sum(target.rows or 0 for target in job.targets)
        size = job.candidates.bytes + sum(target.bytes for target in job.targets)
        units = len(job.candidates.units) + sum(len(target.units) for target in job.targets)
        reading, squares = size / READ_BYTES_PER_SECOND, (n + m) * d * d / 2 / DOUBLE_FLOPS
        solving = 1e-8 * min(n, m) * m * (10 if self.params.mode == "otm" else 1)
        return [
            PhaseCost("features", 0, 0, reading if self.params.source in ("text", "last_layer") else 1e-3),
            PhaseCost("moments", units, size, reading + squares),
            PhaseCost("neighbours", units, size, reading + squares + n * m * d / FLOPS),
            PhaseCost("transport", 0, 0, solving),
            PhaseCost("report", 0, 0, 1.0),
        ]

    def check(self, job: Job) -> None:
        """Refuse a request that can't work."""
        if job.spec.target is not None and job.spec.target.model is not None:
            raise Invalid("tarot takes target datasets, not a fitted model.", pointer="/target/model")
        self._dimension(job)
        if self.params.source == "text":
            check_tokenizer(self.params.ngrams, job)
        if self.params.source == "gradient":
            gradient_provenance.check_origins(job.candidates, job.targets)

    def _dimension(self, job: Job) -> int:
        features = Features(self.params.source)
        return source_dimension(features, [job.candidates, *job.targets], self.params.dimension)

    def plan_warnings(self, job: Job) -> Iterator[Notice]:
        """Return warnings where vectors are no influence or of unknown origin, or the target is tiny."""
        if self.params.source == "embedding":
            yield Notice(
                code="similarity-not-influence",
                detail="Embeddings are compared as they are: the selection is similar to the target, which is not the "
                "same as useful for it. With labels, source 'last_layer' is nearer to influence.",
            )
        if self.params.source == "gradient":
            yield from gradient_provenance.notices(job.candidates, job.targets)
        rows = [target.rows for target in job.targets]
        total = sum(count for count in rows if count is not None)
        if None not in rows and total < TINY_TARGET_ROWS:
            yield Notice(
                code="tiny-target",
                detail=f"The target has {total} rows: the selection will be the neighbours of those few. Give more.",
            )

    def memory(self, job: Job, threads: int) -> int:
        """Whitening, moments and rows of every thread, lists, costs in memory, and vectors of rows in transport."""
        d = self._dimension(job)
        m = sum(target.rows or 0 for target in job.targets)
        n = job.candidates.rows or 0
        budget = job.spec.budget
        rows = budget.rows or int((budget.fraction or 0.0) * n) or n
        depth = self.params.first_depth(rows, m, n)
        lists = min(LISTS_BYTES, BYTES_A_NEIGHBOUR * m * depth)
        moved = min(n, m if self.params.mode == "fixed" else m * depth)
        if self.params.weights == "potential":
            moved = max(moved, min(n, rows))
        costs = min(KEPT_COST_BYTES, 4 * moved * m)
        gathered = 8 * d * min(moved, GATHERED_BYTES // (4 * d) + m)
        table = 200 * 2**20 if self.params.source == "text" else 0
        each = 40 * d * d + 8 * m * d + OFFERED_BYTES * d
        return (threads + 1) * each + lists + costs + gathered + 24 * n + table
