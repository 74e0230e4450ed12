"""Requests: the one source of the OpenAPI document, of the CLI's and of the client's shapes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

Role = Literal[
    "text",
    "id",
    "embedding",
    "gradient",
    "activation",
    "output_gradient",
    "label",
    "score",
    "cutoff",
    "influence",
    "logits",
    "group",
    "cluster",
    "size",
    "epoch",
    "row",
]
Format = Literal["parquet", "arrow", "jsonl"]

MAX_SHARDS = 100_000
MAX_SEED = 2**63 - 1

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
DatasetId = Annotated[str, StringConstraints(pattern=r"^ds_[0-9a-z]{8,64}$")]
JobId = Annotated[str, StringConstraints(pattern=r"^job_[0-9a-z]{8,64}$")]
SelectionRef = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class Shape(BaseModel):
    """Base of every shape: unknown fields are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ShardRef(Shape):
    """One shard by its uri, with facts that the caller knows; they are checked against the file."""

    uri: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    rows: Annotated[int, Field(ge=0)] | None = None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None,
        description="Digest of the whole file; when given, the file is read in full and compared before the job runs.",
    )


class TextTemplate(Shape):
    """A text made of several columns."""

    template: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = Field(
        description="Column names in braces: '{instruction}\\n{response}'; '{{' and '}}' are literal braces."
    )


class Checkpoints(Shape):
    """A gradient made of several columns: the weighted mean of one column a checkpoint."""

    columns: Annotated[list[Name], Field(min_length=1, max_length=256)]
    weights: Annotated[list[Annotated[float, Field(gt=0)]], Field(max_length=256)] | None = Field(
        None, description="One for each column, in any unit; equal when left out."
    )

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.columns):
            raise ValueError("give a weight for every column or none")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("a column is named twice")
        return self


class Columns(Shape):
    """Which column plays which role.

    A role the selector needs falls back to a column of the role's own name; any other is used only when it is named.
    """

    text: Name | TextTemplate | None = Field(None, description="Text to select on, or token ids (list<int>).")
    id: Name | None = Field(None, description="The caller's own row id, copied to the selection.")
    embedding: Name | None = None
    gradient: Name | Checkpoints | None = Field(
        None, description="Projected gradients of the training loss: a column, or one for each checkpoint."
    )
    activation: Name | None = Field(
        None, description="What enters a linear layer (x). With output_gradient, the layer's gradient in two factors."
    )
    output_gradient: Name | None = Field(
        None, description="Gradient of the loss by what leaves that layer (delta): the layer's own is delta x'."
    )
    label: Name | None = None
    score: Name | None = None
    cutoff: Name | None = Field(
        None, description="A second score: what a cut-off drops rows by, where it is not the score."
    )
    influence: Name | None = Field(
        None, description="What training on the row does for the target; higher is better, null where it is not known."
    )
    logits: Name | None = Field(
        None, description="A model's outputs, one value a class: logits, log-probabilities or probabilities."
    )
    group: Name | None = Field(None, description="Domain, source or cluster: used by strata and in the report.")
    cluster: Name | None = Field(
        None, description="A topic found without labels: what a bandit pulls. Null: of no cluster."
    )
    size: Name | None = Field(None, description="Non-negative integers, tokens for example: the unit of a size budget.")
    epoch: Name | None = Field(None, description="In a log of training dynamics: the epoch of a visit, from 0.")
    row: Name | None = Field(
        None, description="In a log of training dynamics: the row of the dataset that was visited."
    )


class Manifest(Shape):
    """An ordered list of shards with column roles. Row numbers run over the shards in this order."""

    shards: Annotated[list[str | ShardRef], Field(min_length=1, max_length=MAX_SHARDS)] = Field(
        description="Files or globs (expanded in sorted order), or objects with uri, rows and sha256."
    )
    format: Format | None = Field(
        None, description="Inferred from the file names when left out (.gz and .zst for jsonl)."
    )
    columns: Columns = Columns()


class TargetDataset(Manifest):
    """A target's dataset with its share."""

    name: Name | None = None
    proportion: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Share of the selection (separate targets) or of the fitted target (joined); all or none give it.",
    )


class TargetRef(Shape):
    """A registered dataset as a target, with its share."""

    dataset: DatasetId
    name: Name | None = None
    proportion: Annotated[float, Field(gt=0)] | None = None


class Target(Shape):
    """The distribution the selection should serve: datasets, or a model fitted by an earlier job."""

    datasets: Annotated[list[TargetDataset | TargetRef], Field(min_length=1, max_length=64)] | None = None
    model: SelectionRef | None = Field(
        None, description="A job id (or, in the library, a file) whose fitted model is used."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.datasets is None) == (self.model is None):
            raise ValueError("give either datasets or model")
        given = [d.proportion is not None for d in self.datasets or []]
        if any(given) and not all(given):
            raise ValueError("give a proportion for every target dataset or for none")
        return self


class SelectorSpec(Shape):
    """A selector by name, with its own parameters (their JSON Schema is in the catalogue)."""

    name: Name
    params: dict[str, JsonValue] = Field(default_factory=dict)


class Budget(Shape):
    """How much to take: exactly one of rows, fraction or size."""

    rows: Annotated[int, Field(ge=1, le=2**53)] | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Of all rows; rounded down, at least 1."
    )
    size: Annotated[float, Field(gt=0, le=2**53)] | None = Field(
        None, description="In units of the size column; never exceeded."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if sum(value is not None for value in (self.rows, self.fraction, self.size)) != 1:
            raise ValueError("give exactly one of rows, fraction and size")
        return self


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Quota(Shape):
    """Bounds of one stratum: absolute (in the budget's unit) and as shares of the budget."""

    min: Count | None = None
    max: Count | None = None
    min_share: Share | None = None
    max_share: Share | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is larger than max")
        if self.min_share is not None and self.max_share is not None and self.min_share > self.max_share:
            raise ValueError("min_share is larger than max_share")
        return self


def _no_surrogates(quotas: dict[str, Quota]) -> dict[str, Quota]:
    for name in quotas:
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise ValueError(f"the stratum {name!r} holds half of a surrogate pair, which no text does")
    return quotas


class Strata(Shape):
    """Groups of rows with bounds of their own."""

    by: Literal["group", "label"] = "group"
    quotas: Annotated[dict[str, Quota], AfterValidator(_no_surrogates)] = Field(
        default_factory=dict, description="By the value of the stratum's column, as text."
    )
    default: Quota | None = Field(None, description="For every stratum that has no quota of its own.")
    on_shortfall: Literal["error", "redistribute"] = Field(
        "error",
        description="When a stratum has fewer eligible rows than its minimum: refuse ('error'), or take all it has and "
        "give the rest of its minimum to the others ('redistribute').",
    )


class Limits(Shape):
    """Limits of a job's resources; it is refused or ended when it needs more."""

    memory_bytes: Annotated[float, Field(ge=2**26, le=2**50)] | None = None
    seconds: Annotated[float, Field(gt=0, le=10**8)] | None = None


class Output(Shape):
    """Files that are written beside the selection."""

    scores: Literal["selected", "all"] = Field(
        "selected", description="'all': also scores.parquet with a score for every row."
    )


Label = Annotated[str, StringConstraints(max_length=256)]


class JobSpec(Shape):
    """One selection job. The same spec over the same data gives the same bytes of selection.parquet."""

    dataset: Manifest | DatasetId
    target: Target | None = None
    dynamics: Manifest | DatasetId | None = Field(
        None,
        description="A log of training dynamics, for selectors that score rows by it: one row a visit, in the order of "
        "the visits, with the columns epoch, row (a row number of the dataset), logits and label (the class, from 0).",
    )
    selector: SelectorSpec
    budget: Budget
    strata: Strata | None = None
    preselected: SelectionRef | None = Field(
        None,
        description="An earlier selection (a job id; in the library a file) of the same dataset: kept, and topped up.",
    )
    exclude: list[SelectionRef] = Field(
        default_factory=list, max_length=64, description="Earlier selections to keep away from."
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    limits: Limits = Limits()
    output: Output = Output()
    labels: dict[Name, Label] = Field(default_factory=dict, max_length=64)

    def mathematics(self) -> dict[str, Any]:
        """Budget, strata and seed as JSON values; inputs and selector decide too, no limits, output or labels do."""
        return self.model_dump(mode="json", include={"budget", "strata", "seed"}, exclude_none=True)
