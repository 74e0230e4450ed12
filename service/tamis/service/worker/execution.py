"""The run of one job in its process: its datasets are opened once, compared with the accepted job, and handed on."""

from __future__ import annotations

from pathlib import Path

from tamis.selectors.jobs.execute import execute_opened
from tamis.selectors.jobs.open import Environment, open_job
from tamis.selectors.run.observer import Observer
from tamis.selectors.run.questions import Answer
from tamis.selectors.schema.request import JobSpec
from tamis.service.input_check import check_inputs


def execute(
    spec: JobSpec, fingerprint: str | None, out: Path, environment: Environment, observer: Observer, answer: Answer
) -> None:
    """Open a job, check that it is still the one that was accepted, and run it.

    Parameters
    ----------
    spec : JobSpec
        The request, as it is stored.
    fingerprint : str, optional
        The result that the job was accepted for.
    out : Path
        Folder of the result.
    environment, observer, answer
        As for :func:`tamis.selectors.jobs.execute.execute_opened`.

    Raises
    ------
    InputsChanged
        When the job would compute another result than it was accepted for.
    TamisError
        As :func:`tamis.selectors.jobs.execute.execute_opened`.
    """
    opened = open_job(spec, environment) if fingerprint is None else check_inputs(spec, fingerprint, environment)
    execute_opened(opened, out, environment, observer, answer)
