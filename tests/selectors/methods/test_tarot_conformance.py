"""TAROT against what the authors' own code computed, and the corrected method (../shared/conformance/tarot)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from tamis.selectors.datasets import LocalStorage
from tamis.selectors.features.gradients import Space
from tamis.selectors.features.transport.problem import Costs, Transport
from tamis.selectors.features.transport.solve import solve
from tamis.selectors.jobs.open import Environment
from tamis.selectors.methods.tarot.layers import Layers, cut, released_set
from tamis.selectors.methods.tarot.otm import released_folds
from tamis.selectors.methods.tarot.params import TarotParams
from tamis.selectors.methods.tarot.selector import Tarot

from ..runs import opened_run

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass
class Case:
    """A case in one mode: its whitened space, and what is expected of it."""

    folder: Path
    mode: str
    space: Space

    def __post_init__(self) -> None:
        self.expected = json.loads((self.folder / "expected.json").read_text())
        self.runs = [run for run in self.expected["runs"] if run["mode"] == self.mode]
        self.n, self.m = self.expected["candidates"], self.expected["targets"]

    def table(self, name: str, run: str) -> dict[str, npt.NDArray[Any]]:
        table = pq.read_table(self.folder / f"{name}.parquet")
        inside = np.array(table["run"].to_pylist()) == run
        return {column: table[column].to_numpy()[inside] for column in table.column_names if column != "run"}

    def solve(self, rows: Ints, solver: Any = "released") -> Transport:
        costs = Costs(self.space.vectors(rows), self.space.targets)
        return solve(costs, np.full(len(rows), 1 / len(rows)), np.full(self.m, 1 / self.m), solver, bounds=True)


@pytest.fixture(scope="module", params=["case_a", "case_b", "case_c"])
def folder(conformance: Path, request: pytest.FixtureRequest) -> Path:
    name: str = request.param
    return conformance / "tarot" / name


@pytest.fixture(scope="module", params=["release", "corrected"])
def case(folder: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    release = request.param == "release"
    checkpoints = json.loads((folder / "expected.json").read_text())["checkpoints"]
    column: Any = "gradient"
    if checkpoints > 1:  # the release uses the last one alone
        column = (
            f"gradient_{checkpoints - 1}" if release else {"columns": [f"gradient_{t}" for t in range(checkpoints)]}
        )
    job = {
        "dataset": {"shards": [str(folder / "candidates.parquet")], "columns": {"gradient": column}},
        "target": {"datasets": [{"shards": [str(folder / "targets.parquet")], "columns": {"gradient": column}}]},
        "selector": {"name": "tarot", "params": {"release": release}},
        "budget": {"rows": 10},
    }
    environment = Environment(LocalStorage(), tmp_path_factory.mktemp("cache"), 2)
    with opened_run(job, environment) as run:
        yield Case(folder, request.param, Tarot.make(TarotParams(release=release)).whiten(run))


def test_neighbours(case: Case) -> None:
    table = pq.read_table(case.folder / "expected_neighbours.parquet")
    inside = np.array(table["mode"].to_pylist()) == case.mode
    row, similarity = (table[name].to_numpy()[inside].reshape(case.m, -1) for name in ("row", "similarity"))
    rows, scores = case.space.neighbours(row.shape[1], np.empty(0, np.int64))
    tolerance = 2e-5 if case.mode == "release" else 1e-5
    np.testing.assert_allclose(scores, similarity, atol=tolerance)
    for target in range(case.m):
        odd = np.setxor1d(rows[target], row[target])
        assert not len(odd) or abs(scores[target, -1] - similarity[target, -1]) < 1e-5
    assert (rows == row).mean() > 0.999


def test_fixed_sizes(case: Case) -> None:
    rows, scores = case.space.neighbours(64, np.empty(0, np.int64))
    layers = Layers.of(rows, scores, case.n)
    for run in (run for run in case.runs if run["method"] == "fixed_size"):
        if case.mode == "release":
            found = released_set(rows, case.n, run["budget"], lambda part: case.solve(part).rows)
            selected = found.rows
            assert found.surplus == run["size"] - run["budget"]
        else:
            ordered = layers.listed(np.ones(case.n, np.bool_))
            end = cut(ordered, layers, run["budget"])
            assert (end.whole, end.rows) == (run["whole_layers"], run["size_after_whole_layers"])
            assert end.wanted == run["rows_added_from_partial_layer"]
            selected = ordered[: end.rows]
            if end.wanted:
                cost = case.solve(end.partial).rows
                selected = np.concatenate([selected, end.partial[np.argsort(cost)[: end.wanted]]])
                gap = np.sort(cost)[end.wanted] - np.sort(cost)[end.wanted - 1]
                assert gap == pytest.approx(run["potential_gap_at_cut"], abs=5e-5)
        expected = case.table("expected_sets", run["run"])
        assert np.sort(selected).tolist() == expected["row"].tolist(), run["run"]
        check_transport(case, np.sort(selected), run)


def test_released_otm(case: Case) -> None:
    if case.mode != "release":
        pytest.skip("there is no corrected OTM to compare with")
    run = next(run for run in case.runs if run["method"] == "otm")
    neighbours = case.space.neighbours(40, np.empty(0, np.int64))
    folds = released_folds(
        neighbours, case.space.targets, case.space.vectors, folds=run["folds"], seed=run["fold_seed"]
    )
    assert [len(fold.distances) for fold in folds] == run["fold_stop_k"]
    assert [len(fold.rows) for fold in folds] == run["fold_sizes"]
    curve = pq.read_table(case.folder / "expected_otm_curve.parquet")
    distances = np.concatenate([fold.distances for fold in folds])
    np.testing.assert_allclose(distances, curve["distance"].to_numpy(), rtol=1e-5)
    union = np.unique(np.concatenate([fold.rows for fold in folds]))
    assert union.tolist() == case.table("expected_sets", run["run"])["row"].tolist()
    check_transport(case, union, run)


def check_transport(case: Case, rows: Ints, run: dict[str, Any]) -> None:
    found = case.solve(rows)
    assert found.value == pytest.approx(run["ot_sinkhorn"], rel=1e-5)
    np.testing.assert_allclose(found.rows, case.table("expected_sets", run["run"])["potential"], atol=5e-5)
    targets = case.table("expected_target_potentials", run["run"])
    np.testing.assert_allclose(found.targets, targets["potential"], atol=5e-5)
    assert found.lower is not None and found.upper is not None
    assert found.lower <= run["ot_exact_emd"] <= found.upper
    assert case.solve(rows, "exact").value == pytest.approx(run["ot_exact_emd"], rel=1e-5)
