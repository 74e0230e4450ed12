"""Gradients of a unigram model of text, in closed form: what stands in for a language model's where there are none.

The log-likelihood of a text under a multinomial over hashed n-grams has the Fisher vector (tf / length - p) / sqrt(p):
its gradient, whitened by the model's own information (Jaakkola and Haussler, 1998). It is projected with random signs
(Johnson and Lindenstrauss), so that its inner products stay what they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.native.math import rng
from tamis.native.text import columns as kernels
from tamis.selectors.datasets import RoleBatch
from tamis.selectors.errors import Invalid
from tamis.selectors.features.ngram_model import Counted
from tamis.selectors.features.ngrams import NgramParams, config_of, count_ngrams, score_batch, table_columns

if TYPE_CHECKING:
    from tamis.selectors.run.run import Run

Floats = npt.NDArray[np.float64]

PSEUDO_COUNT = 0.5
"""Added to every bucket's count: an n-gram never seen must not weigh infinitely."""

PROJECTION_SEED = 0
"""The same signs for every job: the vectors of two jobs can be compared."""


def signs(stream: str, shape: tuple[int, int]) -> Floats:
    """Return random signs, float64 of `shape`, the same for the same stream."""
    draw = rng.uniform(rng.stream_key(PROJECTION_SEED, stream), 0, shape[0] * shape[1])
    return np.where(draw < 0.5, -1.0, 1.0).reshape(shape)


def fit(run: Run, params: NgramParams, dimension: int) -> pa.Table:
    """Count the n-grams of candidates and targets together and make the table that a text's vector is the sum of.

    Returns
    -------
    Table
        ``column_0``, …: float64 (buckets,) each, random signs over sqrt(p dimension). The last one more than
        `dimension`: p itself.

    Raises
    ------
    Invalid
        When no text has a token.
    """
    features = params.features()
    counted = Counted.empty(params.buckets)
    for dataset in (run.candidates, *run.targets):
        counted += Counted.total(run.map(count_ngrams, dataset, params={"features": features}), params.buckets)
    if counted.ngrams == 0:
        raise Invalid("No text has a token.", pointer="/dataset/columns/text")
    p = (counted.counts + PSEUDO_COUNT) / (counted.ngrams + PSEUDO_COUNT * params.buckets)
    table = signs("fisher.signs", (params.buckets, dimension)) / np.sqrt(p * dimension)[:, None]
    columns = {f"column_{index}": np.ascontiguousarray(table[:, index]) for index in range(dimension)}
    return pa.table({**columns, "p": p})


class Vectors:
    """Fisher vectors of batches of text."""

    def __init__(self, features: Mapping[str, Any], unigrams: pa.Table) -> None:
        self._config = config_of(features)
        p = unigrams.column("p").to_numpy()
        self._table = table_columns(unigrams.drop_columns(["p"]))
        self._mean = np.array([sum((column * p).tolist()) for column in self._table.T])

    def __call__(self, batch: RoleBatch) -> Floats:
        """Return vectors, float64 (rows, dimension); a text without a token has none: zeros."""
        sums, tokens = score_batch(batch, self._config, self._table)
        ngrams = kernels.count_ngrams(tokens, self._config)
        vectors: Floats = sums / np.maximum(ngrams, 1)[:, None] - self._mean
        vectors[ngrams == 0] = 0.0
        return vectors
