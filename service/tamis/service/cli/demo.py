"""`make demo`: the real service, real text and a known answer.

Starts the service as a process of its own on a free loopback port, submits a DSIR job over HTTP, downloads the
selection and shows what was chosen, beside a random draw of the same budget. The pool mixes twelve domains of text
(tests/data/README.md); the selector never sees the column that says which document came from where.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tamis.selectors.errors import TamisError
from tamis.service.client import DEFAULT_URL, Client, Job
from tamis.service.client.progress import progress_bar

CHECKOUT = Path(__file__).parents[4]
DATA = CHECKOUT / "tests" / "data" / "demo"

ADDRESS = re.compile(r"^Tamis is ready at (\S+)$", re.MULTILINE)
READY_SECONDS = 60.0
JOB_SECONDS = 600.0
STOP_SECONDS = 15.0
LOG_LINES_SHOWN = 15
BAR_WIDTH = 24
EXIT_INTERRUPTED = 130

WORTH_TELLING_TIMES = 1.5
WORTH_TELLING_SHARE = 0.01
"""Smallest share of the target domain that counts as better than a random draw."""


class Domain(StrEnum):
    """A target: the domain of the pool that the selection should find."""

    SPEECHES = "speeches"
    PYTHON = "python"
    WIKIPEDIA = "wikipedia"


@dataclass(frozen=True)
class DemoTarget:
    """Target of the demo and the parameters that find it."""

    title: str
    file: str  # under DATA
    params: Mapping[str, Any]  # of DSIR


# A tenth of each target stays out of the fit: the report measures the selection on it.
TARGETS = {
    Domain.SPEECHES: DemoTarget("State of the Union speeches", "targets/speeches.parquet", {"holdout": 0.1}),
    Domain.PYTHON: DemoTarget("Python code", "targets/python.parquet", {"holdout": 0.1}),
    # The openings of articles are shorter than the pool's documents: weights are evened out.
    Domain.WIKIPEDIA: DemoTarget(
        "Wikipedia articles", "wikipedia/target.parquet", {"holdout": 0.1, "normalize": "length"}
    ),
}


class DemoFailed(TamisError):
    """The demo could not be completed."""

    code = "demo-failed"


def job_request(data: Path, target: Domain, rows: int) -> dict[str, Any]:
    """Return the body of ``POST /v1/jobs``: `rows` documents of the pool, as like the target as can be."""
    columns = {"text": "text", "id": "id", "group": "domain"}
    return {
        "dataset": {"shards": [f"{data}/pool/*.parquet", f"{data}/wikipedia/pool.parquet"], "columns": columns},
        "target": {"datasets": [{"shards": [f"{data}/{TARGETS[target].file}"], "columns": columns}]},
        "selector": {"name": "dsir", "params": dict(TARGETS[target].params)},
        "budget": {"rows": rows},
        "seed": 0,
        "labels": {"demo": target.value},
    }


@contextmanager
def running_service(home: Path, data: Path) -> Iterator[str]:
    """Run ``tamis serve`` with its state in `home`; yield its address once it is ready, and stop it on the way out.

    The child has a session of its own: a Ctrl-C at the terminal reaches this process alone, which then stops the child
    in order, and with its process group whatever it had started.
    """
    home.mkdir(parents=True, exist_ok=True)
    log = home / "service.log"
    with log.open("wb") as output:
        service = subprocess.Popen(
            [sys.executable, "-m", "tamis.service.cli", "serve", "--port", "0"],  # 0: a free one, named in the log
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TAMIS_HOME": str(home), "TAMIS_DATA_ROOTS": str(data)},
            start_new_session=True,
        )
    try:
        yield _wait_until_ready(service, log)
    finally:
        _stop(service)


def _wait_until_ready(service: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise DemoFailed(f"The service ended at its start with status {service.returncode}.\n{_tail(log)}")
        named = ADDRESS.search(log.read_text(errors="replace"))
        if named and httpx.get(f"{named[1]}/readyz", trust_env=False).status_code == httpx.codes.OK:
            return named[1]
        time.sleep(0.05)
    raise DemoFailed(f"The service was not ready after {READY_SECONDS:.0f} s.\n{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([f"The end of {log}:", *lines[-LOG_LINES_SHOWN:]])


def _stop(service: subprocess.Popen[bytes]) -> None:
    # An impatient second Ctrl-C must not leave the service behind; the wait is bounded.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    service.terminate()
    try:
        service.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(service.pid, signal.SIGKILL)
        service.wait()


def _run_job(console: Console, client: Client, out: Path) -> Job:
    """Submit the request, follow the job to its end and download its result."""
    job = client.submit(json.loads((out / "request.json").read_text()))
    with progress_bar(console) as show:
        job.wait(timeout=JOB_SECONDS, progress=lambda job: show(job.resource))
    job.download(out / "selection.parquet")
    (out / "report.json").write_text(json.dumps(job.report(), indent=2) + "\n")
    return job


def composition_table(report: dict[str, Any], target: Domain) -> Table:
    """Lay out the report's composition by domain as shares of the pool, a random draw, the selection and the target."""
    groups = report["composition"]["groups"]
    totals = {kind: max(1, sum(group[kind] for group in groups)) for kind in ("raw", "random", "selected", "target")}
    table = Table(title_justify="left", header_style="bold", pad_edge=False, box=None)
    table.add_column("domain")
    for title in ("pool", "random draw", "Tamis", "target"):
        table.add_column(title, justify="right")
    table.add_column("", min_width=BAR_WIDTH)
    for group in sorted(groups, key=lambda group: (group["group"] != target.value, -group["raw"])):
        share = {kind: group[kind] / totals[kind] for kind in totals}
        wanted = group["group"] == target.value
        table.add_row(
            group["group"],
            *(f"{share[kind]:.1%}" if group[kind] else "-" for kind in ("raw", "random", "selected", "target")),
            Text(
                "█" * round(share["selected"] * BAR_WIDTH),
                style="green" if wanted else "yellow",
            ),
            style="bold" if wanted else "",
        )
    return table


def precision(report: dict[str, Any], target: Domain) -> tuple[float, float]:
    """Return the target domain's share of the selection, and of the pool: what a random draw has on average."""
    groups = {group["group"]: group for group in report["composition"]["groups"]}
    selected = sum(group["selected"] for group in groups.values())
    pool = sum(group["raw"] for group in groups.values())
    return groups[target.value]["selected"] / selected, groups[target.value]["raw"] / pool


def _findings(report: dict[str, Any], target: Domain) -> Table:
    found, expected = precision(report, target)
    distance = report["evidence"]["distance_held_out"]
    random, selected, gain = (distance[key] for key in ("random", "selected", "kl_reduction_against_random"))
    table = Table.grid(padding=(0, 2))
    better, nearer = found / expected, gain / random
    good = "bold green"
    table.add_row("precision", f"{found:.1%}, where {expected:.1%} are expected of a random draw:")
    table.add_row(
        "",
        Text(f"{better:.0f} times better than random", style=good)
        if better >= WORTH_TELLING_TIMES
        else Text("no better than random", style="yellow"),
    )
    table.add_row("KL divergence", f"{selected:.2f} nats from unseen text of the target, random {random:.2f}:")
    table.add_row(
        "",
        Text(f"{gain:.2f} nats nearer to the target ({nearer:.0%})", style=good)
        if nearer >= WORTH_TELLING_SHARE
        else Text("no nearer to the target", style="yellow"),
    )
    for warning in report["warnings"]:
        table.add_row("warning", Text(warning["detail"], style="yellow"))
    return table


def _results(out: Path) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(_shown(out / "selection.parquet"), "the selected rows, with score, rank and weight")
    table.add_row(_shown(out / "report.json"), "the evidence")
    table.add_row(_shown(out / "request.json"), "the request")
    return table


def _do_it_yourself(out: Path, home: Path, job_id: str, kept_at: str | None) -> str:
    """Print how to do the same by hand, with the service that is left running or a new one."""
    tamis, python = (shlex.quote(_shown(Path(sys.executable).with_name(name))) for name in ("tamis", "python"))
    request, selection = _shown(out / "request.json"), _shown(out / "selection.parquet")
    start = (
        "" if kept_at else f"  TAMIS_HOME={shlex.quote(_shown(home))} {tamis} serve &    # wait for 'Tamis is ready'\n"
    )
    jobs = f"{kept_at or DEFAULT_URL}/v1/jobs"
    client = f"Client({kept_at!r})" if kept_at else "Client()"
    return f"""\
The same by hand; the demo's job is kept, a new one gets an id of its own:

{start}  curl -f {jobs} -H 'Content-Type: application/json' -d @{shlex.quote(request)}
  curl -f {jobs}/{job_id} -H 'Prefer: wait=30'
  curl -f {jobs}/{job_id}/selection.parquet -o {shlex.quote(selection)}

or from Python ({python}):

  import json
  from tamis.service.client import Client

  with {client} as client:
      job = client.submit(json.load(open({request!r})))
      job.wait(progress=True).download({selection!r})
      print(job.report()["evidence"]["distance"])"""


def _shown(path: Path) -> str:
    """Write a path as a user would type it in the current folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def demo(
    target: Annotated[Domain, typer.Option(help="What to select.")] = Domain.SPEECHES,
    rows: Annotated[int, typer.Option(min=1, max=12_000, help="How many documents to select.")] = 400,
    out: Annotated[Path, typer.Option(help="Folder for the selection, the report and the request.")] = Path("demo-out"),
    home: Annotated[Path, typer.Option(help="State of the demo's service.")] = Path(".tamis/demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running until Ctrl-C.")] = False,
) -> None:
    """Select documents like a target's from a mixed pool of real text, with a running service."""
    console = Console()
    out, home = out.absolute(), home.absolute()
    # Whoever stops the demo stops it through the `finally` that stops the service. SIGINT too: a shell's background job
    # starts with it ignored.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        if not DATA.is_dir():
            raise DemoFailed(
                f"There is no data at {DATA}: the demo runs in a checkout of the repository, by `make demo`."
            )
        out.mkdir(parents=True, exist_ok=True)
        (out / "request.json").write_text(json.dumps(job_request(DATA, target, rows), indent=2) + "\n")
        console.print("\n  pool    12,000 documents of 12 domains, which Tamis does not see")
        console.print(f"  target  [bold]{TARGETS[target].title}[/]\n  budget  {rows} documents\n", highlight=False)
        start = time.monotonic()
        compiled = any((home / "cache").glob("numba-*/*"))
        with running_service(home, DATA) as url:
            if not compiled:
                console.print("  The kernels are compiled first, this once: a quarter of a minute.")
            _select_and_show(console, url, target, out, home, keep=keep)
            if keep:
                console.print(f"\nThe service is still at {url}. Ctrl-C stops it.")
                signal.pause()
        console.print(f"\nDone in {time.monotonic() - start:.1f} s; the service is stopped.")
    except KeyboardInterrupt:
        console.print("\nStopped, and the service with it.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (TamisError, OSError) as error:
        failure = Console(stderr=True, soft_wrap=True, highlight=False)
        failure.print(f"The demo failed: {error}", style="red", markup=False)
        failure.print(f"To start afresh, remove {home} and run it again.", markup=False)
        raise typer.Exit(1) from error


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _select_and_show(console: Console, url: str, target: Domain, out: Path, home: Path, *, keep: bool) -> None:
    console.print(f"  The service is ready at {url}.")
    submitted = time.monotonic()
    with Client(url) as client:
        job = _run_job(console, client, out)
    report = json.loads((out / "report.json").read_text())
    console.print(f"  {job.id} took {time.monotonic() - submitted:.1f} s.\n")
    console.print(composition_table(report, target), "", _findings(report, target), "", _results(out), "", sep="\n")
    # Unwrapped and unmarked: it is there to be copied.
    console.print(
        _do_it_yourself(out, home, job.id, url if keep else None), soft_wrap=True, markup=False, highlight=False
    )


if __name__ == "__main__":
    typer.run(demo)
