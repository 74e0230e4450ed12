"""`Decision`: the result of a selector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.ranking import Ranked
from tamis.selectors.schema.response import Notice

ALL_ELIGIBLE = ("eligible",)
"""Reason names of a selector that can take every row."""


@dataclass
class Decision:
    """The chosen rows, the ranking of all rows, and the columns, warnings and facts that go with them.

    Attributes
    ----------
    choice : Choice
        The selected rows.
    rankings : sequence of Ranked
        The ranking that the choice was made by; one for each target where targets are served in turn.
    reason_names : sequence of str
        Names of the reasons in the rankings, by code. ``reason_names[0]`` is "eligible"; the others say why a row can't
        be taken.
    reason_details : mapping of str to str
        A sentence for each reason.
    columns : mapping of str to pyarrow.Array
        Further columns of selection.parquet, one value for each selected row, rows ascending.
    model : pyarrow.Table, optional
        The fitted model, where the selector fits one: written as model.parquet.
    warnings : list of Notice
        Warnings that a practitioner would give.
    left_out : int
        Rows that the selector leaves out on purpose (not because of a defect of the data).
    facts : object
        Measurements of the selector's own, for its `evidence`: a frozen dataclass.
    """

    choice: Choice
    rankings: Sequence[Ranked]
    reason_names: Sequence[str] = ALL_ELIGIBLE
    reason_details: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    model: pa.Table | None = None
    warnings: list[Notice] = field(default_factory=list)
    left_out: int = 0
    facts: Any = None
