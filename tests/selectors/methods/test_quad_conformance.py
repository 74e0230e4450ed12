"""Quad against the authors' own loop, and its inverse products against dense solves (../shared/conformance/quad)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from tamis.native.greedy import bandit
from tamis.native.learning import influence
from tamis.native.math import second_moments
from tamis.selectors.datasets import LocalStorage
from tamis.selectors.jobs.open import Environment
from tamis.selectors.methods.quad import influence as quad_rewards
from tamis.selectors.methods.quad.bandit import Arms, Rules
from tamis.selectors.methods.quad.released import pull_as_released, released_rows

from ..runs import opened_run


@pytest.mark.parametrize("name", ["bandit_a", "bandit_b", "bandit_c", "bandit_d"])
def test_released_bandit(name: str, conformance: Path) -> None:
    folder = conformance / "quad" / name
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    given = expected["parameters"]
    rows = pq.read_table(folder / "influence.parquet")
    influence, codes = rows["influence"].to_numpy().astype(np.float64), rows["cluster"].to_numpy()
    distances = np.stack(pq.read_table(folder / "distance.parquet")["distance"].to_numpy())
    arms = Arms.of(codes, expected["clusters"])
    rules = Rules(
        given["batch"],
        given["probe"],
        given["rows_per_accepted_pull"],
        given["tau"],
        given["alpha"],
        given["max_rounds"],
    )
    near = bandit.neighbours_within(distances, given["neighbour_threshold"])
    trace = pull_as_released(arms, rules, given["budget_rows"], lambda number, wanted: influence[wanted], near)

    pulls = pq.read_table(folder / "expected_rounds.parquet")
    assert trace.arms.tolist() == pulls["cluster"].to_pylist()
    assert trace.rounds.tolist() == pulls["round"].to_pylist()
    assert trace.earlier.tolist() == pulls["earlier_pulls"].to_pylist()
    assert trace.accepted.tolist() == pulls["accepted"].to_pylist()
    np.testing.assert_allclose(trace.means - rules.tau, pulls["reward"].to_numpy(), rtol=0, atol=1e-12)
    clusters = pq.read_table(folder / "expected_clusters.parquet")
    state = trace.state
    assert state.accepted.tolist() == clusters["accepted"].to_pylist()
    assert state.pulls.tolist() == clusters["pulls"].to_pylist()
    assert state.updates.tolist() == clusters["updates"].to_pylist()
    np.testing.assert_allclose(state.sums, clusters["score"].to_numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(state.scores, clusters["cluster_score"].to_numpy(), rtol=1e-9, atol=1e-12)
    taken = released_rows(arms, trace, rules.rows_per_pull)
    assert np.sort(taken).tolist() == pq.read_table(folder / "expected_rows.parquet")["row"].to_pylist()
    assert (trace.rounds_run, int(state.total[0])) == (expected["rounds_run"], expected["total_updates"])
    assert trace.ended == {"budget": "budget", "max_rounds": "rounds"}[expected["stopped_by"]]
    rewards = (trace.means - rules.tau)[trace.accepted]
    assert rewards.mean() == pytest.approx(expected["mean_accepted_reward"], rel=1e-9)


def matrix(path: Path, column: str) -> npt.NDArray[Any]:
    values = pq.read_table(path)[column].combine_chunks()
    rows: npt.NDArray[Any] = values.flatten().to_numpy().reshape(len(values), -1)
    return rows


def check(found: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float = 1e-8) -> None:
    """Compare rows, each by its largest number."""
    assert (np.abs(found - expected).max(axis=-1) <= tolerance * np.abs(expected).max(axis=-1)).all()


@pytest.mark.parametrize("name", ["ekfac_a", "ekfac_b", "ekfac_c"])
def test_ekfac_products(name: str, conformance: Path) -> None:
    folder = conformance / "quad" / name
    given = json.loads((folder / "expected.json").read_text())
    x, deltas = (matrix(folder / "samples.parquet", column) for column in ("input_activation", "output_gradient"))
    out, size = deltas.shape[1], x.shape[1] + deltas.shape[1]
    zero = np.zeros(size)
    moments = second_moments.second_moments([np.concatenate([deltas, x], axis=1)], zero)
    outer, inner = influence.layer_basis(second_moments.uncentred(moments), out)
    squares = second_moments.second_moments([influence.squares_in_basis(deltas, x, outer, inner)], zero)
    curvature = influence.Kronecker(outer, inner, (squares.products / squares.rows)[:out, out:])
    expected = pq.read_table(folder / "expected_lambda.parquet")["lambda_ascending"].to_numpy()
    check(np.sort(curvature.values.ravel()), expected)
    gradients = matrix(folder / "gradients.parquet", "gradient").astype(np.float64)
    found = [influence.ekfac_product(curvature, given["damping"], row.reshape(out, -1)).ravel() for row in gradients]
    check(np.stack(found), matrix(folder / "expected_ihvp.parquet", "ekfac"))


def test_damped_fisher_products(conformance: Path, tmp_path: Path) -> None:
    folder = conformance / "quad" / "fisher_a"
    given = json.loads((folder / "expected.json").read_text())
    candidates, reference = (matrix(folder / f"{name}.parquet", "gradient") for name in ("candidates", "reference"))
    fisher = second_moments.uncentred(second_moments.second_moments([candidates], np.zeros(candidates.shape[1])))
    relative = given["lambda_relative"] * np.trace(fisher) / len(fisher)
    assert relative == pytest.approx(given["damping_from_relative"], rel=1e-12)
    for name, damping in (("absolute", given["damping_absolute"]), ("relative", relative)):
        found = [influence.fisher_product(fisher, damping, row.astype(np.float64)) for row in reference]
        check(np.stack(found), matrix(folder / "expected_ihvp.parquet", f"ihvp_{name}"))
    job = {
        "dataset": {"shards": [str(folder / "candidates.parquet")], "columns": {"cluster": "row"}},
        "target": {"datasets": [{"shards": [str(folder / "reference.parquet")]}]},
        "selector": {"name": "quad", "params": {"reward": "gradient", "damping": given["lambda_relative"]}},
        "budget": {"rows": 10},
    }
    with opened_run(job, Environment(LocalStorage(), tmp_path / "cache", 2)) as run:
        scores = quad_rewards.gradient_influence(run, given["lambda_relative"])
    expected = pq.read_table(folder / "expected_influence.parquet")["influence_relative"].to_numpy()
    check(scores, expected)
