"""`GreedySelector`: base class of selectors that take rows one after the other, in an order of their own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from tamis.selectors.decision.decision import ALL_ELIGIBLE, Decision
from tamis.selectors.decision.in_order import Ordered, Reasons
from tamis.selectors.decision.ranking import Floats, Rows
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Selector
from tamis.selectors.schema.response import Notice


def _no_columns(rows: Rows) -> Mapping[str, pa.Array]:
    return {}


@dataclass(frozen=True)
class Order:
    """The rows that a greedy selector took, in order, and the scores of all rows.

    Attributes
    ----------
    rows : ndarray, shape (k,), int64
        Rows in the order they were taken, without the preselected ones; within the job's `Constraints`.
    scores : ndarray, shape (n,), float64
        A score for every row, larger is better; of a taken row, as it was when it was taken.
    reasons : ndarray, shape (n,), uint8, optional
        0 for rows that could be taken, else an index into `reason_names`.
    weights : ndarray, shape (preselected + k,), float64, optional
        Sampling weights of the preselected rows in their order, then of `rows`; 1 when left out.
    stopped : Notice, optional
        Why the selector ended before its budget, where it did by a rule of its own.
    columns : callable
        Given the selected rows, ascending, returns further columns of selection.parquet.
    warnings : sequence of Notice
        Warnings that a practitioner would give.
    facts : object
        For the selector's `evidence`: a frozen dataclass.
    """

    rows: Rows
    scores: Floats
    reasons: Reasons | None = None
    weights: Floats | None = None
    stopped: Notice | None = None
    columns: Callable[[Rows], Mapping[str, pa.Array]] = _no_columns
    warnings: Sequence[Notice] = field(default_factory=tuple)
    facts: Any = None


class GreedySelector(Selector):
    """Base class of selectors that take rows one after the other.

    A subclass gives `name` and `order`: it reads what it may take from ``run.constraints()``, and returns the rows it
    took. Where an order of preference is all there is, ``run.constraints().take(ordered)`` takes rows from it within
    budget and bounds.

    Attributes
    ----------
    reason_names, reason_details
        Names of the reasons of rows that can't be taken, by code, and a sentence for each.
    """

    nested: ClassVar[bool] = True
    reason_names: ClassVar[Sequence[str]] = ALL_ELIGIBLE
    reason_details: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def order(self, run: Run) -> Order:
        """Take rows one after the other, in the phases that `plan` names."""

    def select(self, run: Run) -> Decision:
        """Take rows in order and check that they keep budget and bounds."""
        order = self.order(run)
        ranked = Ordered(run.layout(), order.rows, order.scores, order.reasons)
        choice = run.choose_in_order(
            ranked, order.rows, self.reason_names, stopped=order.stopped, weights=order.weights
        )
        return Decision(
            choice,
            [ranked],
            self.reason_names,
            self.reason_details,
            columns=order.columns(choice.rows),
            warnings=list(order.warnings),
            facts=order.facts,
        )
