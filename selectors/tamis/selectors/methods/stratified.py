"""A random draw from groups of rows: in proportion to their sizes, or the same number of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue

from tamis.native.math import rng
from tamis.native.sampling import strata
from tamis.selectors.decision.apportion import apportion, proportional_positions
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import ALL_ELIGIBLE, Decision
from tamis.selectors.decision.ranking import Ranked, RankedUnit
from tamis.selectors.decision.request import KEYS_IN_MEMORY
from tamis.selectors.errors import Invalid
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.score_selector import ScoreSelector
from tamis.selectors.run.selector import Needs, PhaseCost
from tamis.selectors.schema.request import Shape

Ints = npt.NDArray[np.int64]

STREAM = "stratified"

GROUPS_SHOWN = 200

HELD_ROW_BYTES = 48
"""Bytes a row takes at the peak: its word, key, group and places in two orders."""


class StratifiedParams(Shape):
    """Parameters of the draw from groups."""

    by: Literal["group", "label"] = Field("group", description="The column whose values are the groups.")
    allocation: Literal["proportional", "equal"] = Field(
        "proportional",
        description="'proportional': every group its part of the rows, exact by largest remainder. 'equal': every "
        "group the same number; one that has fewer gives all it has, and the others share the rest.",
    )


@dataclass(frozen=True)
class GroupKeys:
    """A ranking by the rows' places in a random order inside groups."""

    starts: Ints
    keys: npt.NDArray[np.float64]  # (n,)
    codes: npt.NDArray[np.int32]  # (n,) groups; the number of groups for excluded rows
    names: Sequence[str]  # of the groups

    def __call__(self, unit: int) -> RankedUnit:
        """Rank one unit."""
        keys = self.keys[self.starts[unit] : self.starts[unit + 1]]
        return RankedUnit(keys, keys)


class Stratified(ScoreSelector):
    """Draw uniformly inside groups, whose numbers are fixed."""

    name: ClassVar[str] = "stratified"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Draws rows at random from groups or labels: in proportion, or the same number of each."
    citation: ClassVar[str] = "None needed."
    cost: ClassVar[str] = "Reads the group or label column only; 48 bytes a row."
    Params: ClassVar[type[StratifiedParams]] = StratifiedParams
    reason_names: ClassVar[Sequence[str]] = ALL_ELIGIBLE
    nested: ClassVar[bool] = False  # a proportional share is rounded anew for every budget

    params: StratifiedParams

    def needs(self) -> Needs:
        """The column of groups."""
        return Needs(roles=(self.params.by,), target=False)

    def rank(self, run: Run) -> Ranked:
        """Share the budget out over the groups, and order each group's rows at random."""
        run.begin("groups", run.candidates)
        names, unit_codes = run.names(run.candidates, self.params.by)
        run.begin("draw")
        starts = run.layout().starts
        codes = np.concatenate([np.empty(0, np.int32), *(unit_codes[unit] for unit in range(len(unit_codes)))])
        words = rng.shuffled_at(run.stream(STREAM), np.arange(len(codes)))
        words[run.preselected] = np.arange(len(run.preselected), dtype=np.uint64)  # they are the first of their groups
        codes[run.excluded] = len(names)
        return GroupKeys(starts, self._keys(run, names, codes, words), codes, names)

    def _keys(
        self, run: Run, names: Sequence[str], codes: npt.NDArray[Any], words: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.float64]:
        order = np.lexsort((words, codes))
        counts = np.bincount(codes, minlength=len(names) + 1)
        keys = np.full(len(codes), -np.inf)
        populations = counts[:-1]
        ends = np.cumsum(populations)
        if self.params.allocation == "proportional":
            amount = run.amount
            shares = apportion(populations, populations, amount.value)
        turns = strata.turns(populations)
        for group, (end, count) in enumerate(zip(ends.tolist(), populations.tolist(), strict=True)):
            members, places = order[end - count : end], np.arange(count)
            if self.params.allocation == "equal":
                keys[members] = -(places * len(names) + turns[group])
            else:
                keys[members] = -proportional_positions(places, int(shares[group]))
        return keys

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Count the groups: all rows, the random draw, the selection."""
        ranked = decision.rankings[0]
        assert isinstance(ranked, GroupKeys)
        names, codes, groups = ranked.names, ranked.codes, len(ranked.names)
        rows = np.bincount(codes, minlength=groups)[:groups]
        drawn, taken = (
            np.bincount(codes[choice.rows], minlength=groups)[:groups] for choice in (random, decision.choice)
        )
        listed: list[JsonValue] = [
            {
                "group": names[group],
                "rows": int(rows[group]),
                "random": int(drawn[group]),
                "selected": int(taken[group]),
            }
            for group in range(min(groups, GROUPS_SHOWN))
        ]
        return {"allocation": self.params.allocation, "groups": listed, "groups_in_all": groups}

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Read the groups, draw."""
        dataset, rows = job.candidates, job.candidates.rows or 0
        if job.spec.budget.size is not None and self.params.allocation == "proportional":
            raise Invalid(
                "A proportional draw shares a number of rows out: give the budget in rows or as a fraction.",
                pointer="/budget/size",
            )
        return [
            PhaseCost("groups", len(dataset.units), dataset.bytes, dataset.bytes / 1e9 + 1e-7 * rows),
            PhaseCost("draw", 0, 0, 1e-6 * rows),
            PhaseCost("report", 0, 0, 6e-7 * rows + 1e-3),
        ]

    def memory(self, job: Job, threads: int) -> int:
        """Words, keys and groups of all rows."""
        rows = job.candidates.rows or 0
        return HELD_ROW_BYTES * rows + min(8 * rows, KEYS_IN_MEMORY)
