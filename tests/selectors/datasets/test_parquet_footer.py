"""The column sizes read from a Parquet footer are pyarrow's, and no footer ends the process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors.datasets import Dataset, LocalStorage
from tamis.selectors.datasets.formats.parquet_footer import FooterError, column_chunks
from tamis.selectors.errors import TamisError
from tamis.selectors.schema.request import Manifest


def footer_of(path: Path) -> bytes:
    raw = path.read_bytes()
    return raw[-8 - int.from_bytes(raw[-8:-4], "little") : -8]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    table = pa.table(
        {
            "text": [f"text {row}" for row in range(100)],
            "a.b": pa.array(range(100), pa.int16()),
            "a": [{"b": row, "c": [None, 1.5]} for row in range(100)],
            "ü": [True] * 100,
        }
    ).replace_schema_metadata({"key": "value"})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=30, write_page_index=True)
    return tmp_path / "a.parquet"


def test_sizes_are_pyarrow_s(path: Path) -> None:
    metadata = pq.read_metadata(path)
    groups = list(column_chunks(footer_of(path)))
    assert len(groups) == metadata.num_row_groups == 4
    for number, chunks in enumerate(groups):
        assert [chunk.column for chunk in chunks] == ["text", "a.b", "a", "a", "ü"]
        group = metadata.row_group(number)
        wanted = [group.column(leaf).total_uncompressed_size for leaf in range(5)]
        assert [chunk.bytes for chunk in chunks] == wanted


def test_the_dataset_counts_the_bytes_of_its_roles(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.model_validate({"shards": [str(path)], "columns": {"size": "a.b"}})
    exact = Dataset.open(manifest, LocalStorage(), needs=["text"]).bytes
    metadata = pq.read_metadata(path)
    assert exact == sum(metadata.row_group(g).column(leaf).total_uncompressed_size for g in range(4) for leaf in (0, 1))
    monkeypatch.setattr("tamis.selectors.datasets.formats.parquet.MEASURED_CHUNKS", 8)
    about = Dataset.open(manifest, LocalStorage(), needs=["text"]).bytes
    assert abs(about - exact) < exact / 2
    assert about != exact


def test_every_truncation_is_an_error_or_a_prefix(path: Path) -> None:
    footer = footer_of(path)
    whole = list(column_chunks(footer))
    for end in range(0, len(footer), 7):
        found = []
        try:
            for chunks in column_chunks(footer[:end]):
                found.append(chunks)
        except FooterError:
            assert found == whole[: len(found)]


def test_damaged_footers_never_end_the_process(path: Path) -> None:
    """In a footer with size statistics a wrong length makes pyarrow's column chunk class abort."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[-8:-4], "little")
    rng = np.random.default_rng(0)
    refused = 0
    manifest = Manifest(shards=[str(path)])
    for _ in range(1500):
        broken = bytearray(raw)
        place = len(raw) - 8 - 1 - int(rng.integers(length))
        broken[place] = int(rng.integers(256))
        path.write_bytes(broken)
        try:
            dataset = Dataset.open(manifest, LocalStorage(), needs=["text"])
            for unit in dataset.units:
                for batch in dataset.read(unit, ["text"]):
                    batch.text_buffers()
        except TamisError as error:
            assert "shard" in error.where
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "footer",
    [
        b"",
        b"\x4c",
        b"\x4c\xfc\xff\xff\xff\xff\x0f",  # four thousand million row groups
        b"\x1d\x00",  # a field of an unknown type
        b"\x15" + b"\xff" * 11,  # a number of more than 64 bits
        b"\x18\xff\xff\xff\xff\xff\x7f",  # text longer than the footer
        b"\x1c" * (sys.getrecursionlimit() * 2),  # structs in structs
        b"\x19\x29" + b"\x19" * 5000,  # lists in lists
    ],
)
def test_hostile_footers(footer: bytes) -> None:
    with pytest.raises(FooterError):
        list(column_chunks(footer))
