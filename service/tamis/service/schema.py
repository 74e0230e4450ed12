"""Resources of the API: the one source of the OpenAPI document and of the client's objects.

Only pydantic is imported: the client and the command line start fast.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tamis.selectors.schema.request import DatasetId, JobId, JobSpec, Manifest, Shape, Target
from tamis.selectors.schema.response import ColumnInfo, Plan, Progress, ResultFile, ResultManifest
from tamis.service.job_state import State

MAX_PAGE = 1000
"""Items on a page at most."""

MAX_ANSWERS = 400_000
"""Rows answered by one request, and rows of a question on one page."""

MAX_ROUND = 2**31 - 1
MAX_ROW = 2**63 - 1


class TargetRequest(Target):
    """The distribution the selection should serve: datasets, or the model fitted by an earlier job."""

    model: JobId | None = Field(None, description="An earlier job whose fitted model is used.")


class CallbackRequest(Shape):
    """Where to tell that the job is over."""

    url: str = Field(
        min_length=1,
        max_length=2048,
        description="Gets a POST when the job has succeeded, failed or been cancelled, signed as Standard Webhooks 1.0 "
        "with the owner's secret (`tamis keys webhook-secret`); sent again with growing pauses until it answers 2xx.",
    )


class JobRequest(JobSpec):
    """One selection job. The same request over the same data gives the same bytes of selection.parquet."""

    target: TargetRequest | None = None
    preselected: JobId | None = Field(
        None, description="An earlier job over the same dataset: its selection is kept, and topped up."
    )
    exclude: list[JobId] = Field(
        default_factory=list, max_length=64, description="Earlier jobs whose selections to keep away from."
    )
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(
        0, description="Jobs of a larger one start first; those of the same one take turns by owner."
    )
    reuse: Literal["identical"] | None = Field(
        None,
        description="'identical': an earlier job of yours that succeeded with the same fingerprint and the same files "
        "is the answer (200), and nothing runs.",
    )
    callback: CallbackRequest | None = None


class JobPlan(Plan):
    """The phases, costs and warnings of a job before it runs."""

    model_config = ConfigDict(extra="ignore")

    request: JobRequest = Field(
        description="As it would run: globs expanded, formats set, registered datasets in full."
    )


class Resource(BaseModel):
    """Base of what the service answers: later versions may add fields, so a client ignores what it does not know."""

    model_config = ConfigDict(frozen=True)


class JobProgress(Progress):
    """Where a running job is."""

    model_config = ConfigDict(extra="ignore")

    eta_seconds: float | None = Field(None, description="Seconds left, as far as the work done so far tells.")


class JobError(BaseModel):
    """The problem that ended a job; more members say where in the data: shard, row_group, column, row, line."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    title: str
    detail: str
    code: str
    status: int | None = None


class CallbackStatus(Resource):
    """The state of a job's callback."""

    id: str = Field(description="Of the message: its `webhook-id`.")
    state: Literal["pending", "delivered", "given_up"]
    attempts: int = Field(description="That were made.")
    detail: str | None = Field(description="How the last attempt ended.")
    at: datetime | None = Field(description="When the last attempt ended.")
    next_at: datetime | None = Field(description="When the next attempt is due.")


class JobLinks(Resource):
    """Where the parts of a job are; null what is not there (yet)."""

    self: str
    events: str
    logs: str
    units: str
    result: str | None
    selection: str | None
    report: str | None
    questions: str | None
    answers: str | None
    cancel: str | None
    resume: str | None


class JobResource(Resource):
    """A job."""

    id: str
    state: State
    terminal: bool = Field(description="Whether nothing more happens by itself.")
    owner: str = Field(description="Whose API key submitted it; 'local' where none was asked for.")
    selector: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expired_at: datetime | None = Field(description="When its files were removed to make room; null before.")
    waiting_reason: str | None = Field(description="Why a queued job waits, or what a waiting one asks.")
    progress: JobProgress | None
    attempts: int
    error: JobError | None
    fingerprint: str | None = Field(
        description="Names the mathematical result: same fingerprint, same bytes; for a job that asks for scores, "
        "together with the answers."
    )
    request: dict[str, Any] = Field(description="As it was sent.")
    labels: dict[str, str]
    callback: CallbackStatus | None = Field(description="Null until the job is over, or where none was asked for.")
    links: JobLinks


class JobList(Resource):
    """Some jobs, newest first."""

    items: list[JobResource]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class JobQuestion(Resource):
    """The question of a waiting job: rows to be scored, larger is better. Parallel lists, without answered rows."""

    round: int = Field(description="Number of the question; rises within a job.")
    total: int = Field(description="Rows asked in this round.")
    answered: int = Field(description="Of them, with an answer already.")
    rows: list[int] = Field(description="Row numbers over the whole dataset.")
    shards: list[int] = Field(description="Each row's shard: an index into the resolved list of shards.")
    shard_rows: list[int] = Field(description="Each row's number inside its shard.")
    ids: list[JsonValue] | None = Field(description="Each row's id; null where the manifest names no id column.")
    next_cursor: str | None = Field(description="For the rows that follow; null on the last page.")


class RoundAnswers(Shape):
    """Scores of some rows of a question, or of all. What was answered can be sent again, but not changed."""

    round: Annotated[int, Field(ge=0, le=MAX_ROUND)] = Field(description="As the question gives it.")
    rows: Annotated[list[Annotated[int, Field(ge=0, le=MAX_ROW)]], Field(min_length=1, max_length=MAX_ANSWERS)] = Field(
        description="Rows of the question, each once, in any order."
    )
    scores: Annotated[list[float | None], Field(min_length=1, max_length=MAX_ANSWERS)] = Field(
        description="One for each of the rows; null: this row has no score, and can't be selected."
    )


class AnswersTaken(Resource):
    """The outcome of an answer."""

    round: int
    total: int = Field(description="Rows asked in this round.")
    missing: int = Field(description="Of them, still without an answer.")
    state: State = Field(description="Of the job now: queued once nothing is missing.")


class LogEntry(BaseModel):
    """A line of a job's log, with fields of its own."""

    model_config = ConfigDict(extra="allow")

    seq: int
    at: datetime
    level: str
    message: str


class UnitEntry(BaseModel):
    """A unit of work whose result is there."""

    model_config = ConfigDict(extra="ignore")

    at: datetime
    attempt: int
    phase: str
    shard: str
    unit: int = Field(description="Its number in its dataset.")
    rows: int | None = Field(description="Null where nothing has counted them yet.")
    seconds: float | None = Field(description="That it took; null where an earlier run had left its result.")


class FileLink(ResultFile):
    """One file of the result, and where it is."""

    url: str


class JobResult(ResultManifest):
    """The result: files, request and totals, and provenance."""

    model_config = ConfigDict(extra="ignore", serialize_by_alias=True)

    id: str
    selection_schema: list[ColumnInfo] = Field(alias="schema", description="Columns of selection.parquet.")
    files: list[FileLink]  # type: ignore[assignment] # narrower than the manifest's, never changed
    links: JobLinks


class DatasetLinks(Resource):
    """Where a dataset is."""

    self: str


class DatasetResource(Resource):
    """A registered dataset."""

    id: DatasetId
    owner: str = Field(description="Whose API key registered it; 'local' where none was asked for.")
    digest: str = Field(description="Of the shards' contents and the roles of their columns.")
    rows: int | None = Field(description="Null where only reading the (JSON lines) shards can tell.")
    shards: int
    bytes: int
    manifest: Manifest = Field(description="As registered, globs expanded and the format set.")
    created_at: datetime
    links: DatasetLinks


class DatasetList(Resource):
    """Some datasets, newest first."""

    items: list[DatasetResource]
    next_cursor: str | None


class SelectorNeeds(Resource):
    """Columns and datasets that a selector reads."""

    roles: list[str]
    either: list[str] = Field(description="Roles of which one is needed; of several the first is used.")
    target: bool
    answers: bool = Field(False, description="Whether it asks for scores while it runs, and waits for them.")


class SelectorResource(Resource):
    """A selector's entry in the catalogue."""

    name: str
    revision: int
    summary: str
    needs: SelectorNeeds
    params_schema: dict[str, JsonValue] = Field(description="JSON Schema of the parameters, defaults included.")
    cost: str
    citation: str


class SelectorList(Resource):
    """The catalogue."""

    items: list[SelectorResource]


class Health(Resource):
    """The service is there."""

    status: Literal["ok"] = "ok"


class Version(Resource):
    """The versions that are running."""

    tamis: str
    api: Literal["v1"] = "v1"
    python: str


__all__ = [
    "MAX_ANSWERS",
    "MAX_PAGE",
    "AnswersTaken",
    "CallbackRequest",
    "DatasetList",
    "DatasetResource",
    "FileLink",
    "Health",
    "JobError",
    "JobLinks",
    "JobList",
    "JobPlan",
    "JobProgress",
    "JobQuestion",
    "JobRequest",
    "JobResource",
    "JobResult",
    "LogEntry",
    "Resource",
    "RoundAnswers",
    "SelectorList",
    "SelectorResource",
    "Shape",
    "State",
    "TargetRequest",
    "UnitEntry",
    "Version",
]
