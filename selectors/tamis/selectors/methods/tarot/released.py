"""TAROT as the authors' code does it, for parity: the same sets on float32, the defects included."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from tamis.selectors.decision.decision import Decision
from tamis.selectors.features.gradients import Space
from tamis.selectors.methods.tarot import otm
from tamis.selectors.methods.tarot.layers import RELEASED_LAYERS, LayerOrder, Layers, released_set
from tamis.selectors.methods.tarot.params import OTM_LAYERS, TarotParams
from tamis.selectors.methods.tarot.steps import REASONS, Found, decision, solved
from tamis.selectors.run.run import Run
from tamis.selectors.schema.response import Notice

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RELEASED_SEED = 42
"""Of the release's folds, which does not change with a job's seed."""


def released(run: Run, space: Space, params: TarotParams, found: Found, pool: ThreadPoolExecutor) -> Decision:
    """Do as the authors' code does."""
    n, m = run.layout().rows, len(space.targets)
    constraints = run.constraints()
    budget = constraints.amount.value
    if params.mode == "otm":
        depth = min(n, RELEASED_LAYERS - 1, params.layers or OTM_LAYERS)
        neighbours = space.neighbours(depth, run.excluded)
        run.begin("transport")
        folds = otm.released_folds(neighbours, space.targets, space.vectors, folds=params.folds, seed=RELEASED_SEED)
        union = np.unique(np.concatenate([fold.rows for fold in folds]))
        found.details |= {
            "fold_stop_layers": [len(fold.distances) for fold in folds],
            "fold_rows": [len(fold.rows) for fold in folds],
            "fold_distances": [list(fold.distances) for fold in folds],
        }
        layers = Layers.of(*neighbours, n)
        inside = layers.listed(constraints.eligible)
        rows = inside[np.isin(inside, union)]
        detail = f"The release's stop rule chose {len(rows):,} rows." + (
            f" The budget allows {budget:,} of them." if len(rows) > budget else ""
        )
        rows = rows[:budget]
    else:
        depth = min(params.first_depth(budget, m, n), n, RELEASED_LAYERS)
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
            found.problems["last_layer"] = problem
            return problem.rows

        outcome = released_set(neighbours[0], n, budget, potentials)
        found.details |= {"whole_layers": outcome.whole, "rows_the_release_adds_beyond_the_budget": outcome.surplus}
        rows = outcome.rows[:budget]
        detail = "As released."
        if outcome.surplus:
            detail += f" The release would take {outcome.surplus:,} rows more: its budget ends on a layer."
        if outcome.missing:
            detail += f" It ranks {RELEASED_LAYERS:,} candidates of a target and is {outcome.missing:,} rows short."
    ranked = LayerOrder.of(rows, layers, run.layout().starts)
    stopped = Notice(code="as-released", detail=detail)
    return decision(run.choose_in_order(ranked, rows, REASONS, stopped=stopped), ranked, layers)
