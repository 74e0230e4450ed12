"""Whitening of TAROT's vectors by the covariance of candidates and targets together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.math import second_moments, whitening
from tamis.native.math.norms import squared_lengths
from tamis.selectors.errors import Invalid
from tamis.selectors.signals.store import metadata_of, with_metadata

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Whitening = Literal["cholesky", "zca", "none"]

SHORTEST = 1e-12
"""Vectors shorter than this are divided by it instead of their length (as released): they point nowhere."""

RELEASED_LAMBDA = 1e-5
"""Added to the covariance's diagonal by the release, whatever the scale of the gradients."""


@dataclass(frozen=True)
class Whitener:
    """(row - centre) times a matrix, then scaled to length 1; no matrix: scaled only."""

    centre: Floats
    matrix: Floats | None

    def __call__(self, vectors: npt.NDArray[np.floating[Any]]) -> Matrix:
        """Whiten rows, float32 (n, d), each of length 1."""
        if self.matrix is None:
            out = vectors.astype(np.float32)
        else:
            out = second_moments.transform(vectors, self.centre, self.matrix).astype(np.float32)
        lengths = np.sqrt(squared_lengths(out))
        out /= np.maximum(lengths, SHORTEST)[:, None]
        return out

    def to_table(self) -> pa.Table:
        """Return it as a shared table."""
        if self.matrix is None:
            return with_metadata(pa.table({"centre": self.centre}), {"whitened": False})
        d = len(self.centre)
        matrix = pa.FixedSizeListArray.from_arrays(pa.array(self.matrix.ravel()), d)
        return with_metadata(pa.table({"centre": self.centre, "matrix": matrix}), {"whitened": True})

    @classmethod
    def of(cls, table: pa.Table) -> Whitener:
        """Read what :meth:`to_table` made."""
        centre = table.column("centre").to_numpy()
        if not metadata_of(table)["whitened"]:
            return cls(centre, None)
        matrix = table.column("matrix").combine_chunks().flatten().to_numpy().reshape(len(centre), -1)
        return cls(centre, matrix)


def make_whitener(
    found: second_moments.Moments, kind: Whitening, regularization: float, *, released: bool = False
) -> Whitener:
    """Make the whitening of the pooled rows' covariance S, regularised to S + lambda I.

    Parameters
    ----------
    found : Moments
        Of candidates and targets together.
    kind : Whitening
        'cholesky': rows times inverse(L)'. 'zca': times (S + lambda I)^(-1/2); the similarities are the same.
    regularization : float
        lambda relative to trace(S) / d: so the scale of the gradients does not matter.
    released : bool
        As the release has it: lambda is 1e-5 whatever the scale, and rows are multiplied by inverse(L), not its
        transpose.

    Raises
    ------
    Invalid
        When the covariance is zero, or singular and not regularised enough.
    """
    d = len(found.shift)
    if kind == "none":
        return Whitener(np.zeros(d), None)
    mean, covariance = second_moments.mean_and_covariance(found)
    scale = float(np.trace(covariance)) / d
    if not scale > 0:
        raise Invalid(
            "All vectors are equal: there is nothing to tell candidates apart by.", pointer="/dataset/columns"
        )
    added = RELEASED_LAMBDA if released else regularization * scale
    try:
        lower = whitening.cholesky(covariance + added * np.eye(d))
        inverse = whitening.inverse_lower(lower)
        if released:
            return Whitener(mean, inverse)
        matrix = inverse.T if kind == "cholesky" else whitening.symmetric_root(lower, inverse)
    except ValueError as error:
        raise Invalid(
            f"The vectors' covariance can't be whitened ({error}): raise regularization.",
            pointer="/selector/params/regularization",
        ) from error
    return Whitener(mean, np.ascontiguousarray(matrix))
