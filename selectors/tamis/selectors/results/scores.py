"""scores.parquet: for every candidate row its score, its key and why it was taken or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.ranking import EXCLUDED, NO_KEY, Layout, Ranked, RankedUnit
from tamis.selectors.results.files import PARQUET, published
from tamis.selectors.schema.response import ResultFile

ROW_GROUP = 2**17
"""Rows of every row group but the last: so row r is found in group r // ROW_GROUP."""

COMPRESSION_LEVEL = 1
"""Of zstd: floats hardly compress, and every job writes one score a row."""

SELECTED = "selected"
PRESELECTED = "preselected"
BELOW_THRESHOLD = "below-threshold"
QUOTA_FULL = "quota-full"
OWN_REASONS = (SELECTED, PRESELECTED, EXCLUDED, BELOW_THRESHOLD, QUOTA_FULL, NO_KEY)
"""The reasons that the decision gives; those of the selector follow."""

_CODES = {name: code for code, name in enumerate(OWN_REASONS)}


def write_scores(path: Path, ranked: Ranked, layout: Layout, choice: Choice, reason_names: Sequence[str]) -> ResultFile:
    """Write the scores of every row, in row order.

    Columns: ``row`` int64; ``score`` float64; ``key`` float64, null where the row can't be taken; ``reason``
    dictionary<string>; ``stratum`` dictionary<string>, null without strata. A selected row has the score and the key it
    was taken with; any other those of `ranked`.

    Parameters
    ----------
    path : Path
        The file; it appears whole or not at all.
    ranked : Ranked
        The ranking, or the last one where several took turns.
    layout, choice
        As it was decided.
    reason_names : sequence of str
        What the codes of the ranked units' reasons mean.
    """
    names = pa.array([*OWN_REASONS, *reason_names[1:]], pa.string())
    strata = pa.array(choice.bounds.names if choice.codes is not None else [], pa.string())
    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("score", pa.float64(), nullable=False),
            pa.field("key", pa.float64()),
            pa.field("reason", pa.dictionary(pa.int16(), pa.string()), nullable=False),
            pa.field("stratum", pa.dictionary(pa.int32(), pa.string())),
        ]
    )

    def tables() -> Iterator[pa.Table]:
        for unit in range(layout.units):
            start, stop = layout.starts[unit : unit + 2].tolist()
            part = ranked(unit)
            keys, scores = part.eligible_keys(), np.array(part.scores, np.float64)
            inside = slice(*np.searchsorted(choice.rows, [start, stop]).tolist())
            local = choice.rows[inside] - start
            keys[local], scores[local] = choice.keys[inside], choice.scores[inside]
            codes: npt.NDArray[np.int32] | None = None
            if choice.codes is not None and layout.codes is not None:
                codes = layout.codes[unit]
            reasons = _reasons(part, keys, choice, start, inside)
            columns = [
                pa.array(np.arange(start, stop)),
                pa.array(scores),
                pa.array(keys, mask=keys == -np.inf),
                pa.DictionaryArray.from_arrays(pa.array(reasons), names),
                pa.DictionaryArray.from_arrays(
                    pa.nulls(stop - start, pa.int32()) if codes is None else pa.array(codes), strata
                ),
            ]
            yield pa.Table.from_arrays(columns, schema=schema)

    with published(path) as file:
        options = {
            "compression": "zstd",
            "compression_level": COMPRESSION_LEVEL,
            "use_dictionary": ["reason", "stratum"],
        }
        encodings = {"row": "DELTA_BINARY_PACKED"}
        with pq.ParquetWriter(file, schema, version="2.6", column_encoding=encodings, **options) as writer:
            for group in _regrouped(tables()):
                writer.write_table(group, row_group_size=ROW_GROUP)
    return file.describe(path.name, PARQUET, layout.rows)


def _reasons(
    part: RankedUnit, keys: npt.NDArray[np.float64], choice: Choice, start: int, inside: slice
) -> npt.NDArray[np.int16]:
    """Return every row's reason, an index into the decision's own followed by the selector's."""
    rows = np.arange(start, start + len(keys))
    reasons = np.full(len(keys), _CODES[BELOW_THRESHOLD], np.int16)
    if choice.thresholds.common is not None:
        key, row = choice.thresholds.common
        reasons[(keys > key) | ((keys == key) & (rows < row))] = _CODES[QUOTA_FULL]
    reasons[keys == -np.inf] = _CODES[NO_KEY]
    if part.reasons is not None:
        own = part.reasons > 0
        reasons[own] = part.reasons[own].astype(np.int16) + (len(OWN_REASONS) - 1)
    away = slice(*np.searchsorted(choice.excluded, [start, start + len(keys)]).tolist())
    reasons[choice.excluded[away] - start] = _CODES[EXCLUDED]
    local = choice.rows[inside] - start
    reasons[local] = np.where(choice.preselected[inside], _CODES[PRESELECTED], _CODES[SELECTED])
    return reasons


def _regrouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Cut a stream of tables into row groups of one size, whatever the sizes they come in."""
    pending: list[pa.Table] = []
    count = 0
    for table in tables:
        pending.append(table)
        count += len(table)
        if count < ROW_GROUP:
            continue
        whole = pa.concat_tables(pending)
        full = count - count % ROW_GROUP
        for start in range(0, full, ROW_GROUP):
            yield whole.slice(start, ROW_GROUP).combine_chunks()
        pending, count = [whole.slice(full)], count - full
    if count:
        yield pa.concat_tables(pending).combine_chunks()
