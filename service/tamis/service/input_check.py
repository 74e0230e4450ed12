"""The check that a stored job would still compute the result it was accepted for, before a resume or an attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.selectors.errors import DataError, Forbidden, InputsChanged, Invalid, NotFound

if TYPE_CHECKING:
    from tamis.selectors.jobs.open import Environment
    from tamis.selectors.run.opened import Opened
    from tamis.selectors.schema.request import JobSpec


def check_inputs(spec: JobSpec, fingerprint: str, environment: Environment) -> Opened:
    """Open the datasets of a stored job (footers and headers only) and compare the fingerprint.

    Raises
    ------
    InputsChanged
        It names another result than the job was accepted for, or the datasets, which could be opened then, can't be any
        more: a shard is missing or damaged, or may not be read.
    TamisError
        What says nothing about the inputs, such as storage that does not answer.
    """
    from tamis.selectors.jobs.open import open_job

    try:
        opened = open_job(spec, environment)
    except (Invalid, NotFound, Forbidden, DataError) as error:
        detail = f"The job's inputs can't be used any more: {error.detail}"
        raise InputsChanged(detail, pointer=error.pointer, **error.where) from error
    if opened.fingerprint != fingerprint:
        raise InputsChanged(
            "The job's inputs changed since it was accepted, or Tamis's selector did (a new revision): "
            "submit it as a new job."
        )
    return opened
