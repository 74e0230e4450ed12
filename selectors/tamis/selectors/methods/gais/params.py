"""Parameters of GAIS, each with what the papers fix of it: "(ours)" where that is nothing."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tamis.native.neighbours.small_sets import MAX_NEIGHBOURS
from tamis.selectors.methods.gais.survey import BLOCK_ROWS
from tamis.selectors.schema.request import Shape

_WITHOUT_NETWORK = ("none", "neighbours")


class GaisParams(Shape):
    """Parameters of GAIS."""

    graph: Literal["minibatch", "lsh", "lsh_multilevel", "lsh_multiview"] = Field(
        "lsh_multiview",
        description="How neighbours are found. 'minibatch': exactly, in stratified batches. The others hash "
        "blocks of about 16,384 rows by random projections: in one level, several levels or several views.",
    )
    score: Literal["coverage", "attention", "confidence"] = Field(
        "coverage",
        description="'coverage' (ours): greedy coverage of each class by rows that are neighbours of others. "
        "'attention' (2025): the rows that receive most attention. 'confidence' (2024): the largest "
        "probability of the own label.",
    )
    doubt: Literal["none", "neighbours", "gate", "probability", "attention"] = Field(
        "attention",
        description="Coverage: how much it counts that a row is represented. 'none': all rows alike. 'neighbours': by "
        "the share of its neighbours that have its class; these two need no network. 'gate': hardly, where the network "
        "gives another class a margin above 'gate'. 'probability': by its own label's probability as a share of the "
        "largest. 'attention': by the share of its attention that goes to its own class (all ours).",
    )
    gate: Annotated[float, Field(ge=0, le=1)] = Field(0.8, description="The margin of doubt = 'gate' (ours).")
    relation: Literal["nearest", "attention"] = Field(
        "nearest",
        description="Coverage: neighbours represent a row in full, or by the attention that the row pays them (ours).",
    )
    spread: Annotated[float, Field(gt=0, le=10)] = Field(
        0.7,
        description="Coverage: a pick covers about spread / (share kept) rows: 2 to 32, at most 'neighbors' (ours).",
    )
    quotas: Literal["proportional", "square_root", "equal"] = Field(
        "proportional", description="Rows a class gets: in proportion to its rows, their square root, or the same."
    )
    min_per_class: Annotated[int, Field(ge=0, le=10**6)] = Field(
        2, description="Rows every class gets, or all it has (ours)."
    )
    min_score: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Rows with a lower score are not taken, even if the budget is not reached: the reduction becomes "
        "an output. Of coverage, the rows that a pick newly represents; of attention, rows; of "
        "confidence, a probability.",
    )
    neighbors: Annotated[int, Field(ge=1, le=MAX_NEIGHBOURS)] = Field(16, description="Neighbours of a row (ours).")
    batch: Annotated[int, Field(ge=16, le=BLOCK_ROWS)] = Field(
        1024, description="Rows of a mini-batch, in training with every graph (ours)."
    )
    views: Annotated[int, Field(ge=1, le=32)] = Field(4, description="Views of 'lsh_multiview' (ours).")
    steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        150, description="Training steps; their cost does not grow with the rows (ours)."
    )
    masked: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of edges that a training step leaves out at random (the papers'; the share is ours)."
    )
    passes: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="Scoring passes over batches drawn anew, whose means are the scores (ours)."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.neighbors >= self.batch:
            raise ValueError(f"neighbors = {self.neighbors} must be below batch = {self.batch}: a batch holds no more")
        return self

    @property
    def needs_network(self) -> bool:
        """Whether anything that is decided depends on the network."""
        return self.score != "coverage" or self.doubt not in _WITHOUT_NETWORK or self.relation == "attention"
