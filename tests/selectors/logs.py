"""Made-up logs of training dynamics, and runs that score by them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.selectors.datasets import Dataset
from tamis.selectors.features import difficulty
from tamis.selectors.features.difficulty import Difficulty
from tamis.selectors.features.difficulty_params import SourceParams
from tamis.selectors.jobs.open import Environment
from tamis.selectors.run.observer import Observer
from tamis.selectors.run.opened import Job
from tamis.selectors.run.run import Run
from tamis.selectors.schema.request import JobSpec, Manifest

from .runs import run_of


def lists(values: npt.NDArray[Any]) -> pa.Array:
    """Return rows of values as a fixed-size list column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def visits(rows: int = 60, classes: int = 4, epochs: int = 5, seed: int = 0) -> pa.Table:
    """Return a log in which every row is visited once an epoch, in another order each time."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    order = np.concatenate([random.permutation(rows) for _ in range(epochs)])
    logits = random.normal(0, 2, (rows * epochs, classes)) + 1.5 * (np.arange(classes) == labels[order][:, None])
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    columns = {"epoch": pa.array(np.repeat(np.arange(epochs), rows).astype(np.int32)), "row": pa.array(order)}
    return pa.table(columns | {"logits": lists(log_probs.astype(np.float16)), "label": pa.array(labels[order])})


def job(log: Sequence[Path] = (), candidates: Sequence[Path] = (), **columns: str) -> dict[str, Any]:
    """Return a job over candidates, with a log where one is given."""
    whole: dict[str, Any] = {
        "dataset": {"shards": [str(path) for path in candidates], "columns": columns},
        "selector": {"name": "random"},
        "budget": {"rows": 1},
    }
    return whole | ({"dynamics": {"shards": [str(path) for path in log]}} if log else {})


def candidates(folder: Path, rows: int = 60) -> list[Path]:
    """Write a dataset of that many rows, in three shards."""
    paths = [folder / f"candidates-{shard}.parquet" for shard in range(3)]
    for path, part in zip(paths, np.array_split(np.arange(rows), 3), strict=True):
        pq.write_table(pa.table({"id": pa.array(part)}), path)
    return paths


@contextlib.contextmanager
def scored_run(
    spec: Mapping[str, Any], params: SourceParams, environment: Environment, observer: Observer | None = None
) -> Iterator[Run]:
    """Open the datasets of `spec` for `params`, in the phase that scores."""
    needs = difficulty.needs(params)

    def opened(name: str, roles: Sequence[Any]) -> Dataset:
        manifest = Manifest.model_validate(spec[name])
        return Dataset.open(manifest, environment.storage, needs=set(roles), pointer=f"/{name}")

    dynamics = opened("dynamics", needs.dynamics) if needs.dynamics else None
    job = Job(JobSpec.model_validate(spec), opened("dataset", needs.roles), [], dynamics)
    with run_of(job, ["index", difficulty.PHASE], environment, observer) as run:
        yield run


def scores_of(spec: Mapping[str, Any], environment: Environment, **params: Any) -> tuple[npt.NDArray[Any], Difficulty]:
    """Return every candidate's score, and what else is known of them."""
    chosen = SourceParams.model_validate(params)
    with scored_run(spec, chosen, environment) as run:
        found = difficulty.scores(run, chosen)
        return np.concatenate([*found.columns, np.empty(0, np.float32)]), found
