"""A choice made of rows that were drawn from a stream, without another pass over all rows.

What the decision counts elsewhere by asking for every row's key is known here already: how many rows are usable, how
many the cut-off drops, and which rows were drawn.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tamis.selectors.decision.budget import Supply, resolve_bounds
from tamis.selectors.decision.choice import Choice, Feasibility, assemble, preselection
from tamis.selectors.decision.ranking import Candidates, Census, Selected
from tamis.selectors.methods.ccs.strata import Streamed
from tamis.selectors.run.run import Run

NO_KEYS_IN_MEMORY = 0


def choose_drawn(run: Run, ranked: Streamed, weights: npt.NDArray[np.float64]) -> Choice:
    """Choose exactly the rows drawn; for a job without strata and preselected rows, with a budget in rows.

    Parameters
    ----------
    run : Run
        The job.
    ranked : Streamed
        The rows drawn, with their keys.
    weights : ndarray, shape (k,), float64
        Of the rows drawn.
    """
    layout = replace(run.layout(), names=(), codes=None)
    excluded = ranked.columns.excluded
    kept = ranked.part.populations.sum(keepdims=True)
    census = Census(np.array([layout.rows]), kept, Supply(kept, np.zeros(1, np.int64), {}))
    feasibility = Feasibility(
        request=run.request,
        layout=layout,
        bounds=resolve_bounds(None, run.amount, ()),
        preselected=run.preselected,
        excluded=excluded,
        census=census,
        candidates=Candidates(ranked, layout, "rows", excluded, NO_KEYS_IN_MEMORY),
    )
    rows = ranked.rows
    scores, sizes = np.empty(len(rows)), None if layout.sizes is None else np.empty(len(rows), np.int64)
    cuts = np.searchsorted(rows, layout.starts)
    for unit in np.flatnonzero(np.diff(cuts)).tolist():
        inside = slice(cuts[unit], cuts[unit + 1])
        local = rows[inside] - layout.starts[unit]
        scores[inside] = ranked.columns.difficulty.columns[unit][local]
        if sizes is not None and layout.sizes is not None:
            sizes[inside] = layout.sizes[unit][local]
    ranks = np.empty(len(rows), np.int64)
    ranks[np.argsort(-ranked.keys)] = np.arange(len(rows))
    taking = Selected(rows, scores, ranked.keys, weights, np.zeros(len(rows), np.int32), ranks, None, sizes)
    return assemble(feasibility, [preselection(feasibility), taking], common=None)
