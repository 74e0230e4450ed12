"""Execute a job: the boundary that the service, the command line and the library share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from tamis.selectors.datasets import Dataset
from tamis.selectors.decision.decision import Decision
from tamis.selectors.errors import Invalid, StorageError
from tamis.selectors.jobs.compilation import COMPILING, on_first_compile
from tamis.selectors.jobs.open import Environment, count_rows, open_job, peak_memory
from tamis.selectors.results.report import make_report
from tamis.selectors.results.result import SCORES, Documents, read_result, verify_result, write_result
from tamis.selectors.run.observer import Observer, Unobserved
from tamis.selectors.run.opened import Opened
from tamis.selectors.run.progress import REPORT, PhaseTracker
from tamis.selectors.run.questions import Answer, Answers
from tamis.selectors.run.run import Run
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.schema.response import Provenance, ResultManifest, ShardInfo
from tamis.selectors.signals.signals import Signals
from tamis.selectors.signals.store import SignalStore
from tamis.selectors.signals.threads import LocalEngine


def execute(
    spec: JobSpec,
    out: Path,
    environment: Environment,
    observer: Observer | None = None,
    answer: Answer | None = None,
) -> ResultManifest:
    """Open and run a job; see :func:`execute_opened`."""
    return execute_opened(open_job(spec, environment), out, environment, observer, answer)


def execute_opened(
    opened: Opened,
    out: Path,
    environment: Environment,
    observer: Observer | None = None,
    answer: Answer | None = None,
) -> ResultManifest:
    """Run a job and write its result into the folder `out`: selection.parquet, report.json, …, and result.json last.

    Where `out` holds a whole result of the same job already, that is returned (of a job that asks: only where it was
    made from the same :class:`Answers`). Results of units that an interrupted run of any job left in the cache are
    used, not computed again.

    Parameters
    ----------
    opened : Opened
        Of :func:`open_job`, in this process.
    out : Path
        Folder of the result; made where it is missing.
    environment : Environment
        The one that the job was opened in.
    observer : Observer, optional
        Receives progress; can cancel.
    answer : callable, optional
        Scores the rows that a selector asks about; those that do not ask never call it.

    Raises
    ------
    TamisError
        For a request or data that can't be used, with the place; `Cancelled` when the observer asked for it; `Waiting`
        where `answer` is :class:`Answers` and lacks one.
    """
    observer = observer or Unobserved()
    asks = opened.selector.needs().answers
    if asks and answer is None:
        raise Invalid(
            f"With these parameters the selector '{opened.selector.name}' asks for scores while it runs: submit the "
            "job to a service and answer it there, or give `select` a function `answer`.",
            pointer="/selector/params",
        )
    done = _finished(out, opened, observer, answer)
    if done is not None:
        return done
    peak_memory(opened, environment)
    for dataset in opened.datasets:
        dataset.check_declared()
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(".*.tmp"):  # of a run that was killed while it wrote
        leftover.unlink()
    work = out / "work"
    progress = PhaseTracker([(phase.name, max(phase.cpu_seconds, 1e-3)) for phase in opened.phases], observer)
    signals = Signals(SignalStore(environment.cache), SignalStore(work), LocalEngine(environment.threads))
    try:
        counted = count_rows(opened, signals, progress)
        peak_memory(counted, environment)
        run = Run(counted, signals, progress, answer if asks else None)
        with on_first_compile(lambda: observer.log("info", COMPILING)):
            decision = counted.selector.select(run)
        run.begin(REPORT)
        report = make_report(run, counted.selector, decision)
        for dataset in run.datasets:
            dataset.verify()
        manifest = _write(out, counted, run, decision, report)
    finally:
        signals.engine.close()
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def _finished(out: Path, opened: Opened, observer: Observer, answer: Answer | None) -> ResultManifest | None:
    """Return the manifest of this job's result in `out`; None when there is none, or it is damaged."""
    if opened.selector.needs().answers and not isinstance(answer, Answers):
        return None  # the answers are not known yet
    try:
        done = read_result(out)
        if done is None or done.provenance.fingerprint != opened.fingerprint:
            return None
        if isinstance(answer, Answers) and done.provenance.answers_digest != answer.digest():
            return None
        if (opened.spec.output.scores == "all") != any(file.name == SCORES for file in done.files):
            return None
        verify_result(out, done)
    except StorageError as error:
        observer.log("warning", f"the result that is there is made again: {error.detail}")
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
    return write_result(
        out,
        decision,
        run.layout(),
        run.candidates,
        Documents(footer, report, provenance, shards),
        publish_scores=opened.spec.output.scores == "all",
    )


def _shards(dataset: Dataset) -> list[ShardInfo]:
    assert dataset.shard_starts is not None
    return [
        ShardInfo(uri=shard.file.uri, rows=int(rows), bytes=shard.file.size, digest=shard.digest)
        for shard, rows in zip(dataset.shards, np.diff(dataset.shard_starts), strict=True)
    ]
