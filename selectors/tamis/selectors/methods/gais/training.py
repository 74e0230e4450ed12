"""Training GAIS' network on a sample of the rows, at a cost that does not grow with their number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.learning import gat_training
from tamis.native.math import rng
from tamis.native.neighbours import lsh
from tamis.native.sampling.interleave import slices, stratified_order
from tamis.selectors.methods.gais.scoring import Floats, Network, Settings
from tamis.selectors.methods.gais.survey import Codes, Ints, Matrix, Scaling, Surveyed
from tamis.selectors.signals.store import with_metadata

STEPS_A_BATCH = 8
"""Each training batch is used about so many times."""

SAMPLE_MARGIN = 1.1
"""So many times the rows to train on are drawn: the draw is by chance, row by row."""


def training_batches(steps: int) -> int:
    """Return the number of batches for a number of steps."""
    return max(1, steps // STEPS_A_BATCH)


def sample_share(rows: int, batch_rows: int, steps: int) -> float:
    """Return the share of `rows` that is drawn to train on: 1 where that is all."""
    return min(1.0, SAMPLE_MARGIN * batch_rows * training_batches(steps) / max(1, rows))


def class_weights(totals: Ints) -> Floats:
    """Return n / (classes rows of the class): every class counts the same in the loss."""
    return np.asarray(totals.sum() / (len(totals) * np.maximum(totals, 1)), np.float32)


def train(
    found: Surveyed, scaling: Scaling, settings: Settings, steps: int, masked: float, batch_rows: int
) -> tuple[pa.Table, list[float]]:
    """Train on stratified batches of the sampled rows; return the parameters and the loss before every step."""
    vectors, codes = found.sample(scaling.dimension)
    points = scaling.apply(vectors)
    batches = list(_batches(points, codes, settings, training_batches(steps), batch_rows))
    classes = len(found.names)
    flat = gat_training.initial_parameters(rng.stream_key(settings.seed, "gais.weights"), points.shape[1], classes)
    losses = gat_training.train(
        batches,
        class_weights(found.totals),
        rng.stream_key(settings.seed, "gais.masked"),
        gat_training.Schedule(steps, masked=masked),
        flat,
    )
    return with_metadata(pa.table({"parameter": flat}), {"losses": losses}), losses


def _batches(points: Matrix, codes: Codes, settings: Settings, count: int, batch_rows: int) -> list[gat_training.Batch]:
    """Cut the sample into batches of about `batch_rows` with the class mix of the whole, and build their graphs."""
    key = rng.stream_key(settings.seed, "gais.training-order")
    order = stratified_order(codes, rng.random_bits(key, 0, np.empty(len(codes), np.uint64)))
    bounds = slices(len(order), batch_rows)
    directions = settings.directions(points.shape[1])
    batches = []
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        members = order[begin:end]
        x = np.ascontiguousarray(points[members])
        graph = lsh.to_graph(lsh.find_neighbours(x, settings.neighbours, settings.graph, directions))
        batches.append(gat_training.Batch(x, graph, codes[members]))
        if len(batches) == count:
            break
    return batches


def network_of(table: pa.Table, dimension: int, classes: int) -> Network:
    """Return the network whose parameters a table holds."""
    parameters: npt.NDArray[np.float32] = table.column("parameter").to_numpy()
    return Network(parameters, dimension, classes)
