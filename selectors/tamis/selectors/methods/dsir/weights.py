"""Log importance weights of rows, and the quality filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.math.elementary import exponentials, logarithms
from tamis.native.text import columns as kernels
from tamis.selectors.features.ngram_model import NgramModel
from tamis.selectors.features.ngrams import (
    config_of,
)
from tamis.selectors.methods.dsir.params import DsirParams
from tamis.selectors.signals.store import Mapped

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

POISSON_FLOOR = 1e-8
"""Added to both length probabilities (RedPajama-Data v2, importance_weights.py)."""


@dataclass(frozen=True)
class LogWeights:
    """Per-row signals, unit by unit: log importance weights of each target, tokens, quality statistics."""

    sums: Mapped
    quality: Mapped | None
    params: DsirParams
    model: NgramModel

    def unit(self, unit: int, target: int) -> tuple[Floats, npt.NDArray[np.uint8]]:
        """Return a unit's log weights for `target`, normalised, and each row's reason code."""
        log_weights = self.sums.column(unit, f"sum_{target}")
        tokens = self.sums.column(unit, "tokens")
        match self.params.normalize:
            case "length":
                # The mean over n-grams alone would drown in the noise of the sampling, which has a scale of 1.
                ngrams = kernels.count_ngrams(tokens, config_of(self.params.features()))
                log_weights = log_weights * (self.model.lengths_of(target).mean_ngrams / np.maximum(ngrams, 1))
            case "poisson":
                log_weights = log_weights + self._length_correction(tokens, target)
        reasons = np.where(tokens < self.params.min_tokens, np.uint8(1), np.uint8(0))
        if self.quality is not None:
            reasons[(reasons == 0) & ~_good_quality(self.quality[unit])] = 2
        return log_weights, reasons

    def _length_correction(self, tokens: Ints, target: int) -> Floats:
        wanted = _poisson(tokens, self.model.lengths_of(target).mean_tokens) + POISSON_FLOOR
        raw = _poisson(tokens, self.model.raw.mean_tokens) + POISSON_FLOOR
        correction: Floats = logarithms(wanted) - logarithms(raw)
        return correction


def _poisson(count: Ints, mean: float) -> Floats:
    """Return the Poisson probabilities of `count`."""
    from scipy.special import gammaln, xlogy  # here: a slow import that few jobs need

    return exponentials(xlogy(count, mean) - mean - gammaln(count + 1))


def _good_quality(stats: pa.Table) -> npt.NDArray[np.bool_]:
    """Apply the bounds of the reference's experiments (40 < L < 500, …)."""
    length, repeating, informative, numeric = (
        stats.column(name).to_numpy() for name in ("length", "repeating", "informative", "numeric")
    )
    good: npt.NDArray[np.bool_] = (
        (length > 40)
        & (length < 500)
        & (repeating > 0.02)
        & (repeating < 0.2)
        & (informative > 0.3)
        & (informative < 0.7)
        & (numeric > 0.8)
    )
    return good
