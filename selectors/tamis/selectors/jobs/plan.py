"""Plan a job: its phases, costs, memory and warnings, before anything runs."""

from __future__ import annotations

from tamis.selectors.decision.budget import feasibility, resolve_budget
from tamis.selectors.jobs.open import Environment, open_job, peak_memory, plan_warnings
from tamis.selectors.run.opened import Opened
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.schema.response import PhaseEstimate, Plan
from tamis.selectors.signals.store import SignalStore


def plan(spec: JobSpec, environment: Environment) -> Plan:
    """Plan a job; nothing runs, footers and headers only are read.

    Raises
    ------
    TamisError
        As :func:`open_job`, and `OutOfLimits` when the job would need more memory than its limits allow.
    """
    return plan_opened(open_job(spec, environment), environment)


def plan_opened(opened: Opened, environment: Environment) -> Plan:
    """Plan an opened job; see :func:`plan`."""
    spec = opened.spec
    memory = peak_memory(opened, environment)
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
        warnings=plan_warnings(opened),
    )
