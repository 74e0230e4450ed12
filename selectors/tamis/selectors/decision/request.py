"""`Request`: everything that constrains a choice, made once a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tamis.selectors.decision.budget import Amount, resolve_budget
from tamis.selectors.decision.ranking import Layout, Rows
from tamis.selectors.schema.request import Budget, Strata

KEYS_IN_MEMORY = 2**28
"""Bytes of keys (8 a row) kept from one pass to the next; with more rows than that, every pass asks for them again."""

NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass(frozen=True)
class Request:
    """The budget, strata and earlier selections of a job, and the layout of the rows they are about.

    Attributes
    ----------
    layout : Layout
        Units, strata and sizes of the candidates.
    budget, strata
        As in the job's request.
    preselected : ndarray of int64
        Rows kept from an earlier selection, eligible or not, in their own order. They count against the budget and the
        bounds, and take the first ranks.
    excluded : ndarray of int64
        Rows never to be taken.
    keys_in_memory : int
        Bytes of keys to keep between passes; decides speed and memory, never the result.
    """

    layout: Layout
    budget: Budget
    strata: Strata | None = None
    preselected: Rows = field(default_factory=lambda: NO_ROWS)
    excluded: Rows = field(default_factory=lambda: NO_ROWS)
    keys_in_memory: int = KEYS_IN_MEMORY

    @cached_property
    def amount(self) -> Amount:
        """The budget as a whole number.

        Raises
        ------
        Infeasible
            When there are no rows, fewer than asked, or the size is below one unit.
        """
        return resolve_budget(self.budget, self.layout.rows)
