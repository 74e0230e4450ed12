"""Tokens and buckets of the DSIR authors' own package, where its results are at hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.native.naive import text as naive

from tamis.native.text import columns

CONFORMANCE = Path(__file__).parents[4] / "shared" / "conformance" / "dsir"

pytestmark = pytest.mark.skipif(not CONFORMANCE.is_dir(), reason=f"no conformance data in {CONFORMANCE}")


def test_tokens() -> None:
    cases = json.loads((CONFORMANCE / "tokens.json").read_text())
    found = columns.tokens(naive.column([case["text"] for case in cases]), columns.ngram_config())
    assert found == [case["tokens"] for case in cases]


@pytest.mark.parametrize("case", ["case_a", "case_b", "case_c"])
def test_buckets(case: str) -> None:
    import pyarrow.parquet as pq

    settings = json.loads((CONFORMANCE / case / "case.json").read_text())
    expected = pq.read_table(CONFORMANCE / case / "expected_buckets.parquet")
    config = columns.ngram_config(settings["ngrams"], settings["num_buckets"], "sha256")
    for name in ["raw", *settings["targets"]]:
        file = "raw" if name == "raw" else f"target_{name}"
        documents = pq.read_table(CONFORMANCE / case / f"{file}.parquet")["text"].to_pylist()
        counts = np.zeros(settings["num_buckets"], np.int64)
        n_tokens = np.zeros(len(documents), np.int64)
        columns.count_buckets(naive.column(documents), config, counts, n_tokens)
        wanted = np.zeros_like(counts)
        wanted[expected["bucket"].to_numpy()] = expected[f"{name}_count" if name == "raw" else f"target_count_{name}"]
        assert (counts == wanted).all()
        if name == "raw":
            rows = pq.read_table(CONFORMANCE / case / "expected_rows.parquet")
            assert n_tokens.tolist() == rows["n_tokens"].to_pylist()
