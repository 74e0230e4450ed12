"""TAROT as a job: the release's defects that it does not have, its sources, bounds, bad input, and the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors.errors import Cancelled, DataError, Infeasible, Invalid, TamisError
from tamis.selectors.features import gradients
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.jobs.plan import plan
from tamis.selectors.methods.tarot import params as tarot_params
from tamis.selectors.methods.tarot.params import TarotParams
from tamis.selectors.methods.tarot.selector import Tarot
from tamis.selectors.run.observer import Unobserved
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.schema.response import Progress

from ..runs import opened_run

MakeEnvironment = Callable[..., Environment]
Matrix = npt.NDArray[np.float32]

N, M, D, MODES = 900, 40, 10, 4


def vectors(values: npt.NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def data(seed: int = 0, n: int = N, m: int = M) -> tuple[Matrix, Matrix, npt.NDArray[np.int64]]:
    """Correlated gradients of some modes; the targets are of the first two."""
    draw = np.random.default_rng(seed)
    mixing = np.diag(np.geomspace(1, 30, D)) @ np.linalg.qr(draw.normal(size=(D, D)))[0]
    centres = 1.5 * draw.normal(size=(MODES, D))
    mode, target_mode = draw.integers(0, MODES, n), draw.integers(0, 2, m)
    candidates = (centres[mode] + draw.normal(size=(n, D))) @ mixing
    targets = (centres[target_mode] + draw.normal(size=(m, D))) @ mixing
    return candidates.astype(np.float32), targets.astype(np.float32), mode


def job(folder: Path, candidates: Any, targets: Any, budget: Any, shards: int = 3, **params: Any) -> dict[str, Any]:
    """Write tables, or gradients, and return the job."""
    folder.mkdir(parents=True, exist_ok=True)
    pool = candidates if isinstance(candidates, pa.Table) else pa.table({"gradient": vectors(candidates)})
    wanted = targets if isinstance(targets, pa.Table) else pa.table({"gradient": vectors(targets)})
    paths = []
    for index, rows in enumerate(np.array_split(np.arange(pool.num_rows), shards)):
        paths.append(str(folder / f"pool-{index}.parquet"))
        pq.write_table(pool.slice(int(rows[0]) if len(rows) else 0, len(rows)), paths[-1], row_group_size=100)
    pq.write_table(wanted, folder / "target.parquet")
    return {
        "dataset": {"shards": paths},
        "target": {"datasets": [{"shards": [str(folder / "target.parquet")]}]},
        "selector": {"name": "tarot", "params": params},
        "budget": budget if isinstance(budget, dict) else {"rows": budget},
    }


def run(spec: dict[str, Any], out: Path, environment: Environment) -> tuple[pa.Table, dict[str, Any]]:
    execute(JobSpec.model_validate(spec), out, environment)
    table = pq.read_table(out / "selection.parquet")
    return table.take(np.argsort(table["rank"].to_numpy())), json.loads((out / "report.json").read_text())


def rows_of(spec: dict[str, Any], out: Path, environment: Environment) -> list[int]:
    rows: list[int] = run(spec, out, environment)[0]["row"].to_pylist()
    return rows


# -- the method


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, dict[str, Any]]:
    from tamis.selectors.datasets import LocalStorage

    folder = tmp_path_factory.mktemp("plain")
    candidates, targets, _ = data()
    spec = job(folder, candidates, targets, 150, weights="potential")
    return run(spec, folder / "out", Environment(LocalStorage(), folder / "cache", 2))


def brute(candidates: Matrix, targets: Matrix, regularization: float = 0.01) -> npt.NDArray[np.float64]:
    """Similarities (m, n) of rows whitened by the textbook."""
    pool = np.concatenate([candidates, targets]).astype(np.float64)
    covariance = np.cov(pool.T, bias=True)
    covariance += regularization * np.trace(covariance) / D * np.eye(D)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (pool - pool.mean(axis=0)).T).T
    whitened /= np.linalg.norm(whitened, axis=1)[:, None]
    return whitened[len(candidates) :] @ whitened[: len(candidates)].T


def test_layers_are_those_of_brute_force(plain: tuple[pa.Table, dict[str, Any]]) -> None:
    table, report = plain
    similarity = brute(*data()[:2])
    order = np.argsort(-similarity, axis=1, kind="stable")
    layer = np.full(N, N)
    for index in range(N - 1, -1, -1):
        layer[order[:, index]] = index
    rows = table["row"].to_numpy()
    assert table["layer"].to_numpy().tolist() == layer[rows].tolist() == sorted(layer[rows].tolist())
    place = np.argsort(order, axis=1)  # a row's nearest target is sought among those in whose lists it is
    listed = np.where(place < tarot_params.FEWEST_LAYERS, similarity, -1)[:, rows]
    assert table["nearest_target"].to_numpy().tolist() == listed.argmax(axis=0).tolist()
    np.testing.assert_allclose(table["similarity"].to_numpy(), listed.max(axis=0), atol=1e-5)
    layers = report["evidence"]["layers"]
    whole = int((layer < layers["whole_layers"]).sum())
    assert layers["rows_in_whole_layers"] == whole and layers["rows_of_the_last_layer"] == 150 - whole > 0
    assert int((layer == layers["whole_layers"]).sum()) == layers["rows_it_has"]


def test_the_report_tells_every_problem_its_gap(plain: tuple[pa.Table, dict[str, Any]]) -> None:
    evidence = plain[1]["evidence"]
    assert set(evidence["transport_problems"]) == {"last_layer", "selection"}
    for problem in (*evidence["transport_problems"].values(), evidence["distance"]["selected"]):
        low, high = problem["exact_distance_between"]
        assert problem["duality_gap"] == high - low > 0
        assert problem["converged"] is False and problem["marginal_error"] > 0
    distance = evidence["distance"]
    assert distance["selected"]["distance"] < distance["random"]["distance"]
    assert evidence["meaning"].startswith("influence")


def test_weights_prefer_rows_cheap_to_transport(plain: tuple[pa.Table, dict[str, Any]]) -> None:
    table = plain[0]
    weight, potential = table["weight"].to_numpy(), table["potential"].to_numpy()
    assert weight.mean() == pytest.approx(1) and weight.min() >= 0
    assert (np.diff(weight[np.argsort(potential)]) <= 0).all()
    repeats = table["repeats"].to_numpy()
    assert repeats.sum() == len(table) and (np.abs(repeats - weight) < 1).all()


# -- each defect of the release (tarot.md, 1A.7)


def test_whitening_whitens(tmp_path: Path, environment: MakeEnvironment) -> None:
    """Defect 1: the release multiplies by the transpose."""
    candidates, targets, _ = data()
    conditions = {}
    for release in (False, True):
        params: dict[str, Any] = {"release": True} if release else {"regularization": 1e-9}
        spec = job(tmp_path / str(release), candidates, targets, 10, **params)
        with opened_run(spec, environment(cache=str(release))) as opened:
            space = Tarot.make(TarotParams(**params)).whiten(opened)
            from tamis.selectors.features.whitening import Whitener

            whitener = Whitener.of(opened.store.read(space.whitening))
            assert whitener.matrix is not None
            white = (candidates - whitener.centre) @ whitener.matrix
            conditions[release] = np.linalg.cond(np.cov(white.T))
    assert conditions[False] < 1.5
    assert conditions[True] > 50


def test_checkpoints_are_averaged(tmp_path: Path, environment: MakeEnvironment) -> None:
    """Defect 2: the release uses the last one alone."""
    first, last = data(1), data(2)
    pool = pa.table({"a": vectors(first[0]), "b": vectors(last[0])})
    wanted = pa.table({"a": vectors(first[1]), "b": vectors(last[1])})
    found = {}
    for name, columns in {
        "mean": {"columns": ["a", "b"]},
        "weighted": {"columns": ["a", "b"], "weights": [3, 1]},
        "last": "b",
    }.items():
        spec = job(tmp_path / name, pool, wanted, 60)
        for dataset in (spec["dataset"], spec["target"]["datasets"][0]):
            dataset["columns"] = {"gradient": columns}
        found[name] = rows_of(spec, tmp_path / name / "out", environment())
    for name, share in (("mean", 0.5), ("weighted", 0.75)):
        mixed = [share * a.astype(np.float64) + (1 - share) * b for a, b in zip(first[:2], last[:2], strict=True)]
        expected = rows_of(
            job(tmp_path / f"{name}-made", mixed[0], mixed[1], 60), tmp_path / f"{name}-made" / "out", environment()
        )
        assert found[name] == expected
    assert len({tuple(rows) for rows in found.values()}) == 3


def test_the_scale_of_gradients_does_not_matter(tmp_path: Path, environment: MakeEnvironment) -> None:
    """Defect 3: the release adds 1e-5 to whatever covariance."""
    candidates, targets, _ = data()
    selections: dict[bool, list[list[int]]] = {True: [], False: []}
    for release, found in selections.items():
        for power in (0, -10):  # a power of two: not a bit of the digits changes
            scaled = [np.ldexp(side, power).astype(np.float32) for side in (candidates, targets)]
            spec = job(tmp_path / f"{release}{power}", scaled[0], scaled[1], 50, release=release)
            found.append(sorted(rows_of(spec, tmp_path / f"{release}{power}" / "out", environment())))
    assert selections[False][0] == selections[False][1]
    assert selections[True][0] != selections[True][1]


def test_similarities_are_told_apart_beyond_half_precision(tmp_path: Path, environment: MakeEnvironment) -> None:
    """Defect 4: in fp16 equal scores leave the choice to the order of rows."""
    angles = 0.5 + np.arange(300)[::-1] * 1e-5  # the last row is the nearest to the first axis
    candidates = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert len(np.unique(candidates[:, 0].astype(np.float16))) < 10
    target = np.array([[1.0, 0.0]], np.float32)
    spec = job(tmp_path, candidates, target, 20, whitening="none")
    assert rows_of(spec, tmp_path / "out", environment()) == list(range(299, 279, -1))


def test_a_budget_that_ends_on_a_layer_takes_no_other(tmp_path: Path, environment: MakeEnvironment) -> None:
    """Defect 5: the release adds the whole next layer."""
    candidates, targets, _ = data()
    order = np.argsort(-brute(candidates, targets), axis=1)
    size = len(np.unique(order[:, :3]))
    table, report = run(job(tmp_path, candidates, targets, size), tmp_path / "out", environment())
    assert table["row"].to_pylist() and set(table["row"].to_pylist()) == set(order[:, :3].ravel().tolist())
    assert report["evidence"]["layers"]["rows_of_the_last_layer"] == 0
    released = job(tmp_path / "r", candidates, targets, 10, release=True)
    with opened_run(released, environment(cache="r")) as opened:
        first = Tarot.make(TarotParams(release=True)).whiten(opened).neighbours(1, np.empty(0, np.int64))[0]
    released["budget"] = {"rows": len(np.unique(first))}
    table, report = run(released, tmp_path / "r" / "out", environment(cache="r"))
    assert report["evidence"]["layers"]["rows_the_release_adds_beyond_the_budget"] > 0
    assert table.num_rows == len(np.unique(first))  # a budget is never exceeded; the report tells


def test_candidates_sought_in_waves_are_those_sought_at_once(
    tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates, targets, _ = data()
    candidates[600:700] = candidates[100:200]  # equal ones, in an early wave and in a late one
    spec = job(tmp_path, candidates, targets, 200)
    found = []
    for rows in (1, 10_000):
        monkeypatch.setattr(gradients, "FIRST_WAVE_ROWS", rows)
        run(spec, tmp_path / str(rows), environment(cache=f"cache-{rows}"))
        found.append((tmp_path / str(rows) / "selection.parquet").read_bytes())
    assert list(gradients._waves(np.arange(0, 1000, 100))) == [range(9)]
    assert found[0] == found[1]


def test_layers_never_run_out(tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect 6: the release ranks 2000 candidates a target, and comes out short."""
    candidates, targets, _ = data(n=2600)
    spec = job(tmp_path, candidates, targets[:1], 2400)
    similarity = brute(candidates, targets[:1])[0]
    expected = np.argsort(-similarity, kind="stable")[:2400]
    assert set(rows_of(spec, tmp_path / "out", environment())) == set(expected.tolist())
    spec["selector"]["params"] = {"release": True}
    table, report = run(spec, tmp_path / "released", environment())
    assert table.num_rows == 2000
    assert "400 rows short" in report["warnings"][0]["detail"] + str(report["warnings"])
    # Where lists would outgrow the memory, rows follow by their nearest target.
    monkeypatch.setattr("tamis.selectors.methods.tarot.selector.LISTS_BYTES", 1)
    spec["selector"]["params"] = {}
    table, report = run(spec, tmp_path / "beyond", environment(cache="beyond"))
    assert set(table["row"].to_pylist()) == set(expected.tolist())
    assert "beyond-the-layers" in [warning["code"] for warning in report["warnings"]]
    assert table["layer"].null_count == 2400 - tarot_params.FEWEST_LAYERS


def test_the_last_layer_is_filled_with_what_brings_the_selection_nearer(
    tmp_path: Path, environment: MakeEnvironment
) -> None:
    """Defect 7: the release takes the rows that are the most expensive to transport."""
    from tamis.selectors.features.transport.problem import Costs
    from tamis.selectors.features.transport.solve import solve
    from tamis.selectors.methods.tarot.layers import Layers, cut

    nearer = 0
    for seed in range(4):
        candidates, targets, _ = data(seed)
        spec = job(tmp_path / str(seed), candidates, targets, 20)
        with opened_run(spec, environment(cache=str(seed))) as opened:
            space = Tarot.make(TarotParams()).whiten(opened)
            layers = Layers.of(*space.neighbours(8, np.empty(0, np.int64)), N)
            ordered = layers.listed(np.ones(N, np.bool_))
            size = int(np.searchsorted(layers.layer[ordered], 1)) * 3 // 2
            end = cut(ordered, layers, size)

            def distance(rows: npt.NDArray[np.int64], solver: Any = "exact") -> Any:
                costs = Costs(space.vectors(rows), space.targets)  # noqa: B023
                return solve(costs, np.full(len(rows), 1 / len(rows)), np.full(M, 1 / M), solver)

            order = end.partial[np.argsort(distance(end.partial, "released").rows)]
            whole = ordered[: end.rows]
            cheap, dear = (np.concatenate([whole, part]) for part in (order[: end.wanted], order[-end.wanted :]))
            nearer += distance(cheap).value < distance(dear).value
    assert nearer >= 3


def test_memory_does_not_grow_with_candidates_times_targets(tmp_path: Path, environment: MakeEnvironment) -> None:
    """Defect 9: the release holds the whole matrix, and int64 indices of it."""
    import tracemalloc

    draw = np.random.default_rng(5)
    n, m = 20_000, 400
    spec = job(tmp_path, draw.normal(size=(n, 4)).astype(np.float32), draw.normal(size=(m, 4)).astype(np.float32), 800)
    with opened_run(spec, environment()) as opened:
        tracemalloc.start()
        Tarot.make(TarotParams()).select(opened)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < n * m * 4 / 2


# -- otm


def test_otm_gives_the_whole_curve_and_its_uncertainty(tmp_path: Path, environment: MakeEnvironment) -> None:
    candidates, targets, mode = data()
    spec = job(tmp_path, candidates, targets, {"fraction": 1}, mode="otm", folds=5, layers=24)
    table, report = run(spec, tmp_path / "out", environment())
    otm = report["evidence"]["otm"]
    assert len(otm["folds"]) == 5
    for fold in otm["folds"]:
        assert fold["layers"] == [point["layers"] for point in otm["curve"]] == [1, 2, 3, 4, 6, 8, 12, 17, 24]
        assert fold["rows"] == sorted(fold["rows"]) and all(value > 0 for value in fold["distance"])
        assert all(gap > 0 for gap in fold["duality_gap"]) and not any(fold["converged"])
    low, high = otm["plateau_rows"]
    assert low == otm["chosen_rows"] == table.num_rows <= high
    assert otm["chosen_rows_without_one_fold"][0] <= otm["chosen_rows"] <= otm["chosen_rows_without_one_fold"][1]
    check_drawing(otm)
    assert "size-chosen-by-otm" in [warning["code"] for warning in report["warnings"]]
    inside = np.isin(mode[table["row"].to_numpy()], (0, 1)).mean()
    assert inside > 0.8  # of the targets' modes; half of the pool is
    spec["budget"] = {"rows": 12}
    table, report = run(spec, tmp_path / "less", environment())
    assert table.num_rows == 12
    assert any("raise the budget" in warning["detail"] for warning in report["warnings"])


def check_drawing(otm: dict[str, Any]) -> None:
    """Every fold and their mean are lines within the picture; the plateau, and the chosen size with its range, too."""
    svg = ElementTree.fromstring(otm["drawing"])
    space = "{http://www.w3.org/2000/svg}"
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    lines = [line.attrib["points"].split() for line in svg.iter(f"{space}polyline")]
    assert len(lines) == len(otm["folds"]) + 1
    for line in lines:
        assert len(line) == len(otm["curve"])
        assert all(0 < float(x) < width and 0 < float(y) < height for x, y in (point.split(",") for point in line))
    texts = " ".join(text.text or "" for text in svg.iter(f"{space}text"))
    for rows in (otm["chosen_rows"], *otm["plateau_rows"], *otm["chosen_rows_without_one_fold"]):
        assert f"{rows:,}" in texts
    assert "distance to targets left out" in texts and "a fold" in texts
    plateau = svg.findall(f"{space}rect")[1]
    first = next(i for i, point in enumerate(otm["curve"]) if point["on_plateau"])
    assert plateau.attrib["x"] == lines[0][first].split(",")[0]


def test_a_size_is_not_chosen_by_noise() -> None:
    """Defect 8: the release stops at the first increase, however small."""
    from tamis.selectors.methods.tarot.otm import choose_size

    sizes = np.arange(1, 41)
    curve = 1 + 0.05 * np.log(sizes / 30) ** 2
    draw = np.random.default_rng(0)
    chosen, stopped = [], []
    for _ in range(50):
        distances = curve + 0.2 * draw.normal(size=(10, 1)) * 0.1 + 1e-3 * draw.normal(size=(10, 40))
        _, first, (low, high) = choose_size(distances, 0.002)
        assert low == first and sizes[low] <= 30 <= sizes[high]
        chosen.append(int(sizes[first]))
        stopped.append(int(np.argmax(np.diff(distances[0]) >= 0)) + 2)
    assert max(chosen) - min(chosen) <= 5
    assert max(stopped) - min(stopped) >= 10


# -- sources


def test_embeddings_are_called_similarity(tmp_path: Path, environment: MakeEnvironment) -> None:
    candidates, targets, _ = data()
    tables = [pa.table({"embedding": vectors(side)}) for side in (candidates, targets)]
    table, report = run(job(tmp_path, tables[0], tables[1], 100, source="embedding"), tmp_path / "out", environment())
    assert "similarity, not influence" in report["evidence"]["meaning"]
    same = rows_of(job(tmp_path / "g", candidates, targets, 100), tmp_path / "g" / "out", environment())
    assert table["row"].to_pylist() == same
    warned = plan(
        JobSpec.model_validate(job(tmp_path, tables[0], tables[1], 100, source="embedding")), environment()
    ).warnings
    assert "similarity-not-influence" in [notice.code for notice in warned]


def test_last_layer_gradients_find_the_class(tmp_path: Path, environment: MakeEnvironment) -> None:
    draw = np.random.default_rng(4)
    label, wanted = draw.integers(0, 3, 600), np.ones(30, np.int64)
    centres = 2 * draw.normal(size=(3, 6))
    pool, target = (centres[codes] + draw.normal(size=(len(codes), 6)) for codes in (label, wanted))
    tables = [
        pa.table({"embedding": vectors(rows.astype(np.float32)), "label": pa.array([f"class {c}" for c in codes])})
        for rows, codes in ((pool, label), (target, wanted))
    ]
    spec = job(tmp_path, tables[0], tables[1], 60, source="last_layer", dimension=64)
    table, report = run(spec, tmp_path / "out", environment())
    assert (label[table["row"].to_numpy()] == 1).mean() > 0.9
    assert "classifier" in report["evidence"]["meaning"]
    null = tables[0].set_column(1, "label", pa.array([None, *tables[0]["label"].to_pylist()[1:]]))
    with pytest.raises(DataError, match="label is null"):
        run(
            job(tmp_path / "n", null, tables[1], 60, source="last_layer", dimension=64),
            tmp_path / "n" / "out",
            environment(),
        )
    one = [table.set_column(1, "label", pa.array(["a"] * table.num_rows)) for table in tables]
    with pytest.raises(Invalid, match="2 to"):
        run(job(tmp_path / "o", one[0], one[1], 60, source="last_layer"), tmp_path / "o" / "out", environment())


def test_projected_last_layer_gradients_keep_inner_products() -> None:
    from tamis.selectors.features.unigram_gradients import signs

    draw = np.random.default_rng(2)
    k, errors, inputs = 4096, draw.normal(size=(5, 3)), draw.normal(size=(5, 7))
    projected = (errors @ signs("last_layer.errors", (3, k)) / np.sqrt(k)) * (
        inputs @ signs("last_layer.inputs", (7, k))
    )
    exact = (errors @ errors.T) * (inputs @ inputs.T)
    np.testing.assert_allclose(projected @ projected.T, exact, atol=0.15 * np.abs(exact).max())


def test_text_alone_finds_its_kind(tmp_path: Path, environment: MakeEnvironment) -> None:
    words = [["stone", "river", "hill", "cloud", "meadow"], ["price", "market", "share", "trade", "bond"]]
    draw = np.random.default_rng(6)

    def text(kind: int) -> str:
        return " ".join(draw.choice([*words[kind], "the", "of", "and"], 20))

    kinds = draw.integers(0, 2, 300)
    pool = pa.table({"text": [text(kind) for kind in kinds] + ["", None]})
    target = pa.table({"text": [text(1) for _ in range(20)]})
    table, report = run(job(tmp_path, pool, target, 80, source="text", dimension=32), tmp_path / "out", environment())
    rows = table["row"].to_numpy()
    assert (kinds[rows[rows < 300]] == 1).mean() > 0.8 and len(rows) == 80
    assert "unigram" in report["evidence"]["meaning"]


# -- what a request may ask beside


def test_exclusions_and_preselections(tmp_path: Path, environment: MakeEnvironment) -> None:
    candidates, targets, _ = data()
    spec = job(tmp_path, candidates, targets, 30)
    first = rows_of(spec, tmp_path / "first", environment())
    earlier = str(tmp_path / "first" / "selection.parquet")
    second = rows_of({**spec, "exclude": [earlier]}, tmp_path / "second", environment())
    assert not set(first) & set(second) and len(second) == 30
    more = rows_of({**spec, "preselected": earlier, "budget": {"rows": 70}}, tmp_path / "m", environment())
    assert more[:30] == first and len(set(more)) == 70


def test_strata_and_sizes(tmp_path: Path, environment: MakeEnvironment) -> None:
    candidates, targets, mode = data()
    draw = np.random.default_rng(1)
    sizes = draw.integers(1, 9, N)
    pool = pa.table({"gradient": vectors(candidates), "group": pa.array(mode.astype(str)), "size": pa.array(sizes)})
    spec = job(tmp_path, pool, targets, 60)
    spec["dataset"]["columns"] = {"group": "group", "size": "size"}
    spec["strata"] = {"quotas": {"0": {"max": 9}, "3": {"min": 20}}}
    for mode_of in ("fixed", "otm"):
        spec["selector"]["params"] = {"mode": mode_of, **({"folds": 4} if mode_of == "otm" else {})}
        rows = np.array(rows_of(spec, tmp_path / mode_of, environment()))
        assert (mode[rows] == 0).sum() <= 9 and len(rows) <= 60
        if mode_of == "fixed":
            assert (mode[rows] == 3).sum() >= 20 and len(rows) == 60
    del spec["strata"]
    spec["budget"] = {"size": 200}
    for mode_of in ("fixed", "otm"):
        spec["selector"]["params"] = {"mode": mode_of}
        rows = np.array(rows_of(spec, tmp_path / f"{mode_of}-size", environment()))
        assert 0 < sizes[rows].sum() <= 200


@pytest.mark.parametrize("params", [{"whitening": "zca"}, {"solver": "exact"}, {"solver": "converged"}])
def test_other_whitening_and_solvers(tmp_path: Path, environment: MakeEnvironment, params: dict[str, Any]) -> None:
    candidates, targets, _ = data()
    usual = rows_of(job(tmp_path / "a", candidates, targets, 30), tmp_path / "a" / "out", environment())
    table, report = run(job(tmp_path / "b", candidates, targets, 30, **params), tmp_path / "b" / "out", environment())
    found = table["row"].to_pylist()
    if "whitening" in params:
        assert found == usual
        return
    assert len(found) == 30
    problem = report["evidence"]["transport_problems"]["last_layer"]
    assert problem["solver"] == params["solver"] and problem["duality_gap"] < 0.05


# -- where gradients come from


def marked(values: Matrix, **facts: str) -> pa.Table:
    field = pa.field("gradient", pa.list_(pa.float32(), D), metadata=facts)
    return pa.table([vectors(values)], schema=pa.schema([field], metadata={"gradient.model": "m1"}))


def test_gradients_of_another_origin_are_refused(tmp_path: Path, environment: MakeEnvironment) -> None:
    candidates, targets, _ = data()
    same = marked(candidates, projector="rademacher", projector_seed="3")
    good = job(tmp_path / "a", same, marked(targets, projector="rademacher", projector_seed="3"), 20)
    assert [notice.code for notice in plan(JobSpec.model_validate(good), environment()).warnings] == ["tiny-target"]
    bad = job(tmp_path / "b", same, marked(targets, projector="rademacher", projector_seed="4"), 20)
    with pytest.raises(Invalid, match=r"projector_seed of 'gradient' is '3'.*'4'") as error:
        plan(JobSpec.model_validate(bad), environment())
    assert error.value.pointer == "/target/datasets/0/columns/gradient"
    other = marked(targets, projector="rademacher").replace_schema_metadata({"gradient.model": "m2"})
    with pytest.raises(Invalid, match="model of 'gradient' is 'm1'"):
        plan(JobSpec.model_validate(job(tmp_path / "c", same, other, 20)), environment())
    unknown = plan(JobSpec.model_validate(job(tmp_path / "d", same, targets, 20)), environment()).warnings
    assert "gradients-of-unknown-origin" in [notice.code for notice in unknown]


def test_shards_of_different_origin_are_refused(tmp_path: Path, environment: MakeEnvironment) -> None:
    candidates, targets, _ = data()
    spec = job(tmp_path, candidates, targets, 20, shards=2)
    pq.write_table(marked(candidates, checkpoint="1"), spec["dataset"]["shards"][0])
    pq.write_table(marked(candidates, checkpoint="2"), spec["dataset"]["shards"][1])
    with pytest.raises(Invalid, match="do not go together: the checkpoint"):
        plan(JobSpec.model_validate(spec), environment())


# -- bad input


def with_value(values: Matrix, row: int, value: float) -> Matrix:
    changed = values.copy()
    changed[row, 3] = value
    return changed


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (lambda c, t: (with_value(c, 555, np.nan), t, {}), DataError, "row 255 .*Value 3 of the vector is nan"),
        (lambda c, t: (with_value(c, 1, np.inf), t, {}), DataError, "is inf"),
        (lambda c, t: (c, with_value(t, 0, -np.inf), {}), DataError, "target.parquet"),
        (lambda c, t: (c, t[:, :-1], {}), Invalid, "9 values, those of the candidates 10"),
        (lambda c, t: (c, t[:0], {}), Invalid, "no rows"),
        (lambda c, t: (c[:0], t, {}), TamisError, "no rows"),
        (lambda c, t: (np.ones_like(c), np.ones_like(t), {}), Invalid, "All vectors are equal"),
        (lambda c, t: (c[:5], t[:2], {"regularization": 0}), Invalid, "raise regularization"),
        (lambda c, t: (c, t[:4], {"mode": "otm", "folds": 5}), Invalid, "fewer than folds"),
        (lambda c, t: (c, t, {"layers": 3}), Invalid, "for mode 'otm'"),
        (lambda c, t: (c, t, {"release": True, "solver": "exact"}), Invalid, "release has its own solver"),
        (lambda c, t: (c[:3], t, {}), Infeasible, "asks 5 rows"),
    ],
)
def test_bad_input(
    tmp_path: Path, environment: MakeEnvironment, change: Any, kind: type[TamisError], match: str
) -> None:
    candidates, targets, params = change(*data()[:2])
    budget = 3 if params.get("regularization") == 0 else 5
    with pytest.raises(kind, match=match):
        run(job(tmp_path, candidates, targets, budget, **params), tmp_path / "out", environment())


def test_the_release_knows_no_bounds_and_one_checkpoint(tmp_path: Path, environment: MakeEnvironment) -> None:
    candidates, targets, _ = data()
    spec = job(tmp_path, candidates, targets, 20, release=True)
    with pytest.raises(Invalid, match="knows no strata"):
        plan(JobSpec.model_validate({**spec, "exclude": [str(tmp_path / "none")]}), environment())
    pool = pa.table({"a": vectors(candidates), "b": vectors(candidates)})
    spec = job(tmp_path, pool, pool, 20, release=True)
    for dataset in (spec["dataset"], spec["target"]["datasets"][0]):
        dataset["columns"] = {"gradient": {"columns": ["a", "b"]}}
    with pytest.raises(Invalid, match="last checkpoint alone"):
        plan(JobSpec.model_validate(spec), environment())


def test_rows_without_a_direction_are_no_error(tmp_path: Path, environment: MakeEnvironment) -> None:
    candidates, targets, _ = data()
    candidates[:50] = 0.0
    table, _ = run(job(tmp_path, candidates, targets, 60, whitening="none"), tmp_path / "out", environment())
    assert (table["row"].to_numpy() >= 50).all()


# -- the same bytes


@pytest.mark.parametrize("mode", ["fixed", "otm"])
def test_the_same_bytes_for_any_threads_and_after_a_stop(
    tmp_path: Path, environment: MakeEnvironment, mode: str
) -> None:
    candidates, targets, _ = data()
    params = {"mode": mode, "weights": "potential", **({"folds": 4, "layers": 12} if mode == "otm" else {})}
    spec = JobSpec.model_validate(job(tmp_path / "data", candidates, targets, 100, shards=5, **params))
    expected = None
    for threads in (1, 5):
        out = tmp_path / f"out-{threads}"
        execute(spec, out, environment(threads, cache=f"cache-{threads}"))
        found = (out / "selection.parquet").read_bytes()
        assert expected is None or found == expected
        expected = found

    class Impatient(Unobserved):
        def __init__(self, patience: int) -> None:
            self.left = patience

        def progress(self, progress: Progress) -> None:
            self.left -= 1

        def cancelled(self) -> bool:
            return self.left < 0

    stopped = 0
    for patience in (4, 9, 14, 19, 24):  # each goes on where the one before was stopped
        try:
            execute(spec, tmp_path / "again", environment(3, cache="again"), Impatient(patience))
            break
        except Cancelled:
            stopped += 1
    assert stopped
    execute(spec, tmp_path / "again", environment(1, cache="again"))
    assert (tmp_path / "again" / "selection.parquet").read_bytes() == expected
