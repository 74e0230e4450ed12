"""Why was this row taken, or not? Answered from a finished result's files, reading no more than that takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.selectors.decision.budget import NO_MAX
from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.ranking import EXCLUDED, NO_KEY
from tamis.selectors.errors import Invalid, NotFound, StorageError
from tamis.selectors.results.files import DECISION, RESULT, SCORES, SELECTION
from tamis.selectors.results.scores import BELOW_THRESHOLD, PRESELECTED, QUOTA_FULL, ROW_GROUP, SELECTED
from tamis.selectors.schema.response import Explanation, ResultManifest
from tamis.selectors.signals.store import canonical_json

SCHEMA_VERSION = 1


def record_decision(choice: Choice, reason_details: Mapping[str, str]) -> str:
    """Return what explanations need of a decision, as JSON: bounds and thresholds of the strata, reasons' sentences."""
    strata = [
        {
            "name": name,
            "lower": int(choice.bounds.lower[s]),
            "upper": None if choice.bounds.upper[s] == NO_MAX else int(choice.bounds.upper[s]),
            "threshold": _threshold(choice.thresholds.keys[s], choice.thresholds.rows[s]),
        }
        for s, name in enumerate(choice.bounds.names)
    ]
    common = None if choice.thresholds.common is None else _threshold(*choice.thresholds.common)
    return canonical_json(
        {
            "schema_version": SCHEMA_VERSION,
            "unit": choice.amount.unit,
            "rows": len(choice.rows),
            "strata": strata,
            "common": common,
            "turns": int(choice.turns.max(initial=0)) + 1,
            "reasons": dict(reason_details),
        }
    )


def _threshold(key: float, row: int) -> dict[str, Any] | None:
    return {"key": float(key), "row": int(row)} if row >= 0 else None


def explain(out: Path, *, row: int | None = None, id: object = None) -> Explanation:
    """Return why a row was taken, or not.

    Parameters
    ----------
    out : Path
        Folder of a finished result.
    row : int, optional
        Row number over the whole dataset.
    id : object, optional
        Id of a selected row, instead of `row`.

    Raises
    ------
    Invalid
        When not exactly one of `row` and `id` is given.
    NotFound
        When there is no finished result, no such row, or no selected row of that id.
    StorageError
        When the result's files can't be read.
    """
    if (row is None) == (id is None):
        raise Invalid("Give either row or id.", pointer="/row")
    try:
        manifest = ResultManifest.model_validate_json((out / RESULT).read_bytes())
        if row is None:
            row = _row_of_id(out, id)
        return _explain_row(out, manifest, row)
    except FileNotFoundError as error:
        raise NotFound(f"There is no finished result in {out}: {Path(str(error.filename)).name} is missing.") from error
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StorageError(f"The result in {out} can't be read: {error}.") from error


def _row_of_id(out: Path, wanted: object) -> int:
    with pq.ParquetFile(out / SELECTION) as file:
        if "id" not in file.schema_arrow.names:
            raise NotFound("The dataset names no id column: ask by row.")
        kind = file.schema_arrow.field("id").type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        try:
            value = pa.scalar(wanted).cast(kind)
        except (pa.ArrowException, ValueError, OverflowError):
            value = pa.scalar(None, kind)
        for group in range(file.num_row_groups if value.is_valid else 0):
            part = file.read_row_group(group, columns=["id", "row"])
            at = pc.index(part.column("id").cast(kind), value).as_py()
            if at >= 0:
                return int(part.column("row")[at].as_py())
    raise NotFound(
        f"No selected row has the id {wanted!r}. A row that was not selected can be asked for by its row number only."
    )


def _explain_row(out: Path, manifest: ResultManifest, row: int) -> Explanation:
    starts = np.cumsum([0, *(shard.rows for shard in manifest.shards)])
    if not 0 <= row < starts[-1]:
        raise NotFound(f"There is no row {row}: the dataset has {starts[-1]} rows, numbered from 0.")
    shard = int(np.searchsorted(starts, row, side="right")) - 1
    decision = json.loads((out / DECISION).read_bytes())
    with pq.ParquetFile(out / SCORES) as file:
        scored = file.read_row_group(row // ROW_GROUP).slice(row % ROW_GROUP, 1).to_pylist()[0]
    taken = _selected_row(out, row) if scored["reason"] in (SELECTED, PRESELECTED) else {}
    name = "" if scored["stratum"] is None else scored["stratum"]
    stratum = next(entry for entry in decision["strata"] if entry["name"] == name)
    threshold = stratum["threshold"] or decision["common"]
    return Explanation(
        row=row,
        shard=shard,
        shard_row=row - int(starts[shard]),
        id=_json_value(taken.get("id")),
        selected=bool(taken),
        reason=scored["reason"],
        detail=_detail(row, scored, taken.get("rank"), decision, stratum),
        score=_finite(scored["score"]),
        rank=taken.get("rank"),
        stratum=scored["stratum"],
        threshold=None if threshold is None else threshold["key"],
        key=scored["key"],
    )


def _selected_row(out: Path, row: int) -> dict[str, Any]:
    """Return the row of selection.parquet; its row groups are in row order, with their bounds in the footer."""
    with pq.ParquetFile(out / SELECTION) as file:
        column = file.schema_arrow.get_field_index("row")
        for group in range(file.num_row_groups):
            if row <= file.metadata.row_group(group).column(column).statistics.max:
                wanted = [name for name in ("row", "id", "rank") if name in file.schema_arrow.names]
                part = file.read_row_group(group, columns=wanted)
                at = int(np.searchsorted(part.column("row").to_numpy(), row))
                found: dict[str, Any] = part.slice(at, 1).to_pylist()[0]
                return found
    raise StorageError(f"Row {row} is selected in {SCORES}, but not in {SELECTION}.")


def _json_value(value: Any) -> Any:
    """Return an id as JSON can have it; as text, where it can't."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _detail(
    row: int, scored: dict[str, Any], rank: int | None, decision: dict[str, Any], stratum: dict[str, Any]
) -> str:
    reason, key, name = scored["reason"], scored["key"], scored["stratum"]
    common, threshold = decision["common"], stratum["threshold"]
    unit = "rows" if decision["unit"] == "rows" else "units of size"
    of_stratum = "" if name is None else f" of stratum '{name}'"
    place = "" if rank is None else f", with rank {rank} of {decision['rows']}"
    if reason == PRESELECTED:
        return f"Row {row} was kept from the earlier selection given as 'preselected'{place}."
    if reason == EXCLUDED:
        return f"Row {row} is kept away by an earlier selection given in 'exclude'."
    if reason == NO_KEY:
        return f"Row {row} can't be taken: the selector gave it no key."
    if reason == SELECTED:
        if decision["turns"] > 1:
            return f"Row {row} was taken with key {key:.6g}{place}, by one of {decision['turns']} rankings in turns."
        if common is not None and (key, -row) >= (common["key"], -common["row"]):
            return f"Row {row} was taken with key {key:.6g}{place}: the last row in order has {common['key']:.6g}."
        if common is None and stratum["lower"] == 0:
            return f"Row {row} was taken with key {key:.6g}{place}."
        return (
            f"Row {row} was taken with key {key:.6g}{place}, for the minimum of {stratum['lower']} {unit}{of_stratum}."
        )
    if reason == QUOTA_FULL:
        above = "" if common is None else f" is above the common threshold {common['key']:.6g}"
        return (
            f"Row {row} was not taken: its key {key:.6g}{above}, but no more{of_stratum} fits its maximum of "
            f"{stratum['upper']} {unit}" + _last(threshold) + "."
        )
    if reason == BELOW_THRESHOLD:
        if threshold is None and common is None:
            return f"Row {row} was not taken: the minimums of other strata took the whole budget."
        reached = threshold or common
        tie = "; of equal keys the lower row is taken" if reached["key"] == key else ""
        what = f"the last row taken{of_stratum}" if threshold else "the last row in order"
        return (
            f"Row {row} was not taken: its key {key:.6g} does not reach the threshold {reached['key']:.6g}, the key of "
            f"{what} (row {reached['row']}){tie}."
        )
    details: Mapping[str, str] = decision["reasons"]
    return details.get(reason, f"Row {row} can't be taken: {reason}.")


def _last(threshold: dict[str, Any] | None) -> str:
    return "" if threshold is None else f"; its last row taken (row {threshold['row']}) has {threshold['key']:.6g}"
