"""Reading of job files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from tamis.service.api.documents import parse

STDIN = "-"


def read_job_file(path: str) -> dict[str, Any]:
    """Read a job as JSON from a file, or from stdin for ``-``.

    Raises
    ------
    typer.BadParameter
        It can't be read, or is no JSON object.
    TamisError
        It is no JSON that could be stored.
    """
    try:
        content = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path} can't be read: {error.strerror}") from error
    document = parse(content)
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{path} holds no JSON object: a job looks like {{'dataset': …, 'selector': …, …}}")
    return document


def with_absolute_paths(job: dict[str, Any], base: Path) -> dict[str, Any]:
    """Make the shards' relative paths absolute: the service may run in another folder than the caller."""
    job = dict(job)
    if isinstance(job.get("dataset"), dict):
        job["dataset"] = _absolute(job["dataset"], base)
    target = job.get("target")
    if isinstance(target, dict) and isinstance(target.get("datasets"), list):
        job["target"] = target | {"datasets": [_absolute(dataset, base) for dataset in target["datasets"]]}
    return job


def _absolute(dataset: Any, base: Path) -> Any:
    if not isinstance(dataset, dict) or not isinstance(dataset.get("shards"), list):
        return dataset  # nothing to change, or wrong: the service says what
    return dataset | {"shards": [_absolute_shard(shard, base) for shard in dataset["shards"]]}


def _absolute_shard(shard: Any, base: Path) -> Any:
    if isinstance(shard, dict) and isinstance(shard.get("uri"), str):
        return shard | {"uri": _absolute_shard(shard["uri"], base)}
    if not isinstance(shard, str) or "://" in shard or shard.startswith("/") or not shard:
        return shard
    return str(base / shard)
