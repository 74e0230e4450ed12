"""A job opened and ready to run, for tests of what a selector stands on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from tamis.selectors.jobs.execute import Environment, open_job
from tamis.selectors.run.observer import Observer, Unobserved
from tamis.selectors.run.questions import Answer
from tamis.selectors.run.run import Run
from tamis.selectors.schema.request import JobSpec
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
    engine = LocalEngine(environment.threads)
    store = SignalStore(environment.cache)
    run = Run(
        opened.spec,
        opened.candidates,
        opened.targets,
        [(phase.name, 1.0) for phase in opened.phases],
        dynamics=opened.dynamics,
        store=store,
        scratch=store,
        engine=engine,
        observer=observer or Unobserved(),
        preselected=opened.preselected_rows,
        excluded=opened.excluded_rows,
        answer=answer,
    )
    try:
        run.count_rows()
        run.begin(opened.phases[0].name)
        yield run
    finally:
        engine.close()
