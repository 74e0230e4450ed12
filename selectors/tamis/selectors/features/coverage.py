"""Coverage: how far rows are from the nearest selected one, beside a random draw; for every job with embeddings.

The mean distance is AUC_pr of the CCS paper (Zheng et al., arXiv:2210.15809, section 4.1): the area under the radius
r(p) within which a share p of the rows has a selected row, integrated over p. Lower is better. The largest distance is
the covering radius. Both are over all rows, selected ones included; over a random sample where that is too much work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from tamis.native.math import rng
from tamis.native.neighbours.panels import assign, pack
from tamis.selectors.errors import DataError, Invalid
from tamis.selectors.features.embeddings import Matrix, normalized
from tamis.selectors.run.parallel import in_threads
from tamis.selectors.schema.request import Role
from tamis.selectors.schema.response import Notice

if TYPE_CHECKING:
    from tamis.selectors.datasets import Dataset
    from tamis.selectors.decision.choice import Choice
    from tamis.selectors.decision.ranking import Rows
    from tamis.selectors.run.run import Run
    from tamis.selectors.run.selector import Selector

Floats = npt.NDArray[np.float64]

ROLES: tuple[Role, ...] = ("embedding",)

COORDINATES = 10**10
"""Compared for one selection, at most, where all rows are measured: half a CPU second. Beyond it, a sample is."""

LEAST_SAMPLE = 1000
"""Rows of the sample, at least."""

VALUES_IN_MEMORY = 1 << 26
"""Coordinates of the rows measured, or of those selected: 256 MiB. A larger selection is not measured."""

COORDINATES_A_BLOCK = 2 * 10**9
"""Compared by a thread between two looks at whether the job was cancelled: a tenth of a second."""

BLOCK_ROWS = 1 << 14


def measure_coverage(run: Run, selector: Selector, choice: Choice, random: Choice) -> tuple[JsonValue, list[Notice]]:
    """Return the coverage by a selection and by a random draw; None without embeddings, or with a word on why not."""
    dataset = run.candidates
    if not dataset.columns.has("embedding"):
        return None, []
    n, dimension = run.layout().rows, dataset.dimension("embedding")
    asked = {getattr(selector.params, name, None) for name in ("metric", "distance")}
    metric = "cosine" if "cosine" in asked else "euclidean"
    most = max(len(choice.rows), len(random.rows))
    if most * dimension > VALUES_IN_MEMORY:
        detail = f"The coverage is not measured: {most:,} selected vectors of {dimension} are too many to hold."
        return None, [Notice(code="no-coverage", detail=detail)]
    measured = np.arange(n)
    size = sample_size(n, most, dimension)
    if size < n:
        drawn = rng.uniform(run.stream("report.coverage"), 0, size) * n
        measured = np.unique(np.minimum(drawn.astype(np.int64), n - 1))  # a row drawn twice is measured once
    try:
        rows = np.unique(np.concatenate([measured, choice.rows, random.rows]))
        vectors = _gather(run, rows)
        if metric == "cosine":
            vectors = normalized(vectors, dataset)
        sample = vectors[np.searchsorted(rows, measured)]
        found = {
            name: _summary(represented(run, sample, vectors[np.searchsorted(rows, picked.rows)])[1])
            for name, picked in (("selection", choice), ("random", random))
        }
    except (DataError, Invalid, ValueError) as error:
        why = error if isinstance(error, ValueError) else error.detail
        return None, [Notice(code="no-coverage", detail=f"The coverage is not measured: {why}")]
    return {"metric": metric, "rows_measured": len(measured), "rows": n, **found}, []


def sample_size(n: int, selected: int, dimension: int) -> int:
    """Return the number of rows, of `n`, that are measured against `selected` rows."""
    a_row = max(1, selected * dimension)
    return min(n, max(LEAST_SAMPLE, COORDINATES // a_row), max(LEAST_SAMPLE, VALUES_IN_MEMORY // max(1, dimension)))


def coverage_bytes(dataset: Dataset, selected: int) -> int:
    """Return the bytes of :func:`measure_coverage` for a number of selected rows; 0 while rows are not counted."""
    if not dataset.columns.has("embedding") or not dataset.rows:
        return 0
    n, dimension = dataset.rows, dataset.dimension("embedding")
    if selected * dimension > VALUES_IN_MEMORY:
        return 0
    size = sample_size(n, selected, dimension)
    return 4 * dimension * (min(n, size + 2 * selected) + size + 2 * selected)


def _summary(distances: Floats) -> dict[str, Any]:
    return {"mean_distance": float(distances.mean()), "largest_distance": float(distances.max())}


def _gather(run: Run, rows: Rows) -> Matrix:
    """Return the vectors of `rows` (ascending), float32 (k, d)."""
    dataset = run.candidates
    starts = run.layout().starts
    vectors = np.empty((len(rows), dataset.dimension("embedding")), np.float32)

    def read(unit: int) -> None:
        if np.searchsorted(rows, starts[unit]) == np.searchsorted(rows, starts[unit + 1]):
            return
        for batch in run.read(dataset, unit, ROLES):
            first = int(starts[unit]) + batch.start
            here = slice(*np.searchsorted(rows, [first, first + batch.rows]).tolist())
            if here.start == here.stop:
                continue
            with np.errstate(over="ignore"):  # found below, as infinite
                vectors[here] = batch.take(rows[here] - first).vectors("embedding")

    for _ in in_threads(run)(read, range(len(dataset.units))):
        pass
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise Invalid(f"the vector of row {rows[np.argmin(finite)]} is not finite.")
    return vectors


def represented(run: Run, data: Matrix, selected: Matrix) -> tuple[npt.NDArray[np.int32], Floats]:
    """Return the place in `selected` of each row's nearest vector, int32 (n,), and its distance, float64 (n,).

    In the job's threads; ties go to the earlier place.
    """
    panels = pack(selected)
    n, dimension = data.shape
    size = max(64, min(BLOCK_ROWS, COORDINATES_A_BLOCK // max(1, len(selected) * dimension)))
    places, distances = np.empty(n, np.int32), np.empty(n)

    def compare(block: int) -> None:
        part = slice(block * size, (block + 1) * size)
        places[part], squared = assign(data[part], selected, panels)
        distances[part] = np.sqrt(squared.astype(np.float64))

    for _ in in_threads(run, rows=n)(compare, range(-(-n // size))):
        pass
    return places, distances
