"""Open a job: its datasets by footers and headers only, and every check of the request that they allow."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tamis.selectors.datasets import Dataset, Storage
from tamis.selectors.decision.budget import Amount, check_request, resolve_budget, unbound
from tamis.selectors.decision.ranking import Rows
from tamis.selectors.decision.request import NO_ROWS
from tamis.selectors.errors import Infeasible, Invalid, OutOfLimits
from tamis.selectors.features.coverage import coverage_bytes
from tamis.selectors.jobs.catalogue import find
from tamis.selectors.results.files import file_sha256
from tamis.selectors.results.result import load_rows
from tamis.selectors.run.opened import Job, Opened
from tamis.selectors.run.progress import REPORT, PhaseTracker
from tamis.selectors.run.selector import PhaseCost, Selector
from tamis.selectors.schema.request import JobSpec, Manifest, TargetDataset
from tamis.selectors.schema.response import Notice
from tamis.selectors.signals.row_columns import count_unit_rows
from tamis.selectors.signals.signals import Signals
from tamis.selectors.signals.store import content_key

BASE_MEMORY = 240 * 2**20
"""Bytes that the interpreter, NumPy, Arrow and the compiled kernels take before any work."""

SELECTED_ROW_MEMORY = 180
"""Bytes a selected row takes while it is ranked, merged and written; not counted where the budget is in size."""

BATCH_MEMORY = 40 * 2**20
"""Bytes a thread holds: a decoded batch of text, its lowered copy and the decoder's own buffers."""

INDEX = "index"
"""The phase that counts rows where metadata does not say them."""

INDEX_BYTES_PER_SECOND = 1.5e9

REPORT_ROW_SECONDS = 6e-7
"""CPU-seconds a row of the report, where the selector plans none of its own."""


@dataclass(frozen=True)
class Environment:
    """Where a job runs.

    Attributes
    ----------
    storage : Storage
        Opens uris.
    cache : Path
        Folder of the signals.
    threads : int
        Threads of the engine; all processors when left out. Decides speed, never the result.
    """

    storage: Storage
    cache: Path
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)


def open_job(spec: JobSpec, environment: Environment) -> Opened:
    """Open the datasets of `spec` and check the request against them.

    Raises
    ------
    TamisError
        `Invalid` and its kin with a JSON Pointer: unknown selector or parameter, missing file, wrong column, empty
        target, budget or quotas that can't be met as far as metadata tells.
    """
    selector = find(spec.selector)
    _check_inputs(spec, selector)
    job = _open_datasets(spec, environment, selector)
    _refuse_empty(job)
    phases = [*_counting(job), *selector.plan(job)]
    if REPORT not in [phase.name for phase in phases]:
        phases.append(PhaseCost(REPORT, 0, 0, REPORT_ROW_SECONDS * job.rows + 1e-3))
    opened = Opened(
        job.spec,
        job.candidates,
        job.targets,
        job.dynamics,
        selector=selector,
        phases=phases,
        fingerprint=_fingerprint(job, selector),
        preselected=_preselected(job),
        excluded=_excluded(job),
    )
    if job.candidates.rows is not None:
        _check_counted(opened)
    return opened


def count_rows(opened: Opened, signals: Signals, progress: PhaseTracker) -> Opened:
    """Return the job with the rows of all its datasets counted; refuse a request that they show can't be met.

    Raises
    ------
    TamisError
        As :func:`open_job`.
    """
    unknown = [dataset for dataset in opened.datasets if dataset.rows is None]
    if not unknown:
        return opened
    progress.begin(INDEX, *unknown)

    def counted(dataset: Dataset) -> Dataset:
        if dataset.rows is not None:
            return dataset
        counts = signals.map(count_unit_rows, dataset, progress).metadata()
        return dataset.with_rows([entry["rows"] for entry in counts])

    known = replace(
        opened,
        candidates=counted(opened.candidates),
        targets=[counted(target) for target in opened.targets],
        dynamics=None if opened.dynamics is None else counted(opened.dynamics),
    )
    _refuse_empty(known)
    if opened.candidates.rows is None:
        _check_counted(known)
    return known


def plan_warnings(opened: Opened) -> list[Notice]:
    """Return the warnings of a job that are known before it runs."""
    asks = Notice(
        code="asks",
        detail="The job will stop to ask for scores, and wait until they are given; its result depends on them.",
    )
    return [
        *unbound(opened.spec.strata),
        *([asks] if opened.selector.needs().answers else []),
        *opened.selector.plan_warnings(opened),
    ]


def peak_memory(opened: Opened, environment: Environment) -> int:
    """Return the bytes that a job holds at its peak.

    Raises
    ------
    OutOfLimits
        When that is more than the job's own limit.
    """
    selected = 0 if opened.spec.budget.size is not None else opened.max_selected
    work = opened.selector.memory(opened, environment.threads)
    work = max(work, coverage_bytes(opened.candidates, selected or opened.rows))
    memory = BASE_MEMORY + environment.threads * BATCH_MEMORY + work + SELECTED_ROW_MEMORY * selected
    allowed = opened.spec.limits.memory_bytes
    if allowed is not None and memory > allowed:
        raise OutOfLimits(
            f"The job needs about {memory / 2**20:.0f} MiB, its limit is {allowed / 2**20:.0f} MiB: raise the limit, "
            f"or give fewer threads (each takes {BATCH_MEMORY / 2**20:.0f} MiB).",
            pointer="/limits/memory_bytes",
        )
    return memory


# -- inputs


def _check_inputs(spec: JobSpec, selector: Selector) -> None:
    """Refuse a target or a log that the selector does not read, and the lack of one that it needs."""
    needs = selector.needs()
    if needs.target and spec.target is None:
        columns = ", ".join(needs.roles if needs.target_roles is None else needs.target_roles)
        raise Invalid(
            f"The selector '{selector.name}' needs a target with these parameters: datasets with the columns "
            f"{columns}.",
            pointer="/target",
        )
    if not needs.target and spec.target is not None:
        raise Invalid(f"The selector '{selector.name}' takes no target with these parameters.", pointer="/target")
    if needs.dynamics and spec.dynamics is None:
        raise Invalid(
            f"The selector '{selector.name}' needs a log of training dynamics with these parameters: a manifest with "
            f"the columns {', '.join(needs.dynamics)}.",
            pointer="/dynamics",
        )
    if not needs.dynamics and spec.dynamics is not None:
        raise Invalid(
            f"The selector '{selector.name}' reads no training dynamics with these parameters"
            f"{_how_to_read_them(selector)}.",
            pointer="/dynamics",
        )


def _open_datasets(spec: JobSpec, environment: Environment, selector: Selector) -> Job:
    needs = selector.needs()
    roles = set(needs.roles)
    if spec.strata is not None:
        roles.add(spec.strata.by)
    if spec.budget.size is not None:
        roles.add("size")
    candidates = Dataset.open(
        _manifest(spec.dataset, "/dataset"), environment.storage, needs=roles, either=needs.either, pointer="/dataset"
    )
    targets: list[Dataset] = []
    described: list[TargetDataset] = []
    for index, target in enumerate((spec.target.datasets if spec.target is not None else None) or []):
        pointer = f"/target/datasets/{index}"
        if not isinstance(target, TargetDataset):
            raise Invalid("A registered dataset must be looked up before the job is opened.", pointer=pointer)
        wanted = set(needs.roles if needs.target_roles is None else needs.target_roles)
        dataset = Dataset.open(target, environment.storage, needs=wanted, pointer=pointer)
        targets.append(dataset)
        described.append(target.model_copy(update=dict(dataset.resolved())))
    update: dict[str, Any] = {"dataset": candidates.resolved()}
    if spec.target is not None and described:
        update["target"] = spec.target.model_copy(update={"datasets": described})
    dynamics = None
    if spec.dynamics is not None:
        manifest = _manifest(spec.dynamics, "/dynamics")
        dynamics = Dataset.open(manifest, environment.storage, needs=set(needs.dynamics), pointer="/dynamics")
        update["dynamics"] = dynamics.resolved()
    return Job(spec.model_copy(update=update), candidates, targets, dynamics)


def _how_to_read_them(selector: Selector) -> str:
    """Return a hint at the parameter that makes a selector read a log of training dynamics, where it has one."""
    return ": set source to 'dynamics'" if "source" in type(selector.params).model_fields else ""


def _counting(job: Job) -> list[PhaseCost]:
    """Plan the phase that counts the rows that metadata does not say, where there are any."""
    unknown = [dataset for dataset in job.datasets if dataset.rows is None]
    if not unknown:
        return []
    size = sum(dataset.bytes for dataset in unknown)
    units = sum(len(dataset.units) for dataset in unknown)
    return [PhaseCost(INDEX, units, size, size / INDEX_BYTES_PER_SECOND)]


def _refuse_empty(job: Job) -> None:
    """Refuse a target or a log that is known to hold no rows."""
    named = [
        *(("target", target) for target in job.targets),
        *([] if job.dynamics is None else [("log of training dynamics", job.dynamics)]),
    ]
    for name, dataset in named:
        if dataset.rows == 0:
            raise Invalid(f"The {name} has no rows.", pointer=f"{dataset.pointer}/shards")


def _check_counted(opened: Opened) -> None:
    """Refuse a budget, quotas and earlier selections that can't be met, as far as the number of rows tells."""
    amount = resolve_budget(opened.spec.budget, opened.rows)
    check_request(opened.spec.strata, amount)
    _check_earlier(opened, amount)


def _check_earlier(opened: Opened, amount: Amount) -> None:
    """Refuse earlier selections that leave no room for the budget, or are none of this dataset."""
    preselected, excluded, rows = opened.preselected, opened.excluded, opened.rows
    if amount.unit == "rows" and len(preselected) > amount.value:
        raise Infeasible(
            f"The budget asks {amount}, but the preselected rows, which are kept, are {len(preselected)} already: "
            "ask more, or preselect less.",
            pointer="/preselected",
        )
    if amount.unit == "rows" and rows - len(excluded) < amount.value:
        raise Infeasible(
            f"The budget asks {amount}, but of {rows} rows {len(excluded)} are excluded.", pointer=amount.pointer
        )
    if both := len(np.intersect1d(preselected, excluded)):
        raise Invalid(f"{both} rows are to be kept by 'preselected' and kept away by 'exclude'.", pointer="/exclude")


def _manifest(dataset: Manifest | str, pointer: str) -> Manifest:
    if isinstance(dataset, str):
        raise Invalid("A registered dataset must be looked up before the job is opened.", pointer=pointer)
    return dataset


# -- the fingerprint and earlier selections


def _fingerprint(job: Job, selector: Selector) -> str:
    """Return the name of the mathematical result; see :class:`Opened`."""
    params = json.loads(selector.params.model_dump_json())
    target = job.spec.target
    shares = [dataset.proportion for dataset in (target.datasets if target is not None else None) or []]
    return content_key(
        "fingerprint",
        job.candidates.digest,
        [[dataset.digest, share] for dataset, share in zip(job.targets, shares, strict=True)],
        [selector.name, selector.revision, selector.data_version(), params],
        job.spec.mathematics(),
        *([] if job.dynamics is None else [job.dynamics.digest]),
        {
            "model": _file_digest(target.model if target is not None else None, "/target/model"),
            "preselected": _file_digest(job.spec.preselected, "/preselected"),
            "exclude": [_file_digest(path, f"/exclude/{index}") for index, path in enumerate(job.spec.exclude)],
        },
    )


def _file_digest(path: str | None, pointer: str) -> str | None:
    if path is None:
        return None
    try:
        return file_sha256(Path(path))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise Invalid(f"The file {path} of an earlier job can't be read: {reason}.", pointer=pointer) from error


def _preselected(job: Job) -> Rows:
    """Return the rows of `preselected`, in their own order."""
    if job.spec.preselected is None:
        return NO_ROWS
    return _earlier_rows(job, job.spec.preselected, "/preselected", in_rank_order=True)


def _excluded(job: Job) -> Rows:
    """Return the rows of the earlier selections to keep away from, ascending."""
    parts: Sequence[Rows] = [
        _earlier_rows(job, path, f"/exclude/{index}", in_rank_order=False)
        for index, path in enumerate(job.spec.exclude)
    ]
    return np.unique(np.concatenate(parts)) if parts else NO_ROWS


def _earlier_rows(job: Job, path: str, pointer: str, *, in_rank_order: bool) -> Rows:
    shards = [shard.digest for shard in job.candidates.shards]
    return load_rows(Path(path), shards, pointer=pointer, in_rank_order=in_rank_order)
