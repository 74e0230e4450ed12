"""Lengths of vectors, in float64 and in one fixed order of summation."""

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel

# mypy: disable-error-code="no-untyped-def"

PARTIAL_SUMS = 4
"""Partial sums of a row; added up in their order at its end."""


@kernel
def _squared_lengths(matrix, out):
    n, dimension = matrix.shape
    whole = dimension - dimension % PARTIAL_SUMS
    for row in range(n):
        a = b = c = d = 0.0
        for k in range(0, whole, PARTIAL_SUMS):
            a += np.float64(matrix[row, k]) * np.float64(matrix[row, k])
            b += np.float64(matrix[row, k + 1]) * np.float64(matrix[row, k + 1])
            c += np.float64(matrix[row, k + 2]) * np.float64(matrix[row, k + 2])
            d += np.float64(matrix[row, k + 3]) * np.float64(matrix[row, k + 3])
        for k in range(whole, dimension):
            a += np.float64(matrix[row, k]) * np.float64(matrix[row, k])
        out[row] = (a + b) + (c + d)


def squared_lengths(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared Euclidean length of every row.

    Parameters
    ----------
    matrix
        float32 [n, d].

    Returns
    -------
    float64 [n]
        Exact products, summed in float64: no float32 overflows.
    """
    view = np.ascontiguousarray(matrix, np.float32).view()
    view.setflags(write=False)
    out = np.empty(len(view))
    _squared_lengths(view, out)
    return out
