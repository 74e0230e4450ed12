"""The library: `select`, and the `Selection` that it returns."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from tamis.selectors.datasets import LocalStorage
from tamis.selectors.errors import Invalid
from tamis.selectors.frames import as_number, is_list_of_datasets, to_manifest
from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment
from tamis.selectors.results import result as results
from tamis.selectors.run.observer import Observer
from tamis.selectors.run.questions import Answer
from tamis.selectors.schema.request import Budget, JobSpec, SelectorSpec, Target
from tamis.selectors.schema.response import ResultManifest
from tamis.selectors.schema.validation import field_errors

DatasetLike: TypeAlias = Any
"""A manifest; one path or glob, or several; or data in memory: see :func:`tamis.selectors.frames.to_manifest`."""


@dataclass(frozen=True)
class Selection:
    """A finished selection: its files, and what they say."""

    folder: Path
    manifest: ResultManifest

    @property
    def path(self) -> Path:
        """The selection as Parquet."""
        return self.folder / results.SELECTION

    def table(self) -> pa.Table:
        """Return the selection: row, shard, shard_row, score, rank, weight, stratum (and id where there is one)."""
        return results.read_selection(self.path)[0]

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The selected row numbers over the whole dataset, ascending."""
        rows: npt.NDArray[np.int64] = self.table().column("row").to_numpy()
        return rows

    def report(self) -> dict[str, Any]:
        """Return the evidence: see the README."""
        report: dict[str, Any] = json.loads((self.folder / results.REPORT).read_text())
        return report


def select(
    dataset: DatasetLike,
    target: DatasetLike | Target | Sequence[DatasetLike] | None = None,
    selector: str | SelectorSpec | Mapping[str, Any] = "dsir",
    budget: int | float | Budget | Mapping[str, Any] = 0.1,
    seed: int = 0,
    *,
    dynamics: DatasetLike | None = None,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    threads: int | None = None,
    observer: Observer | None = None,
    answer: Answer | None = None,
    **more: Any,
) -> Selection:
    """Select rows of `dataset`, here and now, without a server.

    Parameters
    ----------
    dataset
        A manifest (or its mapping), a path or glob (or several), or data in memory: an Arrow table, anything with
        ``__arrow_c_stream__`` (polars, pandas, DuckDB, `datasets.Dataset`), a pyarrow dataset, a NumPy array of one
        vector a row, or a list of dictionaries.
    target
        The same, or a list of tables or manifests, or a :class:`Target`.
    selector
        A name, or a name with parameters: ``{"name": "dsir", "params": {"normalize": "length"}}``.
    budget
        Rows (int), a fraction (float), or a mapping such as ``{"size": 3e9}``.
    seed
        The same seed gives the same rows.
    dynamics
        A log of training dynamics, for selectors that score rows by it: as `dataset`.
    out, cache : path, optional
        Where the result and the signals are kept; temporary folders when left out (the result's is not removed).
    threads : int, optional
        As many as there are cores when left out; decides speed, never the result.
    observer : Observer, optional
        Is told of progress, and asked whether to stop.
    answer : callable, optional
        For a selector that asks for scores of rows while it runs: gets a
        :class:`~tamis.selectors.run.questions.Question` (``round``; ``rows``, int64; ``shards``, ``shard_rows``,
        ``ids``) and returns a score for each of its rows, in their order, larger is better; NaN or None where a row has
        none. Called once for each round.
    **more
        Other fields of :class:`JobSpec`: ``strata``, ``exclude``, ``output``, …

    Returns
    -------
    Selection
        The folder of the result, and its rows and report.

    Raises
    ------
    TamisError
        With what is wrong, where, and what to do.
    """
    if threads is not None and threads < 1:
        raise Invalid(f"threads is {threads}; give 1 or more, or leave it out.")
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="tamis-"))
    tables = folder / "input"
    document: dict[str, Any] = {
        "dataset": to_manifest(dataset, tables),
        "target": _target(target, tables),
        "selector": {"name": selector} if isinstance(selector, str) else selector,
        "budget": _budget(budget),
        "seed": as_number(seed, "seed"),
        **({} if dynamics is None else {"dynamics": to_manifest(dynamics, tables, "/dynamics")}),
        **more,
    }
    try:
        spec = JobSpec.model_validate(document)
    except ValidationError as error:
        raise invalid_request(error, document) from error
    with tempfile.TemporaryDirectory(prefix="tamis-cache-") as temporary:
        environment = Environment(LocalStorage(), Path(cache or temporary))
        if threads is not None:
            environment = Environment(LocalStorage(), Path(cache or temporary), threads)
        return Selection(folder, execute(spec, folder, environment, observer, answer))


def invalid_request(error: ValidationError, document: Any) -> Invalid:
    """Return a validation error of a request as `Invalid`, with a JSON Pointer for each field at fault."""
    errors = field_errors(error, document, JobSpec)
    detail = "; ".join(f"{item['pointer'] or '/'}: {item['detail']}" for item in errors)
    return Invalid(f"The request does not fit: {detail}.", pointer=errors[0]["pointer"], errors=errors)


def _budget(budget: Any) -> Any:
    """Return a number of rows, or a fraction, as the request's budget."""
    if isinstance(budget, Budget | Mapping):
        return budget
    number = as_number(budget, "budget")
    return {"rows": number} if isinstance(number, int) else {"fraction": number}


def _target(target: Any, folder: Path) -> Any:
    if target is None or isinstance(target, Target):
        return target
    if isinstance(target, Mapping) and ("datasets" in target or "model" in target):
        return dict(target)
    datasets = target if is_list_of_datasets(target) else [target]
    return {"datasets": [to_manifest(item, folder, f"/target/datasets/{index}") for index, item in enumerate(datasets)]}
