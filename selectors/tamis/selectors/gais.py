"""GAIS-style instance selection, reconstructed from the abstracts: a graph attention network over batches of labelled rows.

Papers: Scalable Graph Attention-based Instance Selection via Mini-Batch Sampling and Hierarchical Hashing (arXiv
2502.20293, 2025) and its predecessor GAIS (arXiv 2412.19201, 2024). No implementation of the authors' is public, and
only the abstracts could be read. Theirs: instance selection on numeric features with labels by a graph attention network
over a graph of the instances; stratified mini-batches whose cost does not grow with the data; hashing by random
projections in one level, several levels or several views; scores from attention (2025) or confidence (2024); edges
masked at random in training. Ours: layers, heads, optimiser, bit widths, windows, leaves, edge weights, class weights,
what counts as attention received, quotas, and all of the score `coverage` with its gate. Where a parameter's
description says "(ours)", no paper fixes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, JsonValue, model_validator

from tamis.native.nearest import MAX_NEIGHBOURS
from tamis.native.topk import mark_selected, select_topk
from tamis.selectors import gais_evidence
from tamis.selectors.budgets import resolve_budget
from tamis.selectors.decide import Choice, RankedUnit
from tamis.selectors.engines.base import Call
from tamis.selectors.errors import Invalid
from tamis.selectors.gais_blocks import NEVER, Settings, score_units
from tamis.selectors.gais_data import (
    BLOCK_ROWS,
    Block,
    Codes,
    Ints,
    Scaling,
    Surveyed,
    plan_blocks,
    survey_unit,
    surveyed,
)
from tamis.selectors.gais_model import sample_share, train, training_batches
from tamis.selectors.gais_quotas import class_quotas
from tamis.selectors.outcome import Notice
from tamis.selectors.run import Mapped, Run
from tamis.selectors.selector import Decision, Job, Needs, PhaseCost
from tamis.selectors.signals import metadata_of
from tamis.selectors.spec import Shape

REASONS = ("eligible", "no-label", "below-min-score")
_NO_LABEL = 1
_BELOW = 2

SIZE_SLACK = 1.25
"""With a budget in units of size, so many times the rows are picked that would fill it if all had the mean size."""

ROWS_A_CLASS = 32
"""A slice with fewer rows a class than this, on average, hardly holds a row's neighbours of its class."""

SORTED_WARNED = 0.5
"""A block whose class mix differs from the whole by more than this share of its rows, on average, is worth a word."""

SECONDS_A_ROW = 5e-6
SECONDS_A_STEP = 5e-3
ACTIVATION_BYTES = 1_500
"""Of one row in a graph: lists of neighbours, activations, relation."""


class GaisParams(Shape):
    """Parameters of GAIS."""

    graph: Literal["minibatch", "lsh", "lsh_multilevel", "lsh_multiview"] = Field(
        "lsh_multiview",
        description="How neighbours are found. 'minibatch': exactly, in stratified batches. The others hash "
        "blocks of about 16,384 rows by random projections: in one level, several levels or several views.",
    )
    score: Literal["coverage", "attention", "confidence"] = Field(
        "coverage",
        description="'coverage' (ours): greedy coverage of each class by rows that are neighbours of others. 'attention' "
        "(2025): the rows that receive most attention. 'confidence' (2024): the largest probability of the own label.",
    )
    gate: Annotated[float, Field(ge=0, le=1)] | None = Field(
        0.8,
        description="Coverage need not represent rows to which the network gives another class with a margin above "
        "this; null: none, and the network is not needed (ours).",
    )
    relation: Literal["nearest", "attention"] = Field(
        "nearest",
        description="Coverage: neighbours represent a row in full, or by the attention that the row pays them (ours).",
    )
    spread: Annotated[float, Field(gt=0, le=10)] = Field(
        0.7,
        description="Coverage: a pick covers about spread / (share kept) rows, 2 to 32 and at most 'neighbours' (ours).",
    )
    quotas: Literal["proportional", "square_root", "equal"] = Field(
        "proportional", description="Rows a class gets: in proportion to its rows, their square root, or the same."
    )
    min_per_class: Annotated[int, Field(ge=0, le=10**6)] = Field(
        2, description="Rows every class gets, or all it has (ours)."
    )
    min_score: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Rows with a lower score are not taken, even if the budget is not reached: the reduction becomes an "
        "output. Of coverage, the rows that a pick newly represents; of attention, rows; of confidence, a probability.",
    )
    neighbours: Annotated[int, Field(ge=1, le=MAX_NEIGHBOURS)] = Field(16, description="Neighbours of a row (ours).")
    batch_rows: Annotated[int, Field(ge=16, le=BLOCK_ROWS)] = Field(
        1024, description="Rows of a mini-batch, in training with every graph (ours)."
    )
    views: Annotated[int, Field(ge=1, le=32)] = Field(4, description="Views of 'lsh_multiview' (ours).")
    steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        150, description="Training steps; their cost does not grow with the rows (ours)."
    )
    masked: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of edges that a training step leaves out at random (the papers'; the share is ours)."
    )
    passes: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="Scoring passes over batches drawn anew, whose means are the scores (ours)."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.neighbours >= self.batch_rows:
            raise ValueError(
                f"neighbours = {self.neighbours} must be below batch_rows = {self.batch_rows}: a batch holds no more"
            )
        return self

    @property
    def needs_network(self) -> bool:
        """Whether anything that is decided depends on the network."""
        return self.score != "coverage" or self.gate is not None or self.relation == "attention"


@dataclass(frozen=True)
class GaisRanked:
    """How rows rank: picks first, in the order they were picked; then by score."""

    tables: Mapped
    blocks: Sequence[Block]
    starts: Ints
    found: Surveyed
    score: str
    min_score: float | None
    picks: tuple[Ints, npt.NDArray[np.float64]] | None  # rows ascending with their keys; None: the tables' own

    def scores(self, unit: int) -> npt.NDArray[np.float64]:
        """Return the scores of a unit's rows."""
        if self.score == "coverage":
            return self._column(unit, "gain")
        if self.score == "confidence":
            return self._column(unit, "own").astype(np.float64)
        return self._column(unit, "same").astype(np.float64) + self._column(unit, "other")

    def _column(self, unit: int, name: str) -> npt.NDArray[Any]:
        block = next(index for index, block in enumerate(self.blocks) if unit < block.last)
        start, stop = (self.starts[unit : unit + 2] - self.starts[self.blocks[block].first]).tolist()
        return self.tables.column(block, name)[start:stop]

    def signal(self, unit: int, name: str) -> npt.NDArray[np.float32]:
        """Return a signal of the network for a unit's rows."""
        return self._column(unit, name)

    def __call__(self, unit: int) -> RankedUnit:
        """Rank one unit."""
        scores = self.scores(unit)
        if self.picks is None:
            keys = self._column(unit, "key")
        else:
            keys = NEVER / (1.0 + scores)
            start, stop = self.starts[unit : unit + 2].tolist()
            inside = slice(*np.searchsorted(self.picks[0], [start, stop]).tolist())
            keys[self.picks[0][inside] - start] = self.picks[1][inside]
        reasons = np.where(self.found.codes(unit) < 0, np.uint8(_NO_LABEL), np.uint8(0))
        if self.min_score is not None:
            low = (scores < self.min_score) if self.score != "coverage" else (keys <= 0)
            reasons[low & (reasons == 0)] = _BELOW
        return RankedUnit(np.where(reasons == 0, keys, -np.inf), scores, None, reasons)


class Gais:
    """Instance selection by a graph attention network: GAIS-style, reconstructed from the abstracts."""

    name: ClassVar[str] = "gais"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "Picks labelled rows that cover their classes, by a graph attention network over batches: GAIS-style, "
        "reconstructed from the abstracts."
    )
    citation: ClassVar[str] = (
        "Scalable Graph Attention-based Instance Selection via Mini-Batch Sampling and Hierarchical Hashing. "
        "arXiv:2502.20293, 2025; and GAIS, arXiv:2412.19201, 2024. Reconstructed from their abstracts: not the authors' "
        "code."
    )
    cost: ClassVar[str] = (
        "Two passes over features and labels and a fixed cost to train; memory of a block of rows a thread, and 32 bytes "
        "a row on disk."
    )
    Params: ClassVar[type[GaisParams]] = GaisParams
    scores_are_log_weights: ClassVar[bool] = False

    def __init__(self, params: GaisParams) -> None:
        self.params = params

    def needs(self) -> Needs:
        """Features and labels."""
        return Needs(roles=("embedding", "label"), target=False)

    def basis(self) -> str:
        """Stand on nothing but the code."""
        return ""

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Name the survey, training, scoring, the choice and the report."""
        pool, units, rows = job.candidates.bytes, len(job.candidates.units), job.candidates.rows or 0
        keys: list[str] = []
        if job.candidates.rows is not None:
            params = self._survey_params(job.spec.seed, job.candidates.rows)
            keys = [Call(survey_unit.name, job.candidates, unit, params, {}).key for unit in range(units)]
        steps = self.params.steps if self.params.needs_network else 0
        return [
            PhaseCost("survey", units, pool, pool / 1e9, keys),
            PhaseCost("train", 0, 0, SECONDS_A_STEP * steps),
            PhaseCost("score", units, pool, SECONDS_A_ROW * self.params.passes * rows),
            PhaseCost("select", 0, 0, 2e-7 * rows),
            PhaseCost("report", units, pool, pool / 1e9 + 1.0),
        ]

    def notices(self, job: Job) -> Iterator[Notice]:
        """Say nothing beforehand: the classes are not known."""
        yield from ()

    def memory(self, job: Job, threads: int) -> int:
        """A block's features and one graph a thread, the training rows, and the decision's keys."""
        dimension = job.candidates.dimension("embedding")
        counts = [unit.rows or 0 for unit in job.candidates.units]
        starts = np.concatenate([[0], np.cumsum(counts)])
        largest = max((int(starts[block.last] - starts[block.first]) for block in plan_blocks(counts)), default=0)
        slice_rows = self._settings(0, 1.0).slice_rows
        block = 4 * dimension * (largest + 2 * slice_rows) + 60 * largest + ACTIVATION_BYTES * slice_rows
        training = 8 * dimension * self.params.batch_rows * training_batches(self.params.steps)
        return threads * block + training + 20 * (job.candidates.rows or 0)

    def _survey_params(self, seed: int, rows: int) -> dict[str, Any]:
        share = sample_share(rows, self.params.batch_rows, self.params.steps) if self.params.needs_network else 0.0
        return {"seed": seed, "share": share}

    def _settings(self, seed: int, keep: float) -> Settings:
        p = self.params
        covers = int(np.clip(round(p.spread / keep), 2, MAX_NEIGHBOURS))
        least = p.min_score if p.min_score is not None and p.score == "coverage" else 0.0
        gate = p.gate if p.score == "coverage" else None
        return Settings(
            p.graph, p.neighbours, p.batch_rows, p.views, p.passes, p.relation, gate, covers, least, seed
        )

    # -- the steps

    def select(self, run: Run) -> Decision:
        """Survey, train, score, choose."""
        if self.params.min_score is not None and run.spec.strata is not None:
            raise Invalid("min_score ends before the budget: it can't meet the bounds of strata.", pointer="/strata")
        found = self.survey(run)
        scaling = self._scaling(run, found)
        amount = resolve_budget(run.spec.budget, run.layout().rows)
        wanted = self._wanted_rows(run, found, amount.unit, amount.value)
        quotas = self._quotas(run, found, wanted, amount.pointer)
        settings = self._settings(run.spec.seed, min(1.0, wanted / max(1, int(found.totals.sum()))))
        self._check_slices(settings, found)
        network = self.train(run, found, scaling, settings)
        ranked = self.score(run, found, scaling, settings, network, quotas)
        run.begin("select")
        if self.params.score != "coverage":
            ranked = self._picked(ranked, quotas, run)
        choice = self._choose(run, ranked)
        self._found, self._ranked, self._scaling_used = found, ranked, scaling
        return Decision(
            choice=choice,
            rankings=[ranked],
            reason_names=REASONS,
            reason_details={
                "no-label": "The row has no label: GAIS compares rows with those of their class.",
                "below-min-score": f"The row's score is below min_score = {self.params.min_score}.",
            },
            notices=list(self._notices(found, scaling, settings, ranked, quotas)),
        )

    def survey(self, run: Run) -> Surveyed:
        """Read labels and the features' moments, and draw the rows to train on."""
        run.begin("survey", run.candidates)
        params = self._survey_params(run.spec.seed, run.layout().rows)
        tables = run.map(survey_unit, run.candidates, params=params)
        return surveyed(tables, f"{run.candidates.pointer}/columns/label")

    def _scaling(self, run: Run, found: Surveyed) -> Scaling:
        scaling = Scaling.of(found.moments)
        if len(scaling.columns) == 0:
            raise Invalid(
                f"All {scaling.dimension} columns of the embedding are constant: no row is nearer to another.",
                pointer=f"{run.candidates.pointer}/columns/embedding",
            )
        return scaling

    def _wanted_rows(self, run: Run, found: Surveyed, unit: str, value: int) -> int:
        """Return how many rows to pick; a budget in units of size is told in rows by their mean size."""
        if unit == "rows":
            return value
        layout = run.layout()
        assert layout.sizes is not None
        total = sum(int(layout.sizes[number].sum()) for number in range(layout.units))
        return min(layout.rows, int(SIZE_SLACK * layout.rows * value / max(1, total)) + 1)

    def _quotas(self, run: Run, found: Surveyed, wanted: int, pointer: str) -> Ints:
        """Return the rows to pick of every class, the kept ones taken off."""
        kept = self._by_class(run, found, run.preselected)
        available = found.totals - self._by_class(run, found, run.excluded)
        p = self.params
        total = max(int(kept.sum()), min(wanted, int(available.sum())))
        return class_quotas(total, found.totals, available, kept, p.quotas, p.min_per_class, pointer) - kept

    def _by_class(self, run: Run, found: Surveyed, rows: Ints) -> Ints:
        counts = np.zeros(len(found.names), np.int64)
        starts = run.layout().starts
        listed = np.sort(rows)
        bounds = np.searchsorted(listed, starts)
        for unit in np.flatnonzero(np.diff(bounds)).tolist():
            codes = found.codes(unit)[listed[bounds[unit] : bounds[unit + 1]] - starts[unit]]
            counts += np.bincount(codes[codes >= 0], minlength=len(counts))
        return counts

    def _check_slices(self, settings: Settings, found: Surveyed) -> None:
        if len(found.names) > settings.slice_rows:
            raise Invalid(
                f"The label column has {len(found.names):,} classes, a batch {settings.slice_rows:,} rows: raise "
                "batch_rows, or choose one of the lsh graphs, whose blocks hold "
                f"{BLOCK_ROWS:,} rows.",
                pointer="/selector/params/batch_rows",
            )

    def train(self, run: Run, found: Surveyed, scaling: Scaling, settings: Settings) -> pa.Table | None:
        """Train the network on the drawn rows; None where nothing depends on it."""
        run.begin("train")
        if not self.params.needs_network:
            return None
        p = self.params
        params = {
            "graph": [p.graph, p.neighbours, p.views],
            "training": [p.batch_rows, p.steps, p.masked, run.spec.seed],
        }
        return run.derive(
            "gais-network/1",
            run.candidates,
            ("embedding", "label"),
            params,
            lambda: train(found, scaling, settings, p.steps, p.masked, p.batch_rows)[0],
        )

    def score(
        self,
        run: Run,
        found: Surveyed,
        scaling: Scaling,
        settings: Settings,
        network: pa.Table | None,
        quotas: Ints,
    ) -> GaisRanked:
        """Score every block, and pick by coverage as it goes."""
        run.begin("score", run.candidates)
        starts = run.layout().starts
        blocks = plan_blocks(np.diff(starts).tolist())
        shared = {
            "blocks": run.share("gais-blocks", pa.table({"first": [b.first for b in blocks], "last": [b.last for b in blocks]})),
            "classes": run.share("gais-classes", pa.table({"name": found.names})),
            "scaling": run.share("gais-scaling", scaling.to_table()),
        }
        if network is not None:
            shared["network"] = run.share("gais-network", network.select(["parameter"]).replace_schema_metadata(None))
        if self.params.score == "coverage":
            seen = np.concatenate([np.zeros((1, len(found.names)), np.int64), np.cumsum(found.counts, axis=0)])
            table = pa.table(
                {
                    "seen": seen[[block.first for block in blocks]].tolist(),
                    "quota": [quotas.tolist()] * len(blocks),
                    "total": [found.totals.tolist()] * len(blocks),
                }
            )
            shared["quotas"] = run.share("gais-quotas", table)
            for name, rows in (("kept", run.preselected), ("barred", run.excluded)):
                if len(rows):
                    shared[name] = run.share(f"gais-{name}", pa.table({"row": np.sort(rows)}))
        versions = [shard.file.version for shard in run.candidates.shards]
        params = {
            "settings": asdict(settings),
            "dataset": run.candidates.digest,  # a block's other units are not named by its first one
            "versions": hashlib.sha256(repr(versions).encode()).hexdigest(),
        }
        tables = run.map(
            score_units, run.candidates, params=params, shared=shared, units=[block.first for block in blocks]
        )
        p = self.params
        return GaisRanked(tables, blocks, starts, found, p.score, p.min_score, None)

    def _picked(self, ranked: GaisRanked, quotas: Ints, run: Run) -> GaisRanked:
        """Pick the rows of every class with the largest scores; the t-th of q gets the key 1 - t / q."""
        away = np.union1d(run.preselected, run.excluded)

        def eligible(unit: int) -> tuple[npt.NDArray[np.float64], Codes]:
            start, stop = ranked.starts[unit : unit + 2].tolist()
            codes = ranked.found.codes(unit).copy()
            inside = slice(*np.searchsorted(away, [start, stop]).tolist())
            codes[away[inside] - start] = -1
            return ranked.scores(unit), codes

        def chunks() -> Iterator[Any]:
            for unit in range(len(ranked.starts) - 1):
                scores, codes = eligible(unit)
                yield int(ranked.starts[unit]), scores, codes, None

        cut_offs = select_topk(chunks, quotas)
        rows: list[Ints] = []
        scores: list[npt.NDArray[np.float64]] = []
        strata: list[Codes] = []
        for unit in range(len(ranked.starts) - 1):
            values, codes = eligible(unit)
            at = np.flatnonzero(mark_selected(int(ranked.starts[unit]), values, codes, cut_offs))
            rows.append(at + ranked.starts[unit])
            scores.append(values[at])
            strata.append(codes[at])
        row, score, code = np.concatenate(rows), np.concatenate(scores), np.concatenate(strata)
        order = np.lexsort((row, -score, code))
        counts = np.bincount(code, minlength=len(quotas))
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        keys = 1.0 - places / np.maximum(quotas[code], 1)
        return GaisRanked(
            ranked.tables, ranked.blocks, ranked.starts, ranked.found, ranked.score, ranked.min_score, (row, keys)
        )

    def _choose(self, run: Run, ranked: GaisRanked) -> Choice:
        """Choose within the budget; by a minimum score, what reaches it."""
        if self.params.min_score is None:
            return run.choose(ranked, REASONS)
        away = np.union1d(run.preselected, run.excluded)
        rows: list[Ints] = []
        keys: list[npt.NDArray[np.float64]] = []
        for unit in range(len(ranked.starts) - 1):
            part = ranked(unit).eligible_keys()
            at = np.flatnonzero(part > -np.inf)
            rows.append(at + ranked.starts[unit])
            keys.append(part[at])
        row, key = np.concatenate(rows), np.concatenate(keys)
        free = ~np.isin(row, away)
        row, key = row[free], key[free]
        amount = resolve_budget(run.spec.budget, run.layout().rows)
        if amount.unit == "size":
            raise Invalid("min_score needs a budget in rows, or a fraction.", pointer=amount.pointer)
        if len(row) + len(run.preselected) >= amount.value:
            return run.choose(ranked, REASONS)
        total = len(row) + len(run.preselected)
        notice = Notice(
            code="min-score",
            detail=f"{total:,} rows reach min_score = {self.params.min_score}, of {amount.value:,} that the budget allows: "
            f"a reduction of {1 - total / run.layout().rows:.2%}.",
        )
        return run.choose_given(ranked, row[np.lexsort((row, -key))], REASONS, stopped=notice)

    def _notices(
        self, found: Surveyed, scaling: Scaling, settings: Settings, ranked: GaisRanked, quotas: Ints
    ) -> Iterator[Notice]:
        totals, classes = found.totals, len(found.names)
        if constant := scaling.dimension - len(scaling.columns):
            yield Notice(
                code="constant-columns",
                detail=f"{constant:,} of {scaling.dimension:,} columns of the embedding are constant and left out.",
            )
        if found.unlabelled:
            yield Notice(
                code="no-label", detail=f"{found.unlabelled:,} rows have no label: they are neither compared nor taken."
            )
        alone = np.flatnonzero(totals == 1)
        if len(alone):
            yield Notice(
                code="class-of-one-row",
                detail=f"{len(alone):,} classes have one row ('{found.names[alone[0]]}' first): nothing can stand for it.",
            )
        slice_rows = min(settings.slice_rows, int(totals.sum()))
        if slice_rows < ROWS_A_CLASS * classes and settings.graph == "minibatch":
            yield Notice(
                code="few-rows-a-class",
                detail=f"A batch of {slice_rows:,} rows holds about {slice_rows / classes:.0f} of each of {classes:,} "
                "classes, too few to compare: use 'lsh_multiview', or a larger batch_rows.",
            )
        if (apart := self._apart(found, ranked.blocks)) > SORTED_WARNED:
            yield Notice(
                code="sorted-by-class",
                detail=f"The class mix of a block of rows differs from the whole's by {apart:.0%} of its rows: the shards "
                "seem sorted by class, and the network sees other neighbours than it was trained on. Shuffle the rows.",
            )

    def _apart(self, found: Surveyed, blocks: Sequence[Block]) -> float:
        """Return the mean total variation between the blocks' class mix and the whole's, weighed by their rows."""
        whole = found.totals / found.totals.sum()
        apart = 0.0
        for block in blocks:
            counts = found.counts[block.first : block.last].sum(axis=0)
            apart += float(np.abs(counts - whole * counts.sum()).sum()) / 2
        return apart / float(found.totals.sum())

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Classes, margins and attention of all rows, the draw and the selection; 1-NN on the rest from either."""
        network = self.params.needs_network
        return gais_evidence.measure(run, self._found, self._ranked, self._scaling_used, decision.choice, random, network)
