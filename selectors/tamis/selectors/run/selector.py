"""What a selector is, and how it is found by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pyarrow as pa
from pydantic import BaseModel, Field, JsonValue, ValidationError

from tamis.selectors.errors import Invalid, UnknownSelector
from tamis.selectors.schema.request import JobSpec, Role, SelectorSpec, Shape
from tamis.selectors.schema.response import Notice
from tamis.selectors.schema.validation import field_errors

if TYPE_CHECKING:
    from tamis.selectors.datasets import Dataset
    from tamis.selectors.decision.by_key import Choice, Ranked
    from tamis.selectors.run.run import Run

ENTRY_POINTS = "tamis.selectors"


class Needs(Shape):
    """What a selector reads."""

    roles: tuple[Role, ...] = Field(description="Roles the candidates' (and the target's) columns must fill.")
    either: tuple[Role, ...] = Field(
        (), description="Roles of which one of the candidates' columns must fill one; of several the first is used."
    )
    target: bool = Field(description="Whether a target must be given.")
    target_roles: tuple[Role, ...] | None = Field(
        None, description="Roles the target's columns must fill, where they differ from the candidates'."
    )
    dynamics: tuple[Role, ...] = Field(
        (), description="Roles that the columns of a log of training dynamics must fill; none: it takes no log."
    )
    answers: bool = Field(
        False, description="Whether it asks for scores of rows while it runs, and waits for them (ask and tell)."
    )


@dataclass(frozen=True)
class PhaseCost:
    """What one phase will cost before what is cached is taken off."""

    name: str
    units: int
    bytes_to_read: int
    cpu_seconds: float
    keys: Sequence[str] = ()  # names of the unit results that can be told before the job runs, to count what is cached


@dataclass(frozen=True)
class Job:
    """What `plan` sees: the request, the parameters and the opened datasets (footers only)."""

    spec: JobSpec
    candidates: Dataset
    targets: Sequence[Dataset]
    dynamics: Dataset | None = None


@dataclass
class Decision:
    """What `select` gives back: the choice, how every row ranked, and what goes with it."""

    choice: Choice
    rankings: Sequence[Ranked]  # one, or one for each turn that the choice was made in
    reason_names: Sequence[str]  # reason_names[0] is "eligible"; the others say why a row could not be taken
    reason_details: Mapping[str, str]  # a sentence for each of them
    columns: Mapping[str, pa.Array] = field(default_factory=dict)  # extra columns of selection.parquet, in row order
    model: pa.Table | None = None  # the fitted model, where the selector fits one
    notices: list[Notice] = field(default_factory=list)
    left_out: int = 0  # rows with a reason against them that is the selector's purpose, not a defect of the data


class Selector(Protocol):
    """A selection algorithm: one file that reads like its paper."""

    name: ClassVar[str]
    revision: ClassVar[int]  # raise it whenever a selection may change
    summary: ClassVar[str]
    citation: ClassVar[str]
    cost: ClassVar[str]
    Params: ClassVar[type[BaseModel]]
    scores_are_log_weights: ClassVar[bool]  # whether exp(score) weighs a row: an effective sample size means something

    params: Any

    def __init__(self, params: Any) -> None: ...

    def needs(self) -> Needs:
        """Roles and target under these parameters."""
        ...

    def basis(self) -> str:
        """Return the version of what the result stands on beside revision and parameters (character tables), or ''."""
        ...

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Name the phases in order, with what each costs; raise `Invalid` for what can't work."""
        ...

    def notices(self, job: Job) -> Iterable[Notice]:
        """Say what metadata alone shows to be worth a word."""
        ...

    def memory(self, job: Job, threads: int) -> int:
        """Bytes the job will hold at its peak."""
        ...

    def select(self, run: Run) -> Decision:
        """Compute signals and decide."""
        ...

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Measure the selection beside a random draw of the same budget."""
        ...


class SelectorInfo(Shape):
    """A selector's entry in the catalogue."""

    name: str
    revision: int
    summary: str
    needs: Needs
    params_schema: dict[str, JsonValue] = Field(description="JSON Schema of the parameters, defaults included.")
    cost: str
    citation: str


@cache
def _registered() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        if point.name in found:
            raise RuntimeError(f"two packages register a selector '{point.name}'")
        found[point.name] = point
    return found


def _kind(name: str) -> type[Selector]:
    points = _registered()
    if name not in points:
        raise UnknownSelector(
            f"There is no selector '{name}'; there are: {', '.join(points)}.", pointer="/selector/name"
        )
    kind: type[Selector] = points[name].load()  # only the one asked for: some bring slow imports along
    if kind.name != name:
        raise RuntimeError(f"the entry point of '{name}' ({points[name].value}) names the selector '{kind.name}'")
    return kind


def find(spec: SelectorSpec) -> Selector:
    """Return the selector of `spec` with its parameters checked.

    Raises
    ------
    UnknownSelector
        When nothing of that name is registered.
    Invalid
        When the parameters do not fit; `errors` holds a pointer for each.
    """
    kind = _kind(spec.name)
    try:
        params = kind.Params.model_validate(spec.params)
    except ValidationError as error:
        found = field_errors(error, spec.params, kind.Params)
        errors = [{"pointer": f"/selector/params{item['pointer']}", "detail": item["detail"]} for item in found]
        detail = "; ".join(
            f"{item['pointer'].removeprefix('/')}: {item['detail']}".removeprefix(": ") for item in found
        )
        raise Invalid(
            f"The parameters of '{spec.name}' do not fit: {detail}.", pointer=errors[0]["pointer"], errors=errors
        ) from error
    return kind(params)


def info(name: str) -> SelectorInfo:
    """Return the catalogue's entry of one selector, or raise `UnknownSelector`.

    What it needs is told of its default parameters, or, where some have no default, of the first example in their
    JSON Schema.
    """
    kind = _kind(name)
    schema = kind.Params.model_json_schema()
    example: Mapping[str, JsonValue] = next(iter(schema.get("examples", [])), {})
    return SelectorInfo(
        name=kind.name,
        revision=kind.revision,
        summary=kind.summary,
        needs=kind(kind.Params.model_validate(example)).needs(),
        params_schema=schema,
        cost=kind.cost,
        citation=kind.citation,
    )


def catalogue() -> list[SelectorInfo]:
    """Return every registered selector, by name."""
    return [info(name) for name in _registered()]
