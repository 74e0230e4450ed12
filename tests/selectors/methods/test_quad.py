"""Quad as a job: the release's defects that it does not have, its rewards and rules, bounds, bad input, same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.native.greedy import bandit
from tamis.selectors import select
from tamis.selectors.errors import DataError, Infeasible, Invalid, TamisError
from tamis.selectors.features import clusters
from tamis.selectors.jobs.open import Environment
from tamis.selectors.methods.quad import influence as quad_rewards
from tamis.selectors.run.questions import Question

from ..runs import opened_run
from ..vector_shards import write_vectors
from ..vectors import run, write

MakeEnvironment = Callable[..., Environment]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

K, N, SIZE = 12, 600, 10
PULLS = {"arms_per_round": 4, "probes": 3, "rows_per_pull": SIZE}


def pool(seed: int = 0) -> tuple[Ints, Floats]:
    """Clusters of different sizes, and influences that differ between clusters more than inside."""
    draw = np.random.default_rng(seed)
    codes = draw.choice(K, N, p=np.arange(1, K + 1) / (K * (K + 1) / 2))
    return codes, draw.permutation(np.linspace(-1, 1, K))[codes] + 0.1 * draw.normal(size=N)


def shards(folder: Path, codes: Any, influence: Any, cuts: int = 2, **more: Any) -> dict[str, Any]:
    """Write a dataset without vectors; return its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"cluster": pa.array(codes), "influence": pa.array(influence), **more})
    paths = []
    for index, rows in enumerate(np.array_split(np.arange(len(table)), cuts)):
        paths.append(str(folder / f"{index}.parquet"))
        pq.write_table(table.slice(int(rows[0]) if len(rows) else 0, len(rows)), paths[-1], row_group_size=97)
    return {"shards": paths}


def asked(
    dataset: dict[str, Any], values: Any, params: dict[str, Any], budget: dict[str, Any], out: Path
) -> tuple[list[int], list[Question]]:
    """Run a job that asks, answered from `values`; return its rows by rank, and the questions."""
    questions: list[Question] = []

    def answer(question: Question) -> Any:
        questions.append(question)
        return values[question.rows]

    selection = select(
        dataset=dataset,
        selector={"name": "quad", "params": {"reward": "ask", **params}},
        budget=budget,
        out=out,
        answer=answer,
    )
    table = pq.read_table(selection.path)
    rows: list[int] = table["row"].to_numpy()[np.argsort(table["rank"].to_numpy())].tolist()
    return rows, questions


# -- what the release gets wrong


def test_rows_probed_are_rows_of_the_pull_taken(tmp_path: Path, environment: MakeEnvironment) -> None:
    codes, influence = pool()
    manifest = shards(tmp_path / "data", codes, influence)
    rows, questions = asked(manifest, influence, PULLS, {"rows": 150}, tmp_path / "asked")
    same, table, report = run(manifest, "quad", PULLS, {"rows": 150}, environment(), tmp_path / "out")
    assert rows == same and len(rows) == 150  # asked for or in a column: the same selection
    trace = report["evidence"]["bandit"]["trace"]
    probed = np.concatenate([question.rows for question in questions])
    pulls = np.split(probed, np.flatnonzero(np.diff(codes[probed])) + 1)  # no cluster is pulled twice running
    assert {len(part) for part in pulls[:4]} == {PULLS["probes"]} and len(pulls) == len(trace["accepted"])
    held = [set(part.tolist()) <= set(rows) for part, took in zip(pulls, trace["accepted"], strict=True) if took]
    assert held.count(False) <= 1  # the last one taken may be cut short by the budget
    left = [part for part, took in zip(pulls, trace["accepted"], strict=True) if not took]
    assert left and not set(np.concatenate(left).tolist()) & set(rows)
    means = [influence[part].mean() for part in pulls]
    assert trace["mean_influence"] == pytest.approx(means)
    share = report["evidence"]["influences"]
    assert share == {"asked": len(probed), "share_of_rows": len(probed) / N}
    assert table["cluster"].to_pylist() == [str(codes[row]) for row in table["row"].to_pylist()]


def test_tails_are_drawn_and_small_clusters_used(tmp_path: Path, environment: MakeEnvironment) -> None:
    codes = np.array([0] * 23 + [1] * 40 + [2] * 1 + [3] * 4)
    influence = np.where(codes == 1, -1.0, 1.0) + np.arange(68) * 1e-6
    manifest = shards(tmp_path / "data", codes, influence)
    params = {**PULLS, "tau": 0.3}
    rows, _, report = run(manifest, "quad", params, {"rows": 60}, environment(), tmp_path / "out")
    assert sorted(rows) == np.flatnonzero(codes != 1).tolist()
    assert [notice["code"] for notice in report["warnings"]] == ["few-probes", "clusters-used-up"][1:]
    trace = report["evidence"]["bandit"]
    assert trace["ended"] == "no-arm-left" and trace["pulls"] == 3 + 4 + 1 + 1
    released = {"release": True, "rows_per_pull": SIZE, "probes": 3, "tau": 0.0}
    theirs, _, _ = run(manifest, "quad", released, {"rows": 60}, environment(), tmp_path / "released")
    assert set(theirs) == set(range(20))


def test_missing_scores_count_in_no_mean(tmp_path: Path, environment: MakeEnvironment) -> None:
    codes = np.repeat(np.arange(4), 30)
    influence = np.where(codes < 2, 1.0, -1.0) + np.arange(120) * 1e-6
    influence[(np.arange(120) % 2 == 0) & (codes == 0)] = np.nan
    manifest = shards(tmp_path / "data", codes, influence)
    rows, _, report = run(manifest, "quad", PULLS, {"rows": 40}, environment(), tmp_path / "out")
    known = np.flatnonzero(~np.isnan(influence) & (codes < 2))
    assert len(rows) == 40 and set(rows) <= set(known.tolist())
    trace = report["evidence"]["bandit"]["trace"]
    pairs = zip(trace["mean_influence"], trace["cluster"], strict=True)
    means = [mean for mean, name in pairs if name == "0"]
    assert means and all(mean is None or mean > 0.9 for mean in means)  # as 0 they would be 0.33 to 0.67
    told, _ = asked(manifest, influence, PULLS, {"rows": 40}, tmp_path / "asked")
    missing = [row for row in told if np.isnan(influence[row])]
    assert len(told) == 40 and all(codes[row] == 0 for row in missing)
    nothing = shards(tmp_path / "none", codes, np.full(120, np.nan))
    with pytest.raises(Infeasible, match="0 rows are eligible"):
        run(nothing, "quad", {}, {"rows": 4}, environment(), tmp_path / "nothing")


@pytest.mark.parametrize("shift", [-5.0, 5.0])
def test_tau_is_of_the_first_influences_there_are(shift: float, tmp_path: Path) -> None:
    codes, influence = pool(11)
    manifest = shards(tmp_path / "data", codes, influence)
    rounds: list[int] = []

    def answer(question: Question) -> Any:
        rounds.append(question.round)
        return [None] * len(question.rows) if question.round == 0 else (influence + shift)[question.rows]

    params = {"reward": "ask", "probes": 3, "rows_per_pull": SIZE}  # fewer clusters than the 50 of a round
    job: dict[str, Any] = {
        "dataset": manifest,
        "selector": {"name": "quad", "params": params},
        "budget": {"rows": 100},
    }
    selection = select(**job, out=tmp_path / "out", answer=answer)
    evidence = selection.report()["evidence"]
    first = np.array(evidence["bandit"]["trace"]["mean_influence"][K : 2 * K])
    assert rounds[0] == 0 and evidence["bandit"]["trace"]["accepted"][:K] == [False] * K
    assert first.min() < evidence["tau"] < first.max() and evidence["bandit"]["deviation_of_influences"] > 0.1
    with pytest.raises(Infeasible, match="nan where none was found"):
        select(**job, out=tmp_path / "none", answer=lambda question: [None] * len(question.rows))


def test_neighbours_are_not_drawn_towards_zero() -> None:
    near = bandit.neighbours_within(np.array([[0.0, 0.15], [0.15, 0.0]]), 0.2)
    for released, mean in ((False, 2.0), (True, 0.5)):
        state = bandit.begin(2)
        bandit.learn(state, np.array([0], np.int32), np.array([2.0]), np.array([True]), near, released)
        assert state.sums[1] / state.updates[1] == pytest.approx(mean)


def test_clusters_used_up_are_not_pulled_again_and_the_bandit_ends(
    tmp_path: Path, environment: MakeEnvironment
) -> None:
    codes, influence = pool(3)
    manifest = shards(tmp_path / "data", codes, influence)
    params = {"probes": 2, "rows_per_pull": 7}  # fewer clusters than the 50 of a round
    rows, _, report = run(manifest, "quad", params, {"fraction": 1}, environment(), tmp_path / "out")
    evidence = report["evidence"]["bandit"]
    assert evidence["ended"] == "no-arm-left" and len(rows) < N
    pulls = np.bincount([int(name) for name in evidence["trace"]["cluster"]], minlength=K)
    assert pulls.tolist() == (-(-np.bincount(codes, minlength=K) // 7)).tolist()
    limited, _, report = run(manifest, "quad", {**params, "rounds": 2}, {"rows": 400}, environment(), tmp_path / "two")
    assert limited == rows[: len(limited)] and report["evidence"]["bandit"]["rounds"] == 2
    assert "rounds-over" in [notice["code"] for notice in report["warnings"]]
    fewer, _, _ = run(manifest, "quad", params, {"rows": 31}, environment(), tmp_path / "fewer")
    assert fewer == rows[:31]


# -- units, rules, rewards


def test_tau_and_alpha_are_in_units_of_the_influences(tmp_path: Path, environment: MakeEnvironment) -> None:
    codes, influence = pool(5)
    found = []
    for name, values in (("a", influence), ("b", 1e-3 * influence), ("c", 64.0 * influence + 5)):
        manifest = shards(tmp_path / name, codes, values)
        found.append(run(manifest, "quad", PULLS, {"rows": 200}, environment(cache=name), tmp_path / f"out{name}")[0])
    assert found[0] == found[1] == found[2]
    pulled = []
    for alpha in (0, 50):
        params = {**PULLS, "alpha": alpha, "rounds": 4}
        _, _, report = run(manifest, "quad", params, {"rows": 500}, environment(cache="c"), tmp_path / f"alpha{alpha}")
        pulled.append(report["evidence"]["clusters"]["pulled"])
    assert pulled[0] < pulled[1] == K  # of much exploration, every cluster is pulled before one is pulled again


def test_quota_rule(tmp_path: Path, environment: MakeEnvironment) -> None:
    codes, influence = pool(7)
    manifest = shards(tmp_path / "data", codes, influence)
    rows, table, report = run(manifest, "quad", {"rule": "quota"}, {"rows": 120}, environment(), tmp_path / "out")
    means = np.array([influence[codes == code].mean() for code in range(K)])
    wanted = np.flatnonzero(means > np.quantile(influence, 0.5))
    counts = np.bincount(codes[rows], minlength=K)
    sizes = np.bincount(codes, minlength=K)
    assert np.flatnonzero(counts).tolist() == wanted.tolist() and counts.sum() == 120
    full = counts[wanted] == sizes[wanted]
    assert np.ptp(counts[wanted][~full]) <= 1 and (counts[wanted][full] <= counts[wanted].max()).all()
    assert report["evidence"]["clusters"] == {"count": K, "above_tau": len(wanted)}
    assert report["evidence"]["mean_influence"]["selected"] > report["evidence"]["mean_influence"]["random"]
    np.testing.assert_allclose(table["score"].to_numpy(), influence[table["row"].to_numpy()])
    fewer, _, _ = run(manifest, "quad", {"rule": "quota"}, {"rows": 50}, environment(), tmp_path / "fewer")
    assert fewer == rows[:50]


def gradients(seed: int, n: int, m: int, d: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    draw = np.random.default_rng(seed)
    mixing = np.diag(np.geomspace(1, 10, d)) @ np.linalg.qr(draw.normal(size=(d, d)))[0]
    both = (draw.normal(size=(n + m, d)) @ mixing).astype(np.float32)
    return both[:n], both[n:]


def lists(values: npt.NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def gradient_job(folder: Path, candidates: Any, target: Any, **params: Any) -> dict[str, Any]:
    """Write two tables of vectors; return a job that asks 20 rows."""
    n = len(next(iter(candidates.values())))
    for name, columns in (("pool", candidates), ("target", target)):
        (folder / name).mkdir(parents=True)
        table = {role: lists(values) for role, values in columns.items()}
        if name == "pool":
            table["cluster"] = pa.array(np.arange(n) % 7)
        pq.write_table(pa.table(table), folder / name / "0.parquet", row_group_size=64)
    return {
        "dataset": {"shards": [str(folder / "pool" / "0.parquet")]},
        "target": {"datasets": [{"shards": [str(folder / "target" / "0.parquet")]}]},
        "selector": {"name": "quad", "params": {"reward": "gradient", **params}},
        "budget": {"rows": 20},
    }


def test_gradients_times_the_inverse_fisher_product(tmp_path: Path, environment: MakeEnvironment) -> None:
    ours, theirs = gradients(1, 300, 20, 6)
    fisher = ours.T.astype(np.float64) @ ours / len(ours)
    mean = theirs.astype(np.float64).mean(axis=0)
    product = np.linalg.solve(fisher + 0.02 * np.trace(fisher) / 6 * np.eye(6), mean)
    for inverse, expected in (("fisher", ours @ product), ("none", ours @ mean)):
        job = gradient_job(tmp_path / inverse, {"gradient": ours}, {"gradient": theirs}, inverse=inverse, damping=0.02)
        with opened_run(job, environment()) as opened:
            found = quad_rewards.gradient_influence(opened, 0.02 if inverse == "fisher" else None)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
        selection = select(**job, out=tmp_path / f"out-{inverse}")
        assert len(pq.read_table(selection.path)) == 20


def test_layers_times_the_inverse_ekfac_product(tmp_path: Path, environment: MakeEnvironment) -> None:
    (x, tx), (deltas, td) = gradients(2, 200, 12, 5), gradients(3, 200, 12, 3)
    job = gradient_job(
        tmp_path,
        {"activation": x, "output_gradient": deltas},
        {"activation": tx, "output_gradient": td},
        inverse="ekfac",
    )
    with opened_run(job, environment()) as opened:
        found = quad_rewards.layer_influence(opened, 0.01)
    whole = np.einsum("ni,nj->nij", deltas.astype(np.float64), x.astype(np.float64))
    outer, inner = (np.linalg.eigh(rows.T.astype(np.float64) @ rows / 200)[1] for rows in (deltas, x))
    values = ((outer.T @ whole @ inner) ** 2).mean(axis=0)
    target = td.T.astype(np.float64) @ tx / 12
    product = outer @ ((outer.T @ target @ inner) / (values + 0.01 * values.mean())) @ inner.T
    np.testing.assert_allclose(found, np.einsum("nij,ij->n", whole, product), rtol=1e-8, atol=1e-8)
    assert len(pq.read_table(select(**job, out=tmp_path / "out").path)) == 20


def test_gradients_of_another_origin_are_refused(tmp_path: Path, environment: MakeEnvironment) -> None:
    ours, theirs = gradients(1, 60, 10, 4)
    job = gradient_job(tmp_path / "a", {"gradient": ours}, {"gradient": theirs[:, :3]})
    with pytest.raises(Invalid, match="3 values"):
        select(**job, out=tmp_path / "outa")
    job = gradient_job(tmp_path / "b", {"gradient": ours}, {"gradient": theirs})
    for name, facts in (("pool", {"preconditioning": "none"}), ("target", {"preconditioning": "ekfac"})):
        path = tmp_path / "b" / name / "0.parquet"
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({f"gradient.{key}": value for key, value in facts.items()}), path)
    with pytest.raises(Invalid, match="preconditioning"):
        select(**job, out=tmp_path / "outb")
    job["selector"]["params"]["inverse"] = "none"  # the target's may be inverse-Hessian products already
    assert len(pq.read_table(select(**job, out=tmp_path / "outc").path)) == 20
    zero = gradient_job(tmp_path / "z", {"gradient": np.zeros_like(ours)}, {"gradient": theirs})
    with pytest.raises(Invalid, match="All gradients are zero"):
        select(**zero, out=tmp_path / "outz")
    ours[7, 2] = np.nan
    with pytest.raises(DataError, match="row 7"):
        select(**gradient_job(tmp_path / "n", {"gradient": ours}, {"gradient": theirs}), out=tmp_path / "outn")


# -- clusters


def test_clusters_of_a_column_and_of_embeddings(tmp_path: Path, environment: MakeEnvironment) -> None:
    draw = np.random.default_rng(1)
    codes, influence = pool(9)
    embedding = (8 * np.eye(K)[codes] + draw.normal(size=(N, K))).astype(np.float32)
    job: dict[str, Any] = {
        "dataset": write_vectors(tmp_path / "data", embedding, influence=influence),
        "selector": {"name": "quad", "params": {"clusters": K, **PULLS}},
        "budget": {"rows": 100},
    }
    with opened_run(job, environment()) as opened:
        found = clusters.found_clusters(opened, K, "cosine")
        again = clusters.found_clusters(opened, K, "cosine")
    assert found.count == K and np.array_equal(found.codes, again.codes)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    assert found.centres is not None
    apart = ((unit[:, None].astype(np.float64) - found.centres[None]) ** 2).sum(axis=2)
    assert (apart[np.arange(N), found.codes] <= apart.min(axis=1) + 1e-6).all()
    job["selector"] = {"name": "quad", "params": {"clusters": K, "neighbor_distance": 9.0}}
    assert len(pq.read_table(select(**job, out=tmp_path / "social").path)) == 100


def test_clusters_of_a_column_are_in_order(tmp_path: Path, environment: MakeEnvironment) -> None:
    for name, values, expected in (
        ("whole", pa.array([10, 9, None, -1], pa.int32()), ["-1", "9", "10"]),
        ("text", pa.array(["10", "9", None, "09"]), ["09", "10", "9"]),
    ):
        manifest = shards(tmp_path / name, values, np.arange(4.0))
        job = {"dataset": manifest, "selector": {"name": "quad"}, "budget": {"rows": 1}}
        with opened_run(job, environment(cache=name)) as opened:
            found = clusters.given_clusters(opened)
        assert found.names == expected and found.codes[2] == clusters.NO_CLUSTER
        kept = [expected[code] for code in found.codes.tolist() if code >= 0]
        assert kept == [str(value) for value in values.to_pylist() if value is not None]


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_and_shards_change_nothing(threads: int, tmp_path: Path, environment: MakeEnvironment) -> None:
    codes, influence = pool(11)
    embedding = (2 * np.eye(K)[codes] + np.random.default_rng(4).normal(size=(N, K))).astype(np.float32)
    found = []
    for name, workers, parts in (("a", 2, 1), ("b", threads, 5)):
        manifest = write_vectors(tmp_path / name, embedding, shards=parts, influence=influence)
        rows, table, report = run(
            manifest, "quad", {"clusters": 10, **PULLS}, {"rows": 90}, environment(workers, name), tmp_path / f"o{name}"
        )
        found.append((rows, table["score"].to_pylist(), report["evidence"]))
    assert found[0] == found[1]


# -- bounds


def test_budgets_strata_and_earlier_selections(tmp_path: Path, environment: MakeEnvironment) -> None:
    codes, influence = pool(13)
    more = {"group": pa.array([f"g{row % 3}" for row in range(N)]), "size": pa.array(np.arange(N) % 5 + 1)}
    manifest = shards(tmp_path / "data", codes, influence, **more)
    manifest["columns"] = {"size": "size", "group": "group"}
    first, _, _ = run(manifest, "random", {}, {"rows": 30}, environment(), tmp_path / "first")
    kept = {"preselected": str(tmp_path / "first" / "selection.parquet")}
    rows, _, _ = run(manifest, "quad", PULLS, {"rows": 100}, environment(), tmp_path / "kept", **kept)
    assert rows[:30] == first and len(set(rows)) == 100
    away = {"exclude": [kept["preselected"]]}
    rows, _, _ = run(manifest, "quad", PULLS, {"rows": 100}, environment(), tmp_path / "away", **away)
    assert not set(rows) & set(first) and len(rows) == 100
    strata = {"strata": {"quotas": {"g0": {"max": 10}, "g1": {"min": 60}}}}
    rows, _, _ = run(manifest, "quad", PULLS, {"rows": 100}, environment(), tmp_path / "strata", **strata)
    counts = np.bincount(np.array(rows) % 3)
    assert counts.sum() == 100 and counts[0] <= 10 and counts[1] >= 60
    rows, _, _ = run(manifest, "quad", PULLS, {"size": 300}, environment(), tmp_path / "size")
    assert 296 <= sum(row % 5 + 1 for row in rows) <= 300
    minimum = {"strata": {"quotas": {"g0": {"min": 180}}}}
    rows, _, report = run(manifest, "quad", PULLS, {"rows": 200}, environment(), tmp_path / "minimum", **minimum)
    assert any("below their minimum" in notice["detail"] for notice in report["warnings"])


# -- bad input


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"reward": "ask", "rule": "quota"}, "every influence at hand"),
        ({"rule": "quota", "release": True}, "knows no quota"),
        ({"tau": 1.5}, "quantile"),
        ({"tau": -0.1}, "quantile"),
        ({"probes": 11, "rows_per_pull": 10}, "rows of the pull"),
        ({"alpha": -1}, "greater than or equal to 0"),
        ({"rows_per_pull": 10**19}, "less than or equal to"),
        ({"reward": "loss"}, "influence"),
    ],
)
def test_parameters_that_do_not_go_together(
    params: dict[str, Any], match: str, tmp_path: Path, environment: MakeEnvironment
) -> None:
    manifest = shards(tmp_path / "data", [0, 1], [0.0, 1.0])
    with pytest.raises(Invalid, match=match):
        run(manifest, "quad", params, {"rows": 1}, environment(), tmp_path / "out")


def test_columns_that_cannot_be_used(tmp_path: Path, environment: MakeEnvironment) -> None:
    def failing(name: str, codes: Any, influence: Any, kind: type[TamisError], match: str, **params: Any) -> None:
        manifest = shards(tmp_path / name, codes, influence)
        with pytest.raises(kind, match=match):
            run(manifest, "quad", params, {"rows": 1}, environment(), tmp_path / f"{name}-out")

    failing("infinite", [0, 1], [0.0, np.inf], DataError, "influence is inf")
    failing("large", [0, 1], [0.0, -1e151], DataError, "influence is -1e")
    failing("digits", ["9" * 5000, "1"], [0.0, 0.0], Infeasible, "exceeds tau")
    failing("nulls", pa.array([None, None], pa.int32()), [0.0, 1.0], Invalid, "nulls only")
    failing("equal", [0, 0, 1, 1], [1.0] * 4, Infeasible, "exceeds tau")
    failing("empty", pa.array([], pa.int32()), pa.array([], pa.float64()), Infeasible, "no rows")
    failing("lists", [0, 1], [0.0, 1.0], Invalid, "embedding column is needed", clusters=2)
    pq.write_table(pa.table({"influence": [1.0, 2.0], "topic": [0, 1]}), tmp_path / "other.parquet")
    with pytest.raises(Invalid, match="cluster and embedding"):
        run({"shards": [str(tmp_path / "other.parquet")]}, "quad", {}, {"rows": 1}, environment(), tmp_path / "other")
    vectors = write_vectors(tmp_path / "v", np.eye(4), cluster=[0, 0, 1, 1], influence=[0.0, 1.0, 2.0, 3.0])
    with pytest.raises(Invalid, match="names a cluster column"):
        run(vectors, "quad", {"clusters": 2}, {"rows": 1}, environment(), tmp_path / "two")
    strata = {"by": "label", "default": {"max_share": 0.5}}
    vectors["columns"]["label"] = "cluster"
    with pytest.raises(Invalid, match="knows no strata"):
        run(vectors, "quad", {"release": True}, {"rows": 1}, environment(), tmp_path / "r", strata=strata)
    zeros = write(tmp_path / "zeros", np.zeros((3, 2), np.float32))
    with pytest.raises(DataError, match="no direction"):
        asked(zeros, np.ones(3), {"metric": "cosine"}, {"rows": 1}, tmp_path / "z")


def test_rows_of_no_cluster_and_a_cluster_of_one(tmp_path: Path, environment: MakeEnvironment) -> None:
    codes = pa.array([None, 5, *[2] * 8, *[3] * 8], pa.int64())
    influence = np.array([9.0, 3.0, *np.linspace(1, 2, 8), *np.linspace(-1, 0, 8)])
    manifest = shards(tmp_path / "data", codes, influence)
    params = {"probes": 2, "rows_per_pull": 4}
    rows, _, report = run(manifest, "quad", params, {"rows": 5}, environment(), tmp_path / "out")
    assert 0 not in rows and rows[0] == 1  # the cluster of one has the largest mean
    with pytest.raises(Infeasible, match="1 no-cluster"):
        run(manifest, "quad", {}, {"rows": 18}, environment(), tmp_path / "all")
    assert [notice["code"] for notice in report["warnings"]] == []


def test_few_probes_are_said(tmp_path: Path, environment: MakeEnvironment) -> None:
    from tamis.selectors.jobs.plan import plan
    from tamis.selectors.schema.request import JobSpec

    manifest = shards(tmp_path / "data", [0, 1] * 50, np.arange(100.0))
    job = {"dataset": manifest, "selector": {"name": "quad", "params": PULLS}, "budget": {"rows": 9}}
    planned = plan(JobSpec.model_validate(job), environment())
    assert [notice.code for notice in planned.warnings] == ["few-probes"]
    assert planned.cpu_seconds > 0 and planned.peak_memory_bytes > 0
