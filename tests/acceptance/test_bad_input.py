"""Bad input gets a clear answer, at once where metadata tells and as a failed job where only reading can.

Every case goes over HTTP to a running service. 422 is the answer to the submission and to the plan; "failed" is a job
that ends so at its first attempt; both name the field, or the shard and the place in it. The names are those of
tests, here or elsewhere, and of what `test_what_metadata_tells…` and `test_what_only_reading_tells…` go through.

case | what the service says | tests

no such file; a glob without a match | 422 no file …; matches no file | missing_file, empty_glob
an empty list, odd globs and names | taken, 422 or 403 | test_a_manifest_is_taken_or_refused_with_its_place
truncated shard | 422 says so | truncated_parquet, truncated_arrow, test_every_truncation_is_an_error_or_a_prefix
not the format it is named for | 422 not a Parquet file | not_a_parquet, test_broken_files
corrupt shard | failed, bad-data with the row group | broken_page, test_a_damaged_page_is_found
truncated or damaged gzip, zstd | failed, can't be decompressed, with the line | truncated_gzip, test_damaged_zstd
wrong dtype | 422 what the column holds, what it may hold | text_of_integers, vectors_of_text, test_wrong_types
wrong dtype in a later JSON line | failed, bad-data with the line | text_of_integers_later_on
missing column, in some shard or all | 422 the columns that there are | wrong_column, shard_without_the_column
non-UTF-8 JSON lines | failed, not valid UTF-8, with the line | invalid_utf8, test_bad_lines
non-UTF-8 Parquet | failed, not valid UTF-8, with the row | invalid_utf8_in_parquet
NaN, inf or null in a vector | failed, bad-data with the row | vector_with_nan, vector_with_inf, vector_with_null
NaN, inf or null as a score | left out, explained as no-score | test_scores_that_are_none_are_left_out
no row with a score | failed, infeasible: 200 no-score | no_score_at_all
empty and null text | left out, explained as too-few-tokens | test_nulls_and_empty_shards_are_no_error
nothing but empty text | failed, no n-grams | nothing_but_empty_texts
fewer rows with text than the budget | failed, infeasible: how many were left out, and why | more_rows_than_are_eligible
null label or group, in a stratum | the stratum 'null' | test_null_labels_are_a_stratum
null label, where a class is needed | failed, the label is null | null_class_label
zero rows | 422 no rows; of JSON lines failed | no_rows_at_all, no_rows_in_json_lines
a shard of zero rows among others | taken | test_nulls_and_empty_shards_are_no_error
one row | that row, or failed with what one row is too few for | test_one_row
target of zero rows | 422 no rows; of JSON lines failed | empty_target, no_rows_in_a_target_of_json_lines
target without a token | failed, no n-grams | target_without_a_token
no target | 422 needs a target | no_target
duplicate shard, by a link too | 422 named twice | same_shard_twice, same_shard_by_a_link
another content than was declared | failed, sha256 | wrong_sha256
a shard vanishes, changes, is cut | failed; resumed: 412 | test_a_shard_that_changes_while_the_job_runs
a row group of more than 2 GiB | read, within the memory that the plan names | test_a_row_group_of_two_gigabytes
no budget, or two | 422 with the pointer | budget_of_nothing, two_budgets
more than there is | 422, infeasible: what binds | budget_of_more_than_there_is, quota_over_budget
budgets and quotas | that, or what binds | test_achieved_is_asked_or_the_problem_names_what_binds
unknown selector or field | 422 with the pointer | unknown_selector, unknown_field
"""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .conftest import Service

Job = dict[str, Any]
Spoil = Callable[[dict[str, Any], Path], None]
TEXTS = ["ship wave sail", "flour oven salt", "", None, "tide and rope"] * 40


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def job(tmp_path: Path) -> Job:
    pq.write_table(pa.table({"text": TEXTS, "n": range(200)}), tmp_path / "pool.parquet", row_group_size=50)
    pq.write_table(pa.table({"text": ["ship sail tide rope"] * 20}), tmp_path / "target.parquet")
    return {
        "dataset": {"shards": [str(tmp_path / "pool.parquet")]},
        "target": {"datasets": [{"shards": [str(tmp_path / "target.parquet")]}]},
        "selector": {"name": "dsir"},
        "budget": {"rows": 20},
    }


def missing_file(job: Job, folder: Path) -> None:
    job["dataset"]["shards"].append(str(folder / "nothing.parquet"))


def empty_glob(job: Job, folder: Path) -> None:
    job["dataset"]["shards"] = [str(folder / "nothing-*.parquet")]


def wrong_column(job: Job, folder: Path) -> None:
    job["dataset"]["columns"] = {"text": "content"}


def text_of_integers(job: Job, folder: Path) -> None:
    job["dataset"]["columns"] = {"text": "n"}


def shard_without_the_column(job: Job, folder: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), folder / "other.parquet")
    job["dataset"]["shards"].append(str(folder / "other.parquet"))


def same_shard_twice(job: Job, folder: Path) -> None:
    job["dataset"]["shards"] *= 2


def no_rows_at_all(job: Job, folder: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "pool.parquet")


def empty_target(job: Job, folder: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "target.parquet")


def no_target(job: Job, folder: Path) -> None:
    del job["target"]


def budget_of_nothing(job: Job, folder: Path) -> None:
    job["budget"] = {"rows": 0}


def budget_of_more_than_there_is(job: Job, folder: Path) -> None:
    job["budget"] = {"rows": 201}


def truncated_arrow(job: Job, folder: Path) -> None:
    table = pa.table({"text": TEXTS})
    with pa.ipc.new_file(folder / "pool.arrow", table.schema) as writer:
        writer.write_table(table)
    (folder / "pool.arrow").write_bytes((folder / "pool.arrow").read_bytes()[:-20])
    job["dataset"]["shards"] = [str(folder / "pool.arrow")]


def same_shard_by_a_link(job: Job, folder: Path) -> None:
    (folder / "link.parquet").symlink_to(folder / "pool.parquet")
    job["dataset"]["shards"].append(str(folder / "link.parquet"))


def vectors_of_text(job: Job, folder: Path) -> None:
    del job["target"]
    job["selector"] = {"name": "kcenter"}
    job["dataset"]["columns"] = {"embedding": "text"}


def two_budgets(job: Job, folder: Path) -> None:
    job["budget"] = {"rows": 2, "fraction": 0.5}


def truncated_parquet(job: Job, folder: Path) -> None:
    path = folder / "pool.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def not_a_parquet(job: Job, folder: Path) -> None:
    (folder / "pool.parquet").write_text("text\nnot a parquet\n")


def unknown_selector(job: Job, folder: Path) -> None:
    job["selector"] = {"name": "dsri"}


def unknown_field(job: Job, folder: Path) -> None:
    job["budgets"] = {"rows": 2}


def quota_over_budget(job: Job, folder: Path) -> None:
    job["dataset"]["columns"] = {"group": "text"}
    job["strata"] = {"by": "group", "quotas": {"ship wave sail": {"min": 21}}}


REFUSED: list[tuple[Callable[[Job, Path], None], str, str]] = [
    (missing_file, "/dataset/shards/1", r"no file .*nothing\.parquet"),
    (empty_glob, "/dataset/shards/0", "matches no file"),
    (wrong_column, "/dataset/columns/text", r"no column 'content'.*text, n"),
    (text_of_integers, "/dataset/columns/text", "'n' holds int64"),
    (shard_without_the_column, "/dataset/columns/text", r"other\.parquet has no column 'text'"),
    (vectors_of_text, "/dataset/columns/embedding", "'text' holds string"),
    (same_shard_twice, "/dataset/shards/1", "named twice"),
    (same_shard_by_a_link, "/dataset/shards/1", "named twice"),
    (no_rows_at_all, "/dataset/shards", "no rows"),
    (empty_target, "/target/datasets/0/shards", "no rows"),
    (no_target, "/target", "needs a target"),
    (budget_of_nothing, "/budget/rows", "greater than or equal to 1"),
    (budget_of_more_than_there_is, "/budget/rows", "201 rows, but the dataset has 200"),
    (two_budgets, "/budget", "exactly one"),
    (truncated_parquet, "/dataset/shards/0", "truncated|damaged"),
    (truncated_arrow, "/dataset/shards/0", "truncated|damaged"),
    (not_a_parquet, "/dataset/shards/0", "not a Parquet file"),
    (unknown_selector, "/selector/name", "dsir"),
    (unknown_field, "/budgets", "Extra inputs"),
    (quota_over_budget, "/strata/quotas", "21"),
]


@pytest.mark.parametrize(("spoil", "pointer", "detail"), REFUSED, ids=[case[0].__name__ for case in REFUSED])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/plan"])
def test_what_metadata_tells_is_refused_before_the_work(
    *,
    http: httpx.Client,
    job: Job,
    tmp_path: Path,
    spoil: Callable[[Job, Path], None],
    pointer: str,
    detail: str,
    path: str,
) -> None:
    spoil(job, tmp_path)
    answer = http.post(path, json=job)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    said = [(error["pointer"], error["detail"]) for error in problem.get("errors", [])]
    assert any(where.startswith(pointer) for where, _ in said), problem
    assert re.search(detail, problem["detail"] + " ".join(text for _, text in said)), problem


def broken_page(job: Job, folder: Path) -> None:
    path = folder / "pool.parquet"
    content = bytearray(path.read_bytes())
    content[60:400] = b"\xff" * 340
    path.write_bytes(content)


def more_rows_than_are_eligible(job: Job, folder: Path) -> None:
    job["budget"] = {"rows": 150}


def invalid_utf8(job: Job, folder: Path) -> None:
    lines = [b'{"text": "ship"}\n'] * 10 + [b'{"text": "\xff\xfe"}\n'] + [b'{"text": "tide"}\n'] * 10
    (folder / "pool.jsonl").write_bytes(b"".join(lines))
    job["dataset"]["shards"] = [str(folder / "pool.jsonl")]
    job["budget"] = {"rows": 2}


def text_of_integers_later_on(job: Job, folder: Path) -> None:
    lines = ['{"text": "ship"}\n'] * 100_000 + ['{"text": 7}\n']
    (folder / "pool.jsonl").write_text("".join(lines))
    job["dataset"]["shards"] = [str(folder / "pool.jsonl")]


def invalid_utf8_in_parquet(job: Job, folder: Path) -> None:
    texts = pa.array([b"ship", b"\xff\xfe", b"tide"], pa.binary())
    pq.write_table(pa.table({"text": texts.view(pa.string())}), folder / "pool.parquet")
    job["budget"] = {"rows": 1}


def wrong_sha256(job: Job, folder: Path) -> None:
    job["dataset"]["shards"] = [{"uri": str(folder / "pool.parquet"), "sha256": "0" * 64}]


def target_without_a_token(job: Job, folder: Path) -> None:
    pq.write_table(pa.table({"text": ["", " "]}), folder / "target.parquet")


def truncated_gzip(job: Job, folder: Path) -> None:
    packed = gzip.compress(b"".join(b'{"text": "ship %d"}\n' % row for row in range(10_000)))
    (folder / "pool.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    job["dataset"]["shards"] = [str(folder / "pool.jsonl.gz")]


def nothing_but_empty_texts(job: Job, folder: Path) -> None:
    pq.write_table(pa.table({"text": ["", None, " "] * 20}), folder / "pool.parquet")


def no_rows_in_json_lines(job: Job, folder: Path) -> None:
    (folder / "pool.jsonl").write_text("\n\n")
    job["dataset"]["shards"] = [str(folder / "pool.jsonl")]


def no_rows_in_a_target_of_json_lines(job: Job, folder: Path) -> None:
    (folder / "target.jsonl").write_text("\n\n")
    job["target"]["datasets"][0]["shards"] = [str(folder / "target.jsonl")]


def numbers(job: Job, folder: Path, selector: Job, **columns: Any) -> None:
    """Have the job select by columns of numbers."""
    del job["target"]
    job["selector"] = selector
    pq.write_table(pa.table(columns), folder / "pool.parquet", row_group_size=50)


def vector_of(value: float | None) -> Spoil:
    def spoil(job: Job, folder: Path) -> None:
        vectors = [[float(row), 1.0] for row in range(200)]
        vectors[77] = [0.0, value]  # type: ignore[list-item]  # a null is none, and that is the case
        numbers(job, folder, {"name": "kcenter"}, embedding=vectors)

    spoil.__name__ = {"nan": "vector_with_nan", "inf": "vector_with_inf"}.get(str(value), "vector_with_null")
    return spoil


def no_score_at_all(job: Job, folder: Path) -> None:
    scores = [math.nan, math.inf, -math.inf, None] * 50
    numbers(job, folder, {"name": "topk", "params": {"order": "lowest"}}, score=scores)


def null_class_label(job: Job, folder: Path) -> None:
    labels = [row % 2 if row != 77 else None for row in range(200)]
    params = {"source": "snapshot", "order": "lowest"}
    numbers(job, folder, {"name": "topk", "params": params}, label=labels, logits=[[-1.0, -0.5]] * 200)


FAILED: list[tuple[Callable[[Job, Path], None], str, str]] = [
    (broken_page, "bad-data", r"pool\.parquet"),
    (more_rows_than_are_eligible, "infeasible", "150 rows, but only 120 rows are eligible.*80 too-few-tokens"),
    (nothing_but_empty_texts, "invalid-request", "no n-grams: 60 rows, none with a token"),
    (no_rows_in_json_lines, "infeasible", "no rows"),
    (no_rows_in_a_target_of_json_lines, "invalid-request", "target has no rows"),
    (no_score_at_all, "infeasible", "only 0 rows are eligible.*200 no-score"),
    (vector_of(math.nan), "bad-data", "77.*nan|nan.*77"),
    (vector_of(math.inf), "bad-data", "77.*inf|inf.*77"),
    (vector_of(None), "bad-data", "null"),
    (null_class_label, "bad-data", "label is null"),
    (truncated_gzip, "bad-data", "decompressed"),
    (invalid_utf8, "bad-data", "UTF-8"),
    (text_of_integers_later_on, "bad-data", "text"),
    (invalid_utf8_in_parquet, "bad-data", "UTF-8"),
    (wrong_sha256, "bad-data", "sha256"),
    (target_without_a_token, "invalid-request", "no n-grams"),
]


@pytest.mark.parametrize(("spoil", "code", "detail"), FAILED, ids=[case[0].__name__ for case in FAILED])
def test_what_only_reading_tells_ends_the_job_with_the_place(
    *, http: httpx.Client, job: Job, tmp_path: Path, spoil: Callable[[Job, Path], None], code: str, detail: str
) -> None:
    spoil(job, tmp_path)
    answer = http.post("/v1/jobs", json=job)
    if answer.status_code == 202:
        ended = http.get(answer.headers["location"], headers={"Prefer": "wait=50"}).json()
        assert ended["state"] == "failed", ended
        assert ended["attempts"] == 1, "what can't get better is not tried again"
        problem = ended["error"]
    else:
        assert answer.status_code in (412, 422), answer.text
        problem = answer.json()
    assert re.search(code, problem["type"]), problem
    assert re.search(detail, problem["detail"]), problem
    if code == "bad-data":
        assert "shard" in problem, problem


def answered(http: httpx.Client, job: Job) -> Job:
    answer = http.post("/v1/jobs", json=job)
    ended: Job = http.get(answer.headers["location"], headers={"Prefer": "wait=50"}).json()
    assert ended["state"] == "succeeded", ended
    return ended


def test_scores_that_are_none_are_left_out(http: httpx.Client, job: Job, tmp_path: Path) -> None:
    scores = [math.nan, 1.0, math.inf, None, -math.inf] * 40
    numbers(job, tmp_path, {"name": "topk", "params": {"order": "lowest"}}, score=scores)
    job["budget"] = {"rows": 40}
    ended = answered(http, job)
    assert http.get(ended["links"]["result"]).json()["totals"]["eligible"] == 40
    reasons = [http.get(f"/v1/jobs/{ended['id']}/explain", params={"row": row}).json()["reason"] for row in range(5)]
    assert reasons == ["no-score", "selected", "no-score", "no-score", "no-score"]


def test_null_labels_are_a_stratum(http: httpx.Client, job: Job, tmp_path: Path) -> None:
    numbers(job, tmp_path, {"name": "random"}, label=[0, 1, 1, 1, None] * 40)
    job["strata"] = {"by": "label", "quotas": {"null": {"min": 11, "max": 11}}}
    strata = http.get(answered(http, job)["links"]["result"]).json()["strata"]
    assert {stratum["stratum"]: stratum["candidates"] for stratum in strata} == {"0": 40, "1": 120, "null": 40}
    assert [stratum["rows"] for stratum in strata if stratum["stratum"] == "null"] == [11]


def test_the_table_has_every_case_and_its_test() -> None:
    lines = [line.split(" | ") for line in (__doc__ or "").splitlines() if " | " in line]
    named = {name for _, _, names in lines[1:] for name in names.split(", ")}
    cases = {spoil.__name__ for spoil, *_ in [*REFUSED, *FAILED]}
    everything = "".join(file.read_text() for file in Path(__file__).parents[1].rglob("test_*.py"))
    assert cases <= named, "the table lacks cases"
    assert {name for name in named - cases if f"def {name}(" not in everything} == set()


def test_nulls_and_empty_shards_are_no_error(http: httpx.Client, job: Job, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string()), "n": pa.array([], pa.int64())}), tmp_path / "a.parquet")
    job["dataset"]["shards"].insert(0, str(tmp_path / "a.parquet"))
    ended = answered(http, job)
    result = http.get(ended["links"]["result"]).json()
    assert result["totals"]["candidates"] == 200
    assert result["totals"]["eligible"] == 120
    explained = http.get(f"/v1/jobs/{ended['id']}/explain", params={"row": 3}).json()
    assert explained["reason"] == "too-few-tokens"
