"""Parameters of difficulty: its source, metric and hard end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import ConfigDict, Field, model_validator

from tamis.native.learning import dynamics as kernels
from tamis.selectors.schema.request import Shape

HardEnd = Literal["low", "high"]

Source = Literal["score", "dynamics", "snapshot"]

Metric = Literal[
    "aum",
    "forgetting",
    "el2n",
    "correctness",
    "last_correctness",
    "confidence",
    "variability",
    "entropy",
    "loss",
    "margin",
    "least_confidence",
    "grand",
]


class Kind(NamedTuple):
    """A metric: which end is hard, what it is computed from, what it is."""

    hard_end: HardEnd
    sources: tuple[Source, ...]
    meaning: str


METRICS: Mapping[Metric, Kind] = {
    "aum": Kind("low", ("dynamics",), "accumulated margin: p[y] less the largest other p, summed over all visits"),
    "forgetting": Kind("high", ("dynamics",), "times a row was right at one visit and wrong at the next"),
    "el2n": Kind("high", ("dynamics", "snapshot"), "||p - onehot(y)||, summed over the visits of the first epochs"),
    "correctness": Kind("low", ("dynamics",), "visits at which y was the argmax"),
    "last_correctness": Kind("low", ("dynamics",), "whether y was the argmax at the last visit"),
    "confidence": Kind("low", ("dynamics",), "mean of p[y] over all visits"),
    "variability": Kind("high", ("dynamics",), "standard deviation of p[y] over all visits"),
    "entropy": Kind("high", ("dynamics", "snapshot"), "-sum p ln p at the last visit"),
    "loss": Kind("high", ("dynamics", "snapshot"), "-ln p[y] at the last visit"),
    "margin": Kind("low", ("dynamics", "snapshot"), "p[y] less the largest other p at the last visit"),
    "least_confidence": Kind("high", ("dynamics", "snapshot"), "1 less the largest p at the last visit"),
    "grand": Kind("high", ("snapshot",), "norm of the last layer's gradient: ||p - onehot(y)|| sqrt(1 + ||h||^2)"),
}
"""Every metric that is computed here, and which end of it is hard; the two of p[y] are Swayamdipta et al.'s (2020)."""


def _listed() -> str:
    return "; ".join(f"'{name}' ({kind.hard_end} is hard): {kind.meaning}" for name, kind in METRICS.items())


class SourceParams(Shape):
    """Where scores come from."""

    source: Source = Field(
        "score",
        description="'score': the column of that role. 'dynamics': a log of training dynamics. 'snapshot': the "
        "candidates' own logits and label.",
    )
    metric: Metric | None = Field(
        None,
        description=f"What is computed; 'aum' from dynamics and 'margin' from a snapshot when left out. {_listed()}.",
    )
    outputs: kernels.Outputs = Field(
        "log_probs", description="What the logits column holds. Reference: log-probabilities, in 16 bits."
    )
    el2n_epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(
        10, description="Epochs, from the first of the log, that 'el2n' sums. Reference: 10."
    )
    never_learned: Literal["hardest", "as_counted"] = Field(
        "hardest",
        description="What 'forgetting' gives rows that were never right: one more than any other row ('hardest', as "
        "Toneva et al.), or the 0 that is counted ('as_counted', the CCS reference, where it is the easiest).",
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.metric is None:
            return self
        if self.source == "score":
            raise ValueError("metric is for the sources 'dynamics' and 'snapshot'; a score column is taken as it is")
        if self.source not in (sources := METRICS[self.metric].sources):
            raise ValueError(f"'{self.metric}' can't be computed from {self.source}, only from {' or '.join(sources)}")
        return self

    @property
    def chosen(self) -> Metric | None:
        """The metric; None for a score column."""
        return self.metric or DEFAULT_METRIC.get(self.source)


class DifficultyParams(SourceParams):
    """Where scores come from, and which end of them is hard."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"hard_end": "low"}]})

    hard_end: HardEnd | None = Field(
        None,
        description="Which end of a score column holds the hard rows: 'low' for margins and AUM, 'high' for losses, "
        "forgetting or EL2N. Needed for a score column, which is taken as float32 (reference); known for the metrics.",
    )

    @model_validator(mode="after")
    def _knows_its_end(self) -> Self:
        if self.source == "score" and self.hard_end is None:
            raise ValueError(
                "hard_end is needed for a score column: 'low' where low scores are hard (margins, AUM), 'high' where "
                "high ones are (loss, forgetting, EL2N); to score by the job's training dynamics set source to "
                "'dynamics'"
            )
        if self.chosen is not None and self.hard_end not in (None, METRICS[self.chosen].hard_end):
            raise ValueError(f"of '{self.chosen}' the {METRICS[self.chosen].hard_end} end is hard: leave hard_end out")
        return self


DEFAULT_METRIC: Mapping[Source, Metric] = {"dynamics": "aum", "snapshot": "margin"}
