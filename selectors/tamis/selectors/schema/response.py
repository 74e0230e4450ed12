"""Responses: plan, progress, result manifest, explanation; shapes shared by library, service and client."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from tamis.selectors.schema.request import Shape


class Notice(Shape):
    """Something a practitioner would want to know."""

    code: str
    detail: str


class PhaseEstimate(Shape):
    """One phase of the job: its share of the work and what is already there."""

    name: str
    units: int
    cached_units: int
    bytes_to_read: int
    cpu_seconds: float


class StratumFeasibility(Shape):
    """Bounds and supply of a stratum, as far as metadata tells before anything ran."""

    stratum: str
    available: int | None
    min: int
    max: int | None


class Plan(Shape):
    """The phases, costs and warnings of a job before it runs."""

    fingerprint: str = Field(description="Names the mathematical result: same fingerprint, same bytes.")
    asks: bool = Field(
        False,
        description="Whether it will ask for scores and wait for them: then its result depends on the answers too, "
        "which the fingerprint does not name.",
    )
    selector: str
    revision: str
    rows: int | None = Field(description="Candidate rows; null where only reading the (JSON lines) shards can tell.")
    shards: int
    units: int
    cached_units: int
    bytes_to_read: int
    peak_memory_bytes: int
    cpu_seconds: float
    phases: list[PhaseEstimate]
    budget_rows: int | None = Field(
        description="The budget in rows, where it is in rows or a fraction of a known number."
    )
    strata: list[StratumFeasibility] | None
    warnings: list[Notice]


class Progress(Shape):
    """Where a running job is."""

    phase: str
    phases: list[str]
    units_done: int
    units_total: int
    rows_done: int
    rows_total: int | None
    fraction: float = Field(ge=0, le=1, description="Of the whole job, phases weighted by the plan's CPU-seconds.")


class ResultFile(Shape):
    """One file of the result."""

    name: str
    media_type: str
    rows: int | None
    bytes: int
    sha256: str


class ColumnInfo(Shape):
    """A column of selection.parquet."""

    name: str
    type: str


class StratumOutcome(Shape):
    """Asked against got for one stratum (stratum '' is the whole when there are no strata)."""

    stratum: str
    candidates: int = Field(description="Rows of the stratum.")
    eligible: int = Field(description="Rows of it that could be selected.")
    asked_min: int
    asked_max: int | None
    rows: int
    size: int | None
    threshold: float | None = Field(description="The key of the last row taken; null where all were taken or none.")


class Totals(Shape):
    """Asked against got."""

    candidates: int
    eligible: int
    asked_rows: int | None
    asked_size: float | None
    rows: int
    size: int | None
    preselected: int
    excluded: int


class ShardInfo(Shape):
    """A shard as it was read."""

    uri: str
    rows: int
    bytes: int
    digest: str


class Provenance(Shape):
    """Where a selection comes from."""

    tamis: str
    selector: str
    revision: str
    params: dict[str, JsonValue]
    seed: int
    fingerprint: str
    dataset_digest: str
    target_digests: list[str]
    answers_digest: str | None = Field(
        None,
        description="The sha256 of all answers, where the selector asked for scores: with the fingerprint it "
        "names the result.",
    )


class ResultManifest(Shape):
    """The result: files, request and totals, and provenance."""

    schema_version: Literal[1] = 1
    files: list[ResultFile]
    columns: list[ColumnInfo]
    totals: Totals
    strata: list[StratumOutcome]
    provenance: Provenance
    shards: list[ShardInfo]
    warnings: list[Notice]


class Explanation(Shape):
    """Why a row was taken, or not."""

    row: int
    shard: int
    shard_row: int
    id: JsonValue = None
    selected: bool
    reason: str = Field(
        description="A short code: selected, preselected, below-threshold, excluded, or the selector's own."
    )
    detail: str
    score: float | None
    rank: int | None
    stratum: str | None
    threshold: float | None = Field(description="The key a row of its stratum had to reach.")
    key: float | None = Field(description="The row's own key: its score plus, where the selector samples, its noise.")
