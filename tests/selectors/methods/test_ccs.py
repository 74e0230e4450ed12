"""CCS as a job: counts of the reference, its quirks left out, orders that are nested, and refusals that say why."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tamis.native.math import rng
from tamis.native.sampling.strata import MAX_STRATA
from tamis.selectors.errors import DataError, Infeasible, Invalid
from tamis.selectors.features.difficulty import Difficulty
from tamis.selectors.jobs.catalogue import info
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.jobs.plan import plan
from tamis.selectors.methods.ccs import sweep as beta_sweep
from tamis.selectors.methods.ccs.selector import Ccs, CcsParams
from tamis.selectors.methods.ccs.strata import Classes, Columns, hold
from tamis.selectors.results.result import REPORT, SCORES, SELECTION
from tamis.selectors.run.opened import Job
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.signals.row_columns import MAX_NAMES

from ..runs import opened_run

MakeEnvironment = Callable[..., Environment]
Floats = NDArray[np.float32]


class Bench:
    """Runs jobs over one table, cut into shards as asked."""

    def __init__(self, folder: Path, environment: MakeEnvironment) -> None:
        self.folder = folder
        self.environment = environment
        self.count = 0

    def job(self, columns: Mapping[str, Any], cuts: Sequence[int] = (), **fields: Any) -> dict[str, Any]:
        table = pa.table(dict(columns))
        self.count += 1
        shards: list[str] = []
        for first, last in zip([0, *cuts], [*cuts, len(table)], strict=True):
            path = self.folder / f"{self.count}-{len(shards)}.parquet"
            pq.write_table(table.slice(first, last - first), path, row_group_size=100_000)
            shards.append(str(path))
        params = {"hard_end": "low", "beta": 0.0} | fields.pop("params", {})
        params = {name: value for name, value in params.items() if value is not None}
        given = fields.pop("roles", {})
        return {
            "dataset": {"shards": shards, "columns": given},
            "selector": {"name": fields.pop("name", "ccs"), "params": params},
            **fields,
        }

    def run(self, job: Mapping[str, Any], threads: int = 2, cache: str = "cache") -> Path:
        self.count += 1
        out = self.folder / f"out-{self.count}"
        execute(JobSpec.model_validate(job), out, self.environment(threads=threads, cache=cache))
        return out

    def rows(self, columns: Mapping[str, Any], **fields: Any) -> list[int]:
        """Return the rows selected, by rank."""
        return in_order(self.run(self.job(columns, **fields)))


@pytest.fixture
def bench(tmp_path: Path, environment: MakeEnvironment) -> Bench:
    folder = tmp_path / "bench"
    folder.mkdir()
    return Bench(folder, environment)


def in_order(out: Path) -> list[int]:
    rows: list[int] = pq.read_table(out / SELECTION).sort_by("rank")["row"].to_pylist()
    return rows


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / REPORT).read_text())
    return found


def codes_of(out: Path) -> list[str]:
    return [warning["code"] for warning in report(out)["warnings"]]


def aum(n: int, seed: int = 0) -> Floats:
    generator = np.random.default_rng(seed)
    return (200 - np.abs(generator.standard_normal(n) * 40)).astype(np.float32)


# -- the reference


@pytest.mark.parametrize("name", ["aum_50k", "loss_heavy_20k", "forgetting_30k", "outlier_2k"])
def test_counts_are_the_references(conformance: Path, bench: Bench, name: str) -> None:
    folder = conformance / "ccs"
    case = next(c for c in json.loads((folder / "cases.json").read_text())["score_sets"] if c["set"] == name)
    table = pq.read_table(folder / "scores" / f"{name}.parquet")
    every = pq.read_table(folder / "scores" / "strata.parquet")
    # The score's own end decides only what is cut off where no other column is.
    params = {"hard_end": case["cutoff_hard_end"]}
    if not case["cutoff_equals_score"]:
        params = {"hard_end": "high", "cutoff_hard_end": case["cutoff_hard_end"]}
    for setting in case["settings"]:
        expected = every.filter((pc.field("set") == name) & (pc.field("setting") == setting["setting"]))
        job = bench.job(
            {"score": table["score"], "cutoff": table["cutoff"]},
            cuts=[777],
            params=params | {"beta": setting["beta"]},
            budget={"rows": setting["budget"]},
        )
        out = bench.run(job)
        (found,) = report(out)["evidence"]["classes"]
        assert found["populations"] == expected["population"].to_pylist()
        assert found["selected"] == expected["budget"].to_pylist()
        assert np.float32(found["lower_edges"]).tolist() == expected["lower"].to_pylist()
        assert np.float32(found["upper_edges"]).tolist() == expected["upper"].to_pylist()
        assert found["dropped"] == setting["dropped"]
        assert len(in_order(out)) == setting["selected_total"]


def test_weights_say_how_many_rows_a_row_stands_for(bench: Bench) -> None:
    out = bench.run(bench.job({"score": aum(5000)}, params={"beta": 0.1}, budget={"rows": 700}))
    table = pq.read_table(out / SELECTION)
    (found,) = report(out)["evidence"]["classes"]
    weights, strata = table["weight"].to_numpy(), table["score_stratum"].to_numpy()
    for stratum, (population, taken) in enumerate(zip(found["populations"], found["selected"], strict=True)):
        assert (weights[strata == stratum] == (population / taken if taken else 0)).all()
    assert weights.sum() == pytest.approx(4500)


# -- order, seed, threads, shards


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"params": {"class_balance": "proportional"}},
        {"strata": {"by": "label", "default": {"min": 20}}},
    ],
    ids=["streamed", "classes", "quotas"],
)
def test_bytes_depend_on_the_seed_alone(bench: Bench, extra: dict[str, Any]) -> None:
    columns = {"score": aum(3000), "label": np.arange(3000) % 7}
    params = {"beta": 0.2} | extra.get("params", {})
    fields = {"budget": {"rows": 300}} | extra | {"params": params}

    def chosen(threads: int, cuts: Sequence[int], seed: int = 0) -> list[int]:
        job = bench.job(columns, cuts, seed=seed, **json.loads(json.dumps(fields)))
        return in_order(bench.run(job, threads=threads, cache=f"cache-{threads}"))

    first = chosen(1, ())
    assert chosen(2, (10, 1777)) == first
    assert chosen(7, (1, 2, 2999)) == first
    other = chosen(2, (), seed=1)
    assert other != first
    assert len(set(other)) == len(set(first)) == 300


def test_one_job_gives_the_same_bytes(bench: Bench) -> None:
    job = bench.job({"score": aum(3000)}, (100, 1000), params={"beta": 0.2}, budget={"fraction": 0.1})
    outs = [bench.run(job, threads=threads, cache=f"cache-{threads}") for threads in (1, 2, 7)]
    assert len({(out / SELECTION).read_bytes() for out in outs}) == 1
    assert len({(out / REPORT).read_bytes() for out in outs}) == 1


@pytest.mark.parametrize("extra", [{}, {"strata": {"by": "label"}}], ids=["streamed", "held"])
def test_the_first_rows_are_the_smaller_coreset(bench: Bench, extra: dict[str, Any]) -> None:
    columns = {"score": aum(2000), "label": np.arange(2000) % 3}
    whole = bench.rows(columns, params={"beta": 0.3}, budget={"rows": 1400}, **extra)
    for budget in (1, 49, 50, 51, 333, 1000):
        assert bench.rows(columns, params={"beta": 0.3}, budget={"rows": budget}, **extra) == whole[:budget]


def test_streamed_or_held_is_the_same(bench: Bench) -> None:
    """Rows, ranks, weights and strata; what holds all rows is asked for by bounds that bind nothing."""
    scores = aum(3000)
    scores[::50] = np.nan
    columns = {"score": scores, "label": np.arange(3000) % 3}
    for budget in (40, 1000):
        jobs = [
            bench.job(columns, params={"beta": 0.2}, budget={"rows": budget}, strata=strata)
            for strata in (None, {"by": "label"})
        ]
        streamed, held = (pq.read_table(bench.run(job) / SELECTION) for job in jobs)
        for name in ("row", "rank", "weight", "score_stratum", "score"):
            assert streamed[name].equals(held[name]), name


# -- quirks of the reference that are left out


def test_q1_all_negative_scores_lose_no_row(bench: Bench) -> None:
    scores = -np.random.default_rng(0).uniform(1, 5, 1000).astype(np.float32)
    out = bench.run(bench.job({"score": scores}, params={"hard_end": "high"}, budget={"rows": 1000}))
    assert sorted(in_order(out)) == list(range(1000))
    assert int(np.argmax(scores)) in in_order(out)


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_q2_constant_scores_are_drawn_from(bench: Bench, value: float) -> None:
    out = bench.run(bench.job({"score": np.full(40, value, np.float32)}, budget={"rows": 10}))
    assert len(in_order(out)) == 10
    assert "equal-scores" in codes_of(out)
    assert "crowded-stratum" not in codes_of(out)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
def test_q2_rows_without_a_score_are_counted_and_said(bench: Bench, value: float | None) -> None:
    scores: list[float | None] = aum(200).tolist()
    for row in (3, 77, 199):
        scores[row] = value
    job = bench.job(
        {"score": pa.array(scores, pa.float32())},
        params={"beta": 0.1},
        budget={"rows": 100},
        output={"scores": "all"},
    )
    out = bench.run(job)
    assert not {3, 77, 199} & set(in_order(out))
    assert "rows-without-score" in codes_of(out)
    (found,) = report(out)["evidence"]["classes"]
    assert (found["rows_with_a_score"], found["dropped"]) == (197, 19)
    reasons = pq.read_table(out / SCORES)["reason"].to_pylist()
    assert [row for row, reason in enumerate(reasons) if reason == "no-score"] == [3, 77, 199]
    assert reasons.count("too-hard") == 19


def test_q2_nothing_but_nan_is_refused(bench: Bench) -> None:
    for extra in ({}, {"params": {"class_balance": "proportional"}}):
        columns = {"score": np.full(10, np.nan, np.float32), "label": np.zeros(10, np.int64)}
        with pytest.raises(Invalid, match="No row has a score"):
            bench.rows(columns, budget={"rows": 2}, **json.loads(json.dumps(extra)))


def test_q3_keep_and_beta_over_1_is_refused_beforehand(bench: Bench) -> None:
    job = bench.job({"score": aum(1000)}, params={"beta": 0.3}, budget={"fraction": 0.9})
    with pytest.raises(Infeasible) as refused:
        plan(JobSpec.model_validate(job), bench.environment())
    assert refused.value.pointer == "/budget/fraction"
    for words in ("900 of 1000", "beta = 0.3", "300", "at most 700 rows", "beta of at most 0.1"):
        assert words in refused.value.detail
    fits = bench.job({"score": aum(1000)}, params={"beta": 0.1}, budget={"fraction": 0.9})
    assert len(in_order(bench.run(fits))) == 900


def test_q3_rows_without_a_score_are_no_room(bench: Bench) -> None:
    scores = aum(100)
    scores[:50] = np.nan
    for strata in (None, {"by": "label"}):
        columns = {"score": scores, "label": np.zeros(100, np.int64)}
        with pytest.raises(Infeasible, match=r"of which 50 have a score.*cuts off 10, which leaves 40"):
            bench.rows(columns, params={"beta": 0.2}, budget={"rows": 41}, strata=strata)
        assert len(bench.rows(columns, params={"beta": 0.2}, budget={"rows": 40}, strata=strata)) == 40


def test_what_is_cut_off_on_purpose_is_no_loss_to_warn_of(bench: Bench) -> None:
    scores = aum(100)
    job = bench.job({"score": scores}, params={"beta": 0.5}, budget={"rows": 10})
    assert "many-rows-not-eligible" not in codes_of(bench.run(job))
    scores[:30] = np.nan
    job = bench.job({"score": scores}, params={"beta": 0.5}, budget={"rows": 10})
    assert "many-rows-not-eligible" in codes_of(bench.run(job))


def test_q4_an_outlier_that_crowds_the_others_is_said(bench: Bench) -> None:
    scores = aum(500)
    scores[7] = 1e9
    assert "crowded-stratum" in codes_of(bench.run(bench.job({"score": scores}, budget={"rows": 50})))
    assert "crowded-stratum" not in codes_of(bench.run(bench.job({"score": aum(500)}, budget={"rows": 50})))


def test_q5_whole_numbers_occupy_few_strata_and_that_is_said(bench: Bench) -> None:
    scores = np.random.default_rng(0).integers(0, 10, 600)
    out = bench.run(bench.job({"score": scores}, params={"hard_end": "high"}, budget={"rows": 60}))
    assert "few-strata-occupied" in codes_of(out)
    taken = np.bincount(scores[in_order(out)], minlength=10)
    assert taken.tolist() == [6] * 10


def test_q6_other_columns_stay_aligned(bench: Bench) -> None:
    """The reference's cut-off shortens one column of the caller's and no other."""
    scores = aum(400)
    ids = np.array([f"row-{row}" for row in range(400)])
    job = bench.job(
        {"score": scores, "id": ids, "label": np.arange(400) % 5},
        cuts=[13],
        roles={"id": "id", "group": "label"},
        params={"beta": 0.3},
        budget={"rows": 80},
    )
    table = pq.read_table(bench.run(job) / SELECTION)
    rows = table["row"].to_numpy()
    assert table["id"].to_pylist() == ids[rows].tolist()
    assert table["score"].to_numpy().tolist() == scores[rows].astype(float).tolist()
    assert (scores[rows] > np.sort(scores)[119]).all()


def test_q9_never_learned_rows_are_hard(bench: Bench, tmp_path: Path) -> None:
    """A log in which three rows are never right: forgetting 0 in the reference, its easiest value."""
    generator = np.random.default_rng(0)
    n, epochs = 60, 6
    right = generator.random((epochs, n)) < 0.5
    right[:, :3] = False
    right[-1, 3:] = True
    probability = np.where(right, 0.9, 0.1).ravel()
    log = pa.table(
        {
            "epoch": np.repeat(np.arange(epochs), n),
            "row": np.tile(np.arange(n), epochs),
            "label": np.zeros(n * epochs, np.int64),
            "logits": pa.array(np.stack([probability, 1 - probability], 1).tolist(), pa.list_(pa.float32(), 2)),
        }
    )
    pq.write_table(log, tmp_path / "log.parquet")
    params: dict[str, Any] = {
        "hard_end": None,
        "source": "dynamics",
        "metric": "forgetting",
        "outputs": "probabilities",
    }
    params |= {"cutoff_metric": "forgetting", "beta": 3 / n}
    job = bench.job({"x": np.arange(n)}, params=params, budget={"rows": n - 3})
    job["dynamics"] = {"shards": [str(tmp_path / "log.parquet")]}
    assert not {0, 1, 2} & set(in_order(bench.run(job)))
    job["selector"]["params"]["never_learned"] = "as_counted"
    assert {0, 1, 2} <= set(in_order(bench.run(job)))


def test_computed_scores_know_their_hard_end(bench: Bench, tmp_path: Path) -> None:
    """Of a snapshot the rows of least margin go, and the loss, cut off by itself, drops its high end: the same rows."""
    generator = np.random.default_rng(0)
    right = generator.permutation(np.linspace(0.02, 0.98, 50))
    outputs = pa.array(np.stack([right, 1 - right], 1).tolist(), pa.list_(pa.float32(), 2))
    columns = {"logits": outputs, "label": np.zeros(50, np.int64)}
    hardest = set(np.argsort(right)[:10].tolist())
    common = {"hard_end": None, "source": "snapshot", "outputs": "probabilities", "beta": 0.2}
    settings: list[dict[str, Any]] = [
        {},
        {"metric": "loss"},
        {"metric": "loss", "cutoff_metric": "margin"},
        {"metric": "margin", "cutoff_metric": "loss"},
    ]
    for own in settings:
        rows = bench.rows(columns, params=common | own, budget={"rows": 40})
        assert set(rows) == set(range(50)) - hardest
    for wrong in ({"hard_end": "high"}, {"cutoff_hard_end": "low"}, {"cutoff_metric": "aum"}, {"metric": "aum"}):
        with pytest.raises(Invalid):
            bench.rows(columns, params=common | wrong, budget={"rows": 40})
    with pytest.raises(Invalid, match="cutoff_metric"):
        bench.rows({"score": right}, params={"cutoff_metric": "aum"}, budget={"rows": 4})


def test_polarity_is_never_guessed(bench: Bench) -> None:
    job = bench.job({"score": aum(100)}, params={"hard_end": None, "beta": 0.1}, budget={"rows": 10})
    with pytest.raises(Invalid, match="hard_end is needed"):
        plan(JobSpec.model_validate(job), bench.environment())
    scores = aum(100)
    for end, kept in (("low", np.sort(scores)[30:]), ("high", np.sort(scores)[:70])):
        rows = bench.rows({"score": scores}, params={"hard_end": end, "beta": 0.3}, budget={"rows": 70})
        assert np.sort(scores[rows]).tolist() == kept.tolist()


def test_beta_has_a_default_that_is_said(bench: Bench) -> None:
    for budget, beta in ((0.7, 0.0), (0.5, 0.0), (0.3, 0.1), (0.2, 0.1), (0.1, 0.3)):
        job = bench.job({"score": aum(1000)}, params={"beta": None}, budget={"fraction": budget})
        assert [notice.code for notice in plan(JobSpec.model_validate(job), bench.environment()).warnings] == [
            "beta-by-default"
        ]
        out = bench.run(job)
        assert report(out)["evidence"]["beta"] == beta
        assert "beta-by-default" in codes_of(out)
    sized = bench.job({"score": aum(10), "size": np.ones(10, int)}, params={"beta": None}, budget={"size": 5})
    with pytest.raises(Invalid, match="give beta") as refused:
        plan(JobSpec.model_validate(sized), bench.environment())
    assert refused.value.pointer == "/selector/params/beta"


def test_ties_at_the_cut_off_go_by_row(bench: Bench) -> None:
    scores = np.array([5, 1, 1, 1, 1, 7, 1, 9], np.float32)
    rows = bench.rows({"score": scores}, cuts=[3], params={"beta": 0.5}, budget={"rows": 4})
    assert sorted(rows) == [0, 5, 6, 7]


def test_scores_that_float32_can_not_span_are_refused(bench: Bench) -> None:
    with pytest.raises(DataError, match="more than float32 holds"):
        bench.rows({"score": np.array([-3e38, 3e38], np.float32)}, budget={"rows": 1})


# -- a second column


def test_a_separate_cut_off(bench: Bench) -> None:
    scores, cutoff = aum(300), aum(300, seed=1)
    cutoff[5] = np.nan
    job = bench.job(
        {"score": scores, "margin": cutoff},
        roles={"cutoff": "margin"},
        params={"beta": 0.2, "cutoff_hard_end": "high"},
        budget={"rows": 240},
        output={"scores": "all"},
    )
    out = bench.run(job)
    finite = np.flatnonzero(np.isfinite(cutoff))
    dropped = finite[np.argsort(-cutoff[finite])[: int(0.2 * 299)]].tolist()
    assert sorted(in_order(out)) == sorted(set(range(300)) - set(dropped) - {5})
    reasons = pq.read_table(out / SCORES)["reason"].to_pylist()
    assert reasons[5] == "no-cutoff"
    assert reasons.count("too-hard") == 59
    with pytest.raises(Invalid, match="cutoff"):
        bench.rows({"score": scores}, params={"beta": 0.2, "cutoff_hard_end": "high"}, budget={"rows": 10})


# -- classes, quotas, earlier selections


def test_classes_get_their_proportion(bench: Bench) -> None:
    """900 easy rows and 100 hard ones: without balance the cut-off takes the hard class away."""
    scores = np.concatenate([aum(900) + 500, aum(100)])
    columns = {"score": scores, "label": np.repeat(["big", "small"], [900, 100])}
    job = bench.job(columns, params={"beta": 0.1, "class_balance": "proportional"}, budget={"rows": 205})
    out = bench.run(job)
    rows = np.array(in_order(out))
    assert [int((rows < 900).sum()), int((rows >= 900).sum())] == [185, 20]  # 184.5 and 20.5: the tie to the earlier
    for prefix in (10, 41, 100):  # any prefix holds the same part of both
        assert abs((rows[:prefix] >= 900).sum() - prefix * 20 / 205) < 1
    for found, n in zip(report(out)["evidence"]["classes"], (900, 100), strict=True):
        assert found["dropped"] == n // 10
        assert sum(found["populations"]) == n - n // 10
    alone = bench.rows({"score": scores[:900]}, params={"beta": 0.1}, budget={"rows": 185})
    counts = np.bincount(np.digitize(scores[alone], np.float32(report(out)["evidence"]["classes"][0]["lower_edges"])))
    own = np.bincount(
        np.digitize(scores[rows[rows < 900]], np.float32(report(out)["evidence"]["classes"][0]["lower_edges"]))
    )
    assert own.tolist() == counts.tolist()
    without = np.array(bench.rows(columns, params={"beta": 0.1}, budget={"rows": 205}))
    assert (without >= 900).sum() == 0


def test_strata_of_many_classes_are_told_apart(bench: Bench) -> None:
    """70 classes of 1000 strata each: their numbers need more than 16 bits."""
    labels = np.repeat(np.arange(100, 170), 4)
    columns = {"score": np.tile(np.arange(4, dtype=np.float32), 70), "label": labels}
    params = {"class_balance": "proportional", "strata": 1000}
    table = pq.read_table(bench.run(bench.job(columns, params=params, budget={"rows": 210})) / SELECTION)
    rows, strata = table["row"].to_numpy(), table["score_stratum"].to_numpy()
    assert (strata // 1000 == labels[rows] - 100).all()
    assert (table["weight"].to_numpy() == 1).all()  # no stratum has two rows


def test_a_job_of_many_classes_can_be_stopped_between_them() -> None:
    asked: list[int] = []
    data = Difficulty([np.zeros(3, np.float32)], "low", 1)
    columns = Columns(data, data, np.array([0, 3]), np.empty(0, np.int64), lambda: asked.append(1))
    key = rng.stream_key(0, "ccs")
    hold(columns, 0.0, 3, key, classes=Classes(["a", "b", "c"], np.arange(3, dtype=np.int32)))
    before = len(asked)
    hold(columns, 0.0, 3, key)
    assert before - (len(asked) - before) == 2
    assert MAX_NAMES * MAX_STRATA < 2**31  # what the strata of all classes are numbered in


def test_quotas_take_each_class_in_its_own_order(bench: Bench) -> None:
    scores = aum(1000)
    columns = {"score": scores, "label": np.arange(1000) % 2}
    strata = {"by": "label", "quotas": {"0": {"min": 150}, "1": {"max": 50}}}
    rows = bench.rows(columns, params={"beta": 0.1}, budget={"rows": 200}, strata=strata)
    everything = bench.rows(columns, params={"beta": 0.1}, budget={"rows": 900})
    for label, count in ((0, 150), (1, 50)):
        own = [row for row in everything if row % 2 == label][:count]
        assert sorted(row for row in rows if row % 2 == label) == sorted(own)


def test_earlier_selections_are_kept_and_kept_away_from(bench: Bench) -> None:
    columns = {"score": aum(1000)}
    job = bench.job(columns, params={"beta": 0.1}, budget={"rows": 100})
    first = bench.run(job)
    kept = in_order(first)
    topped = in_order(bench.run(job | {"budget": {"rows": 150}, "preselected": str(first / SELECTION), "seed": 9}))
    assert topped[:100] == kept
    counts = np.bincount(np.digitize(columns["score"][topped], _edges(first)), minlength=51)[1:]
    again = bench.run(job | {"budget": {"rows": 150}})
    assert counts.tolist() == report(again)["evidence"]["classes"][0]["selected"]  # topped up to what 150 would give
    away = bench.run(job | {"exclude": [str(first / SELECTION)]})
    assert not set(in_order(away)) & set(kept)
    (found,) = report(away)["evidence"]["classes"]
    assert (found["rows_with_a_score"], found["dropped"]) == (900, 90)


def _edges(out: Path) -> Floats:
    return np.array(report(out)["evidence"]["classes"][0]["lower_edges"], np.float32)


def test_a_budget_of_sizes_takes_a_prefix(bench: Bench) -> None:
    sizes = np.arange(500) % 5 + 1
    columns = {"score": aum(500), "size": sizes}
    order = bench.rows(columns, params={"beta": 0.1}, budget={"rows": 450})
    rows = bench.rows(columns, params={"beta": 0.1}, budget={"size": 200})
    assert rows == order[: len(rows)]
    assert sizes[rows].sum() <= 200 < sizes[order[: len(rows) + 1]].sum()


# -- the sweep


def validation(bench: Bench, tmp_path: Path, beta: Any = "sweep", noise: float = 0.3) -> dict[str, Any]:
    """Two clouds; the hardest rows by score are those whose label is wrong."""
    generator = np.random.default_rng(0)

    def table(n: int, wrong: float) -> pa.Table:
        label = generator.integers(0, 2, n)
        points = generator.standard_normal((n, 4)) + 2.0 * label[:, None]
        flipped = generator.random(n) < wrong
        margin = np.where(flipped, -1.0, 1.0) + 0.3 * generator.standard_normal(n)
        return pa.table(
            {
                "score": margin.astype(np.float32),
                "label": np.where(flipped, 1 - label, label),
                "embedding": pa.array(points.tolist(), pa.list_(pa.float32(), 4)),
            }
        )

    pq.write_table(table(200, 0.0).drop_columns(["score"]), tmp_path / "validation.parquet")
    candidates = table(500, noise)
    job = bench.job(
        {name: candidates[name] for name in candidates.column_names},
        cuts=[100],
        params={"beta": beta},
        budget={"fraction": 0.1},
    )
    return job | {"target": {"datasets": [{"shards": [str(tmp_path / "validation.parquet")]}]}}


def test_a_sweep_finds_that_noise_is_to_be_cut_off(bench: Bench, tmp_path: Path) -> None:
    job = validation(bench, tmp_path)
    out = bench.run(job)
    evidence = report(out)["evidence"]
    curve = evidence["sweep"]["curve"]
    assert [point["beta"] for point in curve] == [step / 10 for step in range(10)]
    assert evidence["beta"] == evidence["sweep"]["chosen"]
    means = [point["accuracy"] for point in curve]
    assert means.index(max(means)) == round(10 * evidence["beta"])  # the smallest of the best
    assert evidence["beta"] >= 0.2
    assert max(means) > 0.9 > means[0]
    assert all(point["standard_error"] > 0 and len(point["by_draw"]) == 3 for point in curve)
    by_hand = {"dataset": job["dataset"], "budget": job["budget"]}
    by_hand["selector"] = {"name": "ccs", "params": {"hard_end": "low", "beta": evidence["beta"]}}
    assert in_order(bench.run(by_hand)) == in_order(out)
    phases = {phase.name: phase for phase in plan(JobSpec.model_validate(job), bench.environment()).phases}
    assert phases["sweep"].cpu_seconds > 0


def test_a_sweep_tries_what_the_budget_leaves_room_for(bench: Bench, tmp_path: Path) -> None:
    job = validation(bench, tmp_path) | {"budget": {"fraction": 0.75}}
    outs = [bench.run(job, threads=threads, cache=f"cache-{threads}") for threads in (1, 2)]
    assert (outs[0] / REPORT).read_bytes() == (outs[1] / REPORT).read_bytes()
    sweep = report(outs[0])["evidence"]["sweep"]
    assert [point["beta"] for point in sweep["curve"]] == [0.0, 0.1, 0.2]
    assert sweep["infeasible"] == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_a_sweep_needs_a_validation_split(bench: Bench, tmp_path: Path) -> None:
    job = validation(bench, tmp_path)
    without = {name: value for name, value in job.items() if name != "target"}
    with pytest.raises(Invalid, match="target"):
        plan(JobSpec.model_validate(without), bench.environment())
    with pytest.raises(Invalid, match="target"):
        plan(JobSpec.model_validate(validation(bench, tmp_path, beta=0.1)), bench.environment())


def split(table: pa.Table, path: Path) -> dict[str, Any]:
    """Write a part of a validation split, return its manifest."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()) or "\n\n")
    return {"shards": [str(path)], "columns": {"embedding": "embedding", "label": "label"}}


def test_what_is_no_validation_split_is_refused_with_its_place(bench: Bench, tmp_path: Path) -> None:
    job = validation(bench, tmp_path)
    right = pq.read_table(tmp_path / "validation.parquet")
    narrow = right.set_column(
        right.column_names.index("embedding"), "embedding", pa.array([[0.0, 1.0]] * 200, pa.list_(pa.float32(), 2))
    )
    good = split(right, tmp_path / "good.jsonl")
    for name in ("narrow.parquet", "narrow.jsonl"):
        job["target"] = {"datasets": [good, split(narrow, tmp_path / name)]}
        with pytest.raises(Invalid, match="have 2 values, those of the candidates 4") as refused:
            plan(JobSpec.model_validate(job), bench.environment())
        assert refused.value.pointer == "/target/datasets/1/columns/embedding"
    with pytest.raises(Invalid, match="not a fitted model") as refused:
        plan(JobSpec.model_validate(job | {"target": {"model": str(tmp_path / "m.arrow")}}), bench.environment())
    assert refused.value.pointer == "/target/model"
    job["target"] = {"datasets": [good, split(right.slice(0, 0), tmp_path / "blank.jsonl")]}
    with pytest.raises(Invalid, match="target has no rows") as refused:
        bench.run(job)
    assert refused.value.pointer == "/target/datasets/1/shards"


def test_a_sweep_holds_what_it_says(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation split far larger than the candidates is never copied as float64."""
    monkeypatch.setattr(beta_sweep, "GRID", (0.1,))
    job = validation(bench, tmp_path)
    generator = np.random.default_rng(1)
    whole = []
    for name, n in (("candidates", 500), ("large", 40_000)):
        vectors = generator.standard_normal((n, 64)).astype(np.float32)
        table = pa.table(
            {
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 64),
                "label": pa.array((vectors[:, 0] > 0).astype(np.int64)),
                "score": pa.array(vectors[:, 1]),
            }
        )
        pq.write_table(table, tmp_path / f"{name}.parquet")
        whole.append({"shards": [str(tmp_path / f"{name}.parquet")]})
    job |= {"dataset": whole[0], "target": {"datasets": whole[1:]}}
    ccs = Ccs(CcsParams.model_validate(job["selector"]["params"]))
    with opened_run(job, bench.environment(threads=1)) as run:
        columns = ccs.score(run)
        run.begin("sweep")

        def tried() -> beta_sweep.Sweep:
            return beta_sweep.sweep(run, lambda beta, draw: ccs._in_memory(run, columns, beta, f"ccs.{draw}"))

        assert tried().means[0] > 0.6  # compiled, imported and read once: none of it counts below
        tracemalloc.start()
        tried()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        planned = beta_sweep.memory(Job(run.spec, run.candidates, run.targets))
    assert 40_000 * 64 * 4 < peak < planned


# -- beside it


def test_rows_kept_from_before_may_have_no_score(bench: Bench) -> None:
    first = aum(100)
    kept = bench.rows({"score": first}, params={"beta": 0.1}, budget={"rows": 10})
    columns = {"score": first, "lacking": first.copy(), "nowhere": first.copy()}
    columns["lacking"][kept[0]] = np.nan
    columns["nowhere"][kept] = np.nan
    job = bench.job(columns, params={"beta": 0.1}, budget={"rows": 10})
    before = {"preselected": str(bench.run(job) / SELECTION)}
    for name, budget in (("lacking", 20), ("nowhere", 20), ("nowhere", 10)):
        dataset = job["dataset"] | {"columns": {"score": name}}
        out = bench.run(job | before | {"dataset": dataset, "budget": {"rows": budget}})
        scores = columns[name][in_order(out)]
        known = scores[np.isfinite(scores)]
        assert report(out)["scores"]["lowest_selected"] == (float(known.min()) if len(known) else None)
        assert sum(report(out)["scores"]["selected"]) == len(known)


def test_the_catalogue_describes_them() -> None:
    for name in ("ccs", "topk", "stratified"):
        found = info(name)
        assert re.fullmatch(r"[A-Z].*\.", found.summary)
        assert found.params_schema["properties"]


def test_the_plan_says_what_is_held(bench: Bench) -> None:
    columns = {"score": aum(20_000), "label": np.zeros(20_000, np.int64)}
    streamed, held = (
        plan(JobSpec.model_validate(bench.job(columns, budget={"rows": 10}, strata=strata)), bench.environment())
        for strata in (None, {"by": "label"})
    )
    assert held.peak_memory_bytes - streamed.peak_memory_bytes > 20_000 * 60
    assert [phase.name for phase in streamed.phases] == ["score", "select", "report"]


@pytest.mark.parametrize("order", ["highest", "lowest"])
def test_topk_takes_one_end(bench: Bench, order: str) -> None:
    scores = np.round(aum(500))
    scores[3] = np.nan
    job = bench.job({"score": scores}, cuts=[77], name="topk", params={"hard_end": None, "beta": None, "order": order})
    out = bench.run(job | {"budget": {"rows": 40}})
    sign = -1 if order == "highest" else 1
    rows = [row for row in range(500) if row != 3]
    assert in_order(out) == sorted(rows, key=lambda row: (sign * scores[row], row))[:40]
    means = report(out)["evidence"]["mean_score"]
    assert (means["selected"] > means["random"]) == (order == "highest")
    assert "rows-without-score" in codes_of(out)
    with pytest.raises(Invalid, match="order"):
        bench.rows({"score": scores}, name="topk", params={"hard_end": None, "beta": None}, budget={"rows": 1})


def test_topk_orders_by_the_columns_own_precision(bench: Bench) -> None:
    scores = 1 + 1e-9 * np.random.default_rng(0).permutation(300)
    scores[[5, 6, 7]] = 1e300, -1e300, np.inf
    params = {"hard_end": None, "beta": None, "order": "highest"}
    job = bench.job({"score": scores}, cuts=[100], name="topk", params=params, budget={"rows": 50})
    out = bench.run(job | {"output": {"scores": "all"}})
    usable = np.flatnonzero(np.isfinite(scores))
    assert in_order(out) == usable[np.argsort(-scores[usable])][:50].tolist()
    table = pq.read_table(out / SCORES)
    assert table["score"].to_pylist() == scores.tolist()
    assert [table["reason"][row].as_py() for row in (5, 6, 7)] == ["selected", "below-threshold", "no-score"]
    scores[250] = -1.1e300
    with pytest.raises(DataError, match="the most that can be summed") as refused:
        bench.rows({"score": scores}, cuts=[100], name="topk", params=params, budget={"rows": 50})
    assert refused.value.where["row"] == 150


def test_what_float32_does_not_hold_is_said_to_be_that(bench: Bench) -> None:
    scores = aum(100).astype(np.float64)
    scores[[3, 4, 5, 6]] = 1e300, -1e39, np.inf, np.nan
    out = bench.run(bench.job({"score": scores}, budget={"rows": 20}) | {"output": {"scores": "all"}})
    reasons = pq.read_table(out / SCORES)["reason"].to_pylist()
    assert reasons[3:7] == ["beyond-float32", "beyond-float32", "no-score", "no-score"]
    details = {warning["code"]: warning["detail"] for warning in report(out)["warnings"]}
    assert details["scores-beyond-float32"].startswith("2 rows have a finite score that does not fit float32")
    assert details["rows-without-score"].startswith("2 rows")
    assert "float32" in info("ccs").params_schema["properties"]["hard_end"]["description"]  # type: ignore


def test_q7_topk_by_class_takes_each_class_by_its_own_size(bench: Bench) -> None:
    """900 and 100 rows at a half: the reference keeps 50 of each."""
    columns = {"score": aum(1000), "label": np.repeat([0, 1], [900, 100])}
    strata = {"by": "label", "quotas": {"0": {"min": 450}, "1": {"min": 50}}}
    params = {"hard_end": None, "beta": None, "order": "lowest"}
    rows = np.array(bench.rows(columns, name="topk", params=params, budget={"fraction": 0.5}, strata=strata))
    assert [int((rows < 900).sum()), int((rows >= 900).sum())] == [450, 50]


@pytest.mark.parametrize(
    ("allocation", "sizes", "expected"),
    [("proportional", [141, 40, 19], [71, 20, 9]), ("equal", [140, 54, 5, 1], [47, 47, 5, 1])],
)
def test_a_stratified_draw_is_exact(bench: Bench, allocation: str, sizes: list[int], expected: list[int]) -> None:
    groups = np.random.default_rng(0).permutation(np.repeat(["a", "b", "c", "d"][: len(sizes)], sizes))
    params = {"hard_end": None, "beta": None, "allocation": allocation}
    fields: dict[str, Any] = {"name": "stratified", "params": params, "budget": {"rows": 100}}
    outs = [bench.run(bench.job({"group": groups}, cuts, **fields), threads) for cuts, threads in (((), 1), ((9,), 7))]
    assert in_order(outs[0]) == in_order(outs[1])
    rows = np.array(in_order(outs[0]))
    names = sorted(set(groups.tolist()))
    assert [int((groups[rows] == name).sum()) for name in names] == expected
    smaller = np.array(bench.rows({"group": groups}, **fields | {"budget": {"rows": 50}}))
    for name in names:  # inside a group the smaller draw is the first part of the larger
        own, less = rows[groups[rows] == name].tolist(), smaller[groups[smaller] == name].tolist()
        assert less == own[: len(less)]
    listed = report(outs[0])["evidence"]["groups"]
    assert [entry["selected"] for entry in listed] == expected
