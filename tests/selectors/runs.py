"""A job opened and ready to run, for tests of the parts that a selector uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tamis.selectors.jobs.catalogue import find
from tamis.selectors.jobs.open import Environment, count_rows, open_job
from tamis.selectors.run.observer import Observer, Unobserved
from tamis.selectors.run.opened import Job, Opened
from tamis.selectors.run.progress import PhaseTracker
from tamis.selectors.run.questions import Answer
from tamis.selectors.run.run import Run
from tamis.selectors.run.selector import PhaseCost
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.signals.signals import Signals
from tamis.selectors.signals.store import SignalStore
from tamis.selectors.signals.threads import LocalEngine


@contextlib.contextmanager
def opened_run(
    job: Mapping[str, Any],
    environment: Environment,
    observer: Observer | None = None,
    answer: Answer | None = None,
) -> Iterator[Run]:
    """Open `job` as `execute` does, in its first phase."""
    opened = open_job(JobSpec.model_validate(job), environment)
    with _running(opened, environment, observer, answer) as run:
        run.begin(opened.phases[0].name)
        yield run


@contextlib.contextmanager
def run_of(
    job: Job, phases: Sequence[str], environment: Environment, observer: Observer | None = None
) -> Iterator[Run]:
    """Run in the last of `phases` over datasets that were opened by hand; the rows are counted."""
    opened = Opened(
        job.spec,
        job.candidates,
        job.targets,
        job.dynamics,
        selector=find(job.spec.selector),
        phases=[PhaseCost(name, 0, 0, 1.0) for name in phases],
        fingerprint="",
    )
    with _running(opened, environment, observer, None) as run:
        run.begin(phases[-1])
        yield run


@contextlib.contextmanager
def _running(
    opened: Opened, environment: Environment, observer: Observer | None, answer: Answer | None
) -> Iterator[Run]:
    store = SignalStore(environment.cache)
    signals = Signals(store, store, LocalEngine(environment.threads))
    progress = PhaseTracker([(phase.name, 1.0) for phase in opened.phases], observer or Unobserved())
    try:
        yield Run(count_rows(opened, signals, progress), signals, progress, answer)
    finally:
        signals.engine.close()
