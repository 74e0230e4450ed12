"""Mean and spread of columns in float64, streamed over blocks of rows and merged in a fixed order."""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.native.compiled import kernel

Doubles = NDArray[np.float64]


class Moments(NamedTuple):
    """Of the columns of some rows."""

    rows: int
    mean: Doubles  # [d]
    squares: Doubles  # [d], sum of the squared deviations from the mean

    def merged(self, other: "Moments") -> "Moments":
        """Moments of both sets of rows.

        Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979,
        equation 2.1.
        """
        rows = self.rows + other.rows
        if rows == 0:
            return self
        apart = other.mean - self.mean
        share = other.rows / rows
        return Moments(
            rows, self.mean + apart * share, self.squares + other.squares + apart * apart * (self.rows * share)
        )


@kernel
def _add(rows, mean, squares):
    n, d = rows.shape
    for i in range(n):
        for c in range(d):
            mean[c] += np.float64(rows[i, c])
    for c in range(d):
        mean[c] /= n
    for i in range(n):
        for c in range(d):
            apart = np.float64(rows[i, c]) - mean[c]
            squares[c] += apart * apart


def moments_of(rows: NDArray[np.float32]) -> Moments:
    """Moments of float32 [n, d]."""
    view = np.ascontiguousarray(rows, np.float32).view()
    view.setflags(write=False)
    mean, squares = np.zeros(view.shape[1]), np.zeros(view.shape[1])
    if len(view):
        _add(view, mean, squares)
    return Moments(len(view), mean, squares)


@kernel
def _standardise(rows, columns, mean, scale, out):
    for i in range(len(rows)):
        for c in range(len(columns)):
            out[i, c] = np.float32((np.float64(rows[i, columns[c]]) - mean[c]) * scale[c])


def standardise(
    rows: NDArray[np.float32], columns: NDArray[np.int64], mean: Doubles, scale: Doubles, out: NDArray[np.float32]
) -> None:
    """Write the standardised values of some columns.

    Parameters
    ----------
    rows : float32 [n, d]
    columns : int64 [m]
    mean, scale : float64 [m]
        ``out = (value - mean) scale``, in float64, then rounded.
    out : float32 [n, m]
    """
    view = np.ascontiguousarray(rows, np.float32).view()
    view.setflags(write=False)
    _standardise(view, columns, mean, scale, out)
