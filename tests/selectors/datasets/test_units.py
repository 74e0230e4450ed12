"""Whatever the format, the cut and the compression: the units put together are the table."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.selectors.datasets import Dataset, LocalStorage, RoleBatch
from tamis.selectors.schema.request import Manifest

Json = dict[str, Any]

texts = st.none() | st.text(max_size=12) | st.sampled_from(["", "\0", "😀" * 5, "x" * 300, "}\n{", "null", '"', "\r\n"])
rows = st.fixed_dictionaries(
    {
        "text": texts,
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "group": st.none() | st.sampled_from(["wiki", "web", "", "büch"]),
        "size": st.integers(0, 2**40),
        "score": st.none() | st.floats(allow_nan=False, width=32),
        "embedding": st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3),
    }
)
tables = st.lists(rows, max_size=24)
TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
VECTOR_TYPES = [pa.list_(pa.float32()), pa.list_(pa.float32(), 3), pa.large_list(pa.float64())]
COLUMNS = {"id": "n", "group": "group", "size": "size", "score": "score", "embedding": "embedding"}
ROLES = ("text", "id", "group", "size", "score", "embedding")


@contextmanager
def cut_at(unit_bytes: int, batch_rows: int, batch_bytes: int, chunk_bytes: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tamis.selectors.datasets.shard.TARGET_UNIT_BYTES", unit_bytes)
        for module in ("batch", "formats.parquet"):
            patch.setattr(f"tamis.selectors.datasets.{module}.MAX_BATCH_ROWS", batch_rows)
            patch.setattr(f"tamis.selectors.datasets.{module}.MAX_BATCH_BYTES", batch_bytes)
        patch.setattr("tamis.selectors.datasets.formats.lines.CHUNK_BYTES", chunk_bytes)
        patch.setattr("tamis.selectors.datasets.formats.jsonl.HEAD_BYTES", 10**6)
        yield


cuts = st.builds(
    cut_at,
    st.sampled_from([1, 7, 100, 1000, 2**20]),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([1, 50, 2**20]),
    st.sampled_from([1, 16, 100, 2**20]),
)


def arrow_table(content: list[Json], text: pa.DataType, vector: pa.DataType) -> pa.Table:
    types = {
        "text": text,
        "n": pa.int64(),
        "group": text,
        "size": pa.int64(),
        "score": pa.float32(),
        "embedding": vector,
    }
    plain = {name: [row[name] for row in content] for name in types}
    return pa.table({name: pa.array(plain[name], types[name]) for name in types})


def open_dataset(paths: list[Path], **columns: Any) -> Dataset:
    manifest = Manifest.model_validate({"shards": list(map(str, paths)), "columns": columns})
    return Dataset.open(manifest, LocalStorage(), needs=["text"])


def read_back(dataset: Dataset, wanted: tuple[Any, ...] = ROLES) -> list[Json]:
    """Read every unit, check what batches say of themselves, and return the rows."""
    found: list[Json] = []
    counts = []
    for unit in dataset.units:
        start = 0
        for batch in dataset.read(unit, wanted):
            assert batch.start == start
            assert batch.rows > 0
            start += batch.rows
            check_views(batch)
            columns = {role: batch.column(role).to_pylist() for role in wanted}
            found += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        counts.append(start)
        assert dataset.count_rows(unit) == start
        assert unit.rows in (None, start)
    assert dataset.with_rows(counts).rows == len(found)
    return found


def check_views(batch: RoleBatch) -> None:
    """Compare every way to look at a batch with its columns."""
    if not batch.is_token_ids:
        offsets, data = batch.text_buffers()
        assert offsets.dtype == np.int64
        assert offsets[0] == 0
        assert data.dtype == np.uint8
        assert len(data) == offsets[-1]
        raw = data.tobytes()
        spans = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        assert [raw[a:b].decode() for a, b in spans] == [text or "" for text in batch.column("text").to_pylist()]
    if "group" in batch.columns:
        codes, names = batch.categories("group")
        assert codes.dtype == np.int32
        assert len(set(names)) == len(names)
        assert [None if code < 0 else names[code] for code in codes] == batch.column("group").to_pylist()
        assert batch.strings("group").to_pylist() == batch.column("group").to_pylist()
    if "size" in batch.columns:
        assert batch.ints("size").tolist() == batch.column("size").to_pylist()
    if "score" in batch.columns:
        floats = batch.floats("score")
        assert [None if np.isnan(value) else value for value in floats] == batch.column("score").to_pylist()
    if "embedding" in batch.columns:
        vectors = batch.vectors("embedding")
        assert vectors.shape == (batch.rows, 3)
        assert vectors.tolist() == batch.column("embedding").to_pylist()


def expected(content: list[Json]) -> list[Json]:
    return [{role: row[COLUMNS.get(role, role)] for role in ROLES} for row in content]


@settings(max_examples=60, deadline=None)
@given(
    tables,
    st.sampled_from(TEXT_TYPES),
    st.sampled_from(VECTOR_TYPES),
    cuts,
    st.integers(1, 12),
    st.sampled_from(["zstd", "snappy", "none"]),
    st.booleans(),
)
def test_parquet(
    content: list[Json],
    text: pa.DataType,
    vector: pa.DataType,
    cut: Any,
    group_rows: int,
    compression: str,
    use_dictionary: bool,
) -> None:
    with tempfile.TemporaryDirectory() as folder, cut:
        path = Path(folder) / "a.parquet"
        table = arrow_table(content, text, vector)
        pq.write_table(table, path, row_group_size=group_rows, compression=compression, use_dictionary=use_dictionary)
        dataset = open_dataset([path], **COLUMNS)
        assert dataset.rows == len(content)
        assert read_back(dataset) == expected(content)


@settings(max_examples=60, deadline=None)
@given(
    tables,
    st.sampled_from(TEXT_TYPES),
    st.sampled_from(VECTOR_TYPES),
    cuts,
    st.integers(1, 12),
    st.sampled_from(["zstd", "lz4", None]),
    st.booleans(),
)
def test_arrow(
    content: list[Json],
    text: pa.DataType,
    vector: pa.DataType,
    cut: Any,
    batch_rows: int,
    compression: str | None,
    streaming: bool,
) -> None:
    with tempfile.TemporaryDirectory() as folder, cut:
        path = Path(folder) / "a.arrow"
        table = arrow_table(content, text, vector)
        options = pa.ipc.IpcWriteOptions(compression=compression, emit_dictionary_deltas=streaming)
        new = pa.ipc.new_stream if streaming else pa.ipc.new_file
        with new(path, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=batch_rows)
            if len(table):
                writer.write_batch(table.to_batches()[0].slice(len(table) // 2))  # a slice, with offsets inside
        content = content + content[len(content) // 2 :]
        dataset = open_dataset([path], **COLUMNS)
        assert dataset.rows == len(content)
        assert read_back(dataset) == expected(content)


def zstd_frames(raw: bytes) -> bytes:
    middle = len(raw) // 2
    codec = pa.Codec("zstd")
    return bytes(codec.compress(raw[:middle])) + bytes(codec.compress(raw[middle:]))


def gzip_members(raw: bytes) -> bytes:
    middle = len(raw) // 3
    return gzip.compress(raw[:middle]) + gzip.compress(raw[middle:])


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip_members, ".zst": zstd_frames}
line_styles = st.fixed_dictionaries(
    {
        "end": st.sampled_from(["\n", "\r\n"]),
        "last": st.booleans(),
        "bom": st.booleans(),
        "ascii": st.booleans(),
        "blanks": st.lists(st.sampled_from(["", "", "", "  ", "\t", "  \r"]), max_size=8),
        "indent": st.sampled_from(["", " ", "\t "]),
        "left_out": st.booleans(),
    }
)


def json_lines(content: list[Json], style: Json) -> bytes:
    lines: list[str] = []
    for number, row in enumerate(content):
        # A null may as well not be there, after the lines that tell the columns.
        kept = {k: v for k, v in row.items() if v is not None or number == 0 or not style["left_out"]}
        lines.append(
            style["indent"] + json.dumps({**kept, "more": {"text": [number, None]}}, ensure_ascii=style["ascii"])
        )
    for number, blank in enumerate(style["blanks"]):
        lines.insert(number * 5 % (len(lines) + 1), blank)
    raw = style["end"].join(lines) + style["end"] * style["last"]
    bom: bytes = b"\xef\xbb\xbf" if style["bom"] else b""
    return bom + str(raw).encode()


@settings(max_examples=80, deadline=None)
@given(tables, line_styles, cuts, st.sampled_from(sorted(COMPRESSIONS)))
def test_json_lines(content: list[Json], style: Json, cut: Any, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder, cut:
        path = Path(folder) / f"a.jsonl{suffix}"
        path.write_bytes(COMPRESSIONS[suffix](json_lines(content, style)))
        dataset = open_dataset([path], **COLUMNS)
        assert dataset.rows == (0 if path.stat().st_size == 0 else None)
        assert read_back(dataset) == expected(content)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(rows, max_size=6), min_size=1, max_size=6), st.data())
def test_shards_of_any_format_follow_each_other(parts: list[list[Json]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder, cut_at(200, 3, 1000, 100):
        paths = []
        for number, part in enumerate(parts):
            kind = data.draw(st.sampled_from(["parquet", "arrow", "jsonl"]))
            path = Path(folder) / f"{number}.{kind}"
            table = arrow_table(part, pa.string(), pa.list_(pa.float32(), 3))
            if kind == "parquet":
                pq.write_table(table, path, row_group_size=2)
            elif kind == "arrow":
                with pa.ipc.new_file(path, table.schema) as writer:
                    writer.write_table(table, max_chunksize=2)
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in part))
            paths.append(path)
        dataset = open_dataset(paths, **COLUMNS)
        content = [row for part in parts for row in part]
        assert read_back(dataset) == expected(content)
        counted = dataset.with_rows([dataset.count_rows(unit) for unit in dataset.units])
        assert counted.shard_starts is not None
        assert counted.row_starts is not None
        assert counted.shard_starts.tolist() == np.cumsum([0, *map(len, parts)]).tolist()
        assert len(counted.row_starts) == len(counted.units) + 1
        assert counted.digest == dataset.digest
        shard, shard_row = counted.locate(np.arange(len(content)))
        assert shard.dtype == np.int32
        assert [parts[s][r] for s, r in zip(shard, shard_row, strict=True)] == content


def test_units_are_cut_from_the_data_alone(tmp_path: Path) -> None:
    table = pa.table({"text": ["x" * 1000] * 1000, "group": ["g"] * 1000})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10, use_dictionary=False, compression="none")
    with cut_at(100_000, 1000, 2**20, 2**20):
        one = open_dataset([tmp_path / "a.parquet"])
        other = open_dataset([tmp_path / "a.parquet"], text="group")
    assert [(unit.start, unit.stop) for unit in one.units] == [(start, start + 8) for start in range(0, 96, 8)] + [
        (96, 100)
    ]
    assert [unit.digest for unit in one.units] == [unit.digest for unit in other.units]
    assert one.digest != other.digest


def test_a_copy_has_the_same_digest_and_a_change_another(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {row}" for row in range(100_000)]})
    for name, form in (("a", "parquet"), ("b", "parquet"), ("a", "jsonl"), ("b", "jsonl")):
        path = tmp_path / f"{name}.{form}"
        if form == "parquet":
            pq.write_table(table, path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    for form in ("parquet", "jsonl"):
        first, second = tmp_path / f"a.{form}", tmp_path / f"b.{form}"
        assert open_dataset([first], text="text").digest == open_dataset([second], text="text").digest
        raw = bytearray(second.read_bytes())
        raw[40] ^= 1  # inside of the first page, or line: nothing in the footer changes
        second.write_bytes(raw)
        assert open_dataset([first], text="text").digest != open_dataset([second], text="text").digest


@pytest.mark.parametrize("width", [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()])
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda value: pa.list_(value, 2)])
def test_token_ids(tmp_path: Path, width: pa.DataType, kind: Callable[[pa.DataType], pa.DataType]) -> None:
    lists = [[1, 2], None, [3, 4], [0, 100]]
    type_ = kind(width)
    if not pa.types.is_fixed_size_list(type_):
        lists += [[], [7], None]
    pq.write_table(pa.table({"text": pa.array(lists, type_)}), tmp_path / "a.parquet")
    with cut_at(1, 2, 2**20, 2**20):
        dataset = open_dataset([tmp_path / "a.parquet"])
        assert dataset.columns.is_token_ids
        found = []
        for unit in dataset.units:
            for batch in dataset.read(unit, ["text"]):
                assert batch.is_token_ids
                offsets, values = batch.tokens()
                assert offsets.dtype == values.dtype == np.int64
                assert offsets[0] == 0
                found += [values[a:b].tolist() for a, b in pairwise(offsets)]
    assert found == [ids or [] for ids in lists]


def test_json_token_ids(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": []}\n{"text": [1, 2]}\n{"text": null}\n{"text": [3]}\n')
    dataset = open_dataset([tmp_path / "a.jsonl"])
    assert dataset.columns.is_token_ids
    [batch] = dataset.read(dataset.units[0], ["text"])
    offsets, values = batch.tokens()
    assert offsets.tolist() == [0, 0, 2, 2, 3]
    assert values.tolist() == [1, 2, 3]


def test_nulls_that_own_bytes_are_empty(tmp_path: Path) -> None:
    validity = pa.py_buffer(b"\x05")
    text = pa.Array.from_buffers(pa.string(), 3, [validity, *pa.array(["ab", "hidden", "c"]).buffers()[1:]])
    ids = pa.Array.from_buffers(
        pa.list_(pa.int64()),
        3,
        [validity, pa.py_buffer(np.array([0, 1, 3, 4], np.int32))],
        children=[pa.array([1, 2, 3, 4])],
    )
    table = pa.table({"text": text, "ids": ids})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    dataset = open_dataset([tmp_path / "a.arrow"])
    [batch] = dataset.read(dataset.units[0], ["text"])
    offsets, data = batch.text_buffers()
    assert offsets.tolist() == [0, 2, 2, 3]
    assert data.tobytes() == b"abc"
    dataset = open_dataset([tmp_path / "a.arrow"], text="ids")
    [batch] = dataset.read(dataset.units[0], ["text"])
    offsets, values = batch.tokens()
    assert offsets.tolist() == [0, 1, 1, 2]
    assert values.tolist() == [1, 4]


def test_buffers_may_be_longer_than_they_must(tmp_path: Path) -> None:
    plain = pa.array(["ab", None, "c"])
    validity, offsets, data = plain.buffers()
    padded = pa.py_buffer(offsets.to_pybytes()[: 4 * 4] + b"\xff\xff\xff")
    text = pa.Array.from_buffers(pa.string(), 3, [validity, padded, data])
    path = tmp_path / "a.arrow"
    table = pa.table({"text": text, "group": pa.DictionaryArray.from_arrays([2, 1, 0], text)})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    raw = path.read_bytes()
    length, longer = (number.to_bytes(8, "little") for number in (16, 19))
    path.write_bytes(raw.replace(length, longer))  # what the headers say of the offsets; the padding is there
    assert path.read_bytes() != raw
    dataset = open_dataset([path], group="group")
    [batch] = dataset.read(dataset.units[0], ["text", "group"])
    check_views(batch)
    assert batch.column("group").to_pylist() == ["c", None, "ab"]


def test_a_line_longer_than_chunk_and_unit(tmp_path: Path) -> None:
    long = "x" * (6 * 2**20)
    lines = [json.dumps({"text": text}) for text in ("a", long, "b", long, "c")]
    for suffix, compress in COMPRESSIONS.items():
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(compress("\n".join(lines).encode()))
        with cut_at(2**20, 1000, 2**20, 2**16):
            dataset = open_dataset([path])
            assert [row["text"] for row in read_back(dataset, ("text",))] == ["a", long, "b", long, "c"]
            assert suffix or len(dataset.units) == 13


def test_a_gzip_member_for_every_line(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x" * number, "size": number or None}).encode() + b"\n" for number in range(100)]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(gzip.compress(line) for line in lines))
    dataset = open_dataset([tmp_path / "a.jsonl.gz"], score="size")
    assert dataset.columns["score"].type == pa.float64()
    [batch] = dataset.read(dataset.units[0], ["text"])  # one batch: the members are put together
    assert batch.column("text").to_pylist() == ["x" * number for number in range(100)]


def test_repeated_long_texts_stay_bounded(tmp_path: Path) -> None:
    """A dictionary page makes many large texts small in the file; a batch of them must stay small in memory."""
    text = pa.DictionaryArray.from_arrays(pa.array(np.arange(60_000) % 2, pa.int32()), ["x" * 100_000, "y" * 100_000])
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet", store_schema=False)  # 6 GB of text
    assert (tmp_path / "a.parquet").stat().st_size < 10**6
    dataset = open_dataset([tmp_path / "a.parquet"])
    before = pa.total_allocated_bytes()
    total = 0
    for unit in dataset.units:
        for number, batch in enumerate(dataset.read(unit, ["text"])):
            assert pa.total_allocated_bytes() - before < 64 * 2**20
            total += batch.rows
            if number == 50:
                break
    assert total > 500


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {row}" for row in range(20_000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    with pa.ipc.new_stream(tmp_path / "b.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    with cut_at(20_000, 1000, 2**20, 10_000):
        dataset = open_dataset([tmp_path / name for name in ("a.parquet", "b.arrow", "c.jsonl")])

        def unit_texts(unit: Any) -> list[str]:
            return [text for batch in dataset.read(unit, ["text"]) for text in batch.column("text").to_pylist()]

        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(unit_texts, dataset.units))
    assert len(parts) > 50
    assert [text for part in parts for text in part] == table["text"].to_pylist() * 3
