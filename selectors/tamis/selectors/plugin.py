"""The plugin API: everything that a package with a selector of its own imports. See selectors/WRITING_A_SELECTOR.md.

Names listed here keep their meaning within a version of the API (`Selector.api_version`); everything else in
`tamis.selectors` may change with any release.
"""

from pydantic import Field

from tamis.selectors.datasets import Dataset, RoleBatch
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.in_order import Constraints
from tamis.selectors.decision.ranking import Ranked, RankedUnit
from tamis.selectors.errors import DataError, Infeasible, Invalid, TamisError
from tamis.selectors.run.greedy_selector import GreedySelector, Order
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.score_selector import ByScore, ScoreSelector
from tamis.selectors.run.selector import API_VERSIONS, Needs, Params, PhaseCost, Selector
from tamis.selectors.schema.response import Notice
from tamis.selectors.signals.task import UnitReader, unit_task

__all__ = [
    "API_VERSIONS",
    "ByScore",
    "Choice",
    "Constraints",
    "DataError",
    "Dataset",
    "Decision",
    "Field",
    "GreedySelector",
    "Infeasible",
    "Invalid",
    "Job",
    "Needs",
    "Notice",
    "Order",
    "Params",
    "PhaseCost",
    "Ranked",
    "RankedUnit",
    "RoleBatch",
    "Run",
    "ScoreSelector",
    "Selector",
    "TamisError",
    "UnitReader",
    "unit_task",
]
