"""Plan and execute a job: the boundary that the service, the command line and the library share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from tamis.selectors.datasets import Dataset, Storage
from tamis.selectors.decision.budget import Amount, check_request, feasibility, resolve_budget, unbound
from tamis.selectors.decision.by_key import NO_ROWS
from tamis.selectors.errors import Infeasible, Invalid, OutOfLimits, StorageError
from tamis.selectors.features.coverage import coverage_bytes
from tamis.selectors.jobs.compilation import COMPILING, telling
from tamis.selectors.results import result as results
from tamis.selectors.results.explain import explain
from tamis.selectors.results.files import file_sha256
from tamis.selectors.results.report import make_report
from tamis.selectors.run import selector as selectors
from tamis.selectors.run.observer import Observer, Unobserved
from tamis.selectors.run.questions import Answer, Answers
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import Decision, Job, PhaseCost, Selector
from tamis.selectors.schema.request import JobSpec, Manifest, TargetDataset
from tamis.selectors.schema.response import Notice, PhaseEstimate, Plan, Provenance, ResultManifest, ShardInfo
from tamis.selectors.signals.store import SignalStore, content_key
from tamis.selectors.signals.task import Engine
from tamis.selectors.signals.threads import LocalEngine

__all__ = ["Environment", "Observer", "Opened", "execute", "explain", "open_job", "plan", "plan_opened"]

BASE_MEMORY = 240 * 2**20
"""Bytes that the interpreter, NumPy, Arrow and the compiled kernels take before any work."""

SELECTED_ROW_MEMORY = 180
"""Bytes a selected row takes while it is ranked, merged and written. A size budget does not tell how many."""

BATCH_MEMORY = 40 * 2**20
"""Bytes a thread holds: a decoded batch of text, its lowered copy and the decoder's own buffers."""

INDEX_BYTES_PER_SECOND = 1.5e9


@dataclass(frozen=True)
class Environment:
    """Where a job runs."""

    storage: Storage
    cache: Path  # folder of the signals
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)


@dataclass(frozen=True)
class Opened:
    """A job whose datasets were opened and whose request was checked against them."""

    spec: JobSpec  # globs expanded, formats set
    selector: Selector
    candidates: Dataset
    targets: Sequence[Dataset]
    dynamics: Dataset | None
    phases: Sequence[PhaseCost]  # in order: counting rows where metadata does not tell them, then the selector's

    @property
    def job(self) -> Job:
        return Job(self.spec, self.candidates, self.targets, self.dynamics)

    @property
    def datasets(self) -> list[Dataset]:
        """Everything the job reads."""
        return [self.candidates, *self.targets, *([self.dynamics] if self.dynamics is not None else [])]

    @cached_property
    def fingerprint(self) -> str:
        """Name the mathematical result: inputs and their part in it, selector, parameters, seed, budget, strata.

        A job that asks for scores is named by its inputs too, but its result depends on the answers, which nobody
        knows before it ran: one fingerprint can have several results, each named by it and `Provenance.answers_digest`.
        """
        params = json.loads(self.selector.params.model_dump_json())
        target = self.spec.target
        return content_key(
            "fingerprint",
            self.candidates.digest,
            [[dataset.digest, share] for dataset, share in zip(self.targets, self._proportions(), strict=True)],
            [self.selector.name, self.selector.revision, self.selector.basis(), params],
            self.spec.mathematics(),
            *([] if self.dynamics is None else [self.dynamics.digest]),
            {
                "model": _file_digest(target.model if target is not None else None, "/target/model"),
                "preselected": _file_digest(self.spec.preselected, "/preselected"),
                "exclude": [_file_digest(path, f"/exclude/{index}") for index, path in enumerate(self.spec.exclude)],
            },
        )

    def _proportions(self) -> list[float | None]:
        datasets = self.spec.target.datasets if self.spec.target is not None else None
        return [target.proportion for target in datasets or []]

    @cached_property
    def preselected_rows(self) -> npt.NDArray[np.int64]:
        """Return the rows of the earlier selection that is kept, in their own order."""
        if self.spec.preselected is None:
            return NO_ROWS
        return self._earlier_rows(self.spec.preselected, "/preselected", in_rank_order=True)

    @cached_property
    def excluded_rows(self) -> npt.NDArray[np.int64]:
        """Return the rows of the earlier selections to keep away from, ascending."""
        parts = [
            self._earlier_rows(path, f"/exclude/{index}", in_rank_order=False)
            for index, path in enumerate(self.spec.exclude)
        ]
        return np.unique(np.concatenate(parts)) if parts else NO_ROWS

    def _earlier_rows(self, path: str, pointer: str, *, in_rank_order: bool) -> npt.NDArray[np.int64]:
        shards = [shard.digest for shard in self.candidates.shards]
        return results.load_rows(Path(path), shards, pointer=pointer, in_rank_order=in_rank_order)

    def notices(self) -> list[Notice]:
        """Say what is worth knowing before the job runs."""
        asks = Notice(
            code="asks",
            detail="The job will stop to ask for scores, and wait until they are given; its result depends on them.",
        )
        return [
            *unbound(self.spec.strata),
            *([asks] if self.selector.needs().answers else []),
            *self.selector.notices(self.job),
        ]


def _file_digest(path: str | None, pointer: str) -> str | None:
    if path is None:
        return None
    try:
        return file_sha256(Path(path))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise Invalid(f"The file {path} of an earlier job can't be read: {reason}.", pointer=pointer) from error


def open_job(spec: JobSpec, environment: Environment) -> Opened:
    """Open the datasets of `spec` (footers and headers only) and check the request against them.

    Raises
    ------
    TamisError
        `Invalid` and its kin with a JSON Pointer: unknown selector or parameter, missing file, wrong column, empty
        target, budget or quotas that can't be met as far as metadata tells.
    """
    chosen = selectors.find(spec.selector)
    needs = chosen.needs()
    if needs.target and spec.target is None:
        columns = ", ".join(needs.roles if needs.target_roles is None else needs.target_roles)
        raise Invalid(
            f"The selector '{chosen.name}' needs a target with these parameters: datasets with the columns {columns}.",
            pointer="/target",
        )
    if not needs.target and spec.target is not None:
        raise Invalid(f"The selector '{chosen.name}' takes no target with these parameters.", pointer="/target")
    if needs.dynamics and spec.dynamics is None:
        raise Invalid(
            f"The selector '{chosen.name}' needs a log of training dynamics with these parameters: a manifest with the "
            f"columns {', '.join(needs.dynamics)}.",
            pointer="/dynamics",
        )
    if not needs.dynamics and spec.dynamics is not None:
        raise Invalid(
            f"The selector '{chosen.name}' reads no training dynamics with these parameters"
            f"{_how_to_read_them(chosen)}.",
            pointer="/dynamics",
        )
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
    _refuse_empty(targets, dynamics)
    resolved = spec.model_copy(update=update)
    counting = _counting(candidates, *targets, *([dynamics] if dynamics is not None else []))
    phases = [*counting, *chosen.plan(Job(resolved, candidates, targets, dynamics))]
    opened = Opened(resolved, chosen, candidates, targets, dynamics, phases)
    if candidates.rows is not None:
        _check_counted(opened, candidates.rows)
    return opened


def _how_to_read_them(chosen: Selector) -> str:
    """Say which parameter makes a selector read a log of training dynamics, where one does."""
    return ": set source to 'dynamics'" if "source" in type(chosen.params).model_fields else ""


def _counting(*datasets: Dataset) -> list[PhaseCost]:
    """Name the phase that counts the rows that metadata does not tell, when there are any."""
    unknown = [dataset for dataset in datasets if dataset.rows is None]
    if not unknown:
        return []
    size = sum(dataset.bytes for dataset in unknown)
    units = sum(len(dataset.units) for dataset in unknown)
    return [PhaseCost("index", units, size, size / INDEX_BYTES_PER_SECOND)]


def _refuse_empty(targets: Sequence[Dataset], dynamics: Dataset | None) -> None:
    """Refuse what is known to hold no rows and must hold some."""
    named = [
        *(("target", target) for target in targets),
        *([] if dynamics is None else [("log of training dynamics", dynamics)]),
    ]
    for name, dataset in named:
        if dataset.rows == 0:
            raise Invalid(f"The {name} has no rows.", pointer=f"{dataset.pointer}/shards")


def _check_counted(opened: Opened, rows: int) -> None:
    """Refuse a budget, quotas and earlier selections that can't be met, as far as the number of rows tells."""
    amount = resolve_budget(opened.spec.budget, rows)
    check_request(opened.spec.strata, amount)
    _check_earlier(opened, amount, rows)


def _check_earlier(opened: Opened, amount: Amount, rows: int) -> None:
    """Refuse earlier selections that leave no room for the budget, or are none of this dataset."""
    kept, banned = opened.preselected_rows, opened.excluded_rows
    if amount.unit == "rows" and len(kept) > amount.value:
        raise Infeasible(
            f"The budget asks {amount}, but the preselected rows, which are kept, are {len(kept)} already: "
            "ask more, or preselect less.",
            pointer="/preselected",
        )
    if amount.unit == "rows" and rows - len(banned) < amount.value:
        raise Infeasible(
            f"The budget asks {amount}, but of {rows} rows {len(banned)} are excluded.", pointer=amount.pointer
        )
    if both := len(np.intersect1d(kept, banned)):
        raise Invalid(f"{both} rows are to be kept by 'preselected' and kept away by 'exclude'.", pointer="/exclude")


def _manifest(dataset: Manifest | str, pointer: str) -> Manifest:
    if isinstance(dataset, str):
        raise Invalid("A registered dataset must be looked up before the job is opened.", pointer=pointer)
    return dataset


def plan(spec: JobSpec, environment: Environment) -> Plan:
    """Say what a job would do and need; nothing runs, footers and headers only are read.

    Raises
    ------
    TamisError
        As :func:`open_job`, and `OutOfLimits` when the job would need more memory than its limits allow.
    """
    return plan_opened(open_job(spec, environment), environment)


def plan_opened(opened: Opened, environment: Environment) -> Plan:
    """Say what an opened job would do and need; see :func:`plan`."""
    spec = opened.spec
    memory = _peak_memory(opened, environment)
    store = SignalStore(environment.cache)
    units = sum(len(dataset.units) for dataset in opened.datasets)
    cached = [sum(store.has(key) for key in phase.keys) for phase in opened.phases]
    rows = opened.candidates.rows
    amount = None if rows is None else resolve_budget(spec.budget, rows)
    return Plan(
        fingerprint=opened.fingerprint,
        asks=opened.selector.needs().answers,
        selector=opened.selector.name,
        revision=str(opened.selector.revision),
        rows=rows,
        shards=len(opened.candidates.shards),
        units=units,
        cached_units=sum(cached),
        bytes_to_read=sum(phase.bytes_to_read for phase in opened.phases),
        peak_memory_bytes=memory,
        cpu_seconds=round(sum(phase.cpu_seconds for phase in opened.phases), 3),
        phases=[
            PhaseEstimate(
                name=phase.name,
                units=phase.units,
                cached_units=there,
                bytes_to_read=phase.bytes_to_read,
                cpu_seconds=round(phase.cpu_seconds, 3),
            )
            for phase, there in zip(opened.phases, cached, strict=True)
        ],
        budget_rows=amount.value if amount is not None and amount.unit == "rows" else None,
        strata=None if spec.strata is None or amount is None else feasibility(spec.strata, amount, None),
        warnings=opened.notices(),
    )


def _peak_memory(opened: Opened, environment: Environment) -> int:
    rows = opened.candidates.rows or 0
    selected = 0
    if rows and opened.spec.budget.size is None:
        selected = resolve_budget(opened.spec.budget, rows).value
    work = opened.selector.memory(opened.job, environment.threads)
    work = max(work, coverage_bytes(opened.candidates, selected or rows))
    memory = BASE_MEMORY + environment.threads * BATCH_MEMORY + work + SELECTED_ROW_MEMORY * selected
    allowed = opened.spec.limits.memory_bytes
    if allowed is not None and memory > allowed:
        raise OutOfLimits(
            f"The job needs about {memory / 2**20:.0f} MiB, its limit is {allowed / 2**20:.0f} MiB: raise the limit, "
            f"or give fewer threads (each takes {BATCH_MEMORY / 2**20:.0f} MiB).",
            pointer="/limits/memory_bytes",
        )
    return memory


def execute(
    spec: JobSpec,
    out: Path,
    environment: Environment,
    observer: Observer | None = None,
    answer: Answer | None = None,
) -> ResultManifest:
    """Run a job and write its result into the folder `out`: selection.parquet, report.json, …, and result.json last.

    Where `out` holds a whole result of the same job already, that is given back (of a job that asks: only where it was
    made from the same :class:`Answers`). What an interrupted run of any job left in the cache is used, not computed
    again.

    Parameters
    ----------
    answer : callable, optional
        Scores the rows that a selector asks about; those that do not ask never call it.

    Raises
    ------
    TamisError
        What was wrong with the request or the data, and where; `Cancelled` when the observer asked for it; `Waiting`
        where `answer` is :class:`Answers` and lacks one.
    """
    watcher = observer or Unobserved()
    opened = open_job(spec, environment)
    asks = opened.selector.needs().answers
    if asks and answer is None:
        raise Invalid(
            f"With these parameters the selector '{opened.selector.name}' asks for scores while it runs: submit the "
            "job to a service and answer it there, or give `select` a function `answer`.",
            pointer="/selector/params",
        )
    done = _finished(out, opened, watcher, answer)
    if done is not None:
        return done
    _peak_memory(opened, environment)
    for dataset in opened.datasets:
        dataset.check_declared()
    phases = [(phase.name, max(phase.cpu_seconds, 1e-3)) for phase in opened.phases]
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(".*.tmp"):  # of a run that was killed while it wrote
        leftover.unlink()
    work = out / "work"
    engine: Engine = LocalEngine(environment.threads)
    try:
        run = Run(
            opened.spec,
            opened.candidates,
            opened.targets,
            phases,
            dynamics=opened.dynamics,
            store=SignalStore(environment.cache),
            scratch=SignalStore(work),
            engine=engine,
            observer=watcher,
            preselected=opened.preselected_rows,
            excluded=opened.excluded_rows,
            answer=answer if asks else None,
        )
        run.count_rows()
        counted = replace(opened, candidates=run.candidates, targets=run.targets, dynamics=run.dynamics)
        _refuse_empty(counted.targets, counted.dynamics)  # once more, now that the rows are known
        if opened.candidates.rows is None:
            _check_counted(counted, counted.candidates.rows or 0)
        _peak_memory(counted, environment)
        with telling(lambda: watcher.log("info", COMPILING)):
            decision = opened.selector.select(run)
        run.begin("report")
        report = make_report(run, opened.selector, decision)
        for dataset in run.datasets:
            dataset.verify()
        manifest = _write(out, opened, run, decision, report)
    finally:
        engine.close()
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def _finished(out: Path, opened: Opened, watcher: Observer, answer: Answer | None) -> ResultManifest | None:
    """Return the manifest of this job's result in `out`; None when there is none, or it is damaged."""
    if opened.selector.needs().answers and not isinstance(answer, Answers):
        return None  # what will be answered is not known yet
    try:
        done = results.read_result(out)
        if done is None or done.provenance.fingerprint != opened.fingerprint:
            return None
        if isinstance(answer, Answers) and done.provenance.answers_digest != answer.digest():
            return None
        if (opened.spec.output.scores == "all") != any(file.name == results.SCORES for file in done.files):
            return None
        results.verify_result(out, done)
    except StorageError as error:
        watcher.log("warning", f"the result that is there is made again: {error.detail}")
        return None
    return done


def _write(out: Path, opened: Opened, run: Run, decision: Decision, report: Mapping[str, JsonValue]) -> ResultManifest:
    """Write the result's files, read them back, and the manifest last."""
    provenance = Provenance(
        tamis=version("tamis"),
        selector=opened.selector.name,
        revision=str(opened.selector.revision),
        params=json.loads(opened.selector.params.model_dump_json()),
        seed=opened.spec.seed,
        fingerprint=opened.fingerprint,
        dataset_digest=run.candidates.digest,
        target_digests=[target.digest for target in run.targets],
        answers_digest=run.answers_digest,
    )
    shards = _shards(run.candidates)
    footer: dict[str, JsonValue] = {
        "fingerprint": provenance.fingerprint,
        "dataset": {"digest": provenance.dataset_digest, "shards": [shard.model_dump() for shard in shards]},
        "selector": {"name": provenance.selector, "revision": provenance.revision, "params": provenance.params},
        "seed": provenance.seed,
        **({} if provenance.answers_digest is None else {"answers": {"digest": provenance.answers_digest}}),
        "budget": {
            "asked": opened.spec.budget.model_dump(exclude_none=True),
            "reached": {"rows": decision.choice.totals.rows, "size": decision.choice.totals.size},
        },
    }
    return results.write_result(
        out,
        decision,
        run.layout(),
        run.candidates,
        footer=footer,
        report=report,
        provenance=provenance,
        shards=shards,
        publish_scores=opened.spec.output.scores == "all",
    )


def _shards(dataset: Dataset) -> list[ShardInfo]:
    assert dataset.shard_starts is not None
    return [
        ShardInfo(uri=shard.file.uri, rows=int(rows), bytes=shard.file.size, digest=shard.digest)
        for shard, rows in zip(dataset.shards, np.diff(dataset.shard_starts), strict=True)
    ]
