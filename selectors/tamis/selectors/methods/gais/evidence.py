"""The evidence for a selection by GAIS, beside a random draw of the same size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from tamis.native.math import rng
from tamis.native.neighbours.panels import assign
from tamis.selectors.decision.choice import Choice
from tamis.selectors.methods.gais.survey import Codes, Ints, Matrix, Scaling, Surveyed, vectors_of
from tamis.selectors.signals.task import UnitReader, unit_task

if TYPE_CHECKING:
    from tamis.selectors.methods.gais.ranking import GaisRanked
    from tamis.selectors.run.run import Run

TESTED_ROWS = 2_000
"""Rows outside both selections that 1-NN is tested on."""

REFERENCE_ROWS = 10_000
"""Rows of a selection that 1-NN looks among; of a larger one, a random part."""

CLASSES_SHOWN = 200
BINS = 40
ATTENTION_SHOWN = 8.0
"""Attention received is shown up to so many rows; what lies above is counted in the last bin. Its mean is below 1."""


@unit_task("gais_evidence.gather_vectors", revision=1, roles=("embedding",), numbered=True)
def gather_vectors(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Gather the features of the rows in ``shared["rows"]`` (``row`` int64, sorted): column ``vector``."""
    listed = shared["rows"].column("row").to_numpy()
    parts: list[Matrix] = []
    for batch in reader.batches():
        first = reader.first_row + batch.start
        low, high = np.searchsorted(listed, [first, first + batch.rows])
        parts.append(vectors_of(reader, batch)[listed[low:high] - first])
    dimension = reader.dataset.dimension("embedding")
    flat = np.concatenate(parts).reshape(-1) if parts else np.empty(0, np.float32)
    return pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension)})


@dataclass(frozen=True)
class Known:
    """Survey, ranking and scaling of a selection, for its report."""

    found: Surveyed
    ranked: GaisRanked
    scaling: Scaling
    network: bool  # whether the network's signals are there


def measure(run: Run, known: Known, choice: Choice, random: Choice) -> dict[str, JsonValue]:
    """Return the evidence as JSON values.

    Returns
    -------
    dict
        ``classes``: raw, drawn and selected rows of each; ``nearest_neighbour_on_the_rest``: accuracy of 1-NN on rows
        outside both; ``margin`` and ``attention_received``: histograms of all labelled and of selected rows.
    """
    evidence: dict[str, JsonValue] = {
        "classes": _classes(run, known.found, choice, random),
        "nearest_neighbour_on_the_rest": _nearest(run, known.found, known.scaling, choice, random),
    }
    if known.network:
        evidence["margin"] = _histogram(run, known.ranked, choice, ("margin",), -1.0, 1.0)
        evidence["attention_received"] = _histogram(run, known.ranked, choice, ("same", "other"), 0.0, ATTENTION_SHOWN)
    return evidence


def _codes_of(run: Run, found: Surveyed, rows: Ints) -> Codes:
    """Return the classes of ascending rows."""
    starts = run.layout().starts
    bounds = np.searchsorted(rows, starts)
    codes = np.empty(len(rows), np.int32)
    for unit in np.flatnonzero(np.diff(bounds)).tolist():
        inside = slice(bounds[unit], bounds[unit + 1])
        codes[inside] = found.codes(unit)[rows[inside] - starts[unit]]
    return codes


def _classes(run: Run, found: Surveyed, choice: Choice, random: Choice) -> JsonValue:
    counts = []
    for picked in (random, choice):
        codes = _codes_of(run, found, picked.rows)
        counts.append(np.bincount(codes[codes >= 0], minlength=len(found.names)))
    shown = np.argsort(-found.totals, kind="stable")[:CLASSES_SHOWN].tolist()
    return {
        "classes_in_all": len(found.names),
        "unlabelled_rows": found.unlabelled,
        "classes": [
            {
                "class": found.names[code],
                "raw": int(found.totals[code]),
                "random": int(counts[0][code]),
                "selected": int(counts[1][code]),
            }
            for code in shown
        ],
    }


def _histogram(
    run: Run, ranked: GaisRanked, choice: Choice, signals: tuple[str, ...], low: float, high: float
) -> JsonValue:
    """Histograms of a signal over all labelled rows and over the selection."""
    edges = np.linspace(low, high, BINS + 1)
    raw, selected = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    starts = run.layout().starts
    bounds = np.searchsorted(choice.rows, starts)
    for unit in range(len(starts) - 1):
        values = np.sum([ranked.signal(unit, name) for name in signals], axis=0, dtype=np.float64)
        clipped = np.clip(values, low, high)
        raw += np.histogram(clipped[ranked.found.codes(unit) >= 0], edges)[0]
        chosen = clipped[choice.rows[bounds[unit] : bounds[unit + 1]] - starts[unit]]
        selected += np.histogram(chosen, edges)[0]
    return {"edges": edges.tolist(), "raw": raw.tolist(), "selected": selected.tolist()}


def _drawn(run: Run, rows: Ints, size: int, stream: str) -> Ints:
    """Draw `size` of some rows at random, ascending; all where there are no more."""
    if len(rows) <= size:
        return rows
    words = rng.random_bits_at(run.stream(stream), rows)
    return np.sort(rows[np.argsort(words, kind="stable")[:size]])


def _nearest(run: Run, found: Surveyed, scaling: Scaling, choice: Choice, random: Choice) -> JsonValue:
    """Accuracy of 1-NN on labelled rows outside of both selections, by the selection and by the random draw."""
    rest = np.setdiff1d(_candidates(run), np.union1d(choice.rows, random.rows), assume_unique=True)
    rest = _drawn(run, rest, 2 * TESTED_ROWS, "gais.tested")
    rest = rest[_codes_of(run, found, rest) >= 0][:TESTED_ROWS]
    if len(rest) == 0:
        return None
    picked = [
        _drawn(run, p.rows, REFERENCE_ROWS, f"gais.reference.{name}") for name, p in (("s", choice), ("r", random))
    ]
    wanted = np.unique(np.concatenate([rest, *picked]))
    shared = {"rows": run.share("rows", pa.table({"row": wanted}), scratch=True)}
    tables = run.map(gather_vectors, run.candidates, shared=shared, scratch=True)
    vectors = [
        table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, scaling.dimension) for table in tables
    ]
    points = scaling.apply(np.concatenate(vectors))
    codes = _codes_of(run, found, wanted)
    tested = np.searchsorted(wanted, rest)
    accuracy: dict[str, JsonValue] = {"tested_rows": len(rest)}
    for name, rows in zip(("selected", "random"), picked, strict=True):
        at = np.searchsorted(wanted, rows)
        at = at[codes[at] >= 0]
        if len(at) == 0:
            accuracy[name] = None
            continue
        nearest = assign(points[tested], points[at])[0]
        accuracy[name] = float(np.mean(codes[at][nearest] == codes[tested]))
    return accuracy


def _candidates(run: Run) -> Ints:
    """Return some hundred times the tested rows, drawn evenly, or all rows."""
    rows = run.layout().rows
    step = max(1, rows // (100 * TESTED_ROWS))
    return np.arange(0, rows, step, dtype=np.int64)
