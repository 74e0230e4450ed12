"""Vectors made of several columns: the weighted mean of one gradient column a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tamis.selectors.schema.request import Checkpoints


@dataclass(frozen=True, slots=True)
class Mixture:
    """Columns of vectors and the share of each."""

    columns: tuple[str, ...]
    shares: tuple[float, ...]  # they sum to 1

    @classmethod
    def of(cls, checkpoints: Checkpoints) -> Mixture:
        """Turn weights into shares."""
        weights = checkpoints.weights or [1.0] * len(checkpoints.columns)
        whole = sum(weights)
        return cls(tuple(checkpoints.columns), tuple(weight / whole for weight in weights))

    def key(self) -> dict[str, Any]:
        """Return what decides its vectors, as JSON values."""
        return {"columns": list(self.columns), "shares": list(self.shares)}

    def columns_read(self) -> tuple[str, ...]:
        """Return the columns it needs."""
        return self.columns
