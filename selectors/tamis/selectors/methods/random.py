"""A uniform random draw: the baseline that every selection has to beat, with everybody's budgets and strata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from tamis.native.math import rng
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import ALL_ELIGIBLE, Decision
from tamis.selectors.decision.ranking import Ranked, RankedUnit
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.score_selector import ScoreSelector
from tamis.selectors.run.selector import Needs, PhaseCost
from tamis.selectors.schema.request import Shape


class RandomParams(Shape):
    """A random draw has none; its seed is the job's."""


@dataclass(frozen=True)
class UniformKeys:
    """Every row ranks by a uniform number of its own."""

    starts: npt.NDArray[np.int64]
    key: Any

    def __call__(self, unit: int) -> RankedUnit:
        """Draw a unit's keys."""
        first, last = int(self.starts[unit]), int(self.starts[unit + 1])
        draw = rng.uniform(self.key, first, last - first)
        return RankedUnit(keys=draw, scores=draw)


class RandomRows(ScoreSelector):
    """Uniform sampling without replacement."""

    name: ClassVar[str] = "random"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Draws rows uniformly at random: the baseline."
    citation: ClassVar[str] = "None needed."
    cost: ClassVar[str] = "Reads no data but the columns of strata and sizes; 8 bytes a row."
    Params: ClassVar[type[RandomParams]] = RandomParams
    reason_names: ClassVar[Sequence[str]] = ALL_ELIGIBLE

    params: RandomParams

    def needs(self) -> Needs:
        """Read nothing."""
        return Needs(roles=(), target=False)

    def rank(self, run: Run) -> Ranked:
        """Give every row a uniform key."""
        run.begin("draw")
        return UniformKeys(run.layout().starts, run.stream("random"))

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Return nothing: the draw is its own baseline."""
        return {}

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """One decision over the row numbers."""
        return [PhaseCost("draw", 0, 0, 1e-7 * (job.candidates.rows or 0)), PhaseCost("report", 0, 0, 1e-3)]

    def memory(self, job: Job, threads: int) -> int:
        """Hold the keys."""
        return 20 * (job.candidates.rows or 0)
