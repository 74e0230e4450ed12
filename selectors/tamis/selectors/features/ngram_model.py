"""A fitted bag-of-n-grams model: counts of candidates and targets, and their log ratios."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.selectors.errors import Invalid
from tamis.selectors.features.ngrams import LENGTH_BINS
from tamis.selectors.signals.store import metadata_of, with_metadata

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MODEL_KIND = "tamis-ngram-model"

KL_FLOOR = 1e-10
"""Added inside the logarithms of the KL divergence (the DSIR authors, issues 9 and 11); not the fit's floor."""


@dataclass(frozen=True)
class Counted:
    """Hashed n-grams of some rows: counts int64 (buckets,), and the rows' lengths in tokens."""

    counts: Ints
    rows: int = 0
    tokens: int = 0
    lengths: Ints = field(default_factory=lambda: np.zeros(LENGTH_BINS, np.int64))  # rows by binary order of length

    @classmethod
    def empty(cls, buckets: int) -> Counted:
        """Nothing counted yet."""
        return cls(np.zeros(buckets, np.int64))

    @classmethod
    def total(cls, tables: Sequence[pa.Table], buckets: int) -> Counted:
        """Add up the results of :func:`tamis.selectors.features.ngrams.count_ngrams`; integers, so in any order."""
        total = cls.empty(buckets)
        for index in range(len(tables)):
            table = tables[index]
            entry = metadata_of(table)
            lengths = np.asarray(entry["lengths"], np.int64)
            total += cls(table.column("count").to_numpy(), entry["rows"], entry["tokens"], lengths)
        return total

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.counts + other.counts,
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.lengths + other.lengths,
        )

    @property
    def ngrams(self) -> int:
        return int(self.counts.sum())

    @property
    def mean_tokens(self) -> float:
        return self.tokens / self.rows if self.rows else 0.0

    @property
    def mean_ngrams(self) -> float:
        return self.ngrams / self.rows if self.rows else 0.0

    @property
    def median_tokens(self) -> float:
        """The median length, to within its binary order (interpolated inside it)."""
        half = self.rows / 2
        below = 0
        for order, count in enumerate(self.lengths.tolist()):
            if count and below + count >= half:
                low, high = (0.0, 0.0) if order == 0 else (2.0 ** (order - 1), 2.0**order)
                return float(low + (high - low) * (half - below) / count)
            below += count
        return 0.0

    def distribution(self, smoothing: float = 0.0) -> Floats:
        """Return the share of each bucket, with `smoothing` added to each count; zeros when nothing was counted."""
        counts = self.counts + smoothing
        total = counts.sum()
        return counts / total if total > 0 else np.zeros(len(counts))


def kl_divergence(p: Floats, q: Floats) -> float:
    """KL(p || q) in nats over buckets, with the authors' floor inside the logarithms."""
    return float(np.sum(p * (np.log(p + KL_FLOOR) - np.log(q + KL_FLOOR))))


@dataclass(frozen=True)
class NgramModel:
    """Candidates' and targets' counts with the log ratios that weigh a row.

    ``log_ratios`` is float64, (buckets, T): one column for the targets' union, or one each when served apart.
    """

    features: Mapping[str, Any]
    raw: Counted
    targets: tuple[Counted, ...]
    names: tuple[str, ...]
    log_ratios: Floats
    proportions: tuple[float, ...] | None = None  # the targets' shares, where the request that fitted it gave them

    def joined(self) -> Counted:
        """Return all targets' counts added up."""
        total = Counted.empty(len(self.raw.counts))
        for target in self.targets:
            total += target
        return total

    def lengths_of(self, column: int) -> Counted:
        """Return the counts of the target(s) behind a column of the log ratios."""
        return self.targets[column] if self.log_ratios.shape[1] > 1 else self.joined()

    def to_table(self) -> pa.Table:
        """Return the model as a table of buckets, for a file or a shared input."""
        columns: dict[str, Any] = {"raw_count": self.raw.counts}
        columns |= {f"target_count_{index}": target.counts for index, target in enumerate(self.targets)}
        columns |= {
            f"log_ratio_{index}": np.ascontiguousarray(self.log_ratios[:, index])
            for index in range(self.log_ratios.shape[1])
        }
        bags = [
            {"rows": bag.rows, "tokens": bag.tokens, "lengths": bag.lengths.tolist()}
            for bag in (self.raw, *self.targets)
        ]
        return with_metadata(
            pa.table(columns),
            {
                "kind": MODEL_KIND,
                "version": 1,
                "features": dict(self.features),
                "names": list(self.names),
                "bags": bags,
                "proportions": self.proportions,
            },
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> NgramModel:
        """Rebuild a model; raises `Invalid` when `table` is none."""
        try:
            return cls._rebuilt(table)
        except (AttributeError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise Invalid(
                "This file is a damaged n-gram model: take the model.arrow of a finished job.", pointer="/target/model"
            ) from error

    @classmethod
    def _rebuilt(cls, table: pa.Table) -> NgramModel:
        entry = metadata_of(table)
        if entry.get("kind") != MODEL_KIND or entry.get("version") != 1:
            raise Invalid("This file is not an n-gram model that this version can read.", pointer="/target/model")
        bags = [
            Counted(table.column(name).to_numpy(), bag["rows"], bag["tokens"], np.asarray(bag["lengths"], np.int64))
            for name, bag in zip(
                ["raw_count", *(f"target_count_{index}" for index in range(len(entry["names"])))],
                entry["bags"],
                strict=True,
            )
        ]
        ratios = [name for name in table.column_names if name.startswith("log_ratio_")]
        log_ratios = np.ascontiguousarray(np.stack([table.column(name).to_numpy() for name in ratios], axis=1))
        if len(table) != entry["features"]["buckets"]:
            raise ValueError(f"{len(table)} rows for {entry['features']['buckets']} buckets")
        shares = entry.get("proportions")
        proportions = None if shares is None else tuple(shares)
        return cls(entry["features"], bags[0], tuple(bags[1:]), tuple(entry["names"]), log_ratios, proportions)


def read_model(path: str | os.PathLike[str]) -> NgramModel:
    """Read a model from an Arrow file that an earlier job wrote.

    Raises
    ------
    Invalid
        When the file is not there or is no such model.
    """
    try:
        with pa.OSFile(os.fspath(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise Invalid(f"The model {path} can't be read: {error}.", pointer="/target/model") from error
    return NgramModel.from_table(table)
