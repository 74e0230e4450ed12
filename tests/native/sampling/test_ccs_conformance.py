"""Strata, budgets and cut-offs against those of the reference's own functions, to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tamis.native.math import rng
from tamis.native.sampling import cutoffs, draws, strata

SETS = ("aum_50k", "loss_heavy_20k", "forgetting_30k", "outlier_2k")


def described(conformance: Path, name: str) -> dict[str, Any]:
    cases = json.loads((conformance / "ccs" / "cases.json").read_text())
    found: dict[str, Any] = next(case for case in cases["score_sets"] if case["set"] == name)
    return found


@pytest.mark.parametrize("name", SETS)
def test_cut_offs_strata_and_budgets_are_the_references(conformance: Path, name: str) -> None:
    case, folder = described(conformance, name), conformance / "ccs" / "scores"
    table = pq.read_table(folder / f"{name}.parquet")
    scores, ranked = (table[column].combine_chunks().to_numpy() for column in ("score", "cutoff"))
    assert np.array_equal(scores, ranked) == case["cutoff_equals_score"]
    codes = pq.read_table(folder / f"{name}.strata_codes.parquet")
    every, dropped = pq.read_table(folder / "strata.parquet"), pq.read_table(folder / "dropped.parquet")
    half = len(scores) // 2

    def chunks() -> Any:
        yield 0, scores[:half], None if case["cutoff_equals_score"] else ranked[:half]
        yield half, scores[half:], None if case["cutoff_equals_score"] else ranked[half:]

    sample = strata.sample(chunks, len(scores))
    for setting in case["settings"]:
        number, beta = setting["setting"], setting["beta"]
        mine = (pc.field("set") == name) & (pc.field("setting") == number)
        expected = every.filter(mine).sort_by("stratum")

        cut = cutoffs.cut_hardest(chunks, sample, beta, case["cutoff_hard_end"])
        own = strata.equal_width(*strata.extremes(chunks, cut), setting["strata"])
        found = strata.codes_of((0, scores, None if case["cutoff_equals_score"] else ranked), cut, own)
        assert cut.dropped == setting["dropped"]
        assert np.array_equal(np.flatnonzero(found == setting["strata"]), dropped.filter(mine)["row"].to_numpy())
        assert np.array_equal(own.edges[:-1], expected["lower"].to_numpy())
        assert np.array_equal(own.edges[1:], expected["upper"].to_numpy())
        assert own.step == np.float32(setting["step"])
        assert np.array_equal(
            np.where(found == setting["strata"], -1, found.astype(int)), codes[f"s{number}"].to_numpy()
        )

        budget = int(setting["keep_ratio"] * len(scores))
        assert budget == setting["budget"]
        got = draws.draw(chunks, sample, cut, own, budget, rng.stream_key(0, "test"))
        assert got.populations.tolist() == expected["population"].to_pylist()
        assert got.budgets.tolist() == expected["budget"].to_pylist()
        assert np.bincount(got.drawn.codes, minlength=setting["strata"]).tolist() == got.budgets.tolist()
        assert len(np.unique(got.drawn.rows)) == setting["selected_total"]
