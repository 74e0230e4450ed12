"""Result files: their schema, their bytes, their whole-or-nothing, and what reading them refuses."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors.datasets import Dataset, LocalStorage
from tamis.selectors.datasets.row_ids import read_ids
from tamis.selectors.decision.by_key import choose, choose_by_target
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.decision.ranking import Layout, RankedUnit
from tamis.selectors.decision.request import Request
from tamis.selectors.errors import DataError, Invalid, NotFound, StorageError, TamisError
from tamis.selectors.results.files import DECISION, MODEL, REPORT, RESULT, SCORES, SELECTION, published
from tamis.selectors.results.result import (
    Documents,
    load_rows,
    read_result,
    read_selection,
    verify_result,
    write_result,
    write_selection,
)
from tamis.selectors.results.scores import ROW_GROUP, write_scores
from tamis.selectors.schema.request import Budget, Columns, Manifest, Quota, Strata
from tamis.selectors.schema.response import Provenance, ResultManifest, ShardInfo

FOOTER: Mapping[str, Any] = {
    "fingerprint": "f",
    "dataset": {"digest": "d" * 64, "shards": [{"digest": "s" * 64}]},
    "seed": 7,
}


class Keys:
    """Keys cut into units."""

    def __init__(self, keys: Sequence[float], cuts: Sequence[int] = ()) -> None:
        self.keys = np.array(keys, np.float64)
        self.starts = np.array([0, *cuts, len(keys)], np.int64)

    def __call__(self, unit: int) -> RankedUnit:
        here = slice(self.starts[unit], self.starts[unit + 1])
        reasons = (self.keys[here] == -np.inf).astype(np.uint8)
        return RankedUnit(self.keys[here], np.where(reasons, -1.5, self.keys[here]), reasons=reasons)


def some_choice(cuts: Sequence[int] = (), *, strata: bool = False) -> tuple[Choice, Keys, Layout]:
    keys = Keys([5.0, 1.0, -np.inf, 4.0, 3.0, 2.0, 9.0, 0.5, 8.0, 7.0], cuts)
    codes = np.array([0, 1, 1, 0, 1, 0, 1, 0, 1, 0], np.int32)
    layout = Layout(keys.starts, ["web", "wiki"], np.split(codes, keys.starts[1:-1]))
    bounds = Strata(quotas={"wiki": Quota(max=2)}) if strata else None
    return choose(Request(layout, Budget(rows=5), bounds), keys, ("eligible", "empty")), keys, layout


SHARD_STARTS = np.array([0, 4, 4, 6, 8, 10], np.int64)


def write(path: Path, choice: Choice, ids: pa.ChunkedArray | None = None, **columns: pa.Array) -> Any:
    return write_selection(path, choice, SHARD_STARTS, ids=ids, columns=columns, footer=FOOTER)


# -- selection.parquet


def test_the_schema_is_the_contracts(tmp_path: Path) -> None:
    choice, _, _ = some_choice(strata=True)
    ids = pa.chunked_array([pa.array([f"doc{row}" for row in choice.rows])])
    described = write(tmp_path / "s.parquet", choice, ids, target=pa.array([0, 1, 0, 1, None], pa.int32()))
    table, footer = read_selection(tmp_path / "s.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("row", "int64"),
        ("shard", "int32"),
        ("shard_row", "int64"),
        ("id", "string"),
        ("score", "double"),
        ("rank", "int64"),
        ("weight", "double"),
        ("stratum", "dictionary<values=string, indices=int32, ordered=0>"),
        ("target", "int32"),
    ]
    assert table.drop_columns(["score", "weight"]).to_pylist() == [
        {"row": 0, "shard": 0, "shard_row": 0, "id": "doc0", "rank": 3, "stratum": "web", "target": 0},
        {"row": 3, "shard": 0, "shard_row": 3, "id": "doc3", "rank": 4, "stratum": "web", "target": 1},
        {"row": 6, "shard": 3, "shard_row": 0, "id": "doc6", "rank": 0, "stratum": "wiki", "target": 0},
        {"row": 8, "shard": 4, "shard_row": 0, "id": "doc8", "rank": 1, "stratum": "wiki", "target": 1},
        {"row": 9, "shard": 4, "shard_row": 1, "id": "doc9", "rank": 2, "stratum": "web", "target": None},
    ]
    assert table.column("score").to_pylist() == [5.0, 4.0, 9.0, 8.0, 7.0]
    assert table.column("weight").to_pylist() == [1.0] * 5
    assert footer == {"schema_version": 1, **FOOTER}
    assert (described.rows, described.bytes) == (5, (tmp_path / "s.parquet").stat().st_size)
    assert described.sha256 == hashlib.sha256((tmp_path / "s.parquet").read_bytes()).hexdigest()


def test_one_row_group_for_each_shard_that_has_rows(tmp_path: Path) -> None:
    choice, _, _ = some_choice()
    write(tmp_path / "s.parquet", choice)
    with pq.ParquetFile(tmp_path / "s.parquet") as file:
        groups = [file.read_row_group(index).column("shard").unique().to_pylist() for index in range(3)]
        assert file.num_row_groups == 3
    assert groups == [[0], [3], [4]]


def test_without_strata_and_ids_the_columns_are_null_or_missing(tmp_path: Path) -> None:
    choice, _, _ = some_choice()
    write(tmp_path / "s.parquet", choice)
    table, _ = read_selection(tmp_path / "s.parquet")
    assert "id" not in table.column_names
    assert table.column("stratum").null_count == 5
    assert str(table.schema.field("stratum").type) == "dictionary<values=string, indices=int32, ordered=0>"
    assert load_rows(tmp_path / "s.parquet", ["s" * 64], pointer="/p", in_rank_order=False).tolist() == [0, 3, 6, 8, 9]


@pytest.mark.parametrize("strata", [False, True])
def test_the_bytes_do_not_depend_on_units(tmp_path: Path, strata: bool) -> None:
    digests = set()
    for name, cuts in (("a", ()), ("b", (1, 2, 9)), ("c", (5, 5))):
        choice, keys, layout = some_choice(cuts, strata=strata)
        selection = write(tmp_path / f"{name}.parquet", choice)
        scores = write_scores(tmp_path / f"{name}-scores.parquet", keys, layout, choice, ("eligible", "empty"))
        digests.add((selection.sha256, scores.sha256))
    assert len(digests) == 1


def test_the_bytes_do_not_depend_on_threads_or_process(tmp_path: Path) -> None:
    choice, _, _ = some_choice()
    here = write(tmp_path / "s.parquet", choice).sha256
    program = textwrap.dedent(
        """
        import importlib.util, sys
        from pathlib import Path
        import pyarrow as pa
        pa.set_cpu_count(int(sys.argv[3]))
        spec = importlib.util.spec_from_file_location("test_result", sys.argv[1])
        module = importlib.util.module_from_spec(spec)
        sys.modules["test_result"] = module
        spec.loader.exec_module(module)
        choice, _, _ = module.some_choice((3,))
        sys.stdout.write(module.write(Path(sys.argv[2]), choice).sha256)
        """
    )
    for threads in ("1", "4"):
        command = [sys.executable, "-c", program, __file__, str(tmp_path / f"{threads}.parquet"), threads]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC+9"})
        assert done.stdout == here


def test_columns_of_the_selector_must_have_names_of_their_own(tmp_path: Path) -> None:
    choice, _, _ = some_choice()
    with pytest.raises(TamisError, match="rank"):
        write(tmp_path / "s.parquet", choice, rank=pa.array([0] * 5))
    assert list(tmp_path.iterdir()) == []


# -- whole or nothing


def test_a_file_that_fails_half_way_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(RuntimeError), published(tmp_path / "x") as file:
        file.write(b"half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: both make the write itself fail."""
    program = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from tamis.selectors.errors import StorageError
        from tamis.selectors.results.files import publish_bytes
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            publish_bytes(Path(sys.argv[1]) / "x", bytes(5000), "a/b")
        except StorageError as error:
            sys.stdout.write(error.detail)
        """
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "x can't be written" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    choice, _, _ = some_choice()
    with pytest.raises(StorageError, match=r"s\.parquet can't be written"):
        write(tmp_path / "none" / "s.parquet", choice)


# -- reading an earlier selection


def test_earlier_rows_come_in_rank_order_or_ascending(tmp_path: Path) -> None:
    choice, _, _ = some_choice()
    write(tmp_path / "s.parquet", choice)
    path = tmp_path / "s.parquet"
    assert load_rows(path, ["s" * 64], pointer="/preselected", in_rank_order=True).tolist() == [6, 8, 9, 0, 3]
    assert load_rows(path, ["s" * 64], pointer="/exclude/0", in_rank_order=False).tolist() == [0, 3, 6, 8, 9]


def test_a_selection_of_another_dataset_is_refused(tmp_path: Path) -> None:
    choice, _, _ = some_choice()
    write(tmp_path / "s.parquet", choice)
    with pytest.raises(Invalid, match="made from other data") as caught:
        load_rows(tmp_path / "s.parquet", ["e" * 64], pointer="/preselected", in_rank_order=True)
    assert caught.value.pointer == "/preselected"


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing of the kind PAR1", None])
def test_what_is_no_selection_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "s.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Invalid) as caught:
        load_rows(path, ["s" * 64], pointer="/exclude/2", in_rank_order=False)
    assert caught.value.pointer == "/exclude/2"
    with pytest.raises(NotFound if content is None else DataError):
        read_selection(path)


def test_parquet_without_our_footer_or_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"row": [1], "rank": [0]}), path)
    with pytest.raises(DataError, match="footer"):
        read_selection(path)
    pq.write_table(pa.table({"row": [1]}).replace_schema_metadata({"tamis": json.dumps({"schema_version": 2})}), path)
    with pytest.raises(DataError, match="version 2"):
        read_selection(path)


# -- scores.parquet


def test_every_row_has_a_score_and_a_reason(tmp_path: Path) -> None:
    _, keys, layout = some_choice((3, 7))
    choice = choose(
        Request(
            layout,
            Budget(rows=5),
            Strata(quotas={"wiki": Quota(max=2)}),
            preselected=np.array([2]),
            excluded=np.array([1]),
        ),
        keys,
        ("eligible", "empty"),
    )
    described = write_scores(tmp_path / "x", keys, layout, choice, ("eligible", "empty"))
    table = pq.read_table(tmp_path / "x")
    assert described.rows == len(table) == 10
    assert table.column("row").to_pylist() == list(range(10))
    assert dict(enumerate(table.column("reason").to_pylist())) == {
        0: "selected",
        1: "excluded",
        2: "preselected",
        3: "selected",
        4: "below-threshold",
        5: "below-threshold",
        6: "selected",
        7: "below-threshold",
        8: "quota-full",
        9: "selected",
    }
    assert table.column("key").to_pylist() == [5.0, 1.0, None, 4.0, 3.0, 2.0, 9.0, 0.5, 8.0, 7.0]
    assert table.column("score").to_pylist()[2] == -1.5
    assert table.column("stratum").to_pylist()[:3] == ["web", "wiki", "wiki"]


def test_the_selectors_reasons_and_rows_without_a_key(tmp_path: Path) -> None:
    class Filtered(Keys):
        def __call__(self, unit: int) -> RankedUnit:
            reasons = np.array([0, 2, 0, 1], np.uint8)
            return RankedUnit(np.array([1.0, 5.0, -np.inf, 2.0]), np.array([1.0, np.nan, 3.0, 4.0]), reasons=reasons)

    keys = Filtered([0.0] * 4)
    names = ("eligible", "too-few-tokens", "quality")
    choice = choose(Request(Layout(keys.starts), Budget(rows=1)), keys, names)
    write_scores(tmp_path / "x", keys, Layout(keys.starts), choice, names)
    table = pq.read_table(tmp_path / "x")
    assert table.column("reason").to_pylist() == ["selected", "quality", "no-key", "too-few-tokens"]
    assert table.column("key").to_pylist() == [1.0, None, None, None]


def test_scores_of_many_units_have_row_groups_of_one_size(tmp_path: Path) -> None:
    count = 2 * ROW_GROUP + 17
    keys = Keys(np.random.default_rng(3).random(count).tolist(), [5, ROW_GROUP - 1, ROW_GROUP + 3])
    layout = Layout(keys.starts)
    choice = choose(Request(layout, Budget(fraction=0.25)), keys)
    write_scores(tmp_path / "x", keys, layout, choice, ("eligible",))
    with pq.ParquetFile(tmp_path / "x") as file:
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        table = file.read()
    assert sizes == [ROW_GROUP, ROW_GROUP, 17]
    assert table.column("key").to_numpy().tolist() == keys.keys.tolist()
    selected = np.flatnonzero(np.array(table.column("reason").to_pylist()) == "selected")
    assert selected.tolist() == choice.rows.tolist()


def test_a_row_taken_in_an_earlier_turn_keeps_the_key_it_was_taken_with(tmp_path: Path) -> None:
    one, two = Keys([1.0, 9.0, 3.0]), Keys([7.0, 0.0, 8.0])
    layout = Layout(one.starts)
    choice = choose_by_target(Request(layout, Budget(rows=2)), [one, two], lambda left: [1, left - 1])
    write_scores(tmp_path / "x", two, layout, choice, ("eligible",))
    table = pq.read_table(tmp_path / "x")
    assert table.column("key").to_pylist() == [7.0, 9.0, 8.0]
    assert table.column("reason").to_pylist() == ["below-threshold", "selected", "selected"]


# -- the whole result, over real shards


def dataset_of(folder: Path, ids: Sequence[pa.Array]) -> Dataset:
    folder.mkdir(exist_ok=True)
    for index, column in enumerate(ids):
        text = pa.array([f"text {row}" for row in range(len(column))])
        pq.write_table(pa.table({"text": text, "doc": column}), folder / f"{index}.parquet", row_group_size=3)
    manifest = Manifest(shards=[f"{folder}/*.parquet"], columns=Columns(text="text", id="doc"))
    return Dataset.open(manifest, LocalStorage(), needs=["text"])


def test_ids_come_as_the_shards_have_them(tmp_path: Path) -> None:
    dataset = dataset_of(
        tmp_path / "d", [pa.array(range(7), pa.int64()), pa.array([], pa.int64()), pa.array([8, None])]
    )
    ids = read_ids(dataset, np.array([0, 2, 3, 6, 8]))
    assert ids.type == pa.int64()
    assert ids.to_pylist() == [0, 2, 3, 6, None]


def test_ids_of_types_with_a_common_one_get_it(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "d", [pa.array([1, 2], pa.int32()), pa.array([2**40], pa.int64())])
    assert read_ids(dataset, np.array([1, 2])).to_pylist() == [2, 2**40]


def whole_result(out: Path, folder: Path, *, publish_scores: bool = True, model: bool = True) -> ResultManifest:
    dataset = dataset_of(folder, [pa.array([f"a{row}" for row in range(7)]), pa.array(["b0", "b1", "b2"])])
    starts: npt.NDArray[np.int64] = np.asarray(dataset.row_starts)
    choice, keys, layout = some_choice(starts[1:-1].tolist(), strata=True)
    out.mkdir(exist_ok=True)
    decision = Decision(
        choice=choice,
        rankings=[keys],
        reason_names=("eligible", "empty"),
        reason_details={"empty": "The row is empty."},
        model=pa.table({"bucket": [1, 2]}) if model else None,
    )
    return write_result(
        out,
        decision,
        layout,
        dataset,
        Documents(
            FOOTER,
            {"warnings": [{"code": "tiny-target", "detail": "Tiny."}]},
            Provenance(
                tamis="0",
                selector="s",
                revision="1",
                params={},
                seed=7,
                fingerprint="f",
                dataset_digest="d",
                target_digests=[],
            ),
            [ShardInfo(uri="a", rows=7, bytes=1, digest="x"), ShardInfo(uri="b", rows=3, bytes=1, digest="y")],
        ),
        publish_scores=publish_scores,
    )


def test_a_result_reads_back_and_verifies(tmp_path: Path) -> None:
    manifest = whole_result(tmp_path / "out", tmp_path / "d")
    assert read_result(tmp_path / "out") == manifest
    verify_result(tmp_path / "out", manifest)
    assert sorted(file.name for file in manifest.files) == sorted([SELECTION, SCORES, REPORT, DECISION, MODEL])
    assert [notice.code for notice in manifest.warnings] == ["tiny-target"]
    assert [column.name for column in manifest.columns][3] == "id"
    table, _ = read_selection(tmp_path / "out" / SELECTION)
    assert table.column("id").to_pylist() == ["a0", "a3", "a6", "b1", "b2"]
    assert manifest.strata[1].asked_max == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {file.name for file in manifest.files} | {RESULT}


def test_scores_are_kept_but_not_published_unless_asked(tmp_path: Path) -> None:
    manifest = whole_result(tmp_path / "out", tmp_path / "d", publish_scores=False)
    assert SCORES not in [file.name for file in manifest.files]
    assert (tmp_path / "out" / SCORES).is_file()


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    one = whole_result(tmp_path / "one", tmp_path / "d")
    assert one == whole_result(tmp_path / "two", tmp_path / "d")


def test_a_result_written_over_another_leaves_nothing_of_it(tmp_path: Path) -> None:
    whole_result(tmp_path / "out", tmp_path / "d", model=True)
    manifest = whole_result(tmp_path / "out", tmp_path / "d", model=False)
    assert MODEL not in [file.name for file in manifest.files]
    assert not (tmp_path / "out" / MODEL).exists()


@pytest.mark.parametrize("name", [SELECTION, SCORES, REPORT, DECISION, MODEL])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_found(tmp_path: Path, name: str, damage: str) -> None:
    manifest = whole_result(tmp_path / "out", tmp_path / "d")
    path = tmp_path / "out" / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    with pytest.raises(StorageError, match=name):
        verify_result(tmp_path / "out", manifest)


def test_no_result_and_a_damaged_manifest(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    (tmp_path / RESULT).write_text("{")
    with pytest.raises(StorageError, match="manifest"):
        read_result(tmp_path)
