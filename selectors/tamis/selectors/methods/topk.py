"""The rows with the highest or the lowest scores: what coverage is compared with, and a filter in its own right.

At low pruning rates the hardest rows make a good coreset; at high ones they fail (Zheng et al., ICLR 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, JsonValue

from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.ranking import Ranked, RankedUnit
from tamis.selectors.decision.request import KEYS_IN_MEMORY
from tamis.selectors.features import difficulty
from tamis.selectors.features.difficulty import Difficulty
from tamis.selectors.features.difficulty_params import SourceParams
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.score_selector import ScoreSelector
from tamis.selectors.run.selector import Needs, PhaseCost


class TopkParams(SourceParams):
    """Parameters of the selection by score."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"order": "highest"}]})

    order: Literal["highest", "lowest"] = Field(
        description="Which end is taken. Hard rows are the lowest of margins and AUM, the highest of losses, "
        "forgetting and EL2N; there is no default, since either is taken for the other too easily."
    )


@dataclass(frozen=True)
class ByScore:
    """Every row ranks by its score."""

    scored: Difficulty
    sign: float  # 1: highest first

    def __call__(self, unit: int) -> RankedUnit:
        """Rank one unit."""
        scores, reasons = self.scored.columns[unit].astype(np.float64), self.scored.reasons(unit)
        return RankedUnit(np.where(reasons == 0, self.sign * scores, -np.inf), scores, None, reasons)


class Topk(ScoreSelector):
    """Take the rows with the highest or lowest scores; of equal ones the earlier."""

    name: ClassVar[str] = "topk"
    revision: ClassVar[int] = 2
    summary: ClassVar[str] = "Takes the rows of highest or lowest score: of a column, of dynamics, of a snapshot."
    citation: ClassVar[str] = "None needed; as a coreset see Toneva et al. 2019 and Paul et al. 2021."
    cost: ClassVar[str] = "One read of the scores and a few passes over 4 or 8 bytes a row; 8 bytes a row."
    Params: ClassVar[type[TopkParams]] = TopkParams
    reason_names: ClassVar[Sequence[str]] = difficulty.REASONS
    reason_details: ClassVar[Mapping[str, str]] = difficulty.REASON_DETAILS

    params: TopkParams

    def needs(self) -> Needs:
        """Scores, or what they are computed from."""
        return difficulty.needs(self.params)

    def rank(self, run: Run) -> Ranked:
        """Rank rows by score, from the end that the parameters name."""
        run.begin(difficulty.PHASE, *([run.candidates] if run.dynamics is None else [run.dynamics]))
        scored = difficulty.scores(run, self.params, exact=True)
        run.begin("select")
        return ByScore(scored, 1.0 if self.params.order == "highest" else -1.0)

    def select(self, run: Run) -> Decision:
        """Take the rows with the largest keys."""
        decision = super().select(run)
        ranked = decision.rankings[0]
        assert isinstance(ranked, ByScore)
        decision.warnings += ranked.scored.notices
        return decision

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Compare the mean score with that of a random draw."""
        return {"order": self.params.order, **super().evidence(run, decision, random)}

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Score, then one decision."""
        difficulty.check(self.params, job)
        rows = job.candidates.rows or 0
        own = [PhaseCost("select", 0, 0, 2e-7 * rows), PhaseCost("report", 0, 0, 6e-7 * rows + 1e-3)]
        return [*difficulty.costs(self.params, job), *own]

    def memory(self, job: Job, threads: int) -> int:
        """Keys of the decision."""
        return difficulty.memory(self.params, job) + min(8 * (job.candidates.rows or 0), KEYS_IN_MEMORY)
