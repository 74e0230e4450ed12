"""Influence of rows on a target: inner products of their gradients with an inverse-curvature product of the target's.

For a training row z and a target of mean gradient t, the influence is t' (H + damping I)^-1 g_z: by how much a step on
z lowers the target's loss, to first order (Koh and Liang, ICML 2017, section 2.1, with the sign turned: higher is
better). H is the empirical Fisher matrix, or EK-FAC's approximation for one linear layer (George et al., NeurIPS 2018,
section 3), whose gradient of a row is the matrix delta x'.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.math.eigen import eigenvectors
from tamis.native.math.second_moments import as_floats, transform
from tamis.native.math.whitening import cholesky, inverse_lower

Floats = NDArray[np.float64]


class Kronecker(NamedTuple):
    """EK-FAC's curvature of a layer's weights (out x in)."""

    outer: Floats  # [out, out], eigenvectors of the mean delta delta', in columns
    inner: Floats  # [in, in], of the mean x x'
    values: Floats  # [out, in], mean squares of the gradients in that basis: the corrected eigenvalues


@kernel
def _add_columns(rows, sums):
    for row in range(rows.shape[0]):
        for column in range(rows.shape[1]):
            sums[column] += np.float64(rows[row, column])


def add_columns(rows: NDArray[np.floating], sums: Floats) -> None:
    """Add rows, float [n, d], to sums of their columns, float64 [d], one after the other."""
    _add_columns(as_floats(rows), sums)


@kernel
def _products(rows, vector, out):
    for row in range(rows.shape[0]):
        total = 0.0
        for column in range(rows.shape[1]):
            total += np.float64(rows[row, column]) * vector[column]
        out[row] = total


def products(rows: NDArray[np.floating], vector: Floats) -> Floats:
    """Inner products of rows, float [n, d], with a vector, float64 [d]: float64 [n]."""
    out = np.empty(len(rows))
    _products(as_floats(rows), np.ascontiguousarray(vector, np.float64), out)
    return out


@kernel
def _pair_products(left, right, out):
    for row in range(left.shape[0]):
        total = 0.0
        for column in range(left.shape[1]):
            total += np.float64(left[row, column]) * right[row, column]
        out[row] = total


def layer_products(deltas: NDArray[np.floating], inputs: NDArray[np.floating], weights: Floats) -> Floats:
    """Inner products of the gradients delta x' with a matrix, float64 [n], without making them.

    Parameters
    ----------
    deltas : float [n, out]
    inputs : float [n, in]
    weights : float64 [out, in]
    """
    out = np.empty(len(deltas))
    turned = transform(inputs, np.zeros(weights.shape[1]), np.ascontiguousarray(weights.T))
    _pair_products(as_floats(deltas), turned, out)
    return out


def fisher_product(fisher: Floats, damping: float, vector: Floats) -> Floats:
    """(F + damping I)^-1 times a vector, float64 [d].

    Parameters
    ----------
    fisher : float64 [d, d]
        Mean outer product of gradients, not centred.
    damping : float
    vector : float64 [d]

    Raises
    ------
    ValueError
        When the damped matrix is not positive definite.
    """
    inverse = inverse_lower(cholesky(fisher + damping * np.eye(len(fisher))))
    return products(np.ascontiguousarray(inverse.T), products(inverse, vector))


def ekfac_product(curvature: Kronecker, damping: float, gradient: Floats) -> Floats:
    """EK-FAC's inverse times a gradient: Q_S [ (Q_S' G Q_A) / (values + damping) ] Q_A', float64 [out, in]."""
    turned = _both_sides(curvature.outer.T, gradient, curvature.inner)
    return _both_sides(curvature.outer, turned / (curvature.values + damping), curvature.inner.T)


def _both_sides(left: Floats, middle: Floats, right: Floats) -> Floats:
    """Product of three matrices, in a fixed order of sums."""
    half = transform(np.ascontiguousarray(left), np.zeros(left.shape[1]), np.ascontiguousarray(middle))
    return transform(half, np.zeros(half.shape[1]), np.ascontiguousarray(right))


def layer_basis(moments: Floats, out: int) -> tuple[Floats, Floats]:
    """Eigenvectors of both factors, float64 [out, out] and [in, in], in columns.

    Parameters
    ----------
    moments : float64 [out + in, out + in]
        Mean outer product of (delta, x), not centred.
    out : int
        Outputs of the layer.
    """
    return eigenvectors(moments[:out, :out])[1], eigenvectors(moments[out:, out:])[1]


def squares_in_basis(
    deltas: NDArray[np.floating], inputs: NDArray[np.floating], outer: Floats, inner: Floats
) -> Floats:
    """Squares of the factors in the eigenvectors' basis, float64 [n, out + in].

    The mean outer product of these holds, right of the first `out` columns, the mean squares of the gradients: the
    square of an entry of Q_S' delta x' Q_A is the product of the factors' squares.
    """
    turned = [transform(rows, np.zeros(len(basis)), basis) for rows, basis in ((deltas, outer), (inputs, inner))]
    both: Floats = np.concatenate(turned, axis=1)
    return both * both
