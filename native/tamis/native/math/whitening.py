"""Whitening: the matrix that turns rows of a given covariance into rows of covariance 1, without LAPACK.

Cholesky's factor is computed column by column and its inverse by substitution, in a fixed order; the symmetric (ZCA)
root follows from it by a rotation. Rows whitened by either have the same inner products, x' inverse(C) y.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel
from tamis.native.math.second_moments import transform

Floats = NDArray[np.float64]

ROTATION_TOLERANCE = 1e-12
"""Largest entry by which the rotation's square may differ from the identity."""
ROTATION_STEPS = 200
"""Newton-Schulz steps at most: the small singular values grow by half a step, 100 steps make 1e17."""


@kernel
def _factorize(matrix):
    """Overwrite the lower triangle with Cholesky's factor; return the first column where that fails, else -1."""
    d = len(matrix)
    column = np.empty(d)
    for k in range(d):
        pivot = matrix[k, k]
        if not pivot > 0.0:
            return k
        root = np.sqrt(pivot)
        for i in range(k, d):
            matrix[i, k] /= root
            column[i] = matrix[i, k]
        for i in range(k + 1, d):
            factor = column[i]
            line = matrix[i]
            for j in range(k + 1, i + 1):
                line[j] -= factor * column[j]
    return -1


@kernel
def _invert(lower, inverse):
    """Write the inverse of a lower triangle."""
    d = len(lower)
    for i in range(d):
        line = inverse[i]
        for k in range(i):
            factor = lower[i, k]
            other = inverse[k]
            for j in range(k + 1):
                line[j] -= factor * other[j]
        pivot = lower[i, i]
        for j in range(i):
            line[j] /= pivot
        line[i] = 1.0 / pivot


def cholesky(matrix: Floats) -> Floats:
    """Lower triangle L with L L' = matrix, float64 [d, d].

    Raises
    ------
    ValueError
        When the matrix is not positive definite.
    """
    lower = np.array(matrix, np.float64, order="C")
    column = _factorize(lower)
    if column >= 0:
        raise ValueError(f"the matrix is not positive definite at column {column}")
    return np.tril(lower)


def inverse_lower(lower: Floats) -> Floats:
    """Inverse of a lower triangle, float64 [d, d]."""
    inverse = np.zeros_like(lower)
    _invert(np.ascontiguousarray(lower), inverse)
    return inverse


def _product(left: Floats, right: Floats) -> Floats:
    return transform(left, np.zeros(left.shape[1]), right)


def symmetric_root(lower: Floats, inverse: Floats) -> Floats:
    """inverse(C)^(1/2) of C = L L', float64 [d, d].

    The polar factor Q of L, by Newton-Schulz: X <- X (3 - X'X) / 2 from X = L / |L|; then C^(-1/2) = Q inverse(L).

    Raises
    ------
    ValueError
        When the matrix is too near to singular for that.
    """
    x = lower / np.sqrt((lower * lower).sum())  # Frobenius: no singular value above 1
    identity = np.eye(len(lower))
    for _ in range(ROTATION_STEPS):
        square = _product(np.ascontiguousarray(x.T), x)
        if np.abs(square - identity).max() < ROTATION_TOLERANCE:
            root = _product(x, inverse)
            return (root + root.T) / 2
        x = _product(x, 1.5 * identity - 0.5 * square)
    raise ValueError("the matrix is too near to singular for its symmetric root")
