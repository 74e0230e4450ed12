"""CCS: Coverage-centric Coreset Selection (Zheng, Liu, Lai, Prakash; ICLR 2023, arXiv 2210.15809).

In the paper's words and symbols: every row has a difficulty score; the hardest share beta is pruned, since it holds
mislabelled and hopeless rows; the range of the other scores is divided into strata of equal width; and the budget is
shared out over the strata like water, rows drawn uniformly inside each. Top-scoring rows alone leave most of the data
uncovered, which is why they fail at high pruning rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ConfigDict, Field, JsonValue, model_validator

from tamis.native.sampling.strata import MAX_STRATA, CutOff, share_dropped
from tamis.selectors.decision.budget import Amount, resolve_budget
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.request import KEYS_IN_MEMORY
from tamis.selectors.errors import Infeasible, Invalid
from tamis.selectors.features import difficulty
from tamis.selectors.features.difficulty_params import METRICS, DifficultyParams, HardEnd, Metric
from tamis.selectors.methods.ccs import strata as coverage_strata
from tamis.selectors.methods.ccs import sweep
from tamis.selectors.methods.ccs.strata import NO_STRATUM, Classes, Columns, Held, Part, Streamed
from tamis.selectors.methods.ccs.stream import choose_drawn
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost, Selector
from tamis.selectors.schema.request import Role
from tamis.selectors.schema.response import Notice

Ints = npt.NDArray[np.int64]

STREAM = "ccs"
"""Name of the random stream of the draw."""

FEW_STRATA = 0.25
"""Fewer occupied strata than this share of them are worth a warning."""

CROWDED = 0.9
"""One stratum that holds more than this share of the rows is worth a warning: the draw is then hardly stratified."""

PARTS_SHOWN = 200
"""Classes whose strata are in the report, at most."""

CIFAR10_BETAS = ((0.4, 0.0), (0.15, 0.1), (0.0, 0.3))
"""Beta by the share kept, from so much on: published for 70%, 50%, 30%, 20% and 10%, cut half-way between."""

STREAM_ROW_SECONDS = 2e-8
HELD_ROW_SECONDS = 1.5e-6
REPORT_ROW_SECONDS = 6e-7


class CcsParams(DifficultyParams):
    """Parameters of CCS."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"hard_end": "low", "beta": 0.3}, {"hard_end": "low"}]})

    beta: Annotated[float, Field(ge=0, lt=1)] | Literal["sweep"] | None = Field(
        None,
        description="Share of the rows with a score that is cut off at the hard end (the paper's beta). It decides "
        "more than anything else: at high pruning rates too little is worse than a random draw, and how much is right "
        "depends on the data. When left out, what the authors used for CIFAR-10: 0 where 40% of the rows or more are "
        "kept, 0.1 down to 15%, 0.3 below. 'sweep' tries 0, 0.1, … 0.9 with a small model on embedding and label, and "
        "takes what does best on the target, which must be a validation split.",
    )
    strata: Annotated[int, Field(ge=1, le=MAX_STRATA)] = Field(
        50, description="Strata of equal width between the lowest and the highest score left. Reference: 50."
    )
    cutoff_hard_end: HardEnd | None = Field(
        None,
        description="For a score column: cut off by the column of the role 'cutoff' instead of the score, at this end.",
    )
    cutoff_metric: Metric | None = Field(
        None,
        description="For dynamics and snapshots: the metric that is cut off by. 'aum' from dynamics (reference) and "
        "the metric itself from a snapshot when left out.",
    )
    class_balance: Literal["none", "proportional"] = Field(
        "none",
        description="'proportional': every class (label) gets its own cut-off and strata, and its share of the budget "
        "in proportion to its rows (Class-Proportional Coreset Selection). For bounds of your own see strata.quotas.",
    )

    @model_validator(mode="after")
    def _cut_off_by(self) -> Self:
        if self.source != "score" and self.cutoff_hard_end is not None:
            raise ValueError("cutoff_hard_end is for a score column; name a cutoff_metric")
        if self.cutoff_metric is None:
            return self
        if self.source == "score":
            raise ValueError("cutoff_metric is for dynamics and snapshots; give cutoff_hard_end and a cutoff column")
        if self.source not in METRICS[self.cutoff_metric].sources:
            raise ValueError(f"'{self.cutoff_metric}' can't be computed from {self.source}")
        return self

    @property
    def second_metric(self) -> Metric | None:
        """The metric of the cut-off, where it differs from the score's own."""
        given = self.cutoff_metric or ("aum" if self.source == "dynamics" else self.chosen)
        return None if given == self.chosen else given


class Drawn(NamedTuple):
    """The rows drawn from the strata."""

    choice: Choice
    ranked: Streamed | Held
    parts: Sequence[Part]
    codes: npt.NDArray[np.int32]  # (k,) stratum of each selected row
    taken: Ints  # rows taken of every stratum, the parts one after the other


@dataclass(frozen=True)
class CcsFacts:
    """Measurements of a selection for its report."""

    beta: float
    swept: sweep.Sweep | None
    parts: Sequence[Part]
    taken: Ints  # rows taken of every stratum, the parts one after the other


class Ccs(Selector):
    """Prune the hardest, draw evenly over the range of difficulty."""

    name: ClassVar[str] = "ccs"
    revision: ClassVar[int] = 2
    summary: ClassVar[str] = "Covers the range of difficulty: drops the hardest rows, draws evenly from score strata."
    citation: ClassVar[str] = (
        "Zheng, Liu, Lai, Prakash: Coverage-centric Coreset Selection. ICLR 2023, arXiv 2210.15809."
    )
    cost: ClassVar[str] = (
        "One read of the scores and three passes over 4 bytes a row; 1 byte a row beside the decision's keys, 84 with "
        "classes, quotas, earlier selections or a sweep, which trains up to 30 small models besides."
    )
    Params: ClassVar[type[CcsParams]] = CcsParams

    params: CcsParams

    def needs(self) -> Needs:
        """Scores; labels for classes; embeddings, labels and a validation split for a sweep."""
        own = difficulty.needs(self.params)
        roles: list[Role] = [*own.roles]
        if self.params.cutoff_hard_end is not None:
            roles.append("cutoff")
        if self.params.second_metric is not None:
            second = self.params.model_copy(update={"metric": self.params.second_metric})
            roles += difficulty.needs(second).roles
        if self.params.class_balance == "proportional":
            roles.append("label")
        sweeps = self.params.beta == "sweep"
        if sweeps:
            roles += sweep.ROLES
        return Needs(
            roles=tuple(dict.fromkeys(roles)),
            target=sweeps,
            target_roles=sweep.ROLES if sweeps else None,
            dynamics=own.dynamics,
        )

    def _streams(self, job: Job) -> bool:
        """Whether the draw needs no place in the order for every row."""
        spec = job.spec
        return (
            spec.strata is None
            and spec.preselected is None
            and spec.budget.size is None
            and self.params.class_balance == "none"
            and self.params.beta != "sweep"
        )

    def select(self, run: Run) -> Decision:
        """Score the rows, choose beta, prune the hardest, draw evenly over strata of difficulty."""
        columns = self.score(run)
        beta, swept, warnings = self.choose_beta(run, columns)
        run.begin("select")
        drawn = self.draw(run, columns, beta)
        second = [notice for notice in columns.cutoff.notices if notice not in columns.difficulty.notices]
        return Decision(
            choice=drawn.choice,
            rankings=[drawn.ranked],
            reason_names=coverage_strata.REASONS,
            reason_details=coverage_strata.REASON_DETAILS,
            columns={"score_stratum": pa.array(drawn.codes, pa.int32(), mask=drawn.codes == NO_STRATUM)},
            warnings=[*columns.difficulty.notices, *second, *warnings, *_crowding(drawn.parts)],
            left_out=sum(part.cut_off.dropped for part in drawn.parts),
            facts=CcsFacts(beta, swept, drawn.parts, drawn.taken),
        )

    # -- the steps

    def score(self, run: Run) -> Columns:
        """Compute the difficulty of every row, and the values that the cut-off is by."""
        run.begin(difficulty.PHASE, *([run.candidates] if run.dynamics is None else [run.dynamics]))
        scored = difficulty.scores(run, self.params)
        cutoff = scored
        if self.params.cutoff_hard_end is not None:
            cutoff = difficulty.scores(run, self.params, role="cutoff")
            cutoff = replace(cutoff, hard_end=self.params.cutoff_hard_end)
        elif self.params.second_metric is not None:
            cutoff = difficulty.scores(run, self.params, metric=self.params.second_metric)
        return Columns(scored, cutoff, run.layout().starts, np.sort(run.excluded), run.check_cancelled)

    def choose_beta(self, run: Run, columns: Columns) -> tuple[float, sweep.Sweep | None, list[Notice]]:
        """Return the share to prune (beta), the sweep that found it, and warnings about it."""
        beta = self.params.beta
        if beta == "sweep":
            run.begin("sweep", run.candidates, *run.targets)
            swept = sweep.sweep(run, lambda b, draw: self._in_memory(run, columns, b, f"{STREAM}.{draw}"))
            return swept.beta, swept, swept.notices
        if beta is None:
            beta = _published_beta(run.amount, int(columns.starts[-1]))
            return beta, None, [_not_chosen(beta)]
        return beta, None, []

    def draw(self, run: Run, columns: Columns, beta: float) -> Drawn:
        """Cut off the hardest, share the budget out over the strata, and draw rows uniformly inside each.

        In a stream of the scores where that is enough; in memory where classes, quotas, sizes or earlier rows need a
        place in the order for every row. Both give the same rows.
        """
        if self._streams(run.job):
            streamed, codes = self._in_stream(run, columns, beta)
            weights, taken = _weights(codes, [streamed.part])
            return Drawn(choose_drawn(run, streamed, weights), streamed, [streamed.part], codes, taken)
        held = self._in_memory(run, columns, beta, STREAM)
        choice = run.choose(held, coverage_strata.REASONS)
        codes = held.codes[choice.rows]
        weights, taken = _weights(codes, held.parts)
        return Drawn(choice.weighted(weights), held, held.parts, codes, taken)

    def _in_stream(self, run: Run, columns: Columns, beta: float) -> tuple[Streamed, npt.NDArray[np.int32]]:
        amount = run.amount

        def budget(cut_off: CutOff) -> int:
            _check_room(amount, beta, cut_off.usable, cut_off.dropped, int(columns.starts[-1]))
            return amount.value

        ranked, codes = coverage_strata.stream(columns, beta, self.params.strata, run.stream(STREAM), budget)
        return ranked, codes.astype(np.int32)

    def _in_memory(self, run: Run, columns: Columns, beta: float, stream: str) -> Held:
        classes = None
        if self.params.class_balance == "proportional":
            names, codes = run.names(run.candidates, "label")
            flat = np.concatenate([np.empty(0, np.int32), *(codes[unit] for unit in range(len(codes)))])
            classes = Classes(names, flat)
        rows = int(columns.starts[-1])
        amount = run.amount
        held = coverage_strata.hold(
            columns,
            beta,
            self.params.strata,
            run.stream(stream),
            classes=classes,
            preselected=run.preselected,
            budget=amount.value if amount.unit == "rows" else None,
        )
        if amount.unit == "rows" and len(run.preselected) == 0:
            cuts = [part.cut_off for part in held.parts]
            _check_room(amount, beta, sum(cut.usable for cut in cuts), sum(cut.dropped for cut in cuts), rows)
        return held

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Return the cut-off, every stratum's edges, population and budget, and the sweep's curve."""
        facts: CcsFacts = decision.facts
        selected = iter(np.split(facts.taken, len(facts.parts)))
        classes: list[JsonValue] = []
        for part, taken in zip(facts.parts[:PARTS_SHOWN], selected, strict=False):
            cut = part.cut_off
            classes.append(
                {
                    "class": part.name or None,
                    "rows_with_a_score": cut.usable,
                    "dropped": cut.dropped,
                    "last_dropped_value": float(cut.sign * cut.value) if cut.dropped else None,
                    "lower_edges": part.edges[:-1].tolist(),
                    "upper_edges": part.edges[1:].tolist(),
                    "populations": part.populations.tolist(),
                    "selected": taken.tolist(),
                }
            )
        return {
            "beta": facts.beta,
            "strata": self.params.strata,
            "classes": classes,
            "classes_in_all": len(facts.parts),
            "sweep": None if facts.swept is None else facts.swept.curve(),
        }

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Score, sweep, select; refuse a budget that the cut-off leaves too few rows for."""
        difficulty.check(self.params, job)
        if self.params.beta == "sweep":
            sweep.check(job)
        rows, beta = job.candidates.rows or 0, self.params.beta
        if beta is None and job.spec.budget.size is not None:
            raise Invalid(
                "With a budget of sizes the share of rows that is kept is not known: give beta.",
                pointer="/selector/params/beta",
            )
        if rows and job.spec.budget.size is None and isinstance(beta, float) and job.spec.preselected is None:
            # (Preselected rows are kept even where they are among the hardest.)
            _check_room(resolve_budget(job.spec.budget, rows), beta, rows, share_dropped(beta, rows), rows)
        phases = difficulty.costs(self.params, job)
        if self.params.beta == "sweep":
            phases.append(PhaseCost("sweep", *sweep.cost(job)))
        seconds = STREAM_ROW_SECONDS if self._streams(job) else HELD_ROW_SECONDS
        phases.append(PhaseCost("select", 0, 0, seconds * rows))
        return [*phases, PhaseCost("report", 0, 0, REPORT_ROW_SECONDS * rows + 1e-3)]

    def plan_warnings(self, job: Job) -> Iterator[Notice]:
        """Return a warning where beta is left to its default."""
        if self.params.beta is None and job.candidates.rows:
            beta = _published_beta(resolve_budget(job.spec.budget, job.candidates.rows), job.candidates.rows)
            yield _not_chosen(beta)

    def memory(self, job: Job, threads: int) -> int:
        """Keys of the decision; ranks, codes and keys of all rows where they are in memory; vectors for a sweep."""
        rows = job.candidates.rows or 0
        held = 1 if self._streams(job) else coverage_strata.HELD_ROW_BYTES
        swept = sweep.memory(job) if self.params.beta == "sweep" else 0
        return difficulty.memory(self.params, job) + min(8 * rows, KEYS_IN_MEMORY) + held * rows + swept


def _published_beta(amount: Amount, rows: int) -> float:
    """Return the share that the authors cut off for CIFAR-10 at about this share of selected rows."""
    return next(beta for least, beta in CIFAR10_BETAS if amount.value >= least * rows)


def _not_chosen(beta: float) -> Notice:
    detail = (
        f"beta was not given: {beta:g} is what the authors used for CIFAR-10 at about this budget. The right share "
        "depends on the data: sweep it on a validation split, or compare a few."
    )
    return Notice(code="beta-by-default", detail=detail)


def _check_room(amount: Amount, beta: float, usable: int, dropped: int, rows: int) -> None:
    """Refuse a budget that is more than the cut-off leaves of the usable rows."""
    left = usable - dropped
    if amount.value <= left:
        return
    scored = "" if usable == rows else f", of which {usable} have a score and are not excluded"
    advice = f"ask at most {left} rows"
    if amount.value <= usable:
        advice += f", or a beta of at most {1000 * (usable - amount.value) // usable / 1000:g}"
    raise Infeasible(
        f"The budget keeps {amount.value} of {rows} rows ({amount.value / rows:.3g} of them){scored}, and "
        f"beta = {beta:g} cuts off {dropped}, which leaves {left}: {advice}.",
        pointer=amount.pointer,
    )


def _weights(codes: npt.NDArray[np.int32], parts: Sequence[Part]) -> tuple[npt.NDArray[np.float64], Ints]:
    """Return n_k / b_k of each row's stratum, how many rows it stands for, and every b_k; 1 for a row in no stratum."""
    populations = np.concatenate([part.populations for part in parts])
    inside = codes != NO_STRATUM
    taken = np.bincount(codes[inside], minlength=len(populations))
    weights = np.ones(len(codes))
    weights[inside] = populations[codes[inside]] / taken[codes[inside]]
    return weights, taken


def _crowding(parts: Sequence[Part]) -> list[Notice]:
    """Return a warning where the strata hardly divide the rows: an outlier, or few distinct scores."""
    notices = []
    for part in parts:
        rows, count = int(part.populations.sum()), len(part.populations)
        whose = f" of class '{part.name}'" if part.name else ""
        occupied = int(np.count_nonzero(part.populations))
        if rows > 1 and count > 1 and part.edges[0] == part.highest:
            detail = f"All {rows} scores{whose} that are left are equal: the draw is no more than random."
            notices.append(Notice(code="equal-scores", detail=detail))
        elif rows > 1 and count > 1 and part.populations.max() > CROWDED * rows:
            detail = (
                f"One stratum{whose} holds {int(part.populations.max())} of {rows} rows: a few far scores stretch the "
                "range, and the draw is hardly more than random. Transform the score (a logarithm, ranks), or cut off "
                "more."
            )
            notices.append(Notice(code="crowded-stratum", detail=detail))
        elif rows > 1 and occupied < FEW_STRATA * count:
            detail = f"Only {occupied} of {count} strata{whose} hold rows: the scores have few values or wide gaps."
            notices.append(Notice(code="few-strata-occupied", detail=detail))
    if len(notices) > PARTS_SHOWN // 20:
        others = f"{len(notices) - 1} other classes are like it. "
        notices = [Notice(code=notices[0].code, detail=f"{others}{notices[0].detail}")]
    return notices
