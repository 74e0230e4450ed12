"""Commands of ``tamis``."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.service.cli import output
from tamis.service.cli.job_files import read_job_file, with_absolute_paths
from tamis.service.cli.keys import keys
from tamis.service.client import DEFAULT_URL, Client, Job
from tamis.service.client.job import SELECTION
from tamis.service.job_state import JobState
from tamis.service.schema import SelectorResource
from tamis.service.settings import SERVICE_URL, setting_rows

app = typer.Typer(
    name="tamis",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(keys)

DEFAULT_PORT = int(DEFAULT_URL.rpartition(":")[2])

Url = Annotated[str, typer.Option("--url", envvar=SERVICE_URL.variable, help="Address of the service.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
JobFile = Annotated[str, typer.Argument(metavar="JOB.json", help="The job as JSON; '-' reads it from stdin.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="As many as there are CPUs, or TAMIS_THREADS, when left out.")
]
WaitSeconds = Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds to wait at most.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(installed_version("tamis"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Data selection as a service: submit a dataset, a target and a budget; download the selected rows."""


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others reach needs an API key (`tamis keys create`).")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORT,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Jobs at a time.")] = 1,
    worker: Annotated[bool, typer.Option(help="Whether to run jobs too, in a child process.")] = True,
    drain: Annotated[
        float,
        typer.Option(min=0, max=600, help="Seconds to go on answering after SIGTERM, new jobs refused with 503."),
    ] = 0,
) -> None:
    """Run the service: the HTTP API, and a worker as its child."""
    from tamis.service.cli.serve import run_service

    run_service(host, port, jobs=jobs if worker else 0, drain=drain)


@app.command()
def worker(
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Jobs at a time.")] = 1,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only tell whether a worker of this host reported lately."),
    ] = False,
) -> None:
    """Run jobs of the service that shares this TAMIS_HOME (or TAMIS_DATABASE_URL), without its HTTP API."""
    from tamis.service.worker.__main__ import main

    raise typer.Exit(main(["--check"] if check else ["--jobs", str(jobs)]))


@app.command()
def select(
    job_file: JobFile,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the result.", file_okay=False)],
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Run a job here and now, without a service."""
    from tamis.service.cli.select import run_locally

    manifest = run_locally(read_job_file(job_file), out, threads)
    if json:
        output.machine(manifest)


@app.command()
def submit(
    job_file: JobFile,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is over.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key and job give the same job again, for 24 h.")
    ] = None,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Submit a job; its id goes to stdout."""
    with Client(url) as client:
        job = client.submit(_job(job_file, client), idempotency_key=idempotency_key)
        if wait:
            if not json:
                typer.echo(job.id)
            _wait(job, None)
            output.show_job(job.resource)
        elif not json:
            typer.echo(job.id)
            output.console.print(f"Follow it: tamis wait {job.id}", style="dim")
        if json:
            output.machine(job.resource)


@app.command()
def plan(job_file: JobFile, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Check a job and say what it would need; nothing runs."""
    with Client(url) as client:
        planned = client.plan(_job(job_file, client))
    output.machine(planned) if json else output.show_plan(planned)


@app.command()
def status(job: JobId, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Look at a job."""
    with Client(url) as client:
        _show(client.job(job), json)


@app.command()
def wait(job: JobId, timeout: WaitSeconds = None, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Wait until a job is over; exits with 1 when it did not succeed."""
    with Client(url) as client:
        found = client.job(job)
        _wait(found, timeout)
        _show(found, json)


@app.command()
def download(
    job: JobId,
    out: Annotated[Path, typer.Option("-o", "--out", help="File, or a folder that is there.")] = Path(),
    file: Annotated[str, typer.Option(help="Which file of the result.")] = SELECTION,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Download a job's selection, or another file of its result; checked against its sha256."""
    with Client(url) as client:
        path = client.job(job).download(out, name=file)
    if json:
        output.machine({"path": str(path)})
    else:
        output.console.print(f"Downloaded {path}", markup=False)


@app.command()
def cancel(job: JobId, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Stop a job; finished units stay."""
    with Client(url) as client:
        _show(client.job(job).cancel(), json)


@app.command()
def resume(job: JobId, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Queue a failed or cancelled job again; only what is missing runs."""
    with Client(url) as client:
        _show(client.job(job).resume(), json)


@app.command()
def delete(job: JobId, url: Url = DEFAULT_URL) -> None:
    """Delete a finished job and its result."""
    with Client(url) as client:
        client.job(job).delete()
    output.console.print(f"Deleted {job}", markup=False)


@app.command("jobs")
def list_jobs(
    *,
    state: Annotated[str | None, typer.Option(help="queued, running, waiting, succeeded, failed, cancelled.")] = None,
    selector: Annotated[str | None, typer.Option(help="Name of a selector.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """List jobs, the newest first."""
    with Client(url) as client:
        found = client.jobs(state=_state(state), selector=selector, labels=_labels(label or []))
        resources = [job.resource for job in islice(found, limit)]
    if json:
        output.machine([resource.model_dump(mode="json") for resource in resources])
    else:
        output.show_jobs(resources)


@app.command()
def logs(job: JobId, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Show what a job logged."""
    with Client(url) as client:
        for entry in client.job(job).logs():
            if json:
                typer.echo(entry.model_dump_json())
            else:
                fields = " ".join(f"{key}={value}" for key, value in (entry.model_extra or {}).items())
                line = f"{entry.at:%H:%M:%S} {entry.level:7} {entry.message} {fields}"
                output.console.print(line.rstrip(), markup=False, soft_wrap=True)


@app.command()
def report(job: JobId, url: Url = DEFAULT_URL) -> None:
    """Write a job's report as JSON to stdout: the evidence that its selection is good."""
    with Client(url) as client:
        output.machine(client.job(job).report())


@app.command()
def selectors(
    name: Annotated[str | None, typer.Argument(help="Show this one, with its parameters.")] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", envvar=SERVICE_URL.variable, help="Ask this service; this installation's selectors when left out."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the selectors, or show one with its parameters; to stdout, and without a service unless one is named."""
    found = _selectors(name, url)
    if json:
        documents = [item.model_dump(mode="json") for item in found]
        output.machine(documents if name is None else documents[0])
    elif name is None:
        output.show_selectors(found)
    else:
        output.show_selector(found[0])


def _selectors(name: str | None, url: str | None) -> list[SelectorResource]:
    if url is None:
        from tamis.service.cli.select import installed_selectors

        return installed_selectors(name)
    with Client(url) as client:
        return client.selectors() if name is None else [client.selector(name)]


@app.command()
def settings(json: Json = False) -> None:
    """Show all settings: environment variable, value in effect, default, meaning."""
    rows = setting_rows()
    output.machine([row._asdict() for row in rows]) if json else output.show_settings(rows)


@app.command()
def warmup() -> None:
    """Compile all kernels into the cache, so that the first job does not have to."""
    from tamis.service.cli.select import compile_kernels

    seconds = compile_kernels()
    output.console.print(f"All kernels are compiled: {seconds:.1f} s")


def _job(job_file: str, client: Client) -> dict[str, Any]:
    document = read_job_file(job_file)
    return with_absolute_paths(document, Path.cwd()) if client.is_local else document


def _show(job: Job, json: bool) -> None:
    output.machine(job.resource) if json else output.show_job(job.resource)


def _wait(job: Job, timeout: float | None) -> None:
    job.wait(timeout=timeout, progress=output.console.is_terminal)


def _state(state: str | None) -> str | None:
    known = [str(one) for one in JobState]
    if state is not None and state not in known:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(known)}", param_hint="--state")
    return state


def _labels(options: list[str]) -> dict[str, str]:
    labels = {}
    for label in options:
        key, separator, value = label.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{label!r} is no key=value", param_hint="--label")
        labels[key] = value
    return labels
