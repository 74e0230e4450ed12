"""Steps that TAROT's modes share: transport of some rows, readers of vectors, and the decision."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import JsonValue

from tamis.selectors.decision.choice import Choice
from tamis.selectors.decision.decision import Decision
from tamis.selectors.features.gradients import Space
from tamis.selectors.features.transport.problem import Costs, Solver, Transport
from tamis.selectors.features.transport.solve import solve
from tamis.selectors.methods.tarot import otm
from tamis.selectors.methods.tarot.layers import LayerOrder, Layers
from tamis.selectors.run.run import Run
from tamis.selectors.schema.response import Notice

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]

REASONS = ("eligible",)

GATHERED_BYTES = 2**29
"""Whitened vectors held for all folds at once; beyond, each fold reads its own."""


@dataclass
class Trail:
    """Measurements that are made along the way of a selection."""

    details: dict[str, JsonValue] = field(default_factory=dict)
    problems: dict[str, Transport] = field(default_factory=dict)
    curve: otm.Curve | None = None
    warnings: list[Notice] = field(default_factory=list)


@dataclass(frozen=True)
class TarotFacts:
    """The space of a selection and the measurements made on its way, for its report."""

    space: Space
    trail: Trail


def decision(choice: Choice, ranked: LayerOrder, layers: Layers) -> Decision:
    """Return the decision with each row's layer, nearest target and similarity as columns."""
    rows = choice.rows
    layer, target = layers.layer[rows], layers.target[rows]
    columns = {
        "layer": pa.array(layer, pa.int32(), mask=layer == layers.depth),
        "nearest_target": pa.array(target, pa.int32(), mask=target < 0),
        "similarity": pa.array(layers.similarity[rows], pa.float32(), mask=target < 0),
    }
    return Decision(choice, [ranked], REASONS, {}, columns=columns)


def target_weights(run: Run) -> Floats:
    """Weigh targets equally, or each dataset's by its proportion."""
    counts = [target.rows or 0 for target in run.targets]
    shares = run.target_proportions or [count / sum(counts) for count in counts]
    return np.concatenate([np.full(count, share / count) for share, count in zip(shares, counts, strict=True) if count])


def solved(space: Space, rows: Ints, solver: Solver, targets: Floats, pool: ThreadPoolExecutor) -> Transport:
    """Solve the transport of rows, of equal weights, to all targets."""
    costs = Costs(space.vectors(rows), space.targets, pool)
    return solve(costs, np.full(len(rows), 1 / len(rows)), targets, solver, bounds=True)


def gatherer(space: Space, union: Ints) -> Callable[[Ints], Matrix]:
    """Return a reader of whitened vectors: of one table in memory while all of them fit, else read anew."""
    if len(union) * space.targets.shape[1] * 4 > GATHERED_BYTES:
        return space.vectors
    rows = np.sort(union)
    table = space.vectors(rows)
    return lambda wanted: table[np.searchsorted(rows, wanted)]
