"""A selector that asks: it climbs from the best row so far to its neighbours, so each question depends on the answers.

With this folder on the path its entry point is found, by the library and by a service's processes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tamis.native.math import rng
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.ranking import RankedUnit
from tamis.selectors.features.difficulty import read_exact_scores
from tamis.selectors.methods.random import RandomRows
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost
from tamis.selectors.schema.request import Shape

REASONS = ("eligible", "not-asked", "no-score")


class ClimbParams(Shape):
    """Where scores come from, how often and for how many rows at a time they are asked; a pause to be killed in."""

    reward: Literal["score", "ask"] = "ask"
    rounds: int = 3
    probes: int = 5
    pause: float = 0.0


@dataclass(frozen=True)
class Probed:
    """Rows that were asked about rank by their scores."""

    starts: Any
    scores: Any
    reasons: Any

    def __call__(self, unit: int) -> RankedUnit:
        part = slice(*self.starts[unit : unit + 2].tolist())
        return RankedUnit(np.where(self.reasons[part] == 0, self.scores[part], -np.inf), self.scores[part])


class Climb(RandomRows):
    """Asks about a few rows at random, then again and again about those around the best."""

    name: ClassVar[str] = "climb"
    Params: ClassVar[Any] = ClimbParams

    params: Any

    def needs(self) -> Needs:
        asks = self.params.reward == "ask"
        return Needs(roles=() if asks else ("score",), target=False, answers=asks)

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        return [PhaseCost("climb", 0, 0, 1e-3), PhaseCost("report", 0, 0, 1e-3)]

    def select(self, run: Run) -> Decision:
        run.begin("climb")
        layout = run.layout()
        column = np.concatenate([np.empty(0), *self._column(run)])
        scores, reasons = np.full(layout.rows, np.nan), np.ones(layout.rows, np.uint8)
        order = np.argsort(rng.uniform(run.stream("climb"), 0, layout.rows))
        for turn in range(self.params.rounds):
            time.sleep(self.params.pause)
            near = order if turn == 0 else np.argsort(np.abs(order - np.nanargmax(scores)))
            rows = near[reasons[near] == 1][: self.params.probes].astype(np.int64)
            scores[rows] = column[rows] if self.params.reward == "score" else run.ask(turn, rows)
            reasons[rows] = np.where(np.isnan(scores[rows]), 2, 0)
        ranked = Probed(layout.starts, np.nan_to_num(scores), reasons)
        return Decision(run.choose(ranked, REASONS), [ranked], REASONS, {name: name for name in REASONS})

    def _column(self, run: Run) -> Any:
        if self.params.reward == "ask":
            return []
        mapped = run.map(read_exact_scores, run.candidates)
        return [mapped.column(unit, "score") for unit in range(len(mapped))]
