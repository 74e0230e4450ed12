"""Ask and tell without a server: a selector asks, a function answers, or what was answered before does."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors import select
from tamis.selectors.errors import Invalid, TamisError
from tamis.selectors.jobs.catalogue import info
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.jobs.plan import plan
from tamis.selectors.results.result import SELECTION, read_selection
from tamis.selectors.run.questions import Answered, Answers, Question, Waiting
from tamis.selectors.schema.answers import checked_scores
from tamis.selectors.schema.request import JobSpec

ROWS = 60
CUT = 25
"""Rows of the first shard."""

SCORES = np.where(np.arange(ROWS) % 7 == 3, np.nan, np.sin(np.arange(ROWS)))
"""What an answer says; every seventh row has none."""


@pytest.fixture
def job(asking: Path, tmp_path: Path) -> dict[str, Any]:
    table = pa.table({"id": [f"doc-{row}" for row in range(ROWS)], "score": pa.array(SCORES, from_pandas=True)})
    for shard, part in enumerate((table.slice(0, CUT), table.slice(CUT))):
        pq.write_table(part, tmp_path / f"{shard}.parquet", row_group_size=10)
    return {
        "dataset": {"shards": [str(tmp_path / "*.parquet")], "columns": {"id": "id"}},
        "selector": {"name": "climb", "params": {}},
        "budget": {"rows": 6},
    }


def by_answers(question: Question) -> npt.NDArray[np.float64]:
    return SCORES[question.rows]


def answered(job: dict[str, Any], out: Path, environment: Environment) -> tuple[int, Answers]:
    """Do as a service does: start the job again for every answer; give how often it asked, and the answers."""
    given: list[Answered] = []
    while True:
        try:
            execute(JobSpec.model_validate(job), out, environment, None, Answers(given))
        except Waiting as waiting:
            question = waiting.question
            given.append(Answered(question.round, question.rows, by_answers(question)))
        else:
            return len(given), Answers(given)


def test_a_function_a_column_and_a_service_give_the_same_rows(
    *, job: dict[str, Any], environment: Callable[..., Environment], tmp_path: Path
) -> None:
    function = select(**job, out=tmp_path / "function", answer=by_answers)
    rounds, answers = answered(job, tmp_path / "again", environment())
    assert rounds == 3
    column = job | {"selector": {"name": "climb", "params": {"reward": "score"}}}
    column["dataset"] = job["dataset"] | {"columns": {"id": "id", "score": "score"}}
    execute(JobSpec.model_validate(column), tmp_path / "column", environment())
    tables = [read_selection(tmp_path / name / SELECTION)[0] for name in ("function", "again", "column")]
    assert tables[0].num_rows == 6
    assert tables[0] == tables[1] == tables[2]
    assert (tmp_path / "function" / SELECTION).read_bytes() == (tmp_path / "again" / SELECTION).read_bytes()
    assert function.manifest.provenance.answers_digest == answers.digest()
    footer = read_selection(function.path)[1]
    assert footer["answers"] == {"digest": answers.digest()}
    assert "answers" not in read_selection(tmp_path / "column" / SELECTION)[1]


def test_a_result_is_kept_for_the_same_answers_only(
    *, job: dict[str, Any], environment: Callable[..., Environment], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    _, answers = answered(job, out, environment())
    made = (out / SELECTION).stat().st_mtime_ns
    execute(JobSpec.model_validate(job), out, environment(), None, answers)
    assert (out / SELECTION).stat().st_mtime_ns == made
    other = select(**job, out=out, answer=lambda question: -SCORES[question.rows])
    assert (out / SELECTION).stat().st_mtime_ns != made
    assert other.manifest.provenance.answers_digest not in (None, answers.digest())


def test_a_question_says_where_its_rows_are(job: dict[str, Any], environment: Callable[..., Environment]) -> None:
    with pytest.raises(Waiting) as caught:
        execute(
            JobSpec.model_validate(job), Path(job["dataset"]["shards"][0]).parent / "o", environment(), None, Answers()
        )
    question = pickle.loads(pickle.dumps(caught.value)).question
    rows = question.rows
    assert question.round == 0 and len(rows) == 5 and rows.tolist() != sorted(rows)
    expected = {
        "row": rows.tolist(),
        "shard": (rows >= CUT).tolist(),
        "shard_row": np.where(rows < CUT, rows, rows - CUT).tolist(),
        "id": [f"doc-{row}" for row in rows],
    }
    assert question.table().to_pydict() == expected
    del job["dataset"]["columns"]
    select(**job, answer=lambda question: [1.0] * len(question.rows if question.ids is None else ()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda question: [1.0], r"shape \(1,\).*each of 5 rows"),
        (lambda question: np.full(5, np.inf), r"score of row \d+ is inf"),
        (lambda question: np.full(5, -1e151), "is -1e"),
        (lambda question: ["a"] * 5, "no number"),
        (lambda question: None, "shape"),
    ],
)
def test_an_answer_that_does_not_fit(job: dict[str, Any], given: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        select(**job, answer=given)


def test_none_and_nan_say_no_score() -> None:
    assert np.isnan(checked_scores([None, 1, float("nan")], [0, 1, 2])).tolist() == [True, False, True]


def test_a_job_that_asks_says_so_before_it_runs(job: dict[str, Any], environment: Callable[..., Environment]) -> None:
    with pytest.raises(Invalid, match="asks for scores") as caught:
        select(**job)
    assert caught.value.pointer == "/selector/params"
    planned = plan(JobSpec.model_validate(job), environment())
    assert planned.asks and [notice.code for notice in planned.warnings] == ["asks"]
    assert info("climb").needs.answers and not info("random").needs.answers


def test_answers_are_for_the_rows_that_were_asked() -> None:
    given = [Answered(2, np.array([9, 1]), np.array([np.nan, -0.0])), Answered(0, np.array([5]), np.array([1.5]))]
    answers = Answers(given)
    assert answers.digest() == Answers(given[::-1]).digest() != Answers(given[:1]).digest()
    assert Answers().digest() is None
    asked: Any = type("Asked", (), {"round": 2, "rows": np.array([9, 1])})
    assert np.array_equal(answers(asked), given[0].scores, equal_nan=True)
    asked.rows = np.array([1, 9])
    with pytest.raises(TamisError, match="round 2 are others"):
        answers(asked)
