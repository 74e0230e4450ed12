"""D2 pruning and the moderate coreset: against plain loops, the right end of the scores, what the request asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tamis.selectors.errors import Invalid
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.library import Selection
from tamis.selectors.methods.moderate import middle_keys
from tamis.selectors.results.explain import explain
from tamis.selectors.schema.request import JobSpec

from ..vector_shards import write_vectors

MakeEnvironment = Callable[..., Environment]
ROWS = 240
GENERATOR = np.random.default_rng(5)
LABELS = np.array(["cat", "dog", "owl"])[GENERATOR.choice(3, ROWS, p=[0.5, 0.3, 0.2])]
VECTORS = (GENERATOR.normal(size=(ROWS, 4)) + (LABELS == "dog")[:, None] * 5).astype(np.float32)
SCORES = GENERATOR.random(ROWS).astype(np.float32)


def run(
    name: str,
    params: dict[str, Any],
    dataset: dict[str, Any],
    rows: int,
    out: Path,
    environment: Environment,
    **more: Any,
) -> Selection:
    document = {
        "dataset": dataset,
        "selector": {"name": name, "params": params},
        "budget": {"rows": rows},
        **more,
    }
    return Selection(out, execute(JobSpec.model_validate(document), out, environment))


def in_order(selection: Selection) -> list[int]:
    table = selection.table()
    order = np.argsort(table.column("rank").to_numpy())
    rows: list[int] = table.column("row").to_numpy()[order].tolist()
    return rows


def plain_d2(hardness: npt.NDArray[np.float64], k: int, budget: int, first: list[int]) -> list[int]:
    """As the authors' dense code: exp(-d) on the symmetric graph of k nearest neighbours."""
    wide = VECTORS.astype(np.float64)
    apart = np.sqrt(((wide[:, None] - wide[None]) ** 2).sum(axis=2))
    np.fill_diagonal(apart, np.inf)
    near = np.zeros((ROWS, ROWS), np.bool_)
    near[np.arange(ROWS)[:, None], np.argsort(apart, axis=1, kind="stable")[:, :k]] = True
    message = np.where(near | near.T, np.exp(-apart), 0.0)
    value = hardness + message @ hardness
    order: list[int] = []
    while len(order) < budget:
        free = value.copy()
        free[order] = -np.inf
        row = first[len(order)] if len(order) < len(first) else int(np.argmax(free))
        order.append(row)
        value -= message[row] * value[row]
    return order


@pytest.mark.parametrize("hard_end", ["low", "high"])
def test_d2_takes_the_hard_end(hard_end: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS, score=SCORES)
    selection = run("d2", {"hard_end": hard_end, "neighbors": 5}, dataset, 60, tmp_path / "out", environment())
    scaled = (SCORES.astype(np.float64) - SCORES.min()) / (float(SCORES.max()) - float(SCORES.min()))
    assert in_order(selection) == plain_d2(1 - scaled if hard_end == "low" else scaled, 5, 60, [])
    evidence = selection.report()["evidence"]
    assert evidence["mean_difficulty"] > evidence["mean_difficulty_random"]
    assert evidence["value_when_taken"][0][0] == 1
    assert selection.report()["coverage"]["metric"] == "euclidean"


def test_d2_respects_the_request(tmp_path: Path, environment: MakeEnvironment) -> None:
    scores = SCORES.copy()
    scores[[3, 50]] = np.nan
    dataset = write_vectors(tmp_path / "data", VECTORS, score=scores, label=LABELS)
    params = {"hard_end": "high", "neighbors": 4, "gamma_reverse": 0.5}
    first = run("d2", params, dataset, 20, tmp_path / "first", environment())
    more = run("d2", params, dataset, 50, tmp_path / "more", environment(), preselected=str(first.path))
    assert in_order(more) == in_order(run("d2", params, dataset, 50, tmp_path / "whole", environment()))
    apart = run("d2", params, dataset, 50, tmp_path / "apart", environment(), exclude=[str(first.path)])
    assert not set(in_order(apart)) & set(in_order(first))
    strata = {"by": "label", "quotas": {"owl": {"min": 15}, "cat": {"max": 3}}}
    bound = run("d2", params, dataset, 40, tmp_path / "bound", environment(), strata=strata, output={"scores": "all"})
    counts = {outcome.stratum: outcome.rows for outcome in bound.manifest.strata}
    assert counts["owl"] >= 15
    assert counts["cat"] <= 3
    assert not {3, 50} & set(in_order(bound))
    assert explain(tmp_path / "bound", row=50).reason == "no-score"
    assert "rows-without-score" in [notice.code for notice in bound.manifest.warnings]


def test_d2_gives_the_same_whatever_the_threads(tmp_path: Path, environment: MakeEnvironment) -> None:
    files = []
    dataset = write_vectors(tmp_path / "data", VECTORS, score=SCORES)
    for threads in (1, 2, 7):
        made = environment(threads, f"cache-{threads}")
        files.append(run("d2", {"hard_end": "low"}, dataset, 60, tmp_path / f"{threads}", made).path.read_bytes())
    assert files[0] == files[1] == files[2]


def test_d2_says_when_messages_vanish(tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS * 1000, score=SCORES)
    selection = run("d2", {"hard_end": "high"}, dataset, 20, tmp_path / "far", environment())
    assert "weak-messages" in [notice.code for notice in selection.manifest.warnings]
    assert in_order(selection) == np.argsort(-SCORES, kind="stable")[:20].tolist()
    cosine = {"hard_end": "high", "distance": "cosine"}
    selection = run("d2", cosine, dataset, 20, tmp_path / "cosine", environment())
    assert selection.manifest.warnings == []
    assert selection.report()["coverage"]["metric"] == "cosine"


def test_d2_needs_to_know_the_hard_end(tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS, score=SCORES)
    with pytest.raises(Invalid, match="hard_end"):
        run("d2", {}, dataset, 20, tmp_path / "out", environment())
    nothing = write_vectors(tmp_path / "nan", VECTORS, score=np.full(ROWS, np.nan))
    with pytest.raises(Invalid, match="score"):
        run("d2", {"hard_end": "low"}, nothing, 20, tmp_path / "out", environment())
    same = write_vectors(tmp_path / "same", VECTORS, score=np.ones(ROWS))
    assert len(run("d2", {"hard_end": "low"}, same, 20, tmp_path / "out", environment()).rows) == 20


@pytest.mark.parametrize("centre", ["median", "mean"])
def test_moderate_keeps_the_middle_not_the_extremes(centre: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS, label=LABELS, shards=3)
    selection = run("moderate", {"centre": centre}, dataset, ROWS // 10, tmp_path / "out", environment())
    taken = set(selection.rows.tolist())
    for label in np.unique(LABELS):
        own = np.flatnonzero(label == LABELS)
        wide = VECTORS[own].astype(np.float64)
        middle = np.median(wide, axis=0) if centre == "median" else wide.mean(axis=0)
        by_distance = own[np.argsort(np.linalg.norm(wide - middle, axis=1), kind="stable")]
        ranks = [rank for rank, row in enumerate(by_distance.tolist()) if row in taken]
        assert len(ranks) == pytest.approx(len(own) / 10, abs=1.01)  # every class gives its share
        assert ranks == list(range(ranks[0], ranks[-1] + 1))
        assert (ranks[0] + ranks[-1]) / 2 == pytest.approx((len(own) - 1) / 2, abs=0.51)
    classes = {entry["class"]: entry for entry in selection.report()["evidence"]["classes"]}
    low, median, high = classes["cat"]["distances"]
    first, last = classes["cat"]["distances_selected"]
    assert low < first <= median <= last < high


def test_moderate_is_nested_and_respects_quotas(tmp_path: Path, environment: MakeEnvironment) -> None:
    dataset = write_vectors(tmp_path / "data", VECTORS, label=LABELS)
    whole = in_order(run("moderate", {}, dataset, 100, tmp_path / "whole", environment(1)))
    assert in_order(run("moderate", {}, dataset, 30, tmp_path / "part", environment(7))) == whole[:30]
    strata = {"by": "label", "quotas": {"owl": {"max": 2}}}
    bound = run("moderate", {}, dataset, 30, tmp_path / "bound", environment(), strata=strata)
    assert sum(LABELS[row] == "owl" for row in bound.rows) == 2


def test_middle_keys() -> None:
    codes = np.array([0, 1, 0, 0, 1, 0, 0, 2], np.int32)
    distances = np.array([5.0, 1, 1, 3, 2, 4, 3, 9])  # class 0, by rank: rows 2, 3, 6, 5, 0
    keys = middle_keys(distances, codes, 3)
    np.testing.assert_allclose(keys, [-0.4, -0.25, -0.4, -0.2, -0.25, -0.2, 0, 0])
