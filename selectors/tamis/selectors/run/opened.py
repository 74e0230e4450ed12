"""`Job` and `Opened`: a request whose datasets are open, before and after its selector planned it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tamis.selectors.datasets import Dataset
from tamis.selectors.decision.budget import resolve_budget
from tamis.selectors.decision.ranking import Rows
from tamis.selectors.decision.request import NO_ROWS
from tamis.selectors.schema.request import JobSpec

if TYPE_CHECKING:
    from tamis.selectors.run.selector import PhaseCost, Selector


@dataclass(frozen=True)
class Job:
    """A request and its opened datasets; only footers and headers have been read.

    Attributes
    ----------
    spec : JobSpec
        The request: globs expanded, formats set.
    candidates : Dataset
        The dataset to select from. The rows of JSON-lines shards may still be unknown.
    targets : sequence of Dataset
        The target's datasets.
    dynamics : Dataset, optional
        A log of training dynamics.
    """

    spec: JobSpec
    candidates: Dataset
    targets: Sequence[Dataset]
    dynamics: Dataset | None = None

    @property
    def rows(self) -> int:
        """Number of candidates; 0 while it is unknown."""
        return self.candidates.rows or 0

    @property
    def max_selected(self) -> int:
        """The largest number of rows that can be selected; all of them where the budget is in size, 0 if unknown."""
        if self.spec.budget.size is not None or not self.rows:
            return self.rows
        return resolve_budget(self.spec.budget, self.rows).value

    @property
    def datasets(self) -> list[Dataset]:
        """All datasets that the job reads."""
        return [self.candidates, *self.targets, *([self.dynamics] if self.dynamics is not None else [])]


@dataclass(frozen=True, kw_only=True)
class Opened(Job):
    """A job that was checked against its datasets and planned by its selector.

    Attributes
    ----------
    selector : Selector
        With its parameters.
    phases : sequence of PhaseCost
        In order: counting rows where metadata does not say them, then the selector's, the report last.
    fingerprint : str
        Name of the mathematical result: inputs and their part in it, selector, parameters, seed, budget, strata. A job
        that asks for scores is named by its inputs too, but its result depends on the answers: one fingerprint can have
        several results, each named by it and `Provenance.answers_digest`.
    preselected : ndarray of int64
        Rows of the earlier selection that is kept, in their own order.
    excluded : ndarray of int64
        Rows of the earlier selections to keep away from, ascending.
    """

    selector: Selector
    phases: Sequence[PhaseCost]
    fingerprint: str
    preselected: Rows = field(default_factory=lambda: NO_ROWS)
    excluded: Rows = field(default_factory=lambda: NO_ROWS)
