"""`ScoreSelector`: base class of selectors that give every row a score and take the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from tamis.selectors.datasets import RoleBatch
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.ranking import Floats, Ranked, RankedUnit
from tamis.selectors.errors import TamisError
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import PhaseCost, Selector
from tamis.selectors.signals.row_columns import UnitColumn
from tamis.selectors.signals.task import Task, UnitReader

SCORE = "score"
SELECT = "select"

NO_SCORE = 1
"""Code of the reason of rows without a score."""

REASON_NAMES = ("eligible", "no-score")
REASON_DETAILS = {"no-score": "The row has no score: null or NaN."}

DECIDE_ROW_SECONDS = 2e-7
"""CPU-seconds a row of the decision, for plans."""


@dataclass(frozen=True)
class ByScore:
    """A ranking by scores, larger first; rows whose score is NaN are not eligible."""

    scores: Sequence[npt.NDArray[Any]]  # by unit

    def __call__(self, unit: int) -> RankedUnit:
        """Rank one unit."""
        scores = self.scores[unit].astype(np.float64)
        lacking = np.isnan(scores)
        keys = np.where(lacking, -np.inf, scores)
        return RankedUnit(keys, scores, None, np.where(lacking, NO_SCORE, 0).astype(np.uint8))


class ScoreSelector(Selector):
    """Base class of selectors that give every row a score, larger is better, and take the best rows.

    A subclass gives `name`, `reads` and a static method ``score(batch, params)``. It is called in several threads, for
    some thousand rows at a time, and its results are kept: a later job with the same parameters and another budget does
    not call it again. So the score of a row may depend on that row and the parameters alone.

    A subclass whose scores come from elsewhere overrides `rank` (and `plan`) instead.

    Attributes
    ----------
    bytes_per_second : float
        Bytes of shards that one core scores in a second, for plans.
    reason_names, reason_details
        Names of the reasons in the ranking, by code, and a sentence for each.
    """

    nested: ClassVar[bool] = True
    bytes_per_second: ClassVar[float] = 1e8
    reason_names: ClassVar[Sequence[str]] = REASON_NAMES
    reason_details: ClassVar[Mapping[str, str]] = REASON_DETAILS
    scoring: ClassVar[Task]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "score" in cls.__dict__:
            if "<locals>" in cls.__qualname__:
                raise TypeError(
                    f"The selector {cls.__qualname__} must be a class at the top level of its module, so that other "
                    "processes find it: move it out of the function around it."
                )
            location = f"{cls.__module__}:{cls.__qualname__}.scoring"
            cls.scoring = Task(f"{cls.name}.score", cls.revision, cls.reads, False, location, _scorer(cls))

    @staticmethod
    def score(batch: RoleBatch, params: Any) -> Any:
        """Return a score for each row of a batch, larger is better.

        Parameters
        ----------
        batch : RoleBatch
            Some rows, with the columns that the class `reads`.
        params : BaseModel
            The parameters, an instance of `Params`.

        Returns
        -------
        array_like, shape (batch.rows,)
            An Arrow or NumPy array or a list; null or NaN where a row has no score and can't be selected.
        """
        raise TamisError("This ScoreSelector has neither a static method score(batch, params) nor a rank of its own.")

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Score every row, then decide."""
        size = job.candidates.bytes
        return [
            PhaseCost(SCORE, len(job.candidates.units), size, size / self.bytes_per_second),
            PhaseCost(SELECT, 0, 0, DECIDE_ROW_SECONDS * job.rows),
        ]

    def rank(self, run: Run) -> Ranked:
        """Compute the scores and return the ranking, in the phases that `plan` names."""
        run.begin(SCORE, run.candidates)
        mapped = run.map(self.scoring, run.candidates, params={"params": self.params.model_dump(mode="json")})
        run.begin(SELECT)
        return ByScore(UnitColumn(mapped, SCORE))

    def select(self, run: Run) -> Decision:
        """Rank the rows and take the best within budget and bounds."""
        ranked = self.rank(run)
        choice = run.choose(ranked, self.reason_names)
        return Decision(choice, [ranked], self.reason_names, self.reason_details)

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Compare the mean score with that of a random draw."""
        return {"mean_score": mean_scores(run, decision, random)}


def mean_scores(run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
    """Return the mean score of the selection and of a random draw; rows without a score are left out."""
    starts = run.layout().starts
    means: dict[str, JsonValue] = {}
    for name, choice in (("selected", decision.choice), ("random", random)):
        total, count = 0.0, 0
        cuts = np.searchsorted(choice.rows, starts)
        for unit in np.flatnonzero(np.diff(cuts)).tolist():
            rows = choice.rows[cuts[unit] : cuts[unit + 1]] - starts[unit]
            scores = decision.rankings[0](unit).scores[rows]
            finite = np.isfinite(scores)  # rows kept from an earlier selection may have none
            total += float(scores[finite].sum())
            count += int(finite.sum())
        means[name] = total / count if count else None
    return means


def _scorer(cls: type[ScoreSelector]) -> Any:
    """Return the unit task's function of a selector class."""

    def score_unit(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
        checked = cls.Params.model_validate(params["params"])
        parts: Iterator[Floats] = (
            _as_scores(cls.score(batch, checked), batch.rows, cls.name) for batch in reader.batches()
        )
        return pa.table({SCORE: np.concatenate([np.empty(0), *parts])})

    return score_unit


def _as_scores(values: Any, rows: int, name: str) -> Floats:
    """Return a batch's scores as float64, NaN where there is none; refuse another number of them, and infinity."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        values = pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    try:
        scores: Floats = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise TamisError(f"The selector '{name}' gave scores that are no numbers: {error}.") from error
    if scores.shape != (rows,):
        raise TamisError(f"The selector '{name}' gave scores of shape {scores.shape} for {rows} rows: give one a row.")
    if np.isinf(scores).any():
        raise TamisError(
            f"The selector '{name}' gave an infinite score: give a finite number, or NaN for a row that can't be "
            "selected."
        )
    return scores
