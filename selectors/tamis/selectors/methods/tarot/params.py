"""Parameters of TAROT."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tamis.selectors.features.gradients import Source
from tamis.selectors.features.ngrams import NgramParams
from tamis.selectors.features.transport.problem import Solver
from tamis.selectors.features.whitening import Whitening
from tamis.selectors.schema.request import Shape

SPARE_LAYERS = 2
"""Neighbours sought at first, for as many as would do if no two targets shared one: targets do share them."""

FEWEST_LAYERS = 16
OTM_LAYERS = 64
"""Layers that the curve of `otm` reaches to where the request does not say."""


class TarotParams(Shape):
    """Parameters of TAROT. Defaults are the corrected method's; the paper's where they agree."""

    mode: Literal["fixed", "otm"] = Field(
        "fixed",
        description="'fixed': the budget's rows. 'otm': as many as bring the selection nearest to targets that did not "
        "select it, the budget at most.",
    )
    source: Source = Field(
        "gradient",
        description="What is compared. 'gradient': projected gradients. 'last_layer': of a linear classifier, from "
        "embedding and label. 'text': of a unigram model. 'embedding': as it is, similarity and not influence.",
    )
    whitening: Whitening = Field(
        "cholesky", description="Of the pooled covariance. 'zca' gives the same similarities. 'none': plain cosines."
    )
    regularization: Annotated[float, Field(ge=0, le=1e6)] = Field(
        0.01, description="lambda relative to the mean eigenvalue trace(S) / d. Release: 1e-5, absolute."
    )
    solver: Solver = Field(
        "released",
        description="Of transport problems. 'released': one Sinkhorn sweep a temperature. 'converged': until the "
        "marginals hold. 'exact': network simplex, for up to some thousand rows and targets.",
    )
    weights: Literal["uniform", "potential"] = Field(
        "uniform",
        description="'potential': rows weigh by how cheap they are to transport to the targets, between 0 and 2, and "
        "the columns 'potential' and 'repeats' are written. Release (data_weighting): potentials over their mean.",
    )
    layers: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="'otm': how many layers the curve reaches to; 64 when left out. 'fixed': found by the budget."
    )
    folds: Annotated[int, Field(ge=2, le=1000)] = Field(10, description="'otm': parts of the targets. Release: 10.")
    plateau: Annotated[float, Field(ge=0, le=1)] = Field(
        0.002, description="'otm': mean relative excess over the lowest distance that counts as equally good."
    )
    scoring_targets: Annotated[int, Field(ge=2)] = Field(
        1000, description="'otm': targets that score a fold at most, drawn by the job's seed."
    )
    dimension: Annotated[int, Field(ge=8, le=8192)] = Field(
        256, description="Length of the random projections of 'text' and 'last_layer'."
    )
    ngrams: NgramParams = Field(NgramParams(), description="'text': how text becomes hashed n-grams.")
    release: bool = Field(False, description="Reproduce the authors' code in float32, defects included.")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.release:
            other = [
                name
                for name, wanted in (
                    ("source", ("gradient", "embedding")),
                    ("whitening", ("cholesky",)),
                    ("solver", ("released",)),
                )
                if getattr(self, name) not in wanted
            ]
            if other:
                raise ValueError(f"release has its own {other[0]}: leave it out")
        if self.layers is not None and self.mode == "fixed":
            raise ValueError("layers is for mode 'otm': with 'fixed' the budget decides")
        return self

    def first_depth(self, rows: int, targets: int, candidates: int) -> int:
        """Return the number of neighbours of each target to find first, to select `rows` rows."""
        if self.mode == "otm":
            return min(self.layers or OTM_LAYERS, max(1, candidates))
        return max(FEWEST_LAYERS, SPARE_LAYERS * -(-min(rows, candidates) // max(targets, 1)))
