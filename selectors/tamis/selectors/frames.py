"""Data in memory as shards: frames, tables, arrays and rows are written as Arrow files that a job can read."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.selectors.errors import Invalid
from tamis.selectors.schema.request import Manifest

BATCH_ROWS = 65_536
"""Rows of a record batch, where the source has no batches of its own."""

TAKEN = (
    "a manifest, a path or glob or several, an Arrow table or anything with __arrow_c_stream__ (polars, pandas, "
    "DuckDB, datasets.Dataset), a pyarrow dataset, a NumPy array of one vector a row, or a list of dictionaries"
)
"""Kinds of data that are taken, for messages."""

ELSEWHERE = {
    "pyspark": "df.write.parquet('rows')",
    "dask": "df.to_parquet('rows')",
    "ray": "dataset.write_parquet('rows')",
    "modin": "df.to_parquet('rows.parquet')",
}
"""By package: the call that writes shards, for frames that live in other processes."""


def to_manifest(data: Any, folder: Path, pointer: str = "/dataset") -> dict[str, Any]:
    """Return a manifest of `data`; data in memory is written into `folder` first.

    Parameters
    ----------
    data
        A manifest or a mapping of one; a path or glob, or several; an Arrow table, record batch, reader or dataset;
        any object with ``__arrow_c_stream__``; a pandas or polars frame, eager or lazy; a `datasets.Dataset`; a NumPy
        array of shape (rows, dimension), which becomes the column ``embedding``; or rows as dictionaries.
    folder : Path
        Where data in memory is written, one Arrow IPC file for each call.
    pointer : str
        JSON Pointer for errors.

    Raises
    ------
    Invalid
        When `data` is none of these, with a sentence that says what is taken.
    """
    match data:
        case Manifest():
            return data.model_dump(exclude_none=True)
        case Mapping() if hasattr(data, "with_format"):  # a datasets.DatasetDict
            names = ", ".join(map(str, data))
            raise Invalid(f"A DatasetDict holds several datasets ({names}): give one of them.", pointer=pointer)
        case Mapping():
            return dict(data)
        case str() | bytes() | os.PathLike():
            return {"shards": [os.fsdecode(data)]}
    schema, batches = _batches(data, pointer)
    if schema is None:
        return {"shards": [os.fsdecode(path) for path in batches]}
    return {"shards": [str(_write(schema, batches, folder))], "format": "arrow"}


def _batches(data: Any, pointer: str) -> tuple[pa.Schema | None, Iterable[Any]]:
    """Return the schema and the record batches of data in memory; no schema and paths, where those were listed."""
    package = type(data).__module__.partition(".")[0]
    if package in ELSEWHERE:
        raise Invalid(
            f"A {package} frame lives in other processes: write shards with {ELSEWHERE[package]} and give their paths.",
            pointer=pointer,
        )
    match data:
        case pa.Table():
            return data.schema, data.to_batches()
        case pa.RecordBatch():
            return data.schema, [data]
        case pa.RecordBatchReader():
            return data.schema, data
        case np.ndarray():
            table = _of_array(data, pointer)
            return table.schema, table.to_batches(BATCH_ROWS)
    if package == "datasets" and hasattr(data, "with_format"):
        return _of_hugging_face(data)
    if package == "polars" and hasattr(data, "collect_batches"):
        return _of_lazy_frame(data)
    if package == "pandas":
        table = pa.Table.from_pandas(_frame(data), preserve_index=False)
        return table.replace_schema_metadata(None).schema, table.replace_schema_metadata(None).to_batches()
    if hasattr(data, "__arrow_c_stream__"):
        reader = pa.RecordBatchReader.from_stream(data)
        return reader.schema, reader
    if hasattr(data, "scanner") and hasattr(data, "to_batches"):  # a pyarrow.dataset.Dataset
        return data.schema, data.to_batches(batch_size=BATCH_ROWS)
    if isinstance(data, Iterable):
        return _of_items(data, pointer)
    raise _not_taken(data, pointer)


def _frame(data: Any) -> Any:
    """Return a pandas frame; of a series, the frame of its one column."""
    return data if hasattr(data, "columns") else data.to_frame()


def _of_array(array: np.ndarray[Any, Any], pointer: str) -> pa.Table:
    """Return an array of one vector a row as the column ``embedding``."""
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiu":
        raise Invalid(
            f"An array of shape {array.shape} and type {array.dtype} is no dataset: give numbers of shape (rows, "
            "dimension), one vector a row, which is read as the column 'embedding'; or a table of named columns.",
            pointer=pointer,
        )
    kind = array.dtype if array.dtype in (np.float16, np.float32, np.float64) else np.dtype(np.float64)
    values = pa.array(np.ascontiguousarray(array, kind).ravel())
    return pa.table({"embedding": pa.FixedSizeListArray.from_arrays(values, array.shape[1])})


def _of_hugging_face(dataset: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the rows of a `datasets.Dataset` in its own order: after shuffle, select and filter, too."""
    tables = dataset.with_format("arrow").iter(batch_size=BATCH_ROWS)
    first = next(iter(tables), None)
    if first is None:
        return dataset.features.arrow_schema.remove_metadata(), iter(())
    schema = first.schema.remove_metadata()
    rest = dataset.with_format("arrow").iter(batch_size=BATCH_ROWS)
    return schema, (batch for table in rest for batch in table.replace_schema_metadata(None).cast(schema).to_batches())


def _of_lazy_frame(frame: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the batches of a polars LazyFrame, collected one after the other."""
    tables = (part.to_arrow() for part in frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True))
    first = next(tables, None)
    if first is None:
        empty = frame.head(0).collect().to_arrow()
        return empty.schema, iter(())
    return first.schema, (
        batch for table in itertools.chain([first], tables) for batch in table.cast(first.schema).to_batches()
    )


def _of_items(data: Iterable[Any], pointer: str) -> tuple[pa.Schema | None, Iterable[Any]]:
    """Return paths as they are, and rows (dictionaries) as record batches."""
    items = list(data)
    if all(isinstance(item, str | bytes | os.PathLike) for item in items):
        return None, items
    if not all(isinstance(item, Mapping) for item in items):
        other = next(item for item in items if not isinstance(item, Mapping))
        raise _not_taken(other, pointer, "holds an item of type")
    names = dict.fromkeys(name for item in items for name in item)
    try:
        table = pa.table({name: pa.array([item.get(name) for item in items]) for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise Invalid(f"The rows don't make a table: {error}.", pointer=pointer) from error
    return table.schema, table.to_batches(BATCH_ROWS)


def _not_taken(data: Any, pointer: str, verb: str = "is of type") -> Invalid:
    kind = f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")
    return Invalid(f"The data {verb} {kind}, which can't be read; taken are {TAKEN}.", pointer=pointer)


def _write(schema: pa.Schema, batches: Iterable[pa.RecordBatch], folder: Path) -> Path:
    """Write record batches as an Arrow IPC file, under a name made of its order of appearance in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"table-{sum(1 for _ in folder.iterdir())}.arrow"
    with pa.ipc.new_file(path, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def is_list_of_datasets(data: Any) -> bool:
    """Whether `data` is a list or tuple of datasets, rather than of paths or of rows."""
    if not isinstance(data, list | tuple) or not data:
        return False
    rows = all(isinstance(item, Mapping) and "shards" not in item for item in data)
    return not rows and not all(isinstance(item, str | bytes | os.PathLike) for item in data)


def as_number(value: Any, name: str) -> int | float:
    """Return a Python number of a Python or NumPy number.

    Raises
    ------
    Invalid
        When it is a truth value or no number.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Invalid(f"{name} is {value!r}; give a number.", pointer=f"/{name}")
    return value
