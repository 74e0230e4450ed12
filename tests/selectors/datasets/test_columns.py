"""Which columns play which role, what types they may have, and what is said when they can't."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors.datasets import Dataset, LocalStorage
from tamis.selectors.errors import DataError, Invalid
from tamis.selectors.schema.request import Manifest, Role

ANY_TEXT = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.large_string())]
ANY_INT = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


def write(path: Path, **columns: Any) -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def open_dataset(*paths: Path, needs: Any = (), pointer: Any = "/dataset", **columns: Any) -> Dataset:
    manifest = Manifest.model_validate({"shards": list(map(str, paths)), "columns": columns})
    return Dataset.open(manifest, LocalStorage(), needs=needs, pointer=pointer)


def values(dataset: Dataset, role: Role) -> list[Any]:
    return [v for unit in dataset.units for batch in dataset.read(unit, [role]) for v in batch.column(role).to_pylist()]


@pytest.fixture(params=["parquet", "arrow", "jsonl"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"a.{request.param}"


class TestNames:
    def test_a_needed_role_falls_back_to_its_own_name(self, path: Path) -> None:
        dataset = open_dataset(write(path, text=["a"], group=["g"], body=["b"]), needs=("text",))
        assert dataset.columns.has("text")
        assert not dataset.columns.has("group")  # neither needed nor named
        assert values(dataset, "text") == ["a"]

    def test_a_named_column_comes_first(self, path: Path) -> None:
        dataset = open_dataset(write(path, text=["a"], body=["b"]), needs=("text",), text="body")
        assert values(dataset, "text") == ["b"]

    def test_one_column_may_play_two_roles(self, path: Path) -> None:
        dataset = open_dataset(write(path, n=[1, 2]), id="n", size="n", score="n", group="n")
        [batch] = dataset.read(dataset.units[0], ["id", "size", "score", "group"])
        assert [batch.column(role).to_pylist() for role in ("id", "size", "score", "group")] == [
            [1, 2],
            [1, 2],
            [1.0, 2.0],
            ["1", "2"],
        ]

    def test_dots_in_names(self, tmp_path: Path) -> None:
        table = {"meta": pa.array([{"text": "nested"}]), "meta.text": ["flat"]}
        for name in ("a.parquet", "a.arrow"):
            assert values(open_dataset(write(tmp_path / name, **table), text="meta.text"), "text") == ["flat"]

    def test_a_missing_column(self, path: Path) -> None:
        write(path, body=["a"], doc=["b"])
        with pytest.raises(Invalid, match=r"no column 'txt'.*body, doc") as caught:
            open_dataset(path, text="txt", pointer="/target/datasets/1")
        assert caught.value.pointer == "/target/datasets/1/columns/text"
        assert caught.value.where == {"shard": path.as_uri(), "column": "txt"}

    def test_a_needed_role_without_a_column(self, path: Path) -> None:
        with pytest.raises(Invalid, match=r"text column is needed.*columns\.text: body") as caught:
            open_dataset(write(path, body=["a"]), needs=("text",))
        assert caught.value.pointer == "/dataset/columns/text"

    @pytest.mark.parametrize("form", ["parquet", "arrow", "jsonl"])
    def test_every_shard_is_looked_at(self, tmp_path: Path, form: str) -> None:
        paths = [write(tmp_path / f"{number}.{form}", text=["a"], number=[number]) for number in range(9)]
        paths[6] = write(tmp_path / f"6.{form}", txt=["a"], number=[6])
        with pytest.raises(Invalid, match="no column 'text'") as caught:
            open_dataset(*paths, needs=("text",))
        assert caught.value.where["shard"] == paths[6].as_uri()

    def test_two_columns_of_one_name(self, tmp_path: Path) -> None:
        table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(Invalid, match="2 columns 'text'"):
            open_dataset(tmp_path / "a.parquet", needs=("text",))

    def test_very_many_columns_are_not_all_listed(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", **{f"c{number}": [1] for number in range(500)})
        with pytest.raises(Invalid, match="and 470 more"):
            open_dataset(path, needs=("text",))

    def test_a_role_that_was_not_asked_for_cannot_be_read(self, path: Path) -> None:
        dataset = open_dataset(write(path, text=["a"], size=[1]), needs=("text",))
        with pytest.raises(ValueError, match="role size"):
            next(dataset.read(dataset.units[0], ["size"]))


class TestTypes:
    @pytest.mark.parametrize("type_", ANY_TEXT)
    @pytest.mark.parametrize("role", ["text", "id", "group", "label"])
    @pytest.mark.parametrize("form", ["parquet", "arrow"])
    def test_strings(self, tmp_path: Path, form: str, role: Role, type_: pa.DataType) -> None:
        content = ["a", None, "", "ü" * 30]
        dataset = open_dataset(write(tmp_path / f"a.{form}", c=pa.array(content, type_)), **{role: "c"})
        assert values(dataset, role) == content
        [batch] = dataset.read(dataset.units[0], [role])
        assert batch.column(role).type in ((pa.string(), pa.large_string()) if role == "text" else (pa.string(),))

    @pytest.mark.parametrize("type_", ANY_INT)
    def test_integers(self, tmp_path: Path, type_: pa.DataType) -> None:
        path = write(tmp_path / "a.parquet", c=pa.array([3, None, 1], type_), s=pa.array([3, 0, 1], type_))
        dataset = open_dataset(path, id="c", group="c", label="c", score="c", size="s")
        assert values(dataset, "id") == [3, None, 1]
        assert values(dataset, "group") == values(dataset, "label") == ["3", None, "1"]
        assert values(dataset, "score") == [3.0, None, 1.0]
        [batch] = dataset.read(dataset.units[0], ["id", "size", "label"])
        assert batch.column("id").type == type_
        assert batch.ints("size").tolist() == [3, 0, 1]
        codes, names = batch.categories("label")
        assert (codes.tolist(), names) == ([0, -1, 1], ["3", "1"])

    def test_booleans_and_dictionaries_of_integers(self, tmp_path: Path) -> None:
        ints = pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 2, 0]), pa.array([7, 8, None]))
        path = write(tmp_path / "a.arrow", b=pa.array([True, False, None, True, True]), i=ints)
        dataset = open_dataset(path, group="b", label="i")
        assert values(dataset, "group") == ["true", "false", None, "true", "true"]
        assert values(dataset, "label") == ["7", None, "8", None, "7"]
        [batch] = dataset.read(dataset.units[0], ["label"])
        codes, names = batch.categories("label")
        assert [None if code < 0 else names[code] for code in codes] == ["7", None, "8", None, "7"]

    def test_a_dictionary_that_repeats_itself(self, tmp_path: Path) -> None:
        group = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), ["a", "a", "b"])
        dataset = open_dataset(write(tmp_path / "a.arrow", group=group), needs=("group",))
        [batch] = dataset.read(dataset.units[0], ["group"])
        codes, names = batch.categories("group")
        assert (codes.tolist(), names) == ([0, 0, 1], ["a", "b"])

    @pytest.mark.parametrize(
        ("type_", "found"),
        [(pa.float16(), np.float32), (pa.float32(), np.float32), (pa.float64(), np.float64), (pa.int8(), np.float64)],
    )
    def test_scores(self, tmp_path: Path, type_: pa.DataType, found: type) -> None:
        path = write(tmp_path / "a.arrow", score=pa.array([np.float16(1), None, np.float16(2)]).cast(type_))
        dataset = open_dataset(path, needs=("score",))
        [batch] = dataset.read(dataset.units[0], ["score"])
        floats = batch.floats("score")
        assert floats.dtype == found
        np.testing.assert_array_equal(floats, [1, np.nan, 2])

    @pytest.mark.parametrize("value", [pa.float16(), pa.float32(), pa.float64()])
    @pytest.mark.parametrize("size", [-1, 3])
    def test_vectors(self, tmp_path: Path, value: pa.DataType, size: int) -> None:
        vectors = np.arange(30, dtype=value.to_pandas_dtype()).reshape(10, 3)
        path = write(tmp_path / "a.parquet", gradient=pa.array(vectors.tolist(), pa.list_(value, size)))
        dataset = open_dataset(path, needs=("gradient",))
        assert dataset.dimension("gradient") == 3
        [batch] = dataset.read(dataset.units[0], ["gradient"])
        found = batch.vectors("gradient")
        assert found.dtype == vectors.dtype
        np.testing.assert_array_equal(found, vectors)
        np.testing.assert_array_equal(batch.take(np.array([7, 0])).vectors("gradient"), vectors[[7, 0]])

    @pytest.mark.parametrize(
        ("role", "array", "advice"),
        [
            ("text", pa.array([b"a"]), "UTF-8 strings"),
            ("text", pa.array([b"a"], pa.large_binary()), "UTF-8 strings"),
            ("text", pa.array([1]), "strings, or lists of integers"),
            ("text", pa.array([{"a": "b"}]), "column of its own"),
            ("text", pa.array([["a"]]), "column of its own"),
            ("text", pa.array([[[1]]]), "column of its own"),
            ("id", pa.array([1.5]), "strings or integers"),
            ("id", pa.array([b"0123456789abcdef"], pa.binary(16)), "UTF-8 strings"),
            ("group", pa.array([1.5]), "strings, integers or booleans"),
            ("label", pa.array([["a"]]), "strings, integers or booleans"),
            ("size", pa.array([1.5]), "non-negative integers"),
            ("size", pa.array(["1"]), "non-negative integers"),
            ("score", pa.array(["1"]), "floats or integers"),
            ("score", pa.array([True]), "floats or integers"),
            ("embedding", pa.array([1.5]), "lists of float16"),
            ("embedding", pa.array([[1]]), "lists of float16"),
            ("gradient", pa.array([["a"]]), "lists of float16"),
            ("logits", pa.array([[[1.0]]]), "lists of float16"),
        ],
    )
    @pytest.mark.parametrize("form", ["parquet", "arrow"])
    def test_wrong_types(self, tmp_path: Path, form: str, role: Role, array: pa.Array, advice: str) -> None:
        path = write(tmp_path / f"a.{form}", good=["a"], c=array)
        with pytest.raises(Invalid, match=advice) as caught:
            open_dataset(path, **{role: "c"})
        assert caught.value.pointer == f"/dataset/columns/{role}"
        assert caught.value.where == {"shard": path.as_uri(), "column": "c"}

    @pytest.mark.parametrize(
        ("role", "value"),
        [
            *(("text", value) for value in (1, {"a": 1}, ["a"], True)),
            *(("size", value) for value in (1.0, "1", True)),
            *(("embedding", value) for value in (1.5, ["a"], [[1.0]])),
            *(("label", value) for value in (1.5, [1])),
            ("id", 1.5),
            ("score", "a"),
        ],
    )
    def test_wrong_json_types(self, tmp_path: Path, role: Role, value: Any) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({"c": value}) + "\n")
        with pytest.raises(Invalid, match=f"role {role} takes") as caught:
            open_dataset(path, **{role: "c"})
        assert caught.value.pointer == f"/dataset/columns/{role}"


class TestAgreement:
    def test_widths_join(self, tmp_path: Path) -> None:
        one = write(
            tmp_path / "1.parquet", id=pa.array([1], pa.int32()), score=pa.array([1.5], pa.float32()), text=["a"]
        )
        two = write(
            tmp_path / "2.parquet", id=pa.array([2], pa.int8()), score=pa.array([0.1], pa.float64()), text=["b"]
        )
        three = write(tmp_path / "3.jsonl", id=[3], score=[3], text=["c"])
        dataset = open_dataset(one, two, three, needs=("id", "score", "text"))
        assert values(dataset, "id") == [1, 2, 3]
        assert values(dataset, "score") == [1.5, 0.1, 3.0]
        kinds = {batch.column("id").type for unit in dataset.units for batch in dataset.read(unit, ["id"])}
        assert kinds == {pa.int64()}

    def test_kinds_of_groups_need_not(self, tmp_path: Path) -> None:
        one = write(tmp_path / "1.parquet", group=[1, 2])
        two = write(tmp_path / "2.jsonl", group=["1", "x"])
        three = write(tmp_path / "3.jsonl", group=[True])
        assert values(open_dataset(one, two, three, needs=("group",)), "group") == ["1", "2", "1", "x", "true"]

    @pytest.mark.parametrize(
        ("role", "one", "two"),
        [
            ("text", ["a"], [[1, 2]]),
            ("id", ["a"], [1]),
            (
                "embedding",
                pa.array([[1.0]], pa.list_(pa.float32(), 1)),
                pa.array([[1.0, 2]], pa.list_(pa.float32(), 2)),
            ),
        ],
    )
    def test_shards_that_do_not_agree(self, tmp_path: Path, role: Role, one: Any, two: Any) -> None:
        paths = [write(tmp_path / "1.parquet", c=one), write(tmp_path / "2.arrow", c=two)]
        with pytest.raises(Invalid, match="do not agree") as caught:
            open_dataset(*paths, **{role: "c"})
        assert caught.value.pointer == f"/dataset/columns/{role}"
        assert caught.value.where["shard"] == paths[1].as_uri()

    def test_a_column_of_nulls_goes_with_any(self, tmp_path: Path) -> None:
        nothing = pa.nulls(1)
        one = write(tmp_path / "1.parquet", text=nothing, id=nothing, group=nothing, score=nothing)
        two = write(tmp_path / "2.parquet", text=["a"], id=[1], group=["g"], score=[0.5])
        three = write(tmp_path / "3.jsonl", text=nothing, id=nothing, group=nothing, score=nothing)
        dataset = open_dataset(one, two, three, needs=("text", "id", "group", "score"))
        for role, value in (("text", "a"), ("id", 1), ("group", "g"), ("score", 0.5)):
            assert values(dataset, role) == [None, value, None]  # type: ignore[arg-type]

    def test_empty_shards_have_no_say_in_json_but_have_in_parquet(self, tmp_path: Path) -> None:
        (tmp_path / "0.jsonl").write_text("")
        one = write(tmp_path / "1.jsonl", text=["a"])
        assert values(open_dataset(tmp_path / "0.jsonl", one, needs=("text",)), "text") == ["a"]
        with pytest.raises(Invalid):
            open_dataset(write(tmp_path / "2.parquet", other=pa.array([], pa.string())), one, needs=("text",))

    def test_the_key_tells_types_and_columns(self, tmp_path: Path) -> None:
        one = write(tmp_path / "1.parquet", text=["a"], score=pa.array([1.5], pa.float32()))
        two = write(tmp_path / "2.parquet", text=["a"], score=pa.array([1.5], pa.float64()))
        keys = [open_dataset(*paths, needs=("text", "score")).columns.key(["score"]) for paths in ((one,), (one, two))]
        assert keys[0] != keys[1]
        assert json.loads(json.dumps(keys)) == keys
        assert open_dataset(one, needs=("text",)).columns.key(()) == {}


class TestTemplates:
    def test_columns_are_joined(self, path: Path) -> None:
        write(path, q=["Why?", None, "x"], n=[1, 2, None], f=[1.5, 2.0, 1e20], b=[True, None, False], other=[1, 1, 1])
        dataset = open_dataset(path, text={"template": "Q: {q}\n{n}/{f} {{{b}}} {q}"})
        assert values(dataset, "text") == ["Q: Why?\n1/1.5 {true} Why?", "Q: \n2/2 {} ", "Q: x\n/1e+20 {false} x"]
        assert dataset.columns["text"].columns_read() == ("q", "n", "f", "b")
        [batch] = dataset.read(dataset.units[0], ["text"])
        offsets, data = batch.text_buffers()
        assert data[: offsets[1]].tobytes().decode() == "Q: Why?\n1/1.5 {true} Why?"

    def test_dictionaries_and_dates(self, tmp_path: Path) -> None:
        day = pa.array([0], pa.date32())
        path = write(tmp_path / "a.parquet", d=pa.array(["a"]).dictionary_encode(), day=day)
        assert values(open_dataset(path, text={"template": "{d} {day}"}), "text") == ["a 1970-01-01"]

    @pytest.mark.parametrize(
        ("template", "text"),
        [
            ("no field", "names no column"),
            ("{}", "must be a column's name"),
            ("{a:>10}", "must be a column's name"),
            ("{a!r}", "must be a column's name"),
            ("{a", "can't be parsed"),
            ("a}", "can't be parsed"),
            ("{missing}", "no column 'missing'"),
            ("{a.__class__}", "no column 'a.__class__'"),
            ("{raw}", "UTF-8 strings"),
            ("{list}", "column of its own"),
        ],
    )
    def test_bad_templates(self, tmp_path: Path, template: str, text: str) -> None:
        path = write(tmp_path / "a.parquet", a=["a"], raw=[b"a"], list=[[1]])
        with pytest.raises(Invalid, match=text) as caught:
            open_dataset(path, text={"template": template})
        assert caught.value.pointer == "/dataset/columns/text/template"


class TestJson:
    def test_types_are_those_of_the_first_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        lines = [
            {"id": None, "score": 1, "embedding": [1, 2], "day": "2020-01-01"},
            {"id": 2**63, "score": 0.5, "embedding": [0.5, 1], "day": "2020-01-02"},
            {"id": 1, "score": None, "embedding": [1, 1], "day": None, "new": 1},
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        dataset = open_dataset(path, id="id", score="score", embedding="embedding", group="day", size="new")
        assert values(dataset, "id") == [None, 2**63, 1]
        assert values(dataset, "score") == [1.0, 0.5, None]
        assert values(dataset, "embedding") == [[1.0, 2.0], [0.5, 1.0], [1.0, 1.0]]
        assert values(dataset, "group") == ["2020-01-01", "2020-01-02", None]
        with pytest.raises(DataError, match="size is null") as caught:
            values(dataset, "size")
        assert caught.value.where["line"] == 1

    def test_other_fields_may_hold_anything(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"text":"a","x":1}\n{"text":"b","x":{"text":"no"}}\n{"x":[[]],"text":"c","x":null}\n')
        assert values(open_dataset(path, needs=("text",)), "text") == ["a", "b", "c"]

    def test_escaped_names(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"te\\u0078t":"a"}\n{"text":"b"}\n')
        assert values(open_dataset(path, needs=("text",)), "text") == ["a", "b"]

    def test_special_floats(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"score":NaN}\n{"score":-Infinity}\n{"score":1e-400}\n')
        dataset = open_dataset(path, needs=("score",))
        [batch] = dataset.read(dataset.units[0], ["score"])
        np.testing.assert_array_equal(batch.floats("score"), [np.nan, -np.inf, 0])


def test_an_opened_dataset_pickles(path: Path) -> None:
    dataset = open_dataset(write(path, text=["a", "b"]), needs=("text",))
    other = pickle.loads(pickle.dumps(dataset))
    assert other.digest == dataset.digest
    assert values(other, "text") == ["a", "b"]
