"""GAIS-style instance selection, reconstructed from the abstracts: a graph attention network over labelled rows.

Papers: Scalable Graph Attention-based Instance Selection via Mini-Batch Sampling and Hierarchical Hashing (arXiv
2502.20293, 2025) and its predecessor GAIS (arXiv 2412.19201, 2024). No implementation of the authors' is public, and
only the abstracts could be read. Theirs: instance selection on numeric features with labels by a graph attention
network over a graph of the instances; stratified mini-batches whose cost does not grow with the data; hashing by random
projections in one level, several levels or several views; scores from attention (2025) or confidence (2024); edges
masked at random in training. Ours: layers, heads, optimiser, bit widths, windows, leaves, edge weights, class weights,
what counts as attention received, quotas, and all of the score `coverage` with its gate. Where a parameter's
description says "(ours)", no paper fixes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from tamis.native.neighbours.small_sets import MAX_NEIGHBOURS
from tamis.selectors.decision.budget import Amount
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.errors import Infeasible, Invalid
from tamis.selectors.methods.gais.evidence import Known, measure
from tamis.selectors.methods.gais.notices import notices
from tamis.selectors.methods.gais.params import GaisParams
from tamis.selectors.methods.gais.quotas import class_quotas
from tamis.selectors.methods.gais.ranking import REASONS, GaisRanked, pick_best, rows_reaching
from tamis.selectors.methods.gais.scoring import Settings, score_units
from tamis.selectors.methods.gais.survey import BLOCK_ROWS, Ints, Scaling, Surveyed, plan_blocks, survey_unit, surveyed
from tamis.selectors.methods.gais.training import sample_share, train, training_batches
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost, Selector
from tamis.selectors.schema.response import Notice
from tamis.selectors.signals.task import Call

SIZE_SLACK = 1.25
"""With a budget in units of size, so many times the rows are picked that would fill it if all had the mean size."""

SECONDS_A_ROW = 5e-6
SECONDS_A_STEP = 5e-3
BYTES_A_NUMBER = 8
"""That JSON lines take for a feature, at least: tells rows that are not counted yet, for the estimate of memory."""

ACTIVATION_BYTES = 1_500
"""Of one row in a graph: lists of neighbours, activations, relation."""


@dataclass(frozen=True)
class Prepared:
    """The survey of the rows, and the parameters of training and scoring that follow from it."""

    surveyed: Surveyed
    scaling: Scaling
    settings: Settings
    quotas: Ints  # (classes,) rows to pick, the preselected ones taken off


class Gais(Selector):
    """Instance selection by a graph attention network: GAIS-style, reconstructed from the abstracts."""

    name: ClassVar[str] = "gais"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "Picks labelled rows that cover their classes, by a graph attention network over batches: GAIS-style, "
        "reconstructed from the abstracts."
    )
    citation: ClassVar[str] = (
        "Scalable Graph Attention-based Instance Selection via Mini-Batch Sampling and Hierarchical Hashing. "
        "arXiv:2502.20293, 2025; and GAIS, arXiv:2412.19201, 2024. Reconstructed from their abstracts: not the "
        "authors' code."
    )
    cost: ClassVar[str] = (
        "Two passes over features and labels and a fixed cost to train; memory of a block of rows a thread, and 32 "
        "bytes a row on disk."
    )
    Params: ClassVar[type[GaisParams]] = GaisParams

    params: GaisParams

    def needs(self) -> Needs:
        """Features and labels."""
        return Needs(roles=("embedding", "label"), target=False)

    def _survey_params(self, seed: int, rows: int) -> dict[str, Any]:
        share = sample_share(rows, self.params.batch, self.params.steps) if self.params.needs_network else 0.0
        return {"seed": seed, "share": share}

    def _settings(self, seed: int, keep: float) -> Settings:
        p = self.params
        covers = int(np.clip(round(p.spread / keep), 2, MAX_NEIGHBOURS))
        least = p.min_score if p.min_score is not None and p.score == "coverage" else 0.0
        doubt = p.doubt if p.score == "coverage" else "none"
        return Settings(
            graph=p.graph,
            neighbours=p.neighbors,
            batch_rows=p.batch,
            views=p.views,
            passes=p.passes,
            relation=p.relation,
            doubt=doubt,
            gate=p.gate,
            covers=covers,
            least_gain=least,
            seed=seed,
        )

    # -- the steps

    def select(self, run: Run) -> Decision:
        """Survey, train, score, choose."""
        self._check_request(run, run.amount)
        prepared = self.prepare(run)
        ranked = self.score(run, prepared, self.train(run, prepared))
        run.begin("select")
        if self.params.score != "coverage":
            ranked = pick_best(ranked, prepared.quotas, np.union1d(run.preselected, run.excluded))
        surveyed, scaling, settings = prepared.surveyed, prepared.scaling, prepared.settings
        return Decision(
            choice=self._choose(run, ranked, run.amount),
            rankings=[ranked],
            reason_names=REASONS,
            reason_details={"no-label": "The row has no label: GAIS compares rows with those of their class."},
            warnings=list(notices(surveyed, scaling, settings, ranked.blocks)),
            facts=Known(surveyed, ranked, scaling, self.params.needs_network),
        )

    def prepare(self, run: Run) -> Prepared:
        """Survey the rows, and resolve the parameters and the classes' parts of the budget by them."""
        surveyed = self.survey(run)
        scaling = self._scaling(run, surveyed)
        rows = self._rows_to_pick(run, run.amount)
        quotas = self._quotas(run, surveyed, rows, run.amount.pointer)
        settings = self._settings(run.spec.seed, min(1.0, rows / max(1, int(surveyed.totals.sum()))))
        self._check_slices(settings, surveyed)
        return Prepared(surveyed, scaling, settings, quotas)

    def _check_request(self, run: Run, amount: Amount) -> None:
        if self.params.min_score is None:
            return
        if run.spec.strata is not None:
            raise Invalid("min_score ends before the budget: it can't meet the bounds of strata.", pointer="/strata")
        if amount.unit == "size":
            raise Invalid("min_score needs a budget in rows, or a fraction.", pointer=amount.pointer)

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

    def _rows_to_pick(self, run: Run, amount: Amount) -> int:
        """Return the number of rows to pick; a budget in size is turned into rows by their mean size."""
        if amount.unit == "rows":
            return amount.value
        layout = run.layout()
        assert layout.sizes is not None
        total = sum(int(layout.sizes[number].sum()) for number in range(layout.units))
        return min(layout.rows, int(SIZE_SLACK * layout.rows * amount.value / max(1, total)) + 1)

    def _quotas(self, run: Run, found: Surveyed, wanted: int, pointer: str) -> Ints:
        """Return the rows to pick of every class, the preselected ones subtracted."""
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
                "batch, or choose one of the lsh graphs, whose blocks hold "
                f"{BLOCK_ROWS:,} rows.",
                pointer="/selector/params/batch",
            )

    def train(self, run: Run, prepared: Prepared) -> pa.Table | None:
        """Train the network on the drawn rows; None where nothing depends on it."""
        run.begin("train")
        if not self.params.needs_network:
            return None
        p = self.params
        params = {
            "graph": [p.graph, p.neighbors, p.views],
            "training": [p.batch, p.steps, p.masked, run.spec.seed],
        }
        return run.derive(
            "gais-network/1",
            run.candidates,
            ("embedding", "label"),
            params,
            lambda: train(prepared.surveyed, prepared.scaling, prepared.settings, p.steps, p.masked, p.batch)[0],
        )

    def score(self, run: Run, prepared: Prepared, network: pa.Table | None) -> GaisRanked:
        """Score every block, and pick by coverage as it goes."""
        run.begin("score", run.candidates)
        starts, surveyed = run.layout().starts, prepared.surveyed
        blocks = plan_blocks(np.diff(starts).tolist())
        shared = {
            "blocks": run.share("gais-blocks", pa.Table.from_pylist([block._asdict() for block in blocks])),
            "classes": run.share("gais-classes", pa.table({"name": surveyed.names})),
            "scaling": run.share("gais-scaling", prepared.scaling.to_table()),
        }
        if network is not None:
            shared["network"] = run.share("gais-network", network.select(["parameter"]).replace_schema_metadata(None))
        if self.params.score == "coverage":
            seen = np.concatenate([np.zeros((1, len(surveyed.names)), np.int64), np.cumsum(surveyed.counts, axis=0)])
            table = pa.table(
                {
                    "seen": seen[[block.first for block in blocks]].tolist(),
                    "quota": [prepared.quotas.tolist()] * len(blocks),
                    "total": [surveyed.totals.tolist()] * len(blocks),
                }
            )
            shared["quotas"] = run.share("gais-quotas", table)
            for name, rows in (("kept", run.preselected), ("barred", run.excluded)):
                if len(rows):
                    shared[name] = run.share(f"gais-{name}", pa.table({"row": np.sort(rows)}))
        versions = [shard.file.version for shard in run.candidates.shards]
        params = {
            "settings": asdict(prepared.settings),
            "dataset": run.candidates.digest,  # a block's other units are not named by its first one
            "versions": hashlib.sha256(repr(versions).encode()).hexdigest(),
        }
        tables = run.map(
            score_units, run.candidates, params=params, shared=shared, units=[block.first for block in blocks]
        )
        return GaisRanked(tables, blocks, starts, surveyed, self.params.score, None)

    def _choose(self, run: Run, ranked: GaisRanked, amount: Amount) -> Choice:
        """Choose within the budget; by a minimum score, what reaches it."""
        least = self.params.min_score
        if least is None:
            return run.choose(ranked, REASONS)
        rows = rows_reaching(ranked, least, np.union1d(run.preselected, run.excluded))
        total = len(rows) + len(run.preselected)
        if len(rows) == 0:
            raise Infeasible(f"No row reaches min_score = {least}: lower it.", pointer="/selector/params/min_score")
        if total >= amount.value:
            return run.choose(ranked, REASONS)
        all_rows = run.layout().rows
        notice = Notice(
            code="min-score",
            detail=f"{total:,} of {all_rows:,} rows reach min_score = {least}, a reduction of "
            f"{1 - total / all_rows:.2%}; the budget allows {amount.value:,}.",
        )
        return run.choose_in_order(ranked, rows, REASONS, stopped=notice)

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Classes, margins and attention of all rows, the draw and the selection; 1-NN on the rest from either."""
        return measure(run, decision.facts, decision.choice, random)

    # -- plan

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Survey, training, scoring, the choice and the report."""
        pool, units, rows = job.candidates.bytes, len(job.candidates.units), job.candidates.rows or 0
        keys: list[str] = []
        if job.candidates.rows is not None:
            params = self._survey_params(job.spec.seed, job.candidates.rows)
            keys = [Call(survey_unit, job.candidates, unit, params, {}).key for unit in range(units)]
        steps = self.params.steps if self.params.needs_network else 0
        return [
            PhaseCost("survey", units, pool, pool / 1e9, keys),
            PhaseCost("train", 0, 0, SECONDS_A_STEP * steps),
            PhaseCost("score", units, pool, SECONDS_A_ROW * self.params.passes * rows),
            PhaseCost("select", 0, 0, 2e-7 * rows),
            PhaseCost("report", units, pool, pool / 1e9 + 1.0),
        ]

    def memory(self, job: Job, threads: int) -> int:
        """A block's features and one graph a thread, the training rows, and the decision's keys."""
        dimension = job.candidates.dimension("embedding")
        counts = [
            unit.bytes // (BYTES_A_NUMBER * dimension) if unit.rows is None else unit.rows
            for unit in job.candidates.units
        ]
        starts = np.concatenate([[0], np.cumsum(counts)])
        largest = max((int(starts[block.last] - starts[block.first]) for block in plan_blocks(counts)), default=0)
        slice_rows = self._settings(0, 1.0).slice_rows
        block = 4 * dimension * (largest + 2 * slice_rows) + 60 * largest + ACTIVATION_BYTES * slice_rows
        training = 8 * dimension * self.params.batch * training_batches(self.params.steps)
        return threads * block + training + 20 * (job.candidates.rows or 0)
