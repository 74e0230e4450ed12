"""The influences of all rows, where they are at hand: a column, or gradients times what a target's are turned into.

Influence here is signed so that higher is better: by how much a step on a row lowers the target's loss, to first order.
Second moments of gradients are the signal that TAROT whitens by; whoever comes second finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.learning import influence
from tamis.native.learning.influence import Kronecker
from tamis.native.math import second_moments
from tamis.native.math.second_moments import Moments
from tamis.selectors.errors import Invalid
from tamis.selectors.features import gradients
from tamis.selectors.features.embeddings import check_finite
from tamis.selectors.features.gradients import Features
from tamis.selectors.schema.answers import MAX_SCORE
from tamis.selectors.schema.request import Role
from tamis.selectors.signals.row_columns import UnitColumn
from tamis.selectors.signals.store import with_metadata
from tamis.selectors.signals.task import UnitReader, unit_task

if TYPE_CHECKING:
    from tamis.selectors.datasets import Dataset
    from tamis.selectors.run.run import Run
    from tamis.selectors.signals.store import Mapped

Floats = npt.NDArray[np.float64]

FACTORS: tuple[Role, Role] = ("output_gradient", "activation")
"""The two factors of a layer's gradient, delta and x."""


def given_influence(run: Run) -> Floats:
    """Return the influence column, float64 (n,), NaN where it is null or NaN.

    Raises
    ------
    DataError
        When an influence is infinite, with shard, column and place.
    """
    return _joined(run.map(read_influence, run.candidates))


def gradient_influence(run: Run, damping: float | None) -> Floats:
    """Return the inner products of the candidates' gradients with the target's mean gradient, float64 (n,).

    Parameters
    ----------
    run : Run
        The job.
    damping : float or None
        The target's is multiplied by the inverse of F + damping (trace F / d) I first, F being the empirical Fisher
        matrix of the candidates. None: it is taken as it is.

    Raises
    ------
    DataError
        When a value, or a product, is not finite.
    Invalid
        When all gradients are zero, or the damped matrix can't be inverted.
    """
    vector = _target_mean(run)
    if damping is not None:
        moments = gradients.pooled_moments(run, Features("gradient"), len(vector), [run.candidates])
        fisher = second_moments.uncentred(moments)
        added = damping * _mean_eigenvalue(np.trace(fisher), len(fisher))
        try:
            vector = influence.fisher_product(fisher, added, vector)
        except ValueError as error:
            raise Invalid(
                f"The gradients' Fisher matrix can't be inverted ({error}): raise damping.",
                pointer="/selector/params/damping",
            ) from error
    key = run.share("influence", pa.table({"vector": vector}))
    return _joined(run.map(score_gradients, run.candidates, shared={"vector": key}))


def layer_influence(run: Run, damping: float) -> Floats:
    """Return the influence on one linear layer by EK-FAC, float64 (n,), from the factors of its gradients.

    Parameters
    ----------
    run : Run
        The job.
    damping : float
        Relative to the mean of the corrected eigenvalues.

    Raises
    ------
    DataError, Invalid
        As :func:`gradient_influence`.
    """
    out, inputs = (run.candidates.dimension(role) for role in FACTORS)
    moments = _factor_moments(run, run.candidates, out + inputs)
    outer, inner = influence.layer_basis(second_moments.uncentred(moments), out)
    basis = run.share("basis", pa.table({"outer": _one_list(outer), "inner": _one_list(inner)}))
    squares = _summed(run.map(sum_squares, run.candidates, shared={"basis": basis}), out + inputs)
    values = (squares.products / max(1, squares.rows))[:out, out:]
    added = damping * _mean_eigenvalue(values.sum(), values.size)
    gradient = np.zeros((out, inputs))
    for target, share in zip(run.targets, _target_shares(run), strict=True):
        found = _factor_moments(run, target, out + inputs)
        gradient += share / max(1, found.rows) * found.products[:out, out:]
    product = influence.ekfac_product(Kronecker(outer, inner, values), added, gradient)
    key = run.share("influence", pa.table({"matrix": _one_list(product)}))
    return _joined(run.map(score_factors, run.candidates, shared={"influence": key}))


def _mean_eigenvalue(total: float, count: int) -> float:
    if not total > 0:
        raise Invalid("All gradients are zero: no row influences anything.", pointer="/dataset/columns")
    return float(total) / count


def _target_shares(run: Run) -> list[float]:
    """Weigh the target datasets by their proportions, or else by their rows."""
    counts = [target.rows or 0 for target in run.targets]
    for index, count in enumerate(counts):
        if not count:
            raise Invalid("The target has no rows.", pointer=f"/target/datasets/{index}/shards")
    return run.target_proportions or [count / sum(counts) for count in counts]


def _target_mean(run: Run) -> Floats:
    """Return the target's mean gradient, float64 (d,)."""
    mean = np.zeros(run.candidates.dimension("gradient"))
    for target, share in zip(run.targets, _target_shares(run), strict=True):
        tables = run.map(sum_gradients, target)
        total = np.zeros(len(mean))
        for unit in range(len(tables)):
            total += tables.column(unit, "sum")
        mean += share / (target.rows or 1) * total
    return mean


def _factor_moments(run: Run, dataset: Dataset, dimension: int) -> Moments:
    return _summed(run.map(sum_factors, dataset), dimension)


def _summed(tables: Mapped, dimension: int) -> Moments:
    """Add the moments of all units, in their order."""
    zero = np.zeros(dimension)
    total = Moments(0, zero, zero, np.zeros((dimension, dimension)))
    for unit, metadata in enumerate(tables.metadata()):
        products = tables[unit].column("products").combine_chunks().flatten().to_numpy()
        part = Moments(metadata["rows"], zero, zero, products.reshape(dimension, dimension))
        total = second_moments.add_moments(total, part)
    return total


def _joined(tables: Mapped) -> Floats:
    """Return the column ``influence`` of all units as one."""
    column = UnitColumn(tables, "influence")
    return np.concatenate([np.empty(0), *(column[unit] for unit in range(len(column)))])


# -- unit tasks


def _vectors(reader: UnitReader, *roles: Role) -> Iterator[tuple[int, list[npt.NDArray[np.floating[Any]]]]]:
    """Yield the vectors of some roles, checked to be finite, with the number of the first in the unit."""
    for batch in reader.batches():
        found = [batch.vectors(role) for role in roles]
        for role, vectors in zip(roles, found, strict=True):
            check_finite(vectors, vectors, reader.dataset, reader.unit.index, batch.start, role)
        yield batch.start, found


def _scored(reader: UnitReader, role: Role, parts: Iterator[tuple[int, Floats]]) -> pa.Table:
    """Return the column ``influence``, whose values can be squared and summed, or are NaN where the row has none."""
    listed = [np.empty(0)]
    for start, values in parts:
        large = np.abs(values) > MAX_SCORE
        if large.any():
            row = int(np.argmax(large))
            detail = f"The influence is {values[row]}: scale it down, or make it null where it is not known."
            raise reader.dataset.refuse(reader.unit.index, start + row, role, detail)
        listed.append(values)
    return pa.table({"influence": np.concatenate(listed)})


def _one_list(values: Floats) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.size)


def _of_list(table: pa.Table, name: str, columns: int) -> Floats:
    matrix: Floats = table.column(name).combine_chunks().flatten().to_numpy().reshape(-1, columns)
    return matrix


@unit_task("quad.read_influence", revision=1, roles=("influence",))
def read_influence(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Read the influence column as float64, NaN where a row has none."""
    parts = ((batch.start, batch.floats("influence").astype(np.float64)) for batch in reader.batches())
    return _scored(reader, "influence", parts)


@unit_task("quad.sum_gradients", revision=1, roles=("gradient",))
def sum_gradients(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Sum a unit's gradients: column ``sum``."""
    total = np.zeros(reader.dataset.dimension("gradient"))
    for _, (rows,) in _vectors(reader, "gradient"):
        influence.add_columns(rows, total)
    return pa.table({"sum": total})


@unit_task("quad.score_gradients", revision=1, roles=("gradient",))
def score_gradients(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Multiply a unit's gradients by the shared ``vector``."""
    vector = shared["vector"].column("vector").to_numpy()
    parts = ((start, influence.products(rows, vector)) for start, (rows,) in _vectors(reader, "gradient"))
    return _scored(reader, "gradient", parts)


@unit_task("quad.sum_factors", revision=1, roles=FACTORS)
def sum_factors(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Sum the outer products of (delta, x) over a unit: ``products``, a flat square matrix."""
    size = sum(reader.dataset.dimension(role) for role in FACTORS)
    rows = (np.concatenate(both, axis=1) for _, both in _vectors(reader, *FACTORS))
    return _moments_table(second_moments.second_moments(rows, np.zeros(size)))


@unit_task("quad.sum_squares", revision=1, roles=FACTORS)
def sum_squares(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Sum the outer products of the squares of (delta, x) in the shared ``basis``, as :data:`sum_factors` does."""
    sizes = [reader.dataset.dimension(role) for role in FACTORS]
    basis = [_of_list(shared["basis"], name, size) for name, size in zip(("outer", "inner"), sizes, strict=True)]
    rows = (influence.squares_in_basis(deltas, x, *basis) for _, (deltas, x) in _vectors(reader, *FACTORS))
    return _moments_table(second_moments.second_moments(rows, np.zeros(sum(sizes))))


def _moments_table(total: Moments) -> pa.Table:
    return with_metadata(pa.table({"products": _one_list(total.products)}), {"rows": total.rows})


@unit_task("quad.score_factors", revision=1, roles=FACTORS)
def score_factors(reader: UnitReader, params: Mapping[str, Any], shared: Mapping[str, pa.Table]) -> pa.Table:
    """Multiply a unit's gradients delta x' by the shared ``matrix``."""
    matrix = _of_list(shared["influence"], "matrix", reader.dataset.dimension("activation"))
    parts = ((start, influence.layer_products(deltas, x, matrix)) for start, (deltas, x) in _vectors(reader, *FACTORS))
    return _scored(reader, FACTORS[0], parts)
