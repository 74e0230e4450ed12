"""Shards that are damaged, changed or wrong, and manifests that say what is not so: each has its answer."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors.datasets import Dataset, LocalStorage
from tamis.selectors.errors import DataError, Forbidden, InputsChanged, Invalid, TamisError
from tamis.selectors.schema.request import Manifest, Role, TargetDataset


def open_dataset(*shards: Any, needs: tuple[Role, ...] = ("text",), form: str | None = None, **columns: Any) -> Dataset:
    listed = [str(shard) if isinstance(shard, Path) else shard for shard in shards]
    manifest = Manifest.model_validate({"shards": listed, "format": form, "columns": columns})
    return Dataset.open(manifest, LocalStorage(), needs=needs)


def read_all(dataset: Dataset, *roles: Role) -> int:
    return sum(batch.rows for unit in dataset.units for batch in dataset.read(unit, roles or ("text",)))


def failure(dataset: Dataset, *roles: Role) -> DataError:
    with pytest.raises(DataError) as caught:
        read_all(dataset, *roles)
    assert caught.value.where["shard"] in str(caught.value)
    return caught.value


def parquet(path: Path, table: pa.Table | None = None, **options: Any) -> Path:
    rng = np.random.default_rng(0)
    random = [rng.bytes(500).hex() for _ in range(100)]
    pq.write_table(table if table is not None else pa.table({"text": random, "n": range(100)}), path, **options)
    return path


def invalid_utf8(raw: Sequence[bytes | None]) -> pa.Array:
    return pa.Array.from_buffers(pa.string(), len(raw), pa.array(raw, pa.binary()).buffers())


def ipc(path: Path, table: pa.Table, *, rows: int = 10, streaming: bool = False, **options: Any) -> Path:
    new = pa.ipc.new_stream if streaming else pa.ipc.new_file
    with new(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


class TestManifest:
    def test_a_missing_file_has_a_pointer(self, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match="no file") as caught:
            open_dataset(parquet(tmp_path / "a.parquet"), tmp_path / "b.parquet")
        assert caught.value.pointer == "/dataset/shards/1"

    def test_a_forbidden_file_has_a_pointer(self, tmp_path: Path) -> None:
        manifest = Manifest(shards=[str(parquet(tmp_path / "a.parquet"))])
        with pytest.raises(Forbidden) as caught:
            Dataset.open(manifest, LocalStorage([tmp_path / "elsewhere"]), needs=["text"], pointer="/target/datasets/0")
        assert caught.value.pointer == "/target/datasets/0/shards/0"

    def test_a_shard_named_twice(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet")
        (tmp_path / "link.parquet").symlink_to(path)
        for again in (str(path), path.as_uri(), f"{tmp_path}/*.parquet", str(tmp_path / "link.parquet")):
            with pytest.raises(Invalid, match=r"named twice, by shards\[0\] and shards\[1\]") as caught:
                open_dataset(path, again)
            assert caught.value.pointer == "/dataset/shards/1"

    def test_names_that_tell_no_format(self, tmp_path: Path) -> None:
        for name in ("a.txt", "parquet", "a.parquet.gz", "a.arrow.zst", "a.csv"):
            parquet(tmp_path / name)
            with pytest.raises(Invalid, match="does not tell its format") as caught:
                open_dataset(tmp_path / name)
            assert caught.value.pointer == "/dataset/shards/0"
        assert open_dataset(tmp_path / "a.txt", form="parquet").rows == 100

    def test_names_that_do(self, tmp_path: Path) -> None:
        line = b'{"text": "a"}\n'
        for name, content in {
            "a.JSONL": line,
            "a.ndjson": line,
            "a.json": line,
            "a.ndjson.GZ": gzip.compress(line),
            "plain.jsonl.gz": line,  # what a download has unpacked already
            "packed.jsonl": gzip.compress(line),
        }.items():
            (tmp_path / name).write_bytes(content)
            dataset = open_dataset(tmp_path / name)
            assert (dataset.shards[0].format, read_all(dataset)) == ("jsonl", 1)
        assert open_dataset(parquet(tmp_path / "a.PQ")).shards[0].format == "parquet"
        assert open_dataset(ipc(tmp_path / "a.feather", pa.table({"text": ["a"]}))).shards[0].format == "arrow"

    def test_declared_rows(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet")
        assert open_dataset({"uri": str(path), "rows": 100}).rows == 100
        with pytest.raises(Invalid, match="has 100 rows, not 99") as caught:
            open_dataset({"uri": str(path), "rows": 99})
        assert caught.value.pointer == "/dataset/shards/0/rows"

    def test_declared_rows_of_json_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"text": "a"}\n' * 3)
        for rows in (2, 3):
            dataset = open_dataset({"uri": str(path), "rows": rows})
            if rows == 3:
                assert dataset.with_rows([3]).rows == 3
            else:
                with pytest.raises(Invalid, match="has 3 rows, not 2"):
                    dataset.with_rows([3])

    def test_declared_sha256(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        open_dataset({"uri": str(path), "sha256": digest}).check_declared()
        wrong = open_dataset({"uri": str(path), "sha256": "0" * 64})
        with pytest.raises(DataError, match=f"{digest}.*{'0' * 64}") as caught:
            wrong.check_declared()
        assert caught.value.pointer == "/dataset/shards/0/sha256"

    def test_declarations_do_not_go_with_globs(self, tmp_path: Path) -> None:
        for name in "ab":
            parquet(tmp_path / f"{name}.parquet")
        with pytest.raises(Invalid, match="matches 2 files"):
            open_dataset({"uri": f"{tmp_path}/*.parquet", "rows": 100})

    def test_resolved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("b 1", "a"):
            parquet(tmp_path / f"{name}.parquet")
        monkeypatch.chdir(tmp_path)
        manifest = TargetDataset.model_validate(
            {"shards": ["b*.parquet", {"uri": "a.parquet", "rows": 100}], "columns": {"id": "n"}, "name": "t"}
        )
        dataset = Dataset.open(manifest, LocalStorage(), needs=["text"])
        resolved = dataset.resolved()
        assert isinstance(resolved, TargetDataset)
        assert resolved.model_dump(exclude_none=True) == {
            "shards": [
                f"file://{tmp_path}/b%201.parquet",
                {"uri": f"file://{tmp_path}/a.parquet", "rows": 100},
            ],
            "format": "parquet",
            "columns": {"id": "n"},
            "name": "t",
        }
        monkeypatch.chdir("/")
        assert Dataset.open(resolved, LocalStorage(), needs=["text"]).digest == dataset.digest

    def test_locate(self, tmp_path: Path) -> None:
        sizes = [3, 0, 0, 2, 0]
        paths = [parquet(tmp_path / f"{n}.parquet", pa.table({"text": ["a"] * rows})) for n, rows in enumerate(sizes)]
        dataset = open_dataset(*paths)
        assert dataset.shard_starts is not None
        assert dataset.shard_starts.tolist() == [0, 3, 3, 3, 5, 5]
        shard, row = dataset.locate([0, 2, 3, 4])
        assert (shard.tolist(), row.tolist()) == ([0, 0, 3, 3], [0, 2, 0, 1])
        for outside in (-1, 5):
            with pytest.raises(Invalid, match=f"no row {outside}"):
                dataset.locate([0, outside])


class TestChanges:
    @pytest.fixture(params=["parquet", "arrow", "jsonl"])
    def path(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        table = pa.table({"text": ["a", "b"]})
        path: Path = tmp_path / f"a.{request.param}"
        if request.param == "parquet":
            return parquet(path, table)
        if request.param == "arrow":
            return ipc(path, table)
        path.write_text('{"text": "a"}\n{"text": "b"}\n')
        return path

    @staticmethod
    def replace(path: Path) -> None:
        path.with_name("new").write_bytes(path.read_bytes())
        path.with_name("new").rename(path)

    @staticmethod
    def touch(path: Path) -> None:
        os.utime(path, ns=(0, 0))

    @pytest.mark.parametrize("change", [replace, touch, Path.unlink])
    def test_verify_and_read(self, path: Path, change: Callable[[Path], None]) -> None:
        dataset = open_dataset(path)
        dataset.verify()
        change(path)
        for action in (dataset.verify, lambda: read_all(dataset)):
            with pytest.raises(InputsChanged) as caught:
                action()
            assert caught.value.where["shard"] == path.as_uri()

    def test_a_reader_under_way_keeps_the_file_it_opened_and_tells_at_its_end(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", row_group_size=1)
        dataset = open_dataset(path)
        reader = dataset.read(dataset.units[0], ["text"])
        rows = next(reader).rows
        path.unlink()
        with pytest.raises(InputsChanged, match="is gone"):
            for batch in reader:
                rows += batch.rows
        assert rows == 100


class TestParquet:
    @pytest.mark.parametrize("keep", [0, 3, 11, 2000, -1, -8, -30])
    def test_truncated(self, tmp_path: Path, keep: int) -> None:
        path = parquet(tmp_path / "a.parquet")
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError) as caught:
            open_dataset(path)
        assert caught.value.where["shard"] == path.as_uri()
        assert caught.value.pointer == "/dataset/shards/0"

    def test_another_format(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_text('{"text": "a"}\n' * 100)
        with pytest.raises(DataError, match="not a Parquet file"):
            open_dataset(tmp_path / "a.parquet")

    @pytest.mark.parametrize("place", range(1, 60, 3))
    def test_a_footer_that_is_damaged_anywhere(self, tmp_path: Path, place: int) -> None:
        path = parquet(tmp_path / "a.parquet")
        raw = bytearray(path.read_bytes())
        raw[-8 - place * 10] ^= 0xFF
        path.write_bytes(raw)
        try:
            read_all(open_dataset(path))  # some bytes of it change nothing that matters here
        except TamisError as error:
            assert error.where["shard"] == path.as_uri()

    @pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip"])
    def test_a_damaged_page_is_found(self, tmp_path: Path, compression: str) -> None:
        path = parquet(
            tmp_path / "a.parquet",
            row_group_size=10,
            compression=compression,
            use_dictionary=False,
            write_statistics=False,
        )
        raw = bytearray(path.read_bytes())
        column = pq.read_metadata(path).row_group(7).column(0)
        middle = column.data_page_offset + column.total_compressed_size // 2
        raw[middle : middle + 100] = bytes(100)
        header = column.data_page_offset
        raw[header + 20 : header + 60] = b"\xff" * 40
        path.write_bytes(raw)
        error = failure(open_dataset(path))
        assert error.where["row_group"] == 7
        assert error.where["column"] == "text"
        assert read_all(open_dataset(path, needs=(), size="n"), "size") == 100  # the other column is sound

    def test_a_page_that_fails_its_checksum(self, tmp_path: Path) -> None:
        path = parquet(
            tmp_path / "a.parquet",
            row_group_size=10,
            compression="none",
            use_dictionary=False,
            write_page_checksum=True,
        )
        raw = bytearray(path.read_bytes())
        column = pq.read_metadata(path).row_group(3).column(0)
        raw[column.data_page_offset + column.total_compressed_size - 5] ^= 1
        path.write_bytes(raw)
        error = failure(open_dataset(path))
        assert (error.where["row_group"], error.where["column"]) == (3, "text")

    @pytest.mark.parametrize("use_dictionary", [True, False])
    def test_text_that_is_not_utf8(self, tmp_path: Path, use_dictionary: bool) -> None:
        text = invalid_utf8([b"ok"] * 33 + [b"\xff\xfe"] + [None] + [b"ok"] * 15)
        path = parquet(
            tmp_path / "a.parquet", pa.table({"text": text}), row_group_size=10, use_dictionary=use_dictionary
        )
        error = failure(open_dataset(path))
        assert "not valid UTF-8" in error.detail
        assert (error.where["row_group"], error.where["row"], error.where["column"]) == (3, 33, "text")

    def test_half_a_character(self, tmp_path: Path) -> None:
        """Two rows whose bytes are valid only together."""
        path = parquet(tmp_path / "a.parquet", pa.table({"text": invalid_utf8([b"a", b"\xc3", b"\xa4"])}))
        assert failure(open_dataset(path)).where["row"] == 1

    @pytest.mark.parametrize(
        ("sizes", "row", "text"),
        [([1] * 25 + [None] + [1] * 9, 25, "null"), ([1] * 12 + [-5, 1], 12, "-5"), ([2**63], 0, "does not fit")],
    )
    def test_sizes(self, tmp_path: Path, sizes: list[int], row: int, text: str) -> None:
        type_ = pa.uint64() if max(size or 0 for size in sizes) >= 2**63 else pa.int64()
        path = parquet(tmp_path / "a.parquet", pa.table({"size": pa.array(sizes, type_)}), row_group_size=10)
        error = failure(open_dataset(path, needs=("size",)), "size")
        assert text in error.detail
        assert error.where == {"shard": path.as_uri(), "column": "size", "row_group": row // 10, "row": row}

    @pytest.mark.parametrize(
        ("bad", "text"), [(None, "vector is null"), ([1.0], "has 1 values"), ([1.0, None], "value of the vector")]
    )
    def test_vectors(self, tmp_path: Path, bad: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tamis.selectors.datasets.shard.TARGET_UNIT_BYTES", 1)
        vectors = pa.array([[0.0, 1.0]] * 17 + [bad] + [[0.0, 1.0]] * 5)
        path = parquet(tmp_path / "a.parquet", pa.table({"embedding": vectors}), row_group_size=5)
        error = failure(open_dataset(path, needs=("embedding",)), "embedding")
        assert text in error.detail
        assert (error.where["row_group"], error.where["row"]) == (3, 17)

    def test_lengths_that_differ_between_units(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tamis.selectors.datasets.shard.TARGET_UNIT_BYTES", 1)
        vectors = pa.array([[0.0, 1.0]] * 5 + [[1.0]] * 5)
        path = parquet(tmp_path / "a.parquet", pa.table({"embedding": vectors}), row_group_size=5)
        dataset = open_dataset(path, needs=("embedding",))
        with pytest.raises(DataError) as caught:
            next(dataset.read(dataset.units[1], ["embedding"]))
        assert caught.value.where["row"] == 5

    def test_empty_vectors(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", pa.table({"embedding": pa.array([[], []], pa.list_(pa.float32()))}))
        assert "is empty" in failure(open_dataset(path, needs=("embedding",)), "embedding").detail

    def test_null_token(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", pa.table({"text": [[1], None, [], [2, None]]}))
        error = failure(open_dataset(path))
        assert "token id is null" in error.detail
        assert error.where["row"] == 3

    def test_token_that_does_not_fit(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", pa.table({"text": pa.array([[1], [2, 2**63]], pa.list_(pa.uint64()))}))
        assert failure(open_dataset(path)).where["row"] == 1

    def test_shards_without_rows(self, tmp_path: Path) -> None:
        empty = pa.table({"text": pa.array([], pa.string())})
        dataset = open_dataset(parquet(tmp_path / "a.parquet", empty))
        assert (dataset.rows, list(dataset.units), read_all(dataset)) == (0, [], 0)


class TestArrow:
    table = pa.table({"text": [f"text {row}" for row in range(100)], "size": range(100)})

    @pytest.mark.parametrize("streaming", [True, False])
    def test_truncated_anywhere(self, tmp_path: Path, streaming: bool) -> None:
        path = ipc(tmp_path / "a.arrow", self.table, streaming=streaming)
        raw = path.read_bytes()
        ends = {len(raw)}
        for keep in range(0, len(raw), 37):
            path.write_bytes(raw[:keep])
            try:
                dataset = open_dataset(path)
            except DataError as error:
                assert error.where["shard"] == path.as_uri()
            else:
                # A stream may end after any record batch: it says nowhere how many there are.
                assert streaming
                assert dataset.rows is not None
                assert read_all(dataset) == dataset.rows
                assert dataset.rows % 10 == 0
                ends.add(keep)
        assert len(ends) < 6

    @pytest.mark.parametrize("streaming", [True, False])
    def test_damaged_anywhere(self, tmp_path: Path, streaming: bool) -> None:
        """Whatever bytes are wrong, the answer is rows or an error with the shard: never a crash."""
        path = ipc(tmp_path / "a.arrow", self.table, streaming=streaming, compression="lz4")
        raw = path.read_bytes()
        rng = np.random.default_rng(0)
        failed = 0
        for _ in range(400):
            broken = bytearray(raw)
            for place in rng.integers(0, len(raw), 4):
                broken[place] ^= int(rng.integers(1, 256))
            path.write_bytes(broken)
            try:
                read_all(open_dataset(path), "text")
            except TamisError as error:
                assert "shard" in error.where
                failed += 1
        assert failed > 50

    def test_offsets_outside_of_the_buffer(self, tmp_path: Path) -> None:
        path = ipc(tmp_path / "a.arrow", pa.table({"text": ["x" * 4321, "y" * 1111]}))
        good, bad = (np.array([0, 4321, end], np.int32).tobytes() for end in (5432, 10**6))
        assert path.read_bytes().count(good) == 1
        path.write_bytes(path.read_bytes().replace(good, bad))
        error = failure(open_dataset(path))
        assert (error.where["record_batch"], error.where["column"]) == (0, "text")

    def test_text_that_is_not_utf8(self, tmp_path: Path) -> None:
        text = invalid_utf8([b"ok"] * 33 + [b"\xff"] + [b"ok"] * 6)
        error = failure(open_dataset(ipc(tmp_path / "a.arrow", pa.table({"text": text}))))
        assert "not valid UTF-8" in error.detail
        assert (error.where["record_batch"], error.where["row"]) == (3, 33)

    def test_a_negative_size(self, tmp_path: Path) -> None:
        path = ipc(tmp_path / "a.arrow", pa.table({"size": [0] * 15 + [-1]}))
        error = failure(open_dataset(path, needs=("size",)), "size")
        assert (error.where["record_batch"], error.where["row"]) == (1, 15)

    @pytest.mark.parametrize("content", [b"", b"FEA1" + bytes(100), b"not arrow at all", b"PAR1" + bytes(100)])
    def test_another_format(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.arrow").write_bytes(content)
        with pytest.raises(DataError, match="Arrow IPC"):
            open_dataset(tmp_path / "a.arrow")


class TestJsonLines:
    @staticmethod
    def lines(tmp_path: Path, *lines: bytes | str, name: str = "a.jsonl", good: int = 1000) -> Path:
        """Write `good` good lines, some blank, then `lines`."""
        parts = [json.dumps({"text": f"text {number}", "n": number}).encode() for number in range(good)]
        parts[good // 2 : good // 2] = [b"", b"  "]
        parts += [line.encode() if isinstance(line, str) else line for line in lines]
        path = tmp_path / name
        raw = b"\n".join(parts) + b"\n"
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    @pytest.fixture(params=[(2**20, 2**20, "a.jsonl"), (5000, 900, "a.jsonl"), (2**20, 900, "a.jsonl.gz")])
    def name(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        unit_bytes, chunk_bytes, name = request.param
        monkeypatch.setattr("tamis.selectors.datasets.shard.TARGET_UNIT_BYTES", unit_bytes)
        monkeypatch.setattr("tamis.selectors.datasets.formats.lines.CHUNK_BYTES", chunk_bytes)
        monkeypatch.setattr("tamis.selectors.datasets.formats.jsonl.HEAD_BYTES", 200)
        return str(name)

    @pytest.mark.parametrize(
        ("line", "text"),
        [
            (b'{"text": "a"', "not valid JSON"),
            (b'{"text": "a"}}', "not valid JSON"),
            (b'{"text": "a"},', "not valid JSON"),
            (b'{"text": "a", }', "not valid JSON"),
            (b'{"text": "a"} {"text": "b"}', "not valid JSON"),
            (b'{"text": "a"}null{"text": "b"}', "not valid JSON"),
            (b"{'text': 'a'}", "not valid JSON"),
            (b'{"text":\n"a"}', "not valid JSON"),
            (b'{"text": "a\tb"}', "not valid JSON"),
            (b'{"text": "\\x"}', "not valid JSON"),
            (b"null", "holds null"),
            (b"[1]", "holds a list"),
            (b'"text"', "holds a string"),
            (b"17", "holds a number"),
            (b'{"text": "\xff"}', "not valid UTF-8"),
            (b'{"text": "\xed\xa0\x80"}', "not valid UTF-8"),
            (b'{"text": "\\ud800"}', "surrogate"),
            (b'{"text": "\\udc00 x"}', "surrogate"),
            (b'{"text": 17}', "holds a number"),
            (b'{"text": true}', "holds a boolean"),
            (b'{"text": {"a": 1}}', "holds an object"),
            (b'{"text": ["a"]}', "holds a list"),
            (b'{"text": "a", "text": "b"}', "twice"),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, name: str, line: bytes, text: str) -> None:
        path = self.lines(tmp_path, '{"text": "good"}', line, '{"text": "good"}', b'{"text": 1}', name=name)
        error = failure(open_dataset(path))
        assert error.where["line"] == 1004  # two of those before are blank
        assert text in error.detail
        assert "1004" in error.detail or text == "not valid UTF-8"

    @pytest.mark.parametrize("lines", [["null"], ["null", "null"], ['{"text":\n"a"}{"text": "b"}'], ["{}null{}"]])
    def test_what_pyarrow_does_not_survive_or_miscounts(self, tmp_path: Path, lines: list[str]) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(['{"text": "a"}', *lines]))
        with pytest.raises(DataError) as caught:
            read_all(open_dataset(path))
        assert caught.value.where["line"] == 2

    @pytest.mark.parametrize(
        ("line", "text"),
        [('{"n": 1.5}', "1.5"), ('{"n": "1"}', "a string"), ('{"n": 9223372036854775808}', "9223372036854775808")],
    )
    def test_numbers_that_change_their_type(self, tmp_path: Path, name: str, line: str, text: str) -> None:
        error = failure(open_dataset(self.lines(tmp_path, line, name=name), needs=(), size="n"), "size")
        assert error.where["line"] == 1003
        assert text in error.detail

    def test_sizes(self, tmp_path: Path, name: str) -> None:
        for line, text in (('{"n": null}', "null"), ('{"text": "a"}', "null"), ('{"n": -1}', "-1")):
            error = failure(open_dataset(self.lines(tmp_path, line, name=name), needs=(), size="n"), "size")
            assert error.where == {"shard": (tmp_path / name).as_uri(), "column": "n", "line": 1003}
            assert text in error.detail

    def test_the_first_line_is_looked_at_when_opening(self, tmp_path: Path) -> None:
        for content, text in (
            (b'{"text": "a"\n', "not valid JSON"),
            (b'[{"text": "a"},\n{"text": "b"}]', "not valid JSON"),
            (b"[1, 2]", "holds a list"),
            (b"\xff\xfe{\x00", "UTF-16"),
            (b"PAR1\x00\x01", "not valid JSON"),
            (b'{"text": "\xff"}', "not valid UTF-8"),
            (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "can't be parsed"),
        ):
            (tmp_path / "a.jsonl").write_bytes(content)
            with pytest.raises(DataError, match=text) as caught:
                open_dataset(tmp_path / "a.jsonl")
            assert caught.value.where == {"shard": (tmp_path / "a.jsonl").as_uri(), "line": 1}

    @pytest.mark.parametrize("cut", [0.5, 0.9, 0.999])
    def test_truncated_gzip(self, tmp_path: Path, cut: float) -> None:
        path = self.lines(tmp_path, name="a.jsonl.gz", good=200_000)
        raw = path.read_bytes()
        path.write_bytes(raw[: int(len(raw) * cut)])
        dataset = open_dataset(path)
        error = failure(dataset)
        assert "decompressed" in error.detail
        assert error.where["line"] > 10_000
        with pytest.raises(DataError, match="decompressed"):
            dataset.count_rows(dataset.units[0])

    def test_damaged_zstd(self, tmp_path: Path) -> None:
        raw = b"".join(json.dumps({"text": str(number)}).encode() + b"\n" for number in range(100_000))
        packed = bytearray(pa.Codec("zstd").compress(raw).to_pybytes())
        packed[len(packed) // 2 :] = b"\0" * 100
        (tmp_path / "a.jsonl.zst").write_bytes(packed)
        assert "decompressed" in failure(open_dataset(tmp_path / "a.jsonl.zst")).detail

    def test_a_line_without_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tamis.selectors.datasets.formats.lines.MAX_LINE_BYTES", 2**20)
        raw = b'{"text": "a"}\n' * 10_000 + b'{"text": "' + b"x" * 2**22 + b'"}\n'
        for name, content in (("a.jsonl", raw), ("a.jsonl.gz", gzip.compress(raw))):
            (tmp_path / name).write_bytes(content)
            assert "longer than 1 MiB" in failure(open_dataset(tmp_path / name)).detail
        (tmp_path / "b.jsonl").write_bytes(b"x" * 2**22)
        with pytest.raises(DataError, match="longer than 1 MiB"):
            open_dataset(tmp_path / "b.jsonl")

    @pytest.mark.parametrize("content", [b"", b"\n", b"\n\n  \n\t\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
    def test_no_rows(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.jsonl").write_bytes(content)
        dataset = open_dataset(tmp_path / "a.jsonl")
        counted = dataset.with_rows([dataset.count_rows(unit) for unit in dataset.units])
        assert counted.rows == 0
        assert read_all(dataset) == 0
