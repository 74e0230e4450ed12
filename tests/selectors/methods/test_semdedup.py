"""SemDeDup as a job, against its definition in loops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tamis.native.greedy import limits
from tamis.native.math import rng
from tamis.native.neighbours import duplicates
from tamis.native.neighbours import panels as distances
from tamis.selectors.errors import Invalid
from tamis.selectors.jobs.open import Environment
from tamis.selectors.methods import semdedup
from tamis.selectors.results.result import SELECTION, read_selection

from ..vectors import blobs, run, write

MakeEnvironment = Callable[..., Environment]


def with_copies(n: int = 300, copies: int = 100) -> npt.NDArray[np.float32]:
    """Rows of which the last are nearly those at the beginning."""
    data = blobs(n - copies)
    noise = np.random.default_rng(2).standard_normal((copies, data.shape[1])) * 0.01
    return np.concatenate([data, (data[:copies] + noise).astype(np.float32)])


def scores_of(data: npt.NDArray[np.float32], order: list[int]) -> dict[int, float]:
    """Cosine distance of each row to the nearest before it in one cluster; 2 for the first."""
    unit = data / np.linalg.norm(data.astype(np.float64), axis=1)[:, None]
    return {
        row: min((1 - float(unit[row] @ unit[other]) for other in order[:place]), default=2.0)
        for place, row in enumerate(order)
    }


@pytest.mark.parametrize("keep", ["farthest", "closest", "random"])
def test_one_cluster_by_definition(
    keep: str, tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semdedup, "SAMPLE_PER_CLUSTER", 1000)
    data = with_copies()
    manifest = write(tmp_path / "data", data, cuts=(70,))
    unit = data / np.linalg.norm(data.astype(np.float64), axis=1)[:, None]
    apart = ((unit - unit.mean(axis=0)) ** 2).sum(axis=1)
    worth = {"farthest": -apart, "closest": apart}.get(
        keep, rng.uniform(rng.stream_key(5, "semdedup.keep"), 0, len(data))
    )
    expected = scores_of(data, np.argsort(worth).tolist())
    rows, table, report = run(
        manifest, "semdedup", {"clusters": 1, "keep": keep}, {"rows": 200}, environment(), tmp_path / "out", seed=5
    )
    found = dict(zip(table.column("row").to_pylist(), table.column("score").to_pylist(), strict=True))
    assert [found[row] for row in rows] == sorted(found.values(), reverse=True)
    assert [found[row] for row in rows] == pytest.approx([expected[row] for row in rows], abs=2e-6)
    assert sorted(found.values()) == pytest.approx(sorted(expected.values())[100:], abs=2e-6)
    assert len({row if row < 100 else row - 200 for row in rows if row < 100 or row >= 200}) == 100  # one of each pair
    assert report["evidence"]["least_distance_to_an_earlier_row"] == min(found.values())
    fewer, _, _ = run(
        manifest, "semdedup", {"clusters": 1, "keep": keep}, {"rows": 40}, environment(), tmp_path / "few", seed=5
    )
    assert fewer == rows[:40]


def test_epsilon_stops_before_the_budget(tmp_path: Path, environment: MakeEnvironment) -> None:
    groups = ["a" if row % 2 else "b" for row in range(300)]
    manifest = write(tmp_path / "data", with_copies(), groups)
    params = {"clusters": 1, "epsilon": 0.001}
    rows, table, report = run(manifest, "semdedup", params, {"rows": 290}, environment(), tmp_path / "out")
    assert 190 <= len(rows) <= 200
    assert min(table.column("score").to_pylist()) >= 0.001
    assert "duplicates-left-out" in [notice["code"] for notice in report["warnings"]]
    within, _, report = run(manifest, "semdedup", params, {"rows": 50}, environment(), tmp_path / "within")
    assert within == rows[:50]
    assert "duplicates-left-out" not in [notice["code"] for notice in report["warnings"]]
    strata = {"quotas": {"a": {"min": 145}}}
    bounded, _, report = run(manifest, "semdedup", params, {"rows": 290}, environment(), tmp_path / "b", strata=strata)
    assert sorted(bounded) == sorted(rows)
    assert "duplicates-left-out" in [notice["code"] for notice in report["warnings"]]


def test_preselected_rows_make_others_duplicates(tmp_path: Path, environment: MakeEnvironment) -> None:
    manifest = write(tmp_path / "data", with_copies())
    first, _, _ = run(manifest, "random", {}, {"rows": 20}, environment(), tmp_path / "first", seed=3)
    rows, _, _ = run(
        manifest,
        "semdedup",
        {"clusters": 1},
        {"rows": 180},
        environment(),
        tmp_path / "out",
        preselected=str(tmp_path / "first" / "selection.parquet"),
    )
    assert rows[:20] == first
    twins = {row: row + 200 if row < 100 else row - 200 for row in first if row < 100 or row >= 200}
    assert twins
    assert not set(twins.values()) & (set(rows) - set(first))


@pytest.mark.parametrize("keep", ["farthest", "closest", "random"])
def test_excluded_rows_hide_no_others(keep: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    data = with_copies()
    manifest = write(tmp_path / "data", data)
    for seed in (3, 4):
        earlier = tmp_path / f"first{seed}"
        run(manifest, "random", {}, {"rows": 60}, environment(), earlier, seed=seed)
        out, params = tmp_path / f"out{seed}", {"clusters": 1, "epsilon": 0.001, "keep": keep}
        exclude = [str(earlier / "selection.parquet")]
        away: list[int] = read_selection(earlier / SELECTION)[0].column("row").to_pylist()
        rows, _, _ = run(manifest, "semdedup", params, {"rows": 230}, environment(), out, exclude=exclude)
        assert not set(rows) & set(away)
        # Of every pair one row is taken, whichever it is, where one of the two may be.
        twins = {row: row + 200 for row in range(100)}
        assert all(row in rows or twin in rows for row, twin in twins.items() if not {row, twin} <= set(away))


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_shards_and_blocks_change_nothing(
    threads: int, tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.concatenate([blobs(600), np.repeat(blobs(1), 60, axis=0)])
    outcomes = []
    for name, workers, cuts, pairs in (("a", 1, (), 1 << 24), ("b", threads, (7, 400), 1 << 10)):
        monkeypatch.setattr(semdedup, "PAIRS_A_BLOCK", pairs)
        manifest = write(tmp_path / name, data, cuts=cuts)
        rows, table, report = run(
            manifest, "semdedup", {"clusters": 9}, {"rows": 300}, environment(workers, name), tmp_path / f"out{name}"
        )
        outcomes.append((rows, table.column("score").to_pylist(), report["evidence"]))
    assert outcomes[0] == outcomes[1]
    assert len(set(outcomes[0][0]) & set(range(600, 660))) <= 1


def test_few_rows_and_zero_vectors(tmp_path: Path, environment: MakeEnvironment) -> None:
    manifest = write(tmp_path / "one", np.ones((1, 3), np.float32))
    assert run(manifest, "semdedup", {"clusters": 5}, {"rows": 1}, environment(), tmp_path / "out1")[0] == [0]
    manifest = write(tmp_path / "zero", np.zeros((2, 3), np.float32))
    with pytest.raises(Invalid, match="all zeros"):
        run(manifest, "semdedup", {}, {"rows": 1}, environment(), tmp_path / "out2")


@pytest.mark.parametrize("n", [1, 16, 17, 50])
def test_nearest_earlier_rows_are_those_of_a_loop(n: int) -> None:
    data = np.random.default_rng(n).integers(0, 4, (n, 3)).astype(np.float32)
    order = np.random.default_rng(1).permutation(n).astype(np.int32)
    panels, first = distances.pack_groups(data, order, np.array([0, n // 3, n]))
    out = np.full(n, -1, np.float32)
    for cell in range(2):
        for panel in range(first[cell], first[cell + 1]):
            duplicates.nearest_earlier(distances.read_only(data), panels, first[cell], panel, panel + 1, out)
    for part in (order[: n // 3], order[n // 3 :]):
        for place, row in enumerate(part):
            expected: Any = min((((data[row] - data[other]) ** 2).sum() for other in part[:place]), default=np.inf)
            assert out[row] == expected


def test_rows_that_fit_are_taken_in_order() -> None:
    codes, sizes = np.array([0, 0, 1, 1, 0], np.int32), np.array([2, 2, 2, 9, 1])
    state = limits.begin_limits(6, codes=codes, sizes=sizes, lower=np.array([0, 2]), upper=np.array([4, 20]))
    limits.take_all(state, np.array([4]))
    assert limits.take_fitting(state, np.array([0, 1, 3, 2])).tolist() == [0]
    assert state.have.tolist() == [3, 0]
