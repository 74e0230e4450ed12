"""The evidence for a selection by transport: nearer to the target than a random draw, and than all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from tamis.native.math import rng
from tamis.selectors.decision.choice import Choice
from tamis.selectors.features.gradients import Space
from tamis.selectors.features.transport.problem import Costs
from tamis.selectors.features.transport.solve import solve

if TYPE_CHECKING:
    from tamis.selectors.run.run import Run

Ints = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]

ROWS_MEASURED = 2000
"""At most so many rows of the selection, of the random draw and of all rows are measured."""

TARGETS_MEASURED = 1000

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def measure(run: Run, space: Space, choice: Choice, random: Choice) -> dict[str, JsonValue]:
    """Compare the selection, a random draw and all rows with the targets.

    Parameters
    ----------
    run : Run
        In its last phase.
    space : Space
        Of the job.
    choice, random : Choice
        The selection, and a random draw under the same budget and bounds.
    """
    assert run.candidates.rows is not None
    lists = {"selected": choice.rows, "random": random.rows, "raw": np.arange(run.candidates.rows)}
    samples = {name: sample(run, rows, ROWS_MEASURED, f"report.{name}") for name, rows in lists.items()}
    every = np.unique(np.concatenate(list(samples.values())))
    vectors = space.vectors(every)
    chosen = sample(run, np.arange(len(space.targets)), TARGETS_MEASURED, "report.targets")
    targets = np.ascontiguousarray(space.targets[chosen])
    distance: dict[str, JsonValue] = {
        "measure": "transport distance (sqrt(2 - 2 cosine) of whitened vectors), on samples of equal size",
        "rows_measured": {name: len(rows) for name, rows in samples.items()},
        "targets_measured": len(targets),
    }
    similarity: dict[str, JsonValue] = {"quantiles": list(QUANTILES)}
    for name, rows in samples.items():
        if not len(rows):
            distance[name] = None
            continue
        costs = Costs(vectors[np.searchsorted(every, rows)], targets)
        b = np.full(len(targets), 1 / len(targets))
        solved = solve(costs, np.full(len(rows), 1 / len(rows)), b, bounds=True)
        distance[name] = {**solved.summary(), "mean_distance_of_a_target_to_its_nearest": nearest(costs)}
        closest = np.concatenate([costs.block(start).min(axis=1) for start in costs.starts])
        values: list[JsonValue] = [float(value) for value in np.quantile(1 - closest.astype(float) ** 2 / 2, QUANTILES)]
        similarity[name] = values
    return {"distance": distance, "similarity_to_the_nearest_target": similarity}


def nearest(costs: Costs) -> float:
    """Return the mean distance of a target to its nearest row: a lower bound of the transport distance."""
    lowest = np.min([costs.block(start).min(axis=0) for start in costs.starts], axis=0)
    return float(lowest.astype(np.float64).mean())


def sample(run: Run, rows: Ints, most: int, stream: str) -> Ints:
    """Draw at most `most` of some rows by the job's seed, ascending."""
    if len(rows) <= most:
        return np.sort(rows)
    order = rng.random_bits_at(run.stream(stream), rows)
    return np.sort(rows[np.argsort(order, kind="stable")[:most]])
