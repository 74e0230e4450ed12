"""Submission: ids resolved to data, checks against the data's footers, the plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tamis.selectors.errors import Conflict, InputsChanged, NotFound, TamisError
from tamis.selectors.schema.request import JobSpec, Manifest, TargetDataset, TargetRef
from tamis.selectors.schema.response import Plan
from tamis.service.api.access import Caller
from tamis.service.api.context import Service
from tamis.service.api.problems import InsufficientScope
from tamis.service.input_check import check_inputs
from tamis.service.job_state import JobState
from tamis.service.schema import JobPlan, JobRequest
from tamis.service.store import Job, Scope

SELECTION = "selection.parquet"
MODEL = "model.arrow"
RESULT = "result.json"
"""File of a result that is written last: where it exists, all others do."""


@dataclass(frozen=True)
class Resolved:
    """Request whose references to datasets and jobs are resolved."""

    spec: JobSpec
    uses: tuple[str, ...]  # the datasets and jobs it was resolved from


@dataclass(frozen=True)
class Checked:
    """Request that passed all checks."""

    spec: JobSpec  # globs expanded, formats set
    plan: Plan


def resolve(service: Service, caller: Caller, request: JobRequest) -> Resolved:
    """Replace the ids of datasets by their manifests and those of jobs by files of their results.

    Raises
    ------
    NotFound
        There is no such dataset or job, it is another owner's, or the job has no such file.
    Conflict
        The job has not succeeded (yet).
    Invalid, Forbidden
        The callback's url is none, or goes where callbacks may not.
    InsufficientScope
        Its priority is above 0, and the key has not the scope `admin`.
    """
    if request.priority > 0 and Scope.ADMIN not in caller.scopes:
        raise InsufficientScope(
            "A priority above 0 goes before everybody else's jobs, and needs an API key with the scope 'admin'. Leave "
            "it out, or take one below 0 for what can wait.",
            scope=str(Scope.ADMIN),
            pointer="/priority",
        )
    if request.callback is not None:
        with _at("/callback/url"):
            service.check_callback(request.callback.url)
    uses: list[str] = []

    def manifest_of(dataset_id: str, pointer: str) -> Manifest:
        with _at(pointer):
            dataset = service.store.datasets.get(dataset_id, owner=caller.visible_owner)
        uses.append(dataset_id)
        return Manifest.model_validate(dict(dataset.manifest))

    def file_of(job_id: str, name: str, pointer: str) -> str:
        with _at(pointer):
            job = service.store.jobs.get(job_id, owner=caller.visible_owner)
            if job.state is not JobState.SUCCEEDED:
                raise Conflict(f"Job {job_id} is {job.state}: only the result of a job that succeeded can be used.")
            if job.expired_at is not None:
                raise NotFound(f"The files of job {job_id} were removed to make room: submit it again.")
            path = service.settings.job_dir(job_id) / name
            if not path.is_file():
                raise NotFound(f"Job {job_id} has no {name}.")
        uses.append(job_id)
        return str(path)

    update: dict[str, Any] = {}
    if isinstance(request.dataset, str):
        update["dataset"] = manifest_of(request.dataset, "/dataset")
    if request.target is not None and request.target.model is not None:
        model = file_of(request.target.model, MODEL, "/target/model")
        update["target"] = request.target.model_copy(update={"model": model})
    elif request.target is not None:
        datasets: list[TargetDataset] = []
        for index, target in enumerate(request.target.datasets or []):
            if isinstance(target, TargetRef):
                manifest = manifest_of(target.dataset, f"/target/datasets/{index}/dataset")
                resolved = TargetDataset(**dict(manifest), name=target.name, proportion=target.proportion)
                datasets.append(resolved)
            else:
                datasets.append(target)
        update["target"] = request.target.model_copy(update={"datasets": datasets})
    if isinstance(request.dynamics, str):
        update["dynamics"] = manifest_of(request.dynamics, "/dynamics")
    if request.preselected is not None:
        update["preselected"] = file_of(request.preselected, SELECTION, "/preselected")
    update["exclude"] = [file_of(job, SELECTION, f"/exclude/{index}") for index, job in enumerate(request.exclude)]
    # A copy is not validated again: paths stand where the request allows ids only.
    fields = {name: value for name, value in request if name in JobSpec.model_fields}
    spec = JobSpec.model_construct(**{**fields, **update})
    return Resolved(spec, tuple(dict.fromkeys(uses)))


def plan_of(service: Service, caller: Caller, request: JobRequest) -> JobPlan:
    """Check a request as a submission does, and return its plan. Raises as `resolve` and `check` do."""
    checked = check(service, resolve(service, caller, request))
    named = request.model_dump(mode="json", include={"preselected", "exclude", "priority", "reuse", "callback"})
    resolved = checked.spec.model_dump(mode="json") | named  # ids of jobs, not the paths of their files
    if request.target is not None and request.target.model is not None:
        resolved["target"] = request.target.model_dump(mode="json")
    return JobPlan(**dict(checked.plan), request=JobRequest.model_validate(resolved))


def check(service: Service, resolved: Resolved) -> Checked:
    """Open the datasets (footers and headers only), check the request against them and plan the job.

    Raises
    ------
    TamisError
        What is wrong, with a pointer.
    """
    from tamis.selectors.jobs.open import open_job
    from tamis.selectors.jobs.plan import plan_opened

    environment = service.environment()
    try:
        opened = open_job(resolved.spec, environment)
        return Checked(opened.spec, plan_opened(opened, environment))
    except InputsChanged as error:
        raise Conflict(f"{error.detail} Send the request again.", pointer=error.pointer, **error.where) from error


def check_resumable(service: Service, job: Job) -> None:
    """Check that a stored job would still give the result it was accepted for.

    Raises
    ------
    InputsChanged
        They are not what they were when it was accepted.
    """
    check_inputs(JobSpec.model_validate(dict(job.spec)), job.fingerprint or "", service.environment())


@contextmanager
def _at(pointer: str) -> Iterator[None]:
    """Give errors raised in the block a pointer to a field of the request."""
    try:
        yield
    except TamisError as error:
        raise type(error)(error.detail, pointer=pointer, **error.where) from error
