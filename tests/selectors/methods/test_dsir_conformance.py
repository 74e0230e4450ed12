"""DSIR against what the authors' own package computed (../shared/conformance/dsir)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tamis.selectors.decision.by_key import choose, choose_by_target
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.ranking import Ranked, RankedUnit
from tamis.selectors.decision.request import Request
from tamis.selectors.features.ngram_model import NgramModel
from tamis.selectors.jobs.open import Environment
from tamis.selectors.methods.dsir.params import DsirParams
from tamis.selectors.methods.dsir.selector import REASONS, Dsir
from tamis.selectors.methods.dsir.weights import LogWeights
from tamis.selectors.schema.request import Budget, JobSpec

from ..runs import opened_run

CASES = ["case_a", "case_b", "case_c"]
BUDGETS = [50, 500]


class Case:
    """One case, run through fit and weights."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        self.case = json.loads((folder / "case.json").read_text())
        self.rows = pq.read_table(folder / "expected_rows.parquet")
        self.buckets = pq.read_table(folder / "expected_buckets.parquet")
        params = {
            "ngrams": self.case["ngrams"],
            "buckets": self.case["num_buckets"],
            "hash": "sha256",
            "min_tokens": self.case["min_example_length"],
            "target_smoothing": self.case["target_laplace_smoothing"],
            "separate_targets": self.case["separate_targets"],
        }
        proportions = self.case["target_proportions"] or [None] * len(self.case["targets"])
        spec = JobSpec.model_validate(
            {
                "dataset": {"shards": [str(folder / "raw.parquet")]},
                "target": {
                    "datasets": [
                        {"shards": [str(folder / f"target_{name}.parquet")], "name": name, "proportion": share}
                        for name, share in zip(self.case["targets"], proportions, strict=True)
                    ]
                },
                "selector": {"name": "dsir", "params": params},
                "budget": {"rows": 50},
            }
        )
        self.params = DsirParams.model_validate(params)
        selector = Dsir(self.params)
        with opened_run(spec.model_dump(exclude_none=True), environment) as self.run:
            self.model: NgramModel = selector.fit(self.run)
            self.weights: LogWeights = selector.weigh(self.run, self.model)

    def expected_log_weights(self) -> list[np.ndarray[Any, Any]]:
        names = self.case["targets"] if self.case["separate_targets"] else ["all"]
        return [self.rows.column(f"log_importance_weight_{name}").to_numpy() for name in names]

    def log_weights(self, target: int) -> np.ndarray[Any, Any]:
        return np.concatenate([self.weights.unit(unit, target)[0] for unit in range(len(self.run.candidates.units))])

    def select(self, rows: int, noise: np.ndarray[Any, Any]) -> Choice:
        """Resample with the noise given, as the selector does with its own."""
        layout = self.run.layout()

        def ranked(target: int) -> Ranked:
            def rank(unit: int) -> RankedUnit:
                log_weights, reasons = self.weights.unit(unit, target)
                part = slice(int(layout.starts[unit]), int(layout.starts[unit + 1]))
                keys = np.where(reasons == 0, log_weights + noise[part], -np.inf)
                return RankedUnit(keys, log_weights, None, reasons)

            return rank

        if not self.case["separate_targets"]:
            return choose(Request(layout, Budget(rows=rows)), ranked(0), REASONS)
        parts = Dsir(self.params)._parts(self.model, rows)
        return choose_by_target(Request(layout, Budget(rows=rows)), [ranked(0), ranked(1)], lambda _: parts, REASONS)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, conformance: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    from tamis.selectors.datasets import LocalStorage

    cache = tmp_path_factory.mktemp(request.param)
    return Case(conformance / "dsir" / request.param, Environment(LocalStorage(), cache, 2))


def test_bucket_counts_are_equal(case: Case) -> None:
    expected = np.zeros(case.case["num_buckets"], np.int64)
    ids = case.buckets.column("bucket").to_numpy()
    expected[ids] = case.buckets.column("raw_count").to_numpy()
    assert np.array_equal(case.model.raw.counts, expected)
    for name, target in zip(case.case["targets"], case.model.targets, strict=True):
        expected[:] = 0
        expected[ids] = case.buckets.column(f"target_count_{name}").to_numpy()
        assert np.array_equal(target.counts, expected)


def test_tokens_are_equal(case: Case) -> None:
    tokens = np.concatenate([case.weights.sums.column(unit, "tokens") for unit in range(len(case.weights.sums))])
    assert np.array_equal(tokens, case.rows.column("n_tokens").to_numpy())
    kept = np.concatenate([case.weights.unit(unit, 0)[1] == 0 for unit in range(len(case.weights.sums))])
    assert np.array_equal(kept, case.rows.column("kept_by_length").to_numpy())


def test_log_weights_agree_to_1e_9(case: Case) -> None:
    for target, expected in enumerate(case.expected_log_weights()):
        np.testing.assert_allclose(case.log_weights(target), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", BUDGETS)
@pytest.mark.parametrize("sampling", ["top", "gumbel"])
def test_selected_sets_are_equal(case: Case, rows: int, sampling: str) -> None:
    noise = case.rows.column("gumbel").to_numpy() if sampling == "gumbel" else np.zeros(case.rows.num_rows)
    expected = np.flatnonzero(case.rows.column(f"selected_{sampling}_{rows}").to_numpy())
    assert np.array_equal(case.select(rows, noise).rows, expected)
