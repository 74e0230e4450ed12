"""TAROT as the authors' code does it, for parity: the same sets on float32, the defects included."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from tamis.native.math import second_moments
from tamis.selectors.decision.decision import Decision
from tamis.selectors.errors import Invalid
from tamis.selectors.features.gradients import Space
from tamis.selectors.features.whitening import Whitener, make_whitener
from tamis.selectors.methods.tarot import otm
from tamis.selectors.methods.tarot.layers import RELEASED_LAYERS, LayerOrder, Layers, released_set, released_weights
from tamis.selectors.methods.tarot.params import OTM_LAYERS
from tamis.selectors.methods.tarot.selector import Tarot
from tamis.selectors.methods.tarot.steps import REASONS, Trail, decision, solved
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.schema.response import Notice

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RELEASED_SEED = 42
"""Seed of the release's folds, which does not change with a job's."""


class ReleasedTarot(Tarot):
    """TAROT with the whitening, the last layer, the stop rule and the weights of the authors' code."""

    def check(self, job: Job) -> None:
        """Refuse a request that can't work, and everything that the authors' code does not know."""
        super().check(job)
        if self.params.source == "gradient":
            columns = job.candidates.columns["gradient"].columns_read()
            if len(columns) > 1:
                raise Invalid(
                    "The release uses the last checkpoint alone, whatever it is given: name the column "
                    f"'{columns[-1]}' only.",
                    pointer="/dataset/columns/gradient",
                )
        if job.spec.strata or job.spec.preselected or job.spec.exclude or job.spec.budget.size:
            raise Invalid(
                "The release knows no strata, sizes or earlier selections: leave them out, or 'release'.",
                pointer="/selector/params/release",
            )

    def make_whitener(self, moments: second_moments.Moments) -> Whitener:
        """Return the whitening of the authors' code."""
        return make_whitener(moments, self.params.whitening, self.params.regularization, released=True)

    def take(self, run: Run, space: Space, trail: Trail, pool: ThreadPoolExecutor) -> Decision:
        """Take layers as the authors' code does."""
        if self.params.mode == "otm":
            rows, layers, detail = self._by_stop_rule(run, space, trail)
        else:
            rows, layers, detail = self._by_budget(run, space, trail, pool)
        ranked = LayerOrder.of(rows, layers, run.layout().starts)
        stopped = Notice(code="as-released", detail=detail)
        return decision(run.choose_in_order(ranked, rows, REASONS, stopped=stopped), ranked, layers)

    def weights_of_targets(self, run: Run) -> Floats:
        """Return equal weights."""
        count = sum(target.rows or 0 for target in run.targets)
        return np.full(count, 1 / count)

    def weights_of_rows(self, potentials: Floats) -> Floats:
        """Return the potentials over their mean."""
        return released_weights(potentials)

    def _by_stop_rule(self, run: Run, space: Space, trail: Trail) -> tuple[Ints, Layers, str]:
        """Choose the number of layers at the first increase of the distance."""
        n, budget = run.layout().rows, run.amount.value
        depth = min(n, RELEASED_LAYERS - 1, self.params.layers or OTM_LAYERS)
        neighbours = space.neighbours(depth, run.excluded)
        run.begin("transport")
        folds = otm.released_folds(
            neighbours, space.targets, space.vectors, folds=self.params.folds, seed=RELEASED_SEED
        )
        union = np.unique(np.concatenate([fold.rows for fold in folds]))
        trail.details |= {
            "fold_stop_layers": [len(fold.distances) for fold in folds],
            "fold_rows": [len(fold.rows) for fold in folds],
            "fold_distances": [list(fold.distances) for fold in folds],
        }
        layers = Layers.of(*neighbours, n)
        inside = layers.listed(run.constraints().eligible)
        rows = inside[np.isin(inside, union)]
        detail = f"The release's stop rule chose {len(rows):,} rows." + (
            f" The budget allows {budget:,} of them." if len(rows) > budget else ""
        )
        rows = rows[:budget]
        return rows, layers, detail

    def _by_budget(self, run: Run, space: Space, trail: Trail, pool: ThreadPoolExecutor) -> tuple[Ints, Layers, str]:
        """Take whole layers while they fit the budget, the last by the largest potentials."""
        n, m, budget = run.layout().rows, len(space.targets), run.amount.value
        depth = min(self.params.first_depth(budget, m, n), n, RELEASED_LAYERS)
        while True:
            neighbours = space.neighbours(depth, run.excluded)
            listed = len(np.unique(neighbours[0]))
            if listed > budget or depth >= min(n, RELEASED_LAYERS):
                break
            depth = min(2 * depth, n, RELEASED_LAYERS)
        run.begin("transport")
        layers = Layers.of(*neighbours, n)

        def potentials(rows: Ints) -> Floats:
            uniform = np.full(m, 1 / m)
            problem = solved(space, rows, "released", uniform, pool)
            trail.problems["last_layer"] = problem
            return problem.rows

        outcome = released_set(neighbours[0], n, budget, potentials)
        trail.details |= {"whole_layers": outcome.whole, "rows_the_release_adds_beyond_the_budget": outcome.surplus}
        rows = outcome.rows[:budget]
        detail = "As released."
        if outcome.surplus:
            detail += f" The release would take {outcome.surplus:,} rows more: its budget ends on a layer."
        if outcome.missing:
            detail += f" It ranks {RELEASED_LAYERS:,} candidates of a target and is {outcome.missing:,} rows short."
        return rows, layers, detail
