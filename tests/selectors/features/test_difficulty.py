"""Difficulty from a column, a log or a snapshot: right, refused where it can't be, the same bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from tests.native.naive import dynamics as naive

from tamis.native.learning import dynamics
from tamis.selectors.datasets import Dataset
from tamis.selectors.errors import Cancelled, DataError, Invalid
from tamis.selectors.features import difficulty
from tamis.selectors.features.difficulty_params import METRICS, DifficultyParams, SourceParams
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.run.observer import Unobserved
from tamis.selectors.run.opened import Job
from tamis.selectors.schema.request import JobSpec, Manifest

from ..logs import candidates, job, lists, scored_run, scores_of, visits

MakeEnvironment = Callable[..., Environment]
SETS = ["dynamics_f16_300x3x7", "dynamics_f16_500x8x12", "dynamics_f32_1200x10x15"]
OF_LOGS = [name for name, kind in METRICS.items() if "dynamics" in kind.sources]


def write(folder: Path, log: pa.Table, shards: int = 5) -> list[Path]:
    paths = [folder / f"log-{shard}.parquet" for shard in range(shards)]
    for path, part in zip(paths, np.array_split(np.arange(len(log)), shards), strict=True):
        pq.write_table(log.take(part), path, row_group_size=37)
    return paths


def refusal(folder: Path, environment: Environment, log: pa.Table, **params: Any) -> DataError:
    spec = job(write(folder, log, shards=1), candidates(folder))
    with pytest.raises(DataError) as refused:
        scores_of(spec, environment, source="dynamics", **params)
    return refused.value


def replaced(log: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return log.set_column(log.schema.get_field_index(name), name, values)


# -- the reference


@pytest.mark.parametrize("name", SETS)
def test_scores_are_those_of_the_authors(
    name: str, tmp_path: Path, environment: MakeEnvironment, conformance: Path
) -> None:
    folder = conformance / "ccs" / "dynamics"
    expected = pq.read_table(folder / f"{name}.expected.parquet")
    spec = job([folder / f"{name}.parquet"], [folder / f"{name}.expected.parquet"])
    spec["dynamics"]["columns"] = {"logits": "log_prob"}
    for metric in ("aum", "el2n", "forgetting", "correctness", "last_correctness"):
        found, about = scores_of(spec, environment(), source="dynamics", metric=metric, never_learned="as_counted")
        tolerance = 1e-5 if metric in ("aum", "el2n") else 0
        np.testing.assert_allclose(found, expected[metric].to_numpy(), rtol=0, atol=tolerance)
        assert about.notices == []
    hardest, _ = scores_of(spec, environment(), source="dynamics", metric="forgetting")
    never = expected["never_learned"].to_numpy(zero_copy_only=False)
    counted = expected["forgetting"].to_numpy()
    assert never.any()
    assert (hardest[never] == counted.max() + 1).all()
    assert (hardest[~never] == counted[~never]).all()


# -- logs


def expected_of(log: pa.Table, rows: int) -> list[naive.Row]:
    found = [naive.Row() for _ in range(rows)]
    for line in log.to_pylist():
        outputs = [float(x) for x in line["logits"]]
        found[line["row"]].visits.append((line["epoch"], naive.visit(outputs, line["label"], "log_probs")))
    return found


NAIVE: dict[str, Callable[[naive.Row], float]] = {
    "aum": lambda row: row.aum(),
    "el2n": lambda row: row.el2n(3),
    "forgetting": lambda row: row.forgotten(),
    "correctness": lambda row: row.learned(),
    "last_correctness": lambda row: row.visits[-1][1].correct,
    "confidence": lambda row: float(np.mean(row.confidences())),
    "variability": lambda row: float(np.std(row.confidences())),
    "entropy": lambda row: row.visits[-1][1].entropy,
    "loss": lambda row: row.visits[-1][1].loss,
    "margin": lambda row: row.visits[-1][1].margin,
}


@pytest.mark.parametrize("metric", NAIVE)
def test_every_metric_is_that_of_a_loop(metric: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    """Rows of uneven visits, doubled ones, rows split over units; last visits are not those of the last epoch."""
    log = visits()
    random = np.random.default_rng(1)
    log = log.take(np.sort(np.concatenate([np.flatnonzero(random.random(len(log)) < 0.8), np.arange(0, len(log), 7)])))
    expected = [NAIVE[metric](row) if row.visits else np.nan for row in expected_of(log, 60)]
    spec = job(write(tmp_path, log), candidates(tmp_path))
    found, about = scores_of(
        spec, environment(), source="dynamics", metric=metric, el2n_epochs=3, never_learned="as_counted"
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert about.hard_end == METRICS[metric].hard_end  # type: ignore[index]
    assert found.dtype == np.float32


def test_every_metric_of_a_log_has_its_loop() -> None:
    assert set(OF_LOGS) == {*NAIVE, "least_confidence"}


def test_least_confidence(tmp_path: Path, environment: MakeEnvironment) -> None:
    log = visits()
    found, _ = scores_of(
        job(write(tmp_path, log), candidates(tmp_path)), environment(), source="dynamics", metric="least_confidence"
    )
    last = {line["row"]: 1 - np.exp(np.array(line["logits"], np.float64)).max() for line in log.to_pylist()}
    np.testing.assert_allclose(found, [last[row] for row in range(60)], atol=1e-6)


def test_epochs_of_el2n_count_from_the_first_of_the_log(tmp_path: Path, environment: MakeEnvironment) -> None:
    log = visits()
    later = replaced(log, "epoch", pa.array(log["epoch"].to_numpy() + 7))
    columns = []
    for table in (log, later):
        spec = job(write(tmp_path, table), candidates(tmp_path))
        columns.append(scores_of(spec, environment(), source="dynamics", metric="el2n", el2n_epochs=2)[0])
    assert (columns[0] == columns[1]).all()


@pytest.mark.parametrize("metric", ["aum", "variability"])
def test_threads_shards_and_formats_do_not_change_a_byte(
    metric: str, tmp_path: Path, environment: MakeEnvironment
) -> None:
    log = visits()
    whole = job(write(tmp_path, log, shards=1), candidates(tmp_path))
    pq.write_table(log.slice(0, 111), tmp_path / "a.parquet", row_group_size=20)
    with pa.ipc.new_file(tmp_path / "b.arrow", log.schema) as writer:
        writer.write_table(log.slice(111), max_chunksize=31)
    lines = replaced(log.slice(111), "logits", log.slice(111)["logits"].cast(pa.list_(pa.float64(), 4)))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines.to_pylist()))
    split = job([tmp_path / "a.parquet", tmp_path / "b.arrow"], candidates(tmp_path))
    text = job([tmp_path / "a.parquet", tmp_path / "b.jsonl"], candidates(tmp_path))
    found = [
        scores_of(spec, environment(threads, str(threads)), source="dynamics", metric=metric)[0].tobytes()
        for spec, threads in ((whole, 1), (whole, 2), (whole, 7), (split, 3))
    ]
    assert len(set(found)) == 1
    # Halves written as text are read as float64: the same numbers, whose exponentials are not rounded to float32.
    read, _ = scores_of(text, environment(2, "text"), source="dynamics", metric=metric)
    np.testing.assert_allclose(read, np.frombuffer(found[0], np.float32), atol=1e-6)


def test_one_visit_and_one_class(tmp_path: Path, environment: MakeEnvironment) -> None:
    log = visits().slice(0, 60)
    log = replaced(log, "label", pa.array(np.zeros(60, np.int8)))
    spec = job(write(tmp_path, log), candidates(tmp_path))
    aum, _ = scores_of(spec, environment(), source="dynamics")
    margin, _ = scores_of(spec, environment(), source="dynamics", metric="margin")
    assert (aum == margin).all()
    spread, _ = scores_of(spec, environment(), source="dynamics", metric="variability")
    assert (spread < 1e-7).all()
    forgotten, _ = scores_of(spec, environment(), source="dynamics", metric="forgetting")
    learned, _ = scores_of(spec, environment(), source="dynamics", metric="correctness")
    assert forgotten.tolist() == (1 - learned).tolist()  # nothing was forgotten; what was never right is the hardest


def test_rows_that_were_never_visited_have_a_reason(tmp_path: Path, environment: MakeEnvironment) -> None:
    log = visits()
    log = log.filter(pa.array(log["row"].to_numpy() % 10 != 3))
    log = pa.concat_tables([log, log.slice(len(log) - 1)])
    spec = job(write(tmp_path, log), candidates(tmp_path))
    for metric in OF_LOGS:
        found, about = scores_of(spec, environment(), source="dynamics", metric=metric)
        assert len(about.columns) == 3
        assert np.isnan(found).tolist() == [row % 10 == 3 for row in range(60)]
        reasons = np.concatenate([about.reasons(unit) for unit in range(len(about.columns))])
        assert reasons.tolist() == [2 if row % 10 == 3 else 0 for row in range(60)]
        assert [(notice.code, notice.detail[:43]) for notice in about.notices] == [
            ("rows-never-visited", "The log has no visit of 6 of 60 rows: they "),
            ("uneven-visits", "Some rows were visited 5 times, others 6 ti"),
        ]


@pytest.mark.parametrize("kind", ["integers", "dictionary", "text"])
def test_a_log_of_other_labels_is_said(kind: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    log = visits(rows=200, epochs=2)
    by_row: dict[int, int] = dict(zip(log["row"].to_pylist(), log["label"].to_pylist(), strict=True))
    right = [by_row[row] for row in range(200)]
    written = itertools.count()

    def said(labels: Sequence[int | None]) -> list[str]:
        path = tmp_path / f"labelled-{next(written)}.parquet"
        array = pa.array(labels, pa.int64())
        kinds = {"integers": array, "dictionary": array.dictionary_encode(), "text": array.cast(pa.string())}
        pq.write_table(pa.table({"label": kinds[kind]}), path, row_group_size=70)
        _, about = scores_of(job(write(tmp_path, log), [path], label="label"), environment(), source="dynamics")
        return [notice.detail for notice in about.notices if notice.code == "labels-differ"]

    assert said(right) == []
    assert said([*[None] * 100, *right[100:]]) == []
    flipped = [1 - label if label < 2 else 5 - label for label in right]
    assert said(flipped[:2] + right[2:]) == []  # 1 %
    told = said(flipped[:3] + right[3:])
    assert [detail[:20] for detail in told] == ([] if kind == "text" else ["1.5% of the 200 rows"])
    told = said(right[1:] + right[:1])  # rows shifted by one
    assert len(told) == (kind != "text")


def test_labels_that_change_between_visits_are_said(tmp_path: Path, environment: MakeEnvironment) -> None:
    log = visits(epochs=3)
    labels = log["label"].to_numpy().copy()
    spec = job(write(tmp_path, log), candidates(tmp_path))
    _, about = scores_of(spec, environment(), source="dynamics")
    assert about.notices == []
    for epoch, row in ((0, 3), (1, 3), (2, 7)):
        place = epoch * 60 + log["row"].to_pylist()[epoch * 60 : epoch * 60 + 60].index(row)
        labels[place] = (labels[place] + 1) % 4
    for row_groups in (7, 1000):
        pq.write_table(
            replaced(log, "label", pa.array(labels)), tmp_path / "changed.parquet", row_group_size=row_groups
        )
        spec = job([tmp_path / "changed.parquet"], candidates(tmp_path))
        _, about = scores_of(spec, environment(), source="dynamics")
        assert [notice.code for notice in about.notices] == ["labels-change"]
        assert about.notices[0].detail.startswith("2 rows")


def test_an_infinite_loss_is_no_score(tmp_path: Path, environment: MakeEnvironment) -> None:
    log = visits(classes=2)
    outputs = np.log(np.full((len(log), 2), 0.5)).astype(np.float16)
    outputs[-1] = [0, -np.inf] if log["label"][-1].as_py() == 1 else [-np.inf, 0]
    spec = job(write(tmp_path, replaced(log, "logits", lists(outputs))), candidates(tmp_path))
    found, about = scores_of(spec, environment(), source="dynamics", metric="loss")
    row = log["row"][-1].as_py()
    assert np.flatnonzero(np.isinf(found)).tolist() == [row]
    assert sum(about.reasons(unit).tolist().count(1) for unit in range(len(about.columns))) == 1
    assert [notice.code for notice in about.notices] == ["rows-without-score"]
    margin, _ = scores_of(spec, environment(), source="dynamics", metric="margin")
    assert margin[row] == -1


# -- logs that can't be used


def test_epochs_that_go_back_are_named_with_their_place(tmp_path: Path, environment: MakeEnvironment) -> None:
    log = visits()
    shards = []
    for name, part in (("late", log.slice(180)), ("early", log.slice(0, 180))):
        pq.write_table(part, tmp_path / f"{name}.parquet", row_group_size=50)
        shards.append(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError) as refused:
        scores_of(job(shards, candidates(tmp_path)), environment(), source="dynamics")
    assert "is visited in epoch 0 after epoch 4" in refused.value.detail
    where = refused.value.where
    assert (Path(str(where["shard"])).name, where["row_group"], where["row"]) == ("early.parquet", 0, 0)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("row", 60, "The log visits row 60, but the dataset's rows are 0 to 59"),
        ("row", 2**40, "The log visits row 1099511627776"),
        ("row", -1, "rows are not negative"),
        ("row", None, "The row is null"),
        ("epoch", -1, "epochs are not negative"),
        ("epoch", 2**31, "The epoch is 2147483648"),
        ("label", 4, "The label is 4, but there are outputs for the classes 0 to 3"),
        ("label", -1, "The label is -1"),
        ("label", None, "The label is null"),
    ],
)
def test_a_bad_visit_is_named_with_its_place(
    column: str, value: int | None, said: str, tmp_path: Path, environment: MakeEnvironment
) -> None:
    log = visits()
    values: list[int | None] = log[column].to_pylist()
    values[150] = value
    error = refusal(tmp_path, environment(), replaced(log, column, pa.array(values, pa.int64())))
    assert said in error.detail
    assert (error.where["column"], error.where["row_group"], error.where["row"]) == (column, 4, 150)


@pytest.mark.parametrize(
    ("outputs", "values", "said"),
    [
        ("log_probs", [np.nan, 0, 0, 0], "class 0 is NaN"),
        ("log_probs", [1.0, -2, 0, 3], "set outputs to 'logits'"),
        ("log_probs", [0.25, 0.25, 0.25, 0.25], "set outputs to 'probabilities'"),
        ("logits", [np.inf, 0, 0, 0], "no softmax"),
    ],
)
def test_outputs_that_are_none_are_named_with_their_place(
    outputs: str, values: list[float], said: str, tmp_path: Path, environment: MakeEnvironment
) -> None:
    log = visits()
    all_outputs = np.stack(log["logits"].to_pylist())
    all_outputs[150] = values
    error = refusal(tmp_path, environment(), replaced(log, "logits", lists(all_outputs)), outputs=outputs)
    assert said in error.detail
    assert (error.where["column"], error.where["row_group"], error.where["row"]) == ("logits", 4, 150)


def checked(spec: dict[str, Any], environment: Environment, **params: Any) -> None:
    chosen = SourceParams.model_validate(params)
    needed = difficulty.needs(chosen)
    opened = {
        name: Dataset.open(
            Manifest.model_validate(spec[name]), environment.storage, needs=set(roles), pointer=f"/{name}"
        )
        for name, roles in (("dataset", needed.roles), ("dynamics", needed.dynamics))
        if name in spec
    }
    whole = Job(JobSpec.model_validate(spec), opened["dataset"], [], opened.get("dynamics"))
    difficulty.check(chosen, whole)
    [cost] = difficulty.costs(chosen, whole)
    assert cost.units > 0
    assert difficulty.memory(chosen, whole) >= 0


def test_what_metadata_tell_is_refused_before_any_work(tmp_path: Path, environment: MakeEnvironment) -> None:
    log = visits()
    spec = job(write(tmp_path, log), candidates(tmp_path))
    checked(spec, environment(), source="dynamics")
    write(tmp_path, replaced(log, "label", log["label"].cast(pa.string())))
    with pytest.raises(Invalid, match="class numbers") as refused:
        checked(spec, environment(), source="dynamics")
    assert refused.value.pointer == "/dynamics/columns/label"
    write(tmp_path, replaced(log, "logits", lists(np.zeros((len(log), 1)))))
    with pytest.raises(Invalid, match="two at least") as refused:
        checked(spec, environment(), source="dynamics")
    assert refused.value.pointer == "/dynamics/columns/logits"


# -- what is kept


def test_a_second_job_measures_nothing_again(
    tmp_path: Path, environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(write(tmp_path, visits()), candidates(tmp_path))
    first, _ = scores_of(spec, environment(), source="dynamics")
    measured: list[int] = []
    measure = dynamics.measure

    def counting(*arguments: Any) -> Any:
        measured.append(1)
        return measure(*arguments)

    monkeypatch.setattr(dynamics, "measure", counting)
    again, _ = scores_of(spec, environment(), source="dynamics")
    assert (first == again).all()
    scores_of(spec, environment(), source="dynamics", metric="forgetting")
    assert measured == []
    scores_of(spec, environment(), source="dynamics", outputs="logits")
    assert measured


def test_an_interrupted_job_goes_on_where_it_was(tmp_path: Path, environment: MakeEnvironment) -> None:
    class Impatient(Unobserved):
        asked = 0

        def cancelled(self) -> bool:
            self.asked += 1
            return self.asked > 9

    spec = job(write(tmp_path, visits()), candidates(tmp_path))
    params = SourceParams(source="dynamics")
    with scored_run(spec, params, environment(1), Impatient()) as run, pytest.raises(Cancelled):
        difficulty.scores(run, params)
    done = len(list((tmp_path / "cache").glob("*/*.arrow")))
    with scored_run(spec, params, environment(1)) as run:
        assert run.dynamics is not None
        units = len(run.dynamics.units)
        resumed = np.concatenate([*difficulty.scores(run, params).columns])
    assert 0 < done < units
    assert len(list((tmp_path / "cache").glob("*/*.arrow"))) == units + 1
    assert (resumed == scores_of(spec, environment(2, "other"), source="dynamics")[0]).all()


@pytest.mark.parametrize("selector", ["topk", "ccs"])
def test_whole_jobs_are_the_same_bytes_for_any_threads(
    selector: str, tmp_path: Path, environment: MakeEnvironment
) -> None:
    log = visits()
    log = log.filter(pa.array(log["row"].to_numpy() != 17))
    asked: dict[str, dict[str, Any]] = {"topk": {"order": "lowest"}, "ccs": {"beta": 0.1, "strata": 4}}
    own = asked[selector]
    spec = job(write(tmp_path, log), candidates(tmp_path))
    spec |= {"selector": {"name": selector, "params": {"source": "dynamics", **own}}, "budget": {"rows": 20}}
    found = []
    for threads in (1, 2, 7):
        out = tmp_path / f"out-{threads}"
        manifest = execute(JobSpec.model_validate(spec), out, environment(threads, f"cache-{threads}"))
        found.append([(out / name).read_bytes() for name in ("selection.parquet", "report.json")])
        assert (manifest.totals.eligible, manifest.totals.rows) == ({"topk": 59, "ccs": 54}[selector], 20)
    assert found[0] == found[1] == found[2]
    warned = [warning["code"] for warning in json.loads(found[0][1])["warnings"]]
    assert "rows-never-visited" in warned
    rows = pq.read_table(tmp_path / "out-1" / "selection.parquet")["row"].to_pylist()
    if selector == "topk":
        aum = [row.aum() if row.visits else np.inf for row in expected_of(log, 60)]
        assert sorted(rows) == sorted(np.argsort(aum, kind="stable")[:20].tolist())


# -- snapshots


@pytest.mark.parametrize("metric", ["entropy", "loss", "margin", "el2n", "least_confidence", "grand"])
@pytest.mark.parametrize("outputs", ["logits", "probabilities", "log_probs"])
def test_snapshots(metric: str, outputs: str, tmp_path: Path, environment: MakeEnvironment) -> None:
    random = np.random.default_rng(2)
    logits, labels, embeddings = random.normal(0, 2, (90, 3)), random.integers(0, 3, 90), random.normal(0, 1, (90, 5))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    values = {"logits": logits, "probabilities": p, "log_probs": np.log(p)}[outputs]
    columns = {"logits": lists(values), "y": pa.array(labels), "embedding": lists(embeddings)}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet", row_group_size=20)
    spec = job((), [tmp_path / "c.parquet"], label="y")
    found, about = scores_of(spec, environment(), source="snapshot", metric=metric, outputs=outputs)
    loops = [naive.visit(row, label, outputs) for row, label in zip(values.tolist(), labels.tolist(), strict=True)]
    norms = np.sqrt(1 + (embeddings**2).sum(axis=1))
    expected = {
        "least_confidence": 1 - p.max(axis=1),
        "grand": [visit.error * norm for visit, norm in zip(loops, norms, strict=True)],
        "el2n": [visit.error for visit in loops],
    }
    np.testing.assert_allclose(
        found, expected.get(metric, [getattr(visit, metric, None) for visit in loops]), rtol=1e-5, atol=1e-6
    )
    assert about.hard_end == ("low" if metric == "margin" else "high")
    checked(spec, environment(), source="snapshot", metric=metric, outputs=outputs)


def test_a_bad_snapshot_is_named_with_its_place(tmp_path: Path, environment: MakeEnvironment) -> None:
    logits = np.zeros((50, 3))
    logits[33, 1] = np.nan
    pq.write_table(pa.table({"logits": lists(logits)}), tmp_path / "c.parquet", row_group_size=20)
    spec = job((), [tmp_path / "c.parquet"])
    with pytest.raises(DataError, match="class 1 is NaN") as refused:
        scores_of(spec, environment(), source="snapshot", metric="entropy", outputs="logits")
    assert (refused.value.where["row_group"], refused.value.where["row"]) == (1, 33)


# -- score columns


@pytest.mark.parametrize("type_", [pa.float16(), pa.float32(), pa.float64(), pa.int32()])
def test_a_score_column_is_taken_as_it_is(type_: pa.DataType, tmp_path: Path, environment: MakeEnvironment) -> None:
    values = pa.array([3, 1, None, -2, 0], pa.float64()).cast(type_)
    other = pa.array([np.nan, 1e300, -np.inf, 0.5, 1e-300])
    pq.write_table(pa.table({"score": values, "second": other}), tmp_path / "c.parquet", row_group_size=2)
    spec = job((), [tmp_path / "c.parquet"], cutoff="second")
    found, about = scores_of(spec, environment())
    np.testing.assert_array_equal(found, np.array([3, 1, np.nan, -2, 0], np.float32))
    assert [about.reasons(unit).tolist() for unit in range(len(about.columns))] == [[0, 0, 1, 0, 0]]
    assert about.notices[0].detail.startswith("1 rows have a score that is null")
    assert about.hard_end is None
    params = DifficultyParams(hard_end="high")
    with scored_run(spec, params, environment()) as run:
        cut_off = difficulty.scores(run, params, role="cutoff")
        reasons = np.concatenate([cut_off.reasons(unit) for unit in range(len(cut_off.columns))])
    assert cut_off.hard_end == "high"
    assert [difficulty.REASONS[reason] for reason in reasons] == [
        *("no-score", "beyond-float32", "no-score", "eligible", "eligible"),
    ]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "hard_end is needed.*set source to 'dynamics'"),
        ({"source": "score", "metric": "aum", "hard_end": "low"}, "metric is for"),
        ({"source": "snapshot", "metric": "aum"}, "'aum' can't be computed from snapshot, only from dynamics"),
        ({"source": "dynamics", "metric": "grand"}, "only from snapshot"),
        ({"source": "dynamics", "hard_end": "high"}, "of 'aum' the low end is hard"),
        ({"source": "snapshot", "metric": "loss", "hard_end": "low"}, "of 'loss' the high end is hard"),
        ({"source": "dynamics", "el2n_epochs": 0}, "greater than or equal to 1"),
    ],
)
def test_parameters_that_do_not_go_together(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DifficultyParams.model_validate(params)


def test_polarity_is_known_once() -> None:
    assert {name: kind.hard_end for name, kind in METRICS.items() if kind.hard_end == "low"}.keys() == {
        *("aum", "correctness", "last_correctness", "confidence", "margin"),
    }
    assert DifficultyParams(source="dynamics").chosen == "aum"
    assert DifficultyParams(source="snapshot").chosen == "margin"
    examples = DifficultyParams.model_json_schema()["examples"]
    assert all(DifficultyParams.model_validate(example) for example in examples)
