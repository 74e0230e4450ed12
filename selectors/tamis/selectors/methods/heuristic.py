"""Heuristic classification: the baseline of the DSIR paper (section 4.3), on the same hashed n-grams.

A classifier tells target rows from candidate rows; rows are taken by its probability. The paper trains fastText; this
one is a logistic regression on the mean of a row's hashed n-grams, which is what fastText's linear layer sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, JsonValue
from scipy.sparse import csr_array, vstack
from scipy.special import expit
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tamis.native.math import rng
from tamis.native.text import columns as kernels
from tamis.selectors.datasets import Dataset
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.ranking import RankedUnit
from tamis.selectors.errors import Invalid
from tamis.selectors.features.ngram_evidence import MEMORY, measure
from tamis.selectors.features.ngram_model import Counted, NgramModel
from tamis.selectors.features.ngrams import (
    NgramParams,
    check_tokenizer,
    config_of,
    count_ngrams,
    list_features,
    sum_table,
    tables_version,
)
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Needs, PhaseCost, Selector
from tamis.selectors.signals.store import Mapped

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

REASONS = ("eligible", "too-few-tokens")

TRAINING_ROWS = 20_000
"""At most so many rows of either side train the classifier; the sides are balanced (reference)."""

HELD_OUT = 0.1
"""Share of the training rows on which the accuracy is measured (reference: 90/10)."""

BYTES_PER_SECOND = 300e6


class HeuristicParams(NgramParams):
    """Parameters of heuristic classification."""

    sampling: Literal["top_k", "pareto"] = Field(
        "pareto",
        description="'top_k': the most target-like rows. 'pareto': noisy, so that less likely rows have a chance.",
    )
    alpha: Annotated[float, Field(gt=0, le=100)] = Field(
        9.0, description="Shape of the Pareto (Lomax) draw. Reference: 9."
    )
    regularization: Annotated[float, Field(gt=0)] = Field(100.0, description="C: inverse strength of the L2 penalty.")
    min_tokens: Annotated[int, Field(ge=0)] = Field(1, description="Rows with fewer tokens are not eligible.")


@dataclass(frozen=True)
class Classified:
    """How rows rank by the classifier's probability p of being a target row.

    The reference keeps a row when a Lomax draw exceeds 1 - p, so with probability q = (2 - p)^-alpha, and repeats until
    enough rows were kept at least once. Rows ordered by the time of their first keep are rows drawn without replacement
    with rate -log(1 - q): a Gumbel-perturbed log rate.
    """

    sums: Mapped
    intercept: float
    params: HeuristicParams
    starts: Ints
    noise_key: Any

    def __call__(self, unit: int) -> RankedUnit:
        """Rank one unit."""
        tokens = self.sums.column(unit, "tokens")
        ngrams = np.maximum(kernels.count_ngrams(tokens, config_of(self.params.features())), 1)
        logits = self.sums.column(unit, "sum_0") / ngrams + self.intercept
        reasons = np.where(tokens < self.params.min_tokens, np.uint8(1), np.uint8(0))
        keys = logits
        if self.params.sampling == "pareto":
            keep = (2.0 - expit(logits)) ** -self.params.alpha
            with np.errstate(divide="ignore"):  # p = 1 is kept at once: an infinite rate
                rate = np.log(-np.log1p(-np.minimum(keep, np.nextafter(1.0, 0.0))))
            keys = rate + rng.gumbel(self.noise_key, int(self.starts[unit]), len(rate))
        return RankedUnit(np.where(reasons == 0, keys, -np.inf), logits, None, reasons)


def _training_rows(rows: Sequence[int]) -> list[int]:
    """Return how many rows of each target train the classifier: all, or of each the same share."""
    total = sum(rows)
    return list(rows) if total <= TRAINING_ROWS else [max(1, count * TRAINING_ROWS // total) for count in rows]


@dataclass(frozen=True)
class HeuristicFacts:
    """Measurements of the classifier for the report."""

    accuracy: float  # on rows held out of the training; NaN where there are none
    model: NgramModel


class Heuristic(Selector):
    """Classify target against candidates, take the most target-like rows."""

    name: ClassVar[str] = "heuristic"
    revision: ClassVar[int] = 2
    summary: ClassVar[str] = "Takes the rows that a linear classifier finds most like the target: DSIR's baseline."
    citation: ClassVar[str] = "Heuristic classification as in Brown et al. 2020 and Xie et al. 2023 (arXiv:2302.03169)."
    cost: ClassVar[str] = "Two passes over the text and a logistic regression on at most 40,000 rows; 17 bytes a row."
    Params: ClassVar[type[HeuristicParams]] = HeuristicParams

    params: HeuristicParams

    def needs(self) -> Needs:
        """Text, and a target to be like."""
        return Needs(roles=("text",), target=True)

    def select(self, run: Run) -> Decision:
        """Train on a balanced sample, classify every row, take the most target-like."""
        params = {"features": self.params.features()}
        run.begin("train", run.candidates, *run.targets, run.candidates, *run.targets)
        raw = Counted.total(run.map(count_ngrams, run.candidates, params=params), self.params.buckets)
        targets = [Counted.total(run.map(count_ngrams, t, params=params), self.params.buckets) for t in run.targets]
        classifier, accuracy = self._train(run)
        run.begin("classify", run.candidates)
        shared = {"table": run.share("coefficients", pa.table({"coefficient": classifier.coef_[0]}))}
        sums = run.map(sum_table, run.candidates, params=params, shared=shared)
        run.begin("select")
        ranked = Classified(
            sums, float(classifier.intercept_[0]), self.params, run.layout().starts, run.stream("heuristic.pareto")
        )
        model = NgramModel(params["features"], raw, tuple(targets), tuple(run.target_names), classifier.coef_.T.copy())
        return Decision(
            choice=run.choose(ranked, REASONS),
            rankings=[ranked],
            reason_names=REASONS,
            reason_details={"too-few-tokens": f"The row has fewer than min_tokens = {self.params.min_tokens} tokens."},
            facts=HeuristicFacts(accuracy, model),
        )

    def _train(self, run: Run) -> tuple[LogisticRegression, float]:
        from sklearn.linear_model import LogisticRegression  # here: a slow import, and the catalogue needs none

        sizes = _training_rows([target.rows or 0 for target in run.targets])
        rows = [
            self._sample(run, target, f"target.{index}", size)
            for index, (target, size) in enumerate(zip(run.targets, sizes, strict=True))
        ]
        wanted = vstack([self._features(run, t, r) for t, r in zip(run.targets, rows, strict=True)], format="csr")
        raw = self._features(run, run.candidates, self._sample(run, run.candidates, "raw", wanted.shape[0]))
        features = vstack([wanted, raw], format="csr")
        is_target = np.repeat([1, 0], [wanted.shape[0], raw.shape[0]])
        held = rng.uniform(run.stream("heuristic.held-out"), 0, len(is_target)) < HELD_OUT
        if len(set(is_target[~held].tolist())) < 2:
            raise Invalid(
                "The target or the dataset has too few rows to train a classifier.", pointer="/target/datasets"
            )
        weights = np.ones(len(is_target))
        if (shares := run.target_proportions) is not None:  # each target counts by its share, whatever its rows
            counts = [len(listed) for listed in rows]
            parts = [share * sum(counts) / max(1, count) for share, count in zip(shares, counts, strict=True)]
            weights[: wanted.shape[0]] = np.repeat(parts, counts)
        classifier = LogisticRegression(C=self.params.regularization, solver="lbfgs", max_iter=300)
        with threadpool_limits(1):  # sums in BLAS depend on the number of its threads
            classifier.fit(features[~held], is_target[~held], sample_weight=weights[~held])
            accuracy = float(classifier.score(features[held], is_target[held])) if held.any() else float("nan")
        return classifier, accuracy

    def _sample(self, run: Run, dataset: Dataset, stream: str, size: int) -> Ints:
        """Draw `size` rows of a dataset uniformly; all when it has no more."""
        assert dataset.rows is not None
        if dataset.rows <= size:
            return np.arange(dataset.rows, dtype=np.int64)
        bits = np.empty(dataset.rows, np.uint64)
        rng.random_bits(run.stream(f"heuristic.{stream}"), 0, bits)
        return np.sort(np.argpartition(bits, size)[:size])

    def _features(self, run: Run, dataset: Dataset, rows: Ints) -> csr_array:
        """Return the mean hashed n-grams of `rows`, (rows, buckets)."""
        shared = {"rows": run.share("rows", pa.table({"row": rows}), scratch=True)}
        tables = run.map(
            list_features, dataset, params={"features": self.params.features()}, shared=shared, scratch=True
        )
        parts = []
        for unit in range(len(tables)):
            lists = tables[unit].column("bucket").combine_chunks()
            indptr = lists.offsets.to_numpy()
            ids = lists.values.to_numpy()[indptr[0] : indptr[-1]].copy()  # scipy sorts it in place
            lengths = np.diff(indptr)
            share = np.repeat(1.0 / np.maximum(lengths, 1), lengths)
            part = csr_array((share, ids, indptr - indptr[0]), shape=(len(lengths), self.params.buckets))
            part.sum_duplicates()
            parts.append(part)
        return vstack(parts, format="csr") if parts else csr_array((0, self.params.buckets))

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Accuracy of the classifier, and the same distances as DSIR's."""
        facts: HeuristicFacts = decision.facts
        evidence = measure(run, facts.model, None, decision.choice, random)
        return {"classifier_accuracy_held_out": facts.accuracy if np.isfinite(facts.accuracy) else None, **evidence}

    # -- plan

    def data_version(self) -> str:
        """Return the version of the tokenizer's character tables."""
        return tables_version(self.params.tokenizer)

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """One pass to count and train, one to classify, and the evidence."""
        if job.spec.target is not None and job.spec.target.model is not None:
            raise Invalid("'heuristic' needs target datasets, not a model.", pointer="/target/model")
        check_tokenizer(self.params, job)
        pool, units = job.candidates.bytes, len(job.candidates.units)
        whole = pool + sum(target.bytes for target in job.targets)
        all_units = units + sum(len(target.units) for target in job.targets)
        return [
            PhaseCost("train", 2 * all_units, 2 * whole, 2 * whole / BYTES_PER_SECOND + 5),
            PhaseCost("classify", units, pool, pool / BYTES_PER_SECOND),
            PhaseCost("select", 0, 0, 2e-7 * (job.candidates.rows or 0)),
            PhaseCost("report", units, pool, pool / (2 * BYTES_PER_SECOND)),
        ]

    def memory(self, job: Job, threads: int) -> int:
        """Training features and the decision's keys."""
        return 2 * TRAINING_ROWS * 4_000 * 12 // 10 + MEMORY + 20 * (job.candidates.rows or 0)
