"""DSIR: data selection with importance resampling (Xie et al., NeurIPS 2023, arXiv 2302.03169).

The candidates' and the target's texts are two bags of hashed n-grams; a row's importance weight is the ratio of the
target's probability of its n-grams to the candidates'; rows are resampled without replacement by those weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import JsonValue

from tamis.native.math import rng
from tamis.native.math.elementary import logarithms
from tamis.selectors.datasets import Dataset
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.ranking import RankedUnit
from tamis.selectors.errors import Invalid
from tamis.selectors.features import ngram_evidence
from tamis.selectors.features.ngram_model import Counted, NgramModel, read_model
from tamis.selectors.features.ngrams import (
    check_tokenizer,
    count_ngrams,
    count_part,
    measure_quality,
    sum_table,
    tables_version,
)
from tamis.selectors.methods.dsir.params import DsirParams
from tamis.selectors.methods.dsir.weights import LogWeights
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost, Selector
from tamis.selectors.schema.response import Notice
from tamis.selectors.signals.task import Call

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PROBABILITY_FLOOR = 1e-8
"""Added to both probabilities before the logarithm (reference: hashed_ngram_dsir.py)."""


REASONS = ("eligible", "too-few-tokens", "quality")

# Text bytes per CPU-second of one core, for plans: decoding included (tests/benchmarks/README.md).
FAST_BYTES_PER_SECOND = 400e6
SHA256_BYTES_PER_SECOND = 100e6

LENGTH_RATIO_WARNED = 1.5
"""Candidates whose typical length differs from the target's by more than this decide by length, not by content."""

TINY_TARGET_NGRAMS = 100_000
"""A target with fewer n-grams leaves most of 10000 buckets to chance."""

TINY_TARGET_BYTES = 300_000
"""The same, in bytes of text, for plans: about three bytes an n-gram."""

FIT_WAVE = 8
"""Units fitted at a time when `fit_ngrams` may end the fit early."""


@dataclass(frozen=True)
class Resampling:
    """How rows rank for one target: by log weight, plus Gumbel noise when sampling (section 3.2)."""

    weights: LogWeights
    target: int
    starts: Ints
    noise_key: Any | None

    def __call__(self, unit: int) -> RankedUnit:
        log_weights, reasons = self.weights.unit(unit, self.target)
        keys = log_weights
        if self.noise_key is not None:
            keys = log_weights + rng.gumbel(self.noise_key, int(self.starts[unit]), len(log_weights))
        keys = np.where(reasons == 0, keys, -np.inf)
        return RankedUnit(keys=keys, scores=log_weights, weights=None, reasons=reasons)


class Dsir(Selector):
    """Importance resampling on hashed n-grams."""

    name: ClassVar[str] = "dsir"
    revision: ClassVar[int] = 2
    summary: ClassVar[str] = "Resamples text rows so that their n-grams are distributed as the target's."
    citation: ClassVar[str] = (
        "Xie, Santurkar, Ma, Liang: Data Selection for Language Models via Importance Resampling. NeurIPS 2023, "
        "arXiv:2302.03169."
    )
    cost: ClassVar[str] = "Two passes over the text and one over the rows measured for the report; 17 bytes a row."
    Params: ClassVar[type[DsirParams]] = DsirParams

    params: DsirParams
    scores_are_log_weights: ClassVar[bool] = True

    def needs(self) -> Needs:
        """Text, and a target to serve."""
        return Needs(roles=("text",), target=True)

    # -- the paper's three steps

    def select(self, run: Run) -> Decision:
        """Fit two bags of n-grams, weigh every row by their ratio, resample."""
        model = self.fit(run)
        weights = self.weigh(run, model)
        return self.resample(run, model, weights)

    def fit(self, run: Run) -> NgramModel:
        """Count hashed n-grams of the candidates (q) and of each target (p), and take their log ratio (section 3.1)."""
        assert run.spec.target is not None
        if run.spec.target.model is not None:
            run.begin("fit")
            return read_model(run.spec.target.model)
        run.begin("fit", run.candidates, *run.targets)
        raw = self._count_candidates(run)
        counted = [self._count_target(run, target, "fit") for target in run.targets]
        for index, target in enumerate(counted):
            if target.ngrams == 0:
                left = " left by the holdout (lower selector.params.holdout)" if self.params.holdout > 0 else ""
                raise Invalid(
                    f"Target {index} has no n-grams: {target.rows} rows{left}, none with a token.",
                    pointer=f"/target/datasets/{index}",
                )
        if raw.ngrams == 0:
            raise Invalid(f"The candidates have no n-grams: {raw.rows} rows, none with a token.", pointer="/dataset")
        return NgramModel(
            features=self.params.features(),
            raw=raw,
            targets=tuple(counted),
            names=tuple(run.target_names),
            log_ratios=self._log_ratios(raw, counted, run.target_proportions),
            proportions=None if run.target_proportions is None else tuple(run.target_proportions),
        )

    @property
    def _m(self) -> int:
        return self.params.buckets

    def _count_target(self, run: Run, target: Dataset, part: Literal["fit", "held"]) -> Counted:
        """Count a target's n-grams: of all its rows, or of one side of the holdout."""
        params: dict[str, Any] = {"features": self.params.features()}
        if self.params.holdout == 0:
            return Counted.total(run.map(count_ngrams, target, params=params), self._m)
        params |= {"part": part, "holdout": self.params.holdout, "seed": run.spec.seed}
        return Counted.total(run.map(count_part, target, params=params), self._m)

    def _count_candidates(self, run: Run) -> Counted:
        """Count the candidates' n-grams: all, or whole units in an order drawn from their content until enough."""
        params = {"features": self.params.features()}
        limit = self.params.fit_ngrams
        if limit == "all":
            return Counted.total(run.map(count_ngrams, run.candidates, params=params), self._m)
        order = sorted(range(len(run.candidates.units)), key=lambda unit: (run.candidates.units[unit].digest, unit))
        total = Counted.empty(self._m)
        for start in range(0, len(order), FIT_WAVE):
            for table in run.map(count_ngrams, run.candidates, params=params, units=order[start : start + FIT_WAVE]):
                total += Counted.total([table], self._m)
                if total.ngrams > limit:
                    return total
        return total

    def _log_ratios(self, raw: Counted, targets: Sequence[Counted], proportions: Sequence[float] | None) -> Floats:
        """log(p + 1e-8) - log(q + 1e-8), a column for each target served apart, else one for their union."""
        smoothing = self.params.target_smoothing
        if self.params.separate_targets:
            wanted = [target.distribution(smoothing) for target in targets]
        elif proportions is None:
            wanted = [sum(targets, Counted.empty(self._m)).distribution(smoothing)]
        else:  # a mixture: each target's distribution by its share, whatever its length
            mixed = sum(
                share * target.distribution(smoothing) for share, target in zip(proportions, targets, strict=True)
            )
            wanted = [np.asarray(mixed)]
        q = logarithms(raw.distribution() + PROBABILITY_FLOOR)
        return np.ascontiguousarray(np.stack([logarithms(p + PROBABILITY_FLOOR) - q for p in wanted], axis=1))

    def weigh(self, run: Run, model: NgramModel) -> LogWeights:
        """Sum the log ratios over each candidate's n-grams: its log importance weight (section 3.2, equation 1)."""
        run.begin("weights", run.candidates, *([run.candidates] if self.params.quality_filter else []))
        columns = {f"log_ratio_{index}": model.log_ratios[:, index] for index in range(model.log_ratios.shape[1])}
        params: dict[str, Any] = {"features": self.params.features()}
        if self.params.chunk_words is not None:
            params["chunk_words"] = self.params.chunk_words
        shared = {"table": run.share("log-ratios", pa.table(columns))}
        sums = run.map(sum_table, run.candidates, params=params, shared=shared)
        quality = None
        if self.params.quality_filter:
            from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # here: a slow import that few jobs need

            quality = run.map(
                measure_quality,
                run.candidates,
                params={"features": self.params.features(), "stop_words": sorted(ENGLISH_STOP_WORDS)},
            )
        return LogWeights(sums, quality, self.params, model)

    def resample(self, run: Run, model: NgramModel, weights: LogWeights) -> Decision:
        """Take the rows with the largest log weight plus Gumbel noise: resampling without replacement (section 3.2)."""
        run.begin("resample")
        starts = run.layout().starts
        rounds = [
            Resampling(weights, t, starts, run.stream(f"dsir.gumbel.{t}") if self.params.sampling == "gumbel" else None)
            for t in range(model.log_ratios.shape[1])
        ]
        if len(rounds) == 1:
            choice = run.choose(rounds[0], REASONS)
            columns = {}
        else:
            choice = run.choose_by_target(rounds, REASONS, lambda rows: self._parts(model, rows))
            columns = {"target": pa.array(choice.turns, pa.int32(), mask=choice.preselected)}
        return Decision(
            choice=choice,
            rankings=rounds,
            reason_names=REASONS,
            reason_details=self._reason_details(),
            columns=columns,
            model=model.to_table(),
            warnings=list(self._notices(model)),
        )

    def _parts(self, model: NgramModel, rows: int) -> list[int]:
        """Return each target's part of `rows`: its share, rounded down, the last one taking the rest (reference)."""
        given = model.proportions
        shares = given if given is not None else [float(target.ngrams) for target in model.targets]
        parts = [int(rows * share / sum(shares)) for share in shares[:-1]]
        return [*parts, rows - sum(parts)]

    def _reason_details(self) -> dict[str, str]:
        return {
            "too-few-tokens": f"The row has fewer than min_tokens = {self.params.min_tokens} tokens.",
            "quality": "The row's length, repetition, informative words or digits lie outside the paper's bounds.",
        }

    def _notices(self, model: NgramModel) -> Iterator[Notice]:
        target = model.joined()
        if target.ngrams < TINY_TARGET_NGRAMS:
            yield Notice(
                code="tiny-target",
                detail=f"The target has {target.ngrams:,} n-grams in {target.rows:,} rows; most of {self._m:,} buckets "
                "are left to chance. Give more target text, fewer buckets or target_smoothing.",
            )
        if empty := int(model.raw.lengths[0]):
            yield Notice(
                code="empty-rows",
                detail=f"{empty:,} of {model.raw.rows:,} rows have no token (empty, null or blank): they weigh 0, and "
                f"{'are not eligible' if self.params.min_tokens > 0 else 'min_tokens = 0 lets them in'}.",
            )
        pool, wanted = model.raw.median_tokens, target.median_tokens
        ratio = max(pool, wanted) / max(1.0, min(pool, wanted))
        if self.params.normalize == "none" and self.params.chunk_words is None and ratio > LENGTH_RATIO_WARNED:
            yield Notice(
                code="length-bias",
                detail=f"Candidates have a median of {pool:.0f} tokens, the target {wanted:.0f}: the sum over n-grams "
                "prefers long rows whatever they say. Set normalize to 'length', or chunk_words to 128.",
            )

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """KL reduction against raw and random, near-duplicates, overlap with the target, effective sample size."""
        held = None
        if self.params.holdout > 0 and run.targets:
            held = sum((self._count_target(run, target, "held") for target in run.targets), Counted.empty(self._m))
        assert decision.model is not None
        return ngram_evidence.measure(run, NgramModel.from_table(decision.model), held, decision.choice, random)

    # -- plan

    def data_version(self) -> str:
        """Return the version of the tokenizer's character tables."""
        return tables_version(self.params.tokenizer)

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Two passes over the candidates' text, one over the target's, and the evidence."""
        self._check(job)
        pool, units = job.candidates.bytes, len(job.candidates.units)
        fitted = [] if job.spec.target is not None and job.spec.target.model else [job.candidates, *job.targets]
        fit_bytes = sum(dataset.bytes for dataset in fitted)
        passes = 2 if self.params.quality_filter else 1
        keys = [
            Call(count_ngrams, dataset, unit, {"features": self.params.features()}, {}).key
            for dataset in fitted
            for unit in range(len(dataset.units))
            if self.params.holdout == 0 or dataset is job.candidates
        ]
        return [
            PhaseCost("fit", sum(len(dataset.units) for dataset in fitted), fit_bytes, fit_bytes / self._speed, keys),
            PhaseCost("weights", passes * units, passes * pool, passes * pool / self._speed),
            PhaseCost("resample", 0, 0, 2e-7 * (job.candidates.rows or 0)),
            PhaseCost("report", units, pool, pool / (2 * self._speed)),
        ]

    @property
    def _speed(self) -> float:
        return FAST_BYTES_PER_SECOND if self.params.hash == "fast" else SHA256_BYTES_PER_SECOND

    def plan_warnings(self, job: Job) -> Iterator[Notice]:
        """Return a warning where the target is so small that its n-grams will not fill the buckets."""
        size = sum(target.bytes for target in job.targets)
        if job.targets and size < TINY_TARGET_BYTES:
            yield Notice(
                code="tiny-target",
                detail=f"The target holds about {size / 1e3:.0f} kB of text, few of {self._m:,} buckets will fill: "
                "give more target text, fewer buckets or target_smoothing.",
            )

    def memory(self, job: Job, threads: int) -> int:
        """Bucket tables, a batch of text a thread and the decision's keys; the per-row signals stay on disk."""
        tables = 8 * self.params.buckets * (len(job.targets) + 2) * (threads + 1)
        return tables + ngram_evidence.MEMORY + 20 * (job.candidates.rows or 0)

    def _check(self, job: Job) -> None:
        check_tokenizer(self.params, job)
        if job.spec.target is not None and job.spec.target.model is not None:
            self._check_model(read_model(job.spec.target.model))

    def _check_model(self, model: NgramModel) -> None:
        wrong = [
            f"{name}: the model has {model.features.get(name)!r}, this job {value!r}"
            for name, value in self.params.features().items()
            if model.features.get(name) != value
        ]
        if wrong:
            raise Invalid(f"The model was fitted on other features ({'; '.join(wrong)}).", pointer="/target/model")
        if self.params.separate_targets != (model.log_ratios.shape[1] > 1) and len(model.targets) > 1:
            raise Invalid(
                "separate_targets must be as it was when the model was fitted.",
                pointer="/selector/params/separate_targets",
            )
