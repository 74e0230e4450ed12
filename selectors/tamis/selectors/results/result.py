"""A result on disk: the same bytes for the same request, read back before it counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import JsonValue, ValidationError

from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.ranking import Layout
from tamis.selectors.errors import DataError, Invalid, NotFound, StorageError, TamisError
from tamis.selectors.results.explain import record_decision
from tamis.selectors.results.files import (
    ARROW,
    DECISION,
    JSON,
    MODEL,
    PARQUET,
    REPORT,
    RESULT,
    SCORES,
    SELECTION,
    check_file,
    file_sha256,
    publish_bytes,
    published,
)
from tamis.selectors.results.scores import write_scores
from tamis.selectors.schema.response import ColumnInfo, Notice, Provenance, ResultFile, ResultManifest, ShardInfo
from tamis.selectors.signals.store import canonical_json

if TYPE_CHECKING:
    from tamis.selectors.datasets import Dataset
    from tamis.selectors.decision.decision import Decision
from tamis.selectors.datasets.row_ids import read_ids

__all__ = [
    "DECISION",
    "MODEL",
    "REPORT",
    "RESULT",
    "SCORES",
    "SELECTION",
    "file_sha256",
    "load_rows",
    "read_ids",
    "read_result",
    "read_selection",
    "verify_result",
    "write_result",
    "write_selection",
]

SCHEMA_VERSION = 1
FOOTER_KEY = b"tamis"
COMPRESSION_LEVEL = 3
"""Of zstd; part of what makes the bytes, as the version of pyarrow is."""


def write_selection(
    path: Path,
    choice: Choice,
    shard_starts: npt.NDArray[np.int64],
    *,
    ids: pa.ChunkedArray | None,
    columns: Mapping[str, pa.Array],
    footer: Mapping[str, JsonValue],
) -> ResultFile:
    """Write the selection: a row for each selected row by (shard, shard_row), a row group for each shard that has some.

    Parameters
    ----------
    path : Path
        The file; it appears whole or not at all.
    choice : Choice
        The decision.
    shard_starts : ndarray, shape (shards + 1,), int64
        First row of every shard over the whole dataset, then the number of rows.
    ids : ChunkedArray, optional
        The ids of the selected rows, in row order.
    columns : mapping of str to Array
        The selector's own columns, in row order; they come last.
    footer : mapping
        JSON values for the footer's key ``tamis``; the schema's version is added.

    Notes
    -----
    Parquet holds at most 2**26 rows in a row group that Arrow writes: a shard with more selected rows has several.
    """
    table = _selection_table(choice, shard_starts, ids, columns)
    cuts = np.searchsorted(choice.rows, shard_starts)
    content = canonical_json({"schema_version": SCHEMA_VERSION, **footer})
    options = {"compression": "zstd", "compression_level": COMPRESSION_LEVEL, "use_dictionary": ["stratum"]}
    with published(path) as file, pq.ParquetWriter(file, table.schema, version="2.6", **options) as writer:
        for start, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            if stop > start:
                writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
        writer.add_key_value_metadata({FOOTER_KEY: content.encode()})
    return file.describe(path.name, PARQUET, len(table))


def _selection_table(
    choice: Choice, shard_starts: npt.NDArray[np.int64], ids: pa.ChunkedArray | None, columns: Mapping[str, pa.Array]
) -> pa.Table:
    count = len(choice.rows)
    shards = np.searchsorted(shard_starts, choice.rows, side="right") - 1
    names = pa.array(choice.bounds.names if choice.codes is not None else [], pa.string())
    codes = pa.nulls(count, pa.int32()) if choice.codes is None else pa.array(choice.codes, pa.int32())
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {
        "row": pa.array(choice.rows, pa.int64()),
        "shard": pa.array(shards.astype(np.int32), pa.int32()),
        "shard_row": pa.array(choice.rows - shard_starts[shards], pa.int64()),
    }
    if ids is not None:
        arrays["id"] = ids
    arrays |= {
        "score": pa.array(choice.scores, pa.float64()),
        "rank": pa.array(choice.ranks, pa.int64()),
        "weight": pa.array(choice.weights, pa.float64()),
        "stratum": pa.DictionaryArray.from_arrays(codes, names),
    }
    taken = sorted(arrays.keys() & columns.keys())
    if taken:
        raise TamisError(f"The selector's columns {taken} are named like those that every selection has.")
    arrays |= columns
    never_null = {"row", "shard", "shard_row", "score", "weight"}
    schema = pa.schema([pa.field(name, array.type, nullable=name not in never_null) for name, array in arrays.items()])
    return pa.Table.from_arrays(list(arrays.values()), schema=schema)


@dataclass(frozen=True)
class Documents:
    """Everything about a selection that is written beside its rows.

    Attributes
    ----------
    footer : mapping
        JSON in the footer of selection.parquet.
    report : mapping
        JSON of report.json.
    provenance : Provenance
        Origin of the result.
    shards : sequence of ShardInfo
        The shards that row numbers are over.
    """

    footer: Mapping[str, JsonValue]
    report: Mapping[str, JsonValue]
    provenance: Provenance
    shards: Sequence[ShardInfo]


def write_result(
    out: Path,
    decision: Decision,
    layout: Layout,
    dataset: Dataset,
    documents: Documents,
    *,
    publish_scores: bool,
) -> ResultManifest:
    """Write all files of a result into the folder `out`, read them back, and write the manifest last.

    scores.parquet is written for every job, as :func:`tamis.selectors.results.explain.explain` needs it, but is one of
    the result's files only with `publish_scores`.

    Raises
    ------
    StorageError
        When a file can't be written, or does not read back as it was written.
    """
    for name in (RESULT, SELECTION, SCORES, REPORT, MODEL, DECISION):  # of another job: no mixture must ever be seen
        (out / name).unlink(missing_ok=True)
    choice = decision.choice
    if dataset.shard_starts is None:
        raise TamisError("The result was written before the rows were counted.")
    ids = read_ids(dataset, choice.rows) if dataset.columns.has("id") else None
    files = [
        write_selection(
            out / SELECTION, choice, dataset.shard_starts, ids=ids, columns=decision.columns, footer=documents.footer
        )
    ]
    scores = write_scores(out / SCORES, decision.rankings[-1], layout, choice, decision.reason_names)
    if publish_scores:
        files.append(scores)
    files.append(publish_bytes(out / REPORT, json.dumps(documents.report, indent=1, allow_nan=False).encode(), JSON))
    files.append(publish_bytes(out / DECISION, record_decision(choice, decision.reason_details).encode(), JSON))
    if decision.model is not None:
        with published(out / MODEL) as file, pa.ipc.new_file(file, decision.model.schema) as writer:
            writer.write_table(decision.model.combine_chunks())
        files.append(file.describe(MODEL, ARROW, len(decision.model)))
    for described in [*files, scores]:
        check_file(out, described)
    table, _ = read_selection(out / SELECTION)
    if not np.array_equal(table.column("row").to_numpy(), choice.rows):
        raise StorageError(f"{SELECTION} does not read back with the rows that were selected.")
    warnings = documents.report.get("warnings")
    manifest = ResultManifest(
        files=files,
        columns=[ColumnInfo(name=field.name, type=str(field.type)) for field in table.schema],
        totals=choice.totals,
        strata=choice.outcomes,
        provenance=documents.provenance,
        shards=list(documents.shards),
        warnings=[Notice.model_validate(warning) for warning in warnings] if isinstance(warnings, list) else [],
    )
    publish_bytes(out / RESULT, manifest.model_dump_json(indent=1).encode(), JSON)
    return manifest


def read_result(out: Path) -> ResultManifest | None:
    """Return the manifest of the finished result in the folder `out`; None when there is none.

    Raises
    ------
    StorageError
        When it is there but can't be read.
    """
    try:
        return ResultManifest.model_validate_json((out / RESULT).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StorageError(f"The result's manifest {out / RESULT} can't be read: {error}.") from error


def verify_result(out: Path, manifest: ResultManifest) -> None:
    """Compare every file in the folder `out` with the manifest; raise `StorageError` when one is missing or damaged."""
    for described in manifest.files:
        check_file(out, described)


def read_selection(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Return a selection's rows and its footer.

    Raises
    ------
    NotFound
        When there is no such file.
    DataError
        When it is not a selection.
    """
    try:
        with pq.ParquetFile(path) as file:
            return file.read(), _footer(file, path)
    except FileNotFoundError as error:
        raise NotFound(f"There is no selection {path}.") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"The selection {path} can't be read: {error}.") from error


def _footer(file: pq.ParquetFile, path: Path) -> dict[str, Any]:
    content = (file.metadata.metadata or {}).get(FOOTER_KEY)
    try:
        footer: dict[str, Any] = json.loads(content or b"")
        known = footer["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is no selection: its footer has no key '{FOOTER_KEY.decode()}'.") from error
    if known != SCHEMA_VERSION:
        raise DataError(f"{path} is a selection of schema version {known}; this is {SCHEMA_VERSION}.")
    return footer


def load_rows(path: Path, shard_digests: Sequence[str], *, pointer: str, in_rank_order: bool) -> npt.NDArray[np.int64]:
    """Return the row numbers of an earlier selection of the same shards, by whatever selector and roles.

    Parameters
    ----------
    path : Path
        Its selection.parquet.
    shard_digests : sequence of str
        Of the shards that the rows will be looked for in, in order.
    pointer : str
        JSON Pointer to the field of the request that names the selection.
    in_rank_order : bool
        By rank where it has ranks; else, and without ranks, ascending.

    Raises
    ------
    Invalid
        When it can't be read, is no selection, or is one of another dataset.
    """
    try:
        with pq.ParquetFile(path) as file:
            shards = [shard["digest"] for shard in _footer(file, path)["dataset"]["shards"]]
            table = file.read(columns=["row", "rank"])
    except DataError as error:
        raise Invalid(error.detail, pointer=pointer) from error
    except (KeyError, TypeError) as error:
        raise Invalid(f"The footer of the earlier selection {path} names no shards.", pointer=pointer) from error
    except (pa.ArrowException, OSError) as error:
        raise Invalid(f"The earlier selection {path} can't be read: {error}.", pointer=pointer) from error
    if shards != list(shard_digests):
        raise Invalid(
            f"The earlier selection {path} was made from other data: its row numbers mean nothing here. The shards, "
            "their contents and their order must be the same.",
            pointer=pointer,
        )
    rows: npt.NDArray[np.int64] = table.column("row").to_numpy()
    if in_rank_order and table.column("rank").null_count == 0:
        rows = rows[np.argsort(table.column("rank").to_numpy())]
    return rows
