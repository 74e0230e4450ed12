"""Last-layer gradients of a linear classifier on embeddings: what stands in for a network's where there are none.

A multinomial logistic regression is fitted to the labels; the gradient of a row's loss is the outer product of its
error p - y and its embedding. It is never made: inner products of such gradients are products of the inner products of
their two factors, and the elementwise product of two random-sign projections, one of each factor, keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.math import rng
from tamis.native.math.elementary import exponentials
from tamis.native.math.second_moments import transform
from tamis.selectors.datasets import RoleBatch
from tamis.selectors.errors import Invalid
from tamis.selectors.features.unigram_gradients import signs
from tamis.selectors.signals.store import metadata_of, with_metadata
from tamis.selectors.signals.task import UnitReader, unit_task

if TYPE_CHECKING:
    from tamis.selectors.run.run import Run

Floats = npt.NDArray[np.float64]

FITTED_ROWS = 10_000
"""Rows of candidates, and of targets, that the classifier is fitted on at most; drawn by the job's seed."""

MAX_CLASSES = 10_000
STEPS = 200
RIDGE = 1e-3
POWER_STEPS = 30


def fit(run: Run, dimension: int) -> pa.Table:
    """Fit the classifier on a sample of candidates and targets.

    Returns
    -------
    Table
        One row of lists: ``weights`` float64 (d + 1) * classes, ``centre`` (d,), ``scale``, and the projections' length
        and the names of the classes in its metadata.

    Raises
    ------
    Invalid
        When there are fewer than two classes or more than :data:`MAX_CLASSES`.
    """
    names = sorted({name for dataset in (run.candidates, *run.targets) for name in run.names(dataset, "label")[0]})
    if not 2 <= len(names) <= MAX_CLASSES:
        raise Invalid(
            f"A classifier needs 2 to {MAX_CLASSES:,} classes; the labels have {len(names):,} different values.",
            pointer="/dataset/columns/label",
        )
    vectors, labels = _sample(run)
    codes = np.searchsorted(names, labels)
    centre = vectors.sum(axis=0) / len(vectors)
    centred = vectors - centre
    scale = float(np.sqrt((centred**2).sum() / len(vectors))) or 1.0
    x = np.concatenate([centred / scale, np.ones((len(vectors), 1))], axis=1)
    weights = _logistic(x, codes, len(names))
    return with_metadata(
        pa.table({"weights": [weights.ravel()], "centre": [centre], "scale": [scale]}),
        {"names": names, "dimension": dimension},
    )


def _sample(run: Run) -> tuple[Floats, list[str]]:
    vectors: list[Floats] = []
    labels: list[str] = []
    for index, dataset in enumerate((run.candidates, *run.targets)):
        n = dataset.rows or 0
        rows = np.arange(n)
        if n > FITTED_ROWS:
            order = rng.random_bits_at(run.stream(f"last_layer.{index}"), rows)
            rows = np.sort(np.argsort(order, kind="stable")[:FITTED_ROWS])
        shared = {"rows": run.share("rows", pa.table({"row": rows}))}
        for table in run.map(labelled_rows, dataset, shared=shared):
            column = table.column("vector").combine_chunks()
            if len(column):
                vectors.append(column.flatten().to_numpy().reshape(len(column), -1))
                labels += table.column("label").to_pylist()
    return np.concatenate(vectors), labels


@unit_task("last_layer.labelled_rows", revision=1, roles=("embedding", "label"), numbered=True)
def labelled_rows(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Return embedding (float64) and label of the rows of a unit that are listed."""
    listed = shared["rows"].column("row").to_numpy() - reader.first_row
    vectors: list[Floats] = []
    labels: list[str] = []
    d = reader.dataset.dimension("embedding")
    for batch in reader.batches():
        low, high = np.searchsorted(listed, [batch.start, batch.start + batch.rows])
        inside = listed[low:high] - batch.start
        vectors.append(batch.vectors("embedding")[inside].astype(np.float64))
        found = batch.strings("label").take(pa.array(inside)).to_pylist()
        if None in found:
            row = int(inside[found.index(None)])
            raise reader.dataset.refuse(reader.unit.index, batch.start + row, "label", "The label is null.")
        if not np.isfinite(vectors[-1]).all():
            row, place = np.argwhere(~np.isfinite(vectors[-1]))[0].tolist()
            raise reader.dataset.refuse(
                reader.unit.index, batch.start + int(inside[row]), "embedding", f"Value {place} is not finite."
            )
        labels += found
    flat = np.concatenate(vectors).ravel() if vectors else np.empty(0)
    return pa.table(
        {"vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), d), "label": pa.array(labels, pa.string())}
    )


def _logistic(x: Floats, codes: npt.NDArray[np.int64], classes: int) -> Floats:
    """Minimise the mean log loss plus a ridge by Nesterov's accelerated descent: weights (d + 1, classes)."""
    n, d = x.shape
    across = np.ascontiguousarray(x.T)
    zeros_n, zeros_d = np.zeros(n), np.zeros(d)
    vector = np.ones((d, 1)) / np.sqrt(d)
    largest = 1.0
    for _ in range(POWER_STEPS):
        vector = transform(across, zeros_n, transform(x, zeros_d, vector)) / n
        largest = float(np.sqrt((vector * vector).sum()))
        vector /= largest
    step = 1.0 / (0.5 * 1.1 * largest + RIDGE)
    weights = ahead = np.zeros((d, classes))
    for index in range(STEPS):
        error = _probabilities(transform(x, zeros_d, ahead))
        error[np.arange(n), codes] -= 1.0
        gradient = transform(across, zeros_n, np.ascontiguousarray(error)) / n + RIDGE * ahead
        moved = ahead - step * gradient
        ahead = moved + index / (index + 3) * (moved - weights)
        weights = moved
    return weights


def _probabilities(logits: Floats) -> Floats:
    odds = exponentials(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


class Gradients:
    """Projected last-layer gradients of batches of embeddings and labels."""

    def __init__(self, reader: UnitReader, classifier: pa.Table) -> None:
        self._reader = reader
        metadata = metadata_of(classifier)
        self._code = {name: code for code, name in enumerate(metadata["names"])}
        row = classifier.slice(0, 1)
        self._centre, flat = (row.column(name).combine_chunks().flatten().to_numpy() for name in ("centre", "weights"))
        self._scale = row.column("scale")[0].as_py()
        self._weights = flat.reshape(len(self._centre) + 1, -1)
        k = metadata["dimension"]
        self._errors = signs("last_layer.errors", (self._weights.shape[1], k)) / np.sqrt(k)
        self._inputs = signs("last_layer.inputs", (len(self._centre) + 1, k))

    def __call__(self, batch: RoleBatch) -> Floats:
        """Return projections of (p - y) x [embedding; 1], float64 (rows, dimension)."""
        vectors = (batch.vectors("embedding").astype(np.float64) - self._centre) / self._scale
        x = np.concatenate([vectors, np.ones((batch.rows, 1))], axis=1)
        labels = batch.strings("label").to_pylist()
        if None in labels:
            row = labels.index(None)
            raise self._reader.dataset.refuse(
                self._reader.unit.index, batch.start + row, "label", "The label is null: a loss needs one."
            )
        error = _probabilities(transform(x, np.zeros(x.shape[1]), self._weights))
        error[np.arange(batch.rows), [self._code[label] for label in labels]] -= 1.0
        left = transform(error, np.zeros(error.shape[1]), self._errors)
        product: Floats = left * transform(x, np.zeros(x.shape[1]), self._inputs)
        return product
