"""Why a row was taken, or not, from the files of a result alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.selectors.datasets import Dataset, LocalStorage
from tamis.selectors.decision.by_key import choose, choose_by_target
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.ranking import Layout, Ranked, RankedUnit
from tamis.selectors.decision.request import Request
from tamis.selectors.errors import Infeasible, Invalid, NotFound, StorageError
from tamis.selectors.results.explain import explain
from tamis.selectors.results.files import DECISION, SCORES
from tamis.selectors.results.result import Documents, write_result
from tamis.selectors.schema.request import Budget, Columns, Manifest, Quota, Strata
from tamis.selectors.schema.response import Provenance, ShardInfo

REASONS = ("eligible", "too-few-tokens")
DETAILS = {"too-few-tokens": "The row has fewer than min_tokens = 5 tokens."}


class Keys:
    """Keys of one or more units; a NaN here is a row that the selector drops."""

    def __init__(self, keys: Sequence[float], starts: Sequence[int]) -> None:
        self.keys = np.array(keys, np.float64)
        self.starts = np.array(starts, np.int64)

    def __call__(self, unit: int) -> RankedUnit:
        keys = self.keys[self.starts[unit] : self.starts[unit + 1]]
        dropped = np.isnan(keys)
        return RankedUnit(np.where(dropped, -np.inf, keys), keys * 10, reasons=dropped.astype(np.uint8))


class Job:
    """Two real shards and a decision over their rows."""

    def __init__(self, folder: Path, keys: Sequence[float], strata: Sequence[str] | None = None) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        half = len(keys) // 2
        for name, start, stop in (("a", 0, half), ("b", half, len(keys))):
            column = pa.array(range(100 + start, 100 + stop), pa.int64())
            pq.write_table(pa.table({"doc": column}), folder / f"{name}.parquet", row_group_size=2)
        manifest = Manifest(shards=[f"{folder}/*.parquet"], columns=Columns(id="doc"))
        self.dataset = Dataset.open(manifest, LocalStorage(), needs=())
        starts = np.asarray(self.dataset.row_starts)
        self.ranked = Keys(keys, starts.tolist())
        names = sorted(set(strata or []))
        codes = None
        if strata is not None:
            codes = np.split(np.array([names.index(name) for name in strata], np.int32), starts[1:-1])
        self.layout = Layout(starts, names, codes)

    def write(self, choice: Choice, rankings: Sequence[Ranked] | None = None) -> Path:
        out = self.folder / "out"
        out.mkdir()
        rows = np.diff(np.asarray(self.dataset.shard_starts)).tolist()
        write_result(
            out,
            Decision(choice, rankings or [self.ranked], REASONS, DETAILS),
            self.layout,
            self.dataset,
            Documents(
                {},
                {},
                Provenance(
                    tamis="0",
                    selector="s",
                    revision="1",
                    params={},
                    seed=0,
                    fingerprint="f",
                    dataset_digest="d",
                    target_digests=[],
                ),
                [ShardInfo(uri="s", rows=count, bytes=1, digest="x") for count in rows],
            ),
            publish_scores=False,
        )
        return out

    def decide(self, budget: Budget, strata: Strata | None = None, **rows: list[int]) -> Path:
        earlier: dict[str, Any] = {name: np.array(value, np.int64) for name, value in rows.items()}
        return self.write(choose(Request(self.layout, budget, strata, **earlier), self.ranked, REASONS))


NAN = float("nan")


def test_every_reason_is_told_with_its_numbers(tmp_path: Path) -> None:
    keys = [5.0, 4.0, NAN, 9.0, 8.0, 7.0, 1.0, 6.0, 0.5, 3.0]
    strata = ["web", "web", "web", "wiki", "wiki", "wiki", "books", "wiki", "web", "web"]
    out = Job(tmp_path, keys, strata).decide(
        Budget(rows=6),
        Strata(quotas={"wiki": Quota(max=2), "books": Quota(min=1)}),
        preselected=[8],
        excluded=[7],
    )
    taken = explain(out, row=0)
    assert taken.model_dump() == {
        "row": 0,
        "shard": 0,
        "shard_row": 0,
        "id": 100,
        "selected": True,
        "reason": "selected",
        "detail": "Row 0 was taken with key 5, with rank 3 of 6: the last row in order has 4.",
        "score": 50.0,
        "rank": 3,
        "stratum": "web",
        "threshold": 4.0,
        "key": 5.0,
    }
    minimum = explain(out, row=6)
    assert (minimum.reason, minimum.shard, minimum.shard_row, minimum.rank) == ("selected", 1, 1, 5)
    assert minimum.detail.endswith("for the minimum of 1 rows of stratum 'books'.")
    full = explain(out, row=5)
    assert (full.selected, full.reason, full.threshold, full.rank, full.id) == (False, "quota-full", 8.0, None, None)
    assert "key 7 is above the common threshold 4" in full.detail
    assert "no more of stratum 'wiki' fits its maximum of 2 rows; its last row taken (row 4) has 8" in full.detail
    below = explain(out, row=9)
    assert (below.reason, below.threshold, below.key) == ("below-threshold", 4.0, 3.0)
    assert (
        "key 3 does not reach the threshold 4, the key of the last row taken of stratum 'web' (row 1)" in below.detail
    )
    dropped = explain(out, row=2)
    assert (dropped.reason, dropped.key, dropped.score) == ("too-few-tokens", None, None)
    assert dropped.detail == DETAILS["too-few-tokens"]
    away = explain(out, row=7)
    assert (away.reason, away.selected) == ("excluded", False)
    assert "'exclude'" in away.detail
    kept = explain(out, row=8)
    assert (kept.reason, kept.selected, kept.rank, kept.id) == ("preselected", True, 0, 108)
    assert "'preselected', with rank 0 of 6" in kept.detail


def test_without_strata_and_a_tie(tmp_path: Path) -> None:
    out = Job(tmp_path, [1.0, 2.0, 1.0, 1.0]).decide(Budget(rows=2))
    below = explain(out, row=2)
    assert (below.stratum, below.threshold) == (None, 1.0)
    assert "the last row taken (row 0); of equal keys the lower row is taken" in below.detail
    assert explain(out, row=1).selected


def test_minimums_that_take_the_whole_budget(tmp_path: Path) -> None:
    job = Job(tmp_path, [9.0, 8.0, 1.0, 2.0], ["a", "a", "b", "b"])
    out = job.decide(Budget(rows=2), Strata(quotas={"b": Quota(min=2)}))
    assert explain(out, row=0).detail == "Row 0 was not taken: the minimums of other strata took the whole budget."
    assert explain(out, row=0).threshold is None
    assert "for the minimum of 2 rows of stratum 'b'" in explain(out, row=2).detail


def test_rows_taken_in_turns(tmp_path: Path) -> None:
    job = Job(tmp_path, [1.0, 9.0, 3.0, 2.0])
    other = Keys([7.0, 0.0, 8.0, 1.0], job.ranked.starts.tolist())
    rankings = [job.ranked, other]
    choice = choose_by_target(Request(job.layout, Budget(rows=2)), rankings, lambda left: [1, left - 1], REASONS)
    out = job.write(choice, rankings)
    assert "by one of 2 rankings in turns" in explain(out, row=1).detail
    assert explain(out, row=1).key == 9.0
    assert (explain(out, row=0).key, explain(out, row=0).threshold) == (7.0, 8.0)


@pytest.mark.parametrize("row", [-1, 4, 10**12])
def test_a_row_out_of_range_is_not_found(tmp_path: Path, row: int) -> None:
    out = Job(tmp_path, [1.0, 2.0, 1.0, 1.0]).decide(Budget(rows=2))
    with pytest.raises(NotFound, match="has 4 rows"):
        explain(out, row=row)


def test_a_selected_row_is_found_by_id_as_it_is_or_as_text(tmp_path: Path) -> None:
    out = Job(tmp_path, [1.0, 2.0, 1.0, 1.0]).decide(Budget(rows=2))
    assert explain(out, id=101) == explain(out, id="101") == explain(out, row=1)


@pytest.mark.parametrize("wanted", [103, "103", "abc", 7.5, 2**70, True])
def test_an_id_that_is_not_selected_is_not_found(tmp_path: Path, wanted: object) -> None:
    out = Job(tmp_path, [1.0, 2.0, 1.0, 1.0]).decide(Budget(rows=2))
    with pytest.raises(NotFound, match="by its row number"):
        explain(out, id=wanted)


def test_what_can_not_be_answered(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no finished result"):
        explain(tmp_path / "none", row=0)
    out = Job(tmp_path, [1.0, 2.0]).decide(Budget(rows=1))
    for both in ({}, {"row": 1, "id": 1}):
        with pytest.raises(Invalid, match="either row or id"):
            explain(out, **both)
    (out / DECISION).write_text("{")
    with pytest.raises(StorageError, match="can't be read"):
        explain(out, row=0)
    (out / SCORES).write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="can't be read"):
        explain(out, row=0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_row_has_an_explanation_that_agrees_with_the_choice(tmp_path_factory: Any, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    keys = data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, NAN]), min_size=count, max_size=count))
    strata = data.draw(st.lists(st.sampled_from(["a", "b"]), min_size=count, max_size=count))
    job = Job(tmp_path_factory.mktemp("job"), keys, strata)
    budget = data.draw(st.integers(1, count))
    quotas = Strata(default=Quota(min=data.draw(st.integers(0, 2)), max=data.draw(st.integers(2, count))))
    try:
        choice = choose(Request(job.layout, Budget(rows=budget), quotas), job.ranked, REASONS)
    except Infeasible:
        return
    out = job.write(choice)
    for row in range(count):
        told = explain(out, row=row)
        assert told.selected == (row in choice.rows)
        assert told.stratum == strata[row]
        assert (told.reason == "too-few-tokens") == np.isnan(keys[row])
        if told.selected:
            assert choice.ranks is not None
            assert told.rank == choice.ranks[np.searchsorted(choice.rows, row)]
        if told.reason == "quota-full":
            assert choice.outcomes[job.layout.names.index(strata[row])].rows == quotas.default.max  # type: ignore[union-attr]
        if told.reason == "below-threshold" and told.threshold is not None:
            assert told.key is not None
            assert told.key <= told.threshold
