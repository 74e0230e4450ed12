"""States of a job: the one definition, for the store, the API, the client and the command line."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, TypeAlias

from pydantic import GetCoreSchemaHandler, GetPydanticSchema
from pydantic_core import core_schema


class JobState(StrEnum):
    """State of a job."""

    QUEUED = "queued"
    """Waits for a worker, before its first attempt or between two."""

    RUNNING = "running"
    """A worker holds its lease."""

    WAITING = "waiting"
    """Waits for scores that it asked for; no worker holds it. The last missing score queues it again."""

    CANCELLING = "cancelling"
    """A worker holds its lease and has to stop."""

    SUCCEEDED = "succeeded"
    """Its result exists."""

    FAILED = "failed"
    """It ended with a problem; `resume` tries again."""

    CANCELLED = "cancelled"
    """It was stopped on request; `resume` goes on from its finished units."""

    @property
    def terminal(self) -> bool:
        """Whether the job stays in this state unless a caller acts."""
        return self not in ACTIVE_STATES


ACTIVE_STATES: Final = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.WAITING, JobState.CANCELLING})
"""States of jobs that go on by themselves."""

LEASED_STATES: Final = frozenset({JobState.RUNNING, JobState.CANCELLING})
"""States in which a worker holds the job's lease."""

RESUMABLE_STATES: Final = frozenset({JobState.FAILED, JobState.CANCELLED})
"""States from which a caller can queue the job again."""


def _as_literal(kind: type[JobState], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    values = core_schema.literal_schema([str(state) for state in kind])
    return core_schema.no_info_after_validator_function(kind, values)


State: TypeAlias = Annotated[JobState, GetPydanticSchema(_as_literal)]
"""A `JobState` as a field of the API's shapes: its JSON Schema lists the values in place, as a `Literal`'s does."""
