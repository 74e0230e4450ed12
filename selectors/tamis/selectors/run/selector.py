"""`Selector`: the base class of selection algorithms, and the records it exchanges with the rest of Tamis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field, JsonValue

from tamis.selectors.decision.decision import Decision
from tamis.selectors.run.opened import Job
from tamis.selectors.schema.request import Role, Shape
from tamis.selectors.schema.response import Notice

if TYPE_CHECKING:
    from tamis.selectors.decision.choice import Choice
    from tamis.selectors.run.run import Run

API_VERSIONS = frozenset({1})
"""Versions of the plugin API that this Tamis supports."""


class Params(Shape):
    """Base of a selector's parameters: unknown names are refused, values never change."""


class Needs(Shape):
    """Columns and datasets that a selector reads."""

    roles: tuple[Role, ...] = Field(description="Roles the candidates' (and the target's) columns must fill.")
    either: tuple[Role, ...] = Field(
        default=(),
        description="Roles of which one of the candidates' columns must fill one; of several the first is used.",
    )
    target: bool = Field(default=False, description="Whether a target must be given.")
    target_roles: tuple[Role, ...] | None = Field(
        default=None, description="Roles the target's columns must fill, where they differ from the candidates'."
    )
    dynamics: tuple[Role, ...] = Field(
        default=(),
        description="Roles that the columns of a log of training dynamics must fill; none: it takes no log.",
    )
    answers: bool = Field(
        default=False,
        description="Whether it asks for scores of rows while it runs, and waits for them (ask and tell).",
    )


@dataclass(frozen=True)
class PhaseCost:
    """The planned cost of one phase, before cached results are taken off.

    Attributes
    ----------
    name : str
        The phase, as `Run.begin` is given it.
    units : int
        Units that are mapped over.
    bytes_to_read : int
        Bytes of shards.
    cpu_seconds : float
        Of one core.
    keys : sequence of str
        Names of the unit results that are known before the job runs, to count the cached ones.
    """

    name: str
    units: int
    bytes_to_read: int
    cpu_seconds: float
    keys: Sequence[str] = ()


class Selector(ABC):
    """Base class of selection algorithms: one file that reads like its paper.

    A subclass gives `name`, a docstring and `select`; everything else has a default. It is registered as an entry point
    of the group ``tamis.selectors`` under its `name`. Instances hold parameters only: what `select` finds out for the
    report travels in `Decision.facts`.

    Attributes
    ----------
    name : str
        The name in requests.
    revision : int
        Raise it whenever the selection for the same request may change.
    summary : str
        One sentence for the catalogue; the first line of the docstring when left out.
    citation : str
        The paper.
    cost : str
        Time and memory, in a sentence.
    Params : type of BaseModel
        The parameters; their JSON Schema is in the catalogue.
    reads : tuple of str
        Roles of the candidates' columns that are read, where they do not depend on the parameters.
    scores_are_log_weights : bool
        Whether exp(score) is an importance weight: the report then gives an effective sample size.
    nested : bool
        Whether, without strata, the first k rows by rank are the selection of k rows.
    api_version : int
        Version of the plugin API that the class was written for.
    """

    name: ClassVar[str]
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = "None needed."
    cost: ClassVar[str] = "Not stated."
    Params: ClassVar[type[BaseModel]] = Params
    reads: ClassVar[tuple[Role, ...]] = ()
    scores_are_log_weights: ClassVar[bool] = False
    nested: ClassVar[bool] = False
    api_version: ClassVar[int] = 1

    def __init__(self, params: Any) -> None:
        self.params = params

    @classmethod
    def make(cls, params: Any) -> Selector:
        """Return the selector for checked parameters: an instance of this class or of a variant of it."""
        return cls(params)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__dict__.get("summary") and cls.__doc__:
            cls.summary = cls.__doc__.strip().splitlines()[0]

    def needs(self) -> Needs:
        """Return the roles and datasets that are read under these parameters."""
        return Needs(roles=self.reads)

    def data_version(self) -> str:
        """Return the version of external tables that the result depends on beside revision and parameters, or ''."""
        return ""

    def plan(self, job: Job) -> Sequence[PhaseCost]:
        """Return the phases in order, with the cost of each; the phase "report" is added where it is missing.

        Raises
        ------
        Invalid
            For a request that can't work, with a pointer to the field at fault.
        """
        size = job.candidates.bytes if self.needs().roles else 0
        return [PhaseCost("select", len(job.candidates.units), size, size / 1e8 + 1e-6 * job.rows)]

    def plan_warnings(self, job: Job) -> Iterable[Notice]:
        """Return warnings that metadata alone justifies, before the job runs."""
        return ()

    def memory(self, job: Job, threads: int) -> int:
        """Return the bytes that the job holds at its peak, beside the process itself and a batch a thread."""
        return 24 * job.rows

    @abstractmethod
    def select(self, run: Run) -> Decision:
        """Compute signals and decide."""

    def evidence(self, run: Run, decision: Decision, random: Choice) -> dict[str, JsonValue]:
        """Return measurements of the selection for the report, beside a random draw of the same budget."""
        return {}
