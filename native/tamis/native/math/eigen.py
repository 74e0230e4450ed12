"""Eigenvectors of symmetric matrices by Jacobi rotations, without LAPACK: the same bits on every machine.

Golub and Van Loan, Matrix Computations, section 8.5. A sweep turns every pair of coordinates once, in rounds of
disjoint pairs: a round's rotations are applied to the rows first, and then along every row to the columns, so
that memory is read in its order.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel, piece

Floats = NDArray[np.float64]

SWEEPS = 60
"""At most; seven to ten are usual."""
TOLERANCE = 1e-13
"""Length of what is off the diagonal, of the whole: where it is below, the eigenvectors are found."""


@piece
def _turn_rows(matrix, first, second, cosine, sine):
    for column in range(matrix.shape[1]):
        left, right = matrix[first, column], matrix[second, column]
        matrix[first, column] = cosine * left - sine * right
        matrix[second, column] = sine * left + cosine * right


@kernel
def _sweep(matrix, vectors, order):
    """Turn every pair of coordinates; ``order`` is a round-robin of an even number of players, -1 one that sits out."""
    players = len(order)
    half = players // 2
    pairs = np.empty((half, 2), np.int64)
    turns = np.empty((half, 2))
    for _ in range(players - 1):
        count = 0
        for place in range(half):
            first, second = order[place], order[players - 1 - place]
            if first < 0 or second < 0 or matrix[first, second] == 0.0:
                continue
            slope = (matrix[second, second] - matrix[first, first]) / (2.0 * matrix[first, second])
            tangent = 1.0 / (np.abs(slope) + np.sqrt(1.0 + slope * slope))
            if slope < 0.0:
                tangent = -tangent
            cosine = 1.0 / np.sqrt(1.0 + tangent * tangent)
            pairs[count, 0], pairs[count, 1] = first, second
            turns[count, 0], turns[count, 1] = cosine, tangent * cosine
            count += 1
        for k in range(count):
            _turn_rows(matrix, pairs[k, 0], pairs[k, 1], turns[k, 0], turns[k, 1])
            _turn_rows(vectors, pairs[k, 0], pairs[k, 1], turns[k, 0], turns[k, 1])
        for row in range(len(matrix)):
            line = matrix[row]
            for k in range(count):
                left, right = line[pairs[k, 0]], line[pairs[k, 1]]
                line[pairs[k, 0]] = turns[k, 0] * left - turns[k, 1] * right
                line[pairs[k, 1]] = turns[k, 1] * left + turns[k, 0] * right
        last = order[players - 1]
        for place in range(players - 1, 1, -1):
            order[place] = order[place - 1]
        order[1] = last


@kernel
def _squares(matrix):
    """Sum of the squares off the diagonal, and of all."""
    off, whole = 0.0, 0.0
    for row in range(matrix.shape[0]):
        for column in range(matrix.shape[1]):
            square = matrix[row, column] * matrix[row, column]
            whole += square
            if row != column:
                off += square
    return off, whole


def eigenvectors(matrix: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues, float64 [d] in no order, and eigenvectors, float64 [d, d] in columns.

    Parameters
    ----------
    matrix : float64 [d, d]
        Symmetric and finite.
    """
    d = len(matrix)
    work, vectors = np.array(matrix, np.float64, order="C"), np.eye(d)
    order = np.full(d + d % 2, -1, np.int64)
    order[:d] = np.arange(d)
    for _ in range(SWEEPS):
        off, whole = _squares(work)
        if off <= TOLERANCE * TOLERANCE * whole or d < 2:
            break
        _sweep(work, vectors, order)
    return np.diag(work).copy(), np.ascontiguousarray(vectors.T)
