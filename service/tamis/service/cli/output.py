"""Output: text for people and JSON for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tamis.selectors.errors import TamisError

if TYPE_CHECKING:
    from tamis.selectors.schema.response import Plan
    from tamis.service.schema import JobResource, SelectorResource
    from tamis.service.settings import SettingRow
    from tamis.service.store import ApiKey

console: Final = Console(stderr=True, highlight=False)

UNLIMITED_WIDTH: Final = 10_000
"""Width of output that is no terminal: no line is broken, so that one row is one line."""

if not console.is_terminal:
    console.width = UNLIMITED_WIDTH

NEXT_STEPS: Final = {
    "not-found": "`tamis jobs` lists the jobs there are.",
    "unknown-selector": "`tamis selectors` lists what there is.",
    "unauthorized": "Set TAMIS_API_KEY; who runs the service makes a key with `tamis keys create`.",
    "invalid-key": "Ask who runs the service for a new key (`tamis keys create`), and set TAMIS_API_KEY.",
    "insufficient-scope": "`tamis keys create --scope …` makes a key that may.",
    "inputs-changed": "Submit the job again: it takes the files as they are now.",
    "not-ready": "Look at the service's log.",
    "worker-lost": "Look at the worker's log, then `tamis resume` the job.",
}

STATE_STYLES: Final = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "waiting": "magenta",
}


def machine(shape: Any) -> None:
    """Write JSON to stdout, indented, with a line end."""
    if isinstance(shape, BaseModel):
        sys.stdout.write(shape.model_dump_json(indent=2) + "\n")
    else:
        sys.stdout.write(json.dumps(shape, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def show_error(error: TamisError) -> None:
    """Show an error, its place and the next step."""
    console.print(Text("Error: ", style="bold red"), Text(error.detail), sep="")
    errors: list[dict[str, str]] = getattr(error, "errors", [])
    for item in errors:
        if item["detail"] not in error.detail:
            console.print(Text(f"  {item['pointer'] or '/'}: {item['detail']}"))
    if error.pointer is not None or (errors and errors[0]["detail"] == error.detail):
        console.print(Text(f"  at {error.pointer or errors[0]['pointer'] or '/'} of the request"))
    where = dict(error.where) or {
        key: value for key, value in getattr(error, "problem", {}).items() if key in PLACES and value is not None
    }
    if where:
        console.print(Text("  in " + ", ".join(f"{key} {value}" for key, value in where.items())))
    if error.code in NEXT_STEPS:
        console.print(Text(f"  {NEXT_STEPS[error.code]}"), style="dim")


PLACES: Final = frozenset({"shard", "row_group", "column", "row", "line"})


def show_job(job: JobResource) -> None:
    """Show one job."""
    table = Table.grid(padding=(0, 2))
    table.add_row("job", job.id)
    table.add_row("state", Text(job.state, style=STATE_STYLES.get(job.state, "")))
    table.add_row("selector", Text(job.selector))
    if job.waiting_reason:
        table.add_row("waits", Text(job.waiting_reason))
    if job.state == "waiting":
        table.add_row(
            "", Text("answer it: `for question in job.questions(): job.answer(question, scores)`", style="dim")
        )
    if job.progress is not None and not job.terminal:
        table.add_row("progress", f"{job.progress.phase}, {job.progress.fraction:.0%}")
    if job.error is not None:
        table.add_row("error", Text(job.error.detail, style="red"))
    table.add_row("created", f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC")
    if job.started_at is not None and job.finished_at is not None:
        table.add_row("took", f"{(job.finished_at - job.started_at).total_seconds():.1f} s")
    if job.labels:
        table.add_row("labels", Text(", ".join(f"{key}={value}" for key, value in job.labels.items())))
    console.print(table)


def show_jobs(jobs: list[JobResource]) -> None:
    """Show jobs as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("job", no_wrap=True)  # to be copied whole
    for title in ("state", "selector", "created", "labels"):
        table.add_column(title, overflow="fold")
    for job in jobs:
        labels = ", ".join(f"{key}={value}" for key, value in job.labels.items())
        state = Text(job.state, style=STATE_STYLES.get(job.state, ""))
        table.add_row(job.id, state, Text(job.selector), f"{job.created_at:%Y-%m-%d %H:%M:%S}", Text(labels))
    console.print(table)


def show_keys(keys: Sequence[ApiKey]) -> None:
    """Show API keys as a table."""
    now = time.time()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("key", no_wrap=True)
    for title in ("owner", "scopes", "created", "expires", "state", "note"):
        table.add_column(title, overflow="fold")
    for key in keys:
        state = "revoked" if key.revoked_at is not None else "valid" if key.valid(now) else "expired"
        table.add_row(
            key.id,
            Text(key.owner),
            ", ".join(sorted(key.scopes)),
            _day(key.created_at),
            "never" if key.expires_at is None else _day(key.expires_at),
            Text(state, style="green" if state == "valid" else "red"),
            Text(key.note or ""),
        )
    console.print(table)


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def show_plan(plan: Plan) -> None:
    """Show the plan of a job."""
    table = Table.grid(padding=(0, 2))
    rows = "only a run can tell" if plan.rows is None else f"{plan.rows:,}"
    table.add_row("selector", f"{plan.selector}, revision {plan.revision}")
    table.add_row("rows", f"{rows} in {_count(plan.shards, 'shard')}")
    if plan.budget_rows is not None:
        table.add_row("budget", _count(plan.budget_rows, "row"))
    table.add_row("to do", f"{_count(plan.units, 'unit')} of work, {plan.cached_units:,} already done")
    table.add_row("to read", f"{plan.bytes_to_read / 2**20:,.1f} MiB")
    table.add_row("memory", f"{plan.peak_memory_bytes / 2**20:,.0f} MiB at the peak")
    seconds = f"{plan.cpu_seconds:,.0f} s" if plan.cpu_seconds >= 1 else "under a second"
    table.add_row("CPU", f"{seconds}: " + ", ".join(phase.name for phase in plan.phases))
    table.add_row("fingerprint", plan.fingerprint)
    for notice in plan.warnings:
        table.add_row(Text("warning", style="yellow"), Text(notice.detail))
    console.print(table)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def show_selectors(selectors: list[SelectorResource]) -> None:
    """Write the catalogue to stdout."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("selector", "needs", "what it does"):
        table.add_column(title, overflow="fold")
    for selector in selectors:
        either = [" or ".join(selector.needs.either)] if selector.needs.either else []
        needs = [*selector.needs.roles, *either, *(["a target"] if selector.needs.target else [])]
        table.add_row(Text(selector.name, style="bold"), ", ".join(needs), Text(selector.summary))
    _stdout().print(table)


def show_selector(selector: SelectorResource) -> None:
    """Write one selector with its parameters to stdout."""
    show_selectors([selector])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("parameter", "default", "meaning"):
        table.add_column(title, overflow="fold")
    properties: Any = selector.params_schema.get("properties", {})
    for name, schema in properties.items():
        default = json.dumps(schema["default"]) if "default" in schema else "required"
        table.add_row(Text(name), Text(default), Text(schema.get("description", "")))
    _stdout().print("", table, "", Text(f"Cost: {selector.cost}"), Text(selector.citation, style="dim"), sep="\n")


def show_settings(rows: Sequence[SettingRow]) -> None:
    """Write all settings to stdout."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("setting", no_wrap=True)
    for title in ("value", "default", "meaning"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(row.name, Text(row.value or ""), Text(row.default), Text(row.meaning))
    _stdout().print(table)


def _stdout() -> Console:
    """Make a console over standard output."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = UNLIMITED_WIDTH
    return made
