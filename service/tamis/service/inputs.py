"""Whether a stored job would still compute what it was accepted for: asked before a resume and before every attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.selectors.errors import InputsChanged

if TYPE_CHECKING:
    from tamis.selectors.jobs import Environment
    from tamis.selectors.spec import JobSpec


def check_inputs(spec: JobSpec, fingerprint: str, environment: Environment) -> None:
    """Open the datasets of a stored job once more (footers and headers only) and compare the fingerprint.

    Raises
    ------
    InputsChanged
        It names another result than the job was accepted for.
    TamisError
        The datasets can't be opened any more; see `tamis.selectors.jobs.open_job`.
    """
    from tamis.selectors import jobs

    if jobs.open_job(spec, environment).fingerprint != fingerprint:
        raise InputsChanged(
            "The job's inputs changed since it was accepted, or Tamis's selector did (a new revision): "
            "submit it as a new job."
        )
