"""Parameters of DSIR."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tamis.selectors.features.ngrams import (
    NgramParams,
)


class DsirParams(NgramParams):
    """Parameters of DSIR. Defaults are the paper's, but for `min_tokens` (100 in the reference's package)."""

    normalize: Literal["none", "length", "poisson"] = Field(
        "none",
        description="'none': the paper's sum over n-grams, which prefers long rows. 'length': its value at the "
        "target's mean length. 'poisson': adds the log ratio of the lengths' Poisson probabilities.",
    )
    min_tokens: Annotated[int, Field(ge=0)] = Field(
        1, description="Rows with fewer tokens are not eligible. Reference: 100."
    )
    target_smoothing: Annotated[float, Field(ge=0, le=1e12)] = Field(
        0.0, description="Pseudo-count added to every target bucket."
    )
    fit_ngrams: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        "all",
        description="Candidate n-grams to fit on: whole units, in an order drawn from their content.",
    )
    sampling: Literal["gumbel", "top_k"] = Field(
        "gumbel",
        description="'gumbel': resample without replacement (the paper). 'top_k': the largest weights, no noise.",
    )
    separate_targets: bool = Field(
        False, description="Serve each target dataset by its proportion, in order, instead of their union."
    )
    chunk_words: Annotated[int, Field(ge=8, le=2**31)] | None = Field(
        None,
        description="Weigh chunks of so many words (the reference's experiments: 128); a row is drawn with any of its.",
    )
    quality_filter: bool = Field(False, description="Drop rows by the paper's quality statistics.")
    holdout: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Share of the target's rows kept out of the fit, on which the report measures the selection."
    )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.chunk_words is not None and self.normalize != "none":
            raise ValueError("chunk_words already evens out lengths: use it with normalize='none'")
        if self.tokenizer == "ids" and (self.chunk_words is not None or self.quality_filter):
            raise ValueError("chunk_words and quality_filter read text, not token ids")
        return self
