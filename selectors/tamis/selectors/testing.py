"""`check_selector`: the contract of a selector as a test, which Tamis's own selectors pass.

Usage, in the tests of a package with a selector of its own::

    from tamis.selectors.testing import check_selector

    def test_contract() -> None:
        check_selector(LongestDocuments)
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.selectors.datasets import LocalStorage
from tamis.selectors.errors import Cancelled, DataError, Infeasible, Invalid, TamisError
from tamis.selectors.jobs import catalogue
from tamis.selectors.jobs.execute import execute_opened
from tamis.selectors.jobs.open import Environment, open_job
from tamis.selectors.jobs.plan import plan_opened
from tamis.selectors.results.result import REPORT, SELECTION
from tamis.selectors.run.observer import Unobserved
from tamis.selectors.run.progress import REPORT as REPORT_PHASE
from tamis.selectors.run.questions import Answer
from tamis.selectors.run.selector import Selector
from tamis.selectors.schema.request import JobSpec
from tamis.selectors.testing_data import make_table, make_visits

ROWS = 600
TARGET_ROWS = 120
EPOCHS = 5
BUDGET = 60
SEED = 5
BAD_ROW = 150
"""The row whose values are taken away."""

STOPS = (1, 4, 9)
"""Units after which a job is stopped."""


def check_selector(kind: type[Selector], params: Mapping[str, Any] | None = None, answer: Answer | None = None) -> None:
    """Hold a selector to the contract of the plugin API, on small generated data with a column for every role.

    It checks that

    - its description is complete and its parameters refuse unknown names;
    - its plan names the phases that it enters, and the memory it holds stays within the plan;
    - instances hold their parameters only, so that the report depends on nothing but the decision;
    - the same request gives the same bytes with 1, 2 and 7 threads, and after a stop at several places;
    - a budget in rows, as a fraction and in size is met exactly or refused with a pointer, strata stay within their
      bounds, excluded rows stay out and preselected ones in;
    - a row whose values are missing is refused with its place or selected soundly;
    - the first rows by rank are the smaller selection, where the class says that it is `nested`.

    Parameters
    ----------
    kind : type of Selector
        The class; it need not be registered.
    params : mapping, optional
        Parameters for the requests; those of the first example in the JSON Schema of `Params`, or the defaults, when
        left out.
    answer : callable, optional
        Scores the rows that the selector asks about.

    Raises
    ------
    AssertionError
        With a sentence that says what the selector does and what it should do.
    """
    if params is None:
        params = next(iter(kind.Params.model_json_schema().get("examples", [])), {})
    with tempfile.TemporaryDirectory(prefix="tamis-check-") as folder, catalogue.added(kind):
        bench = _Bench(kind, dict(params), answer, Path(folder))
        bench.write_data()
        for check in CHECKS:
            check(bench)


# -- data


class _Recorder(Unobserved):
    """Records the phases that were entered, and stops a job after some units."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.phases: list[str] = []
        self._left = stop_after

    def log(self, level: str, message: str, **fields: Any) -> None:
        if "phase" in fields:
            self.phases.append(fields["phase"])

    def unit(self, unit: Any) -> None:
        if self._left is not None:
            self._left -= 1

    def cancelled(self) -> bool:
        return self._left is not None and self._left <= 0


@dataclass(frozen=True)
class _Result:
    folder: Path
    sha256: str
    phases: list[str]
    state: set[str]  # attributes of the instance after the job

    @property
    def table(self) -> pa.Table:
        return pq.read_table(self.folder / SELECTION)

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.folder / REPORT).read_text())
        return report

    def rows_by_rank(self) -> list[int]:
        rows: list[int] = self.table.sort_by("rank").column("row").to_pylist()
        return rows


@dataclass
class _Bench:
    """A selector, and jobs of its on generated data."""

    kind: type[Selector]
    params: dict[str, Any]
    answer: Answer | None
    folder: Path
    pool: pa.Table = field(default_factory=lambda: make_table(ROWS, 1))
    count: int = 0

    def write_data(self) -> None:
        self.write_pool("pool", self.pool)
        pq.write_table(make_table(TARGET_ROWS, 2), self.folder / "target.parquet")
        labels = self.pool.column("label").to_numpy()
        for epoch in range(EPOCHS):
            pq.write_table(make_visits(labels, epoch), self.folder / f"visits-{epoch}.parquet", row_group_size=250)

    def write_pool(self, name: str, pool: pa.Table) -> None:
        pq.write_table(pool.slice(0, 350), self.folder / f"{name}-0.parquet", row_group_size=100)
        pq.write_table(pool.slice(350), self.folder / f"{name}-1.parquet", row_group_size=100)

    def request(self, pool: str = "pool", **fields: Any) -> dict[str, Any]:
        """Return a request of the selector, with `fields` in place of its own."""
        needs = self.kind.make(self.kind.Params.model_validate(self.params)).needs()
        request: dict[str, Any] = {
            "dataset": {"shards": [str(self.folder / f"{pool}-*.parquet")]},
            "selector": {"name": self.kind.name, "params": self.params},
            "budget": {"rows": BUDGET},
            "seed": SEED,
        }
        if needs.target:
            request["target"] = {"datasets": [{"shards": [str(self.folder / "target.parquet")]}]}
        if needs.dynamics:
            request["dynamics"] = {"shards": [str(self.folder / "visits-*.parquet")]}
        return request | fields

    def environment(self, threads: int = 2, cache: str | None = None) -> Environment:
        self.count += 1
        return Environment(LocalStorage(), self.folder / (cache or f"cache-{self.count}"), threads)

    def run(
        self,
        request: Mapping[str, Any],
        environment: Environment | None = None,
        out: Path | None = None,
        observer: _Recorder | None = None,
    ) -> _Result:
        """Run a job; raises what it raises."""
        environment, observer = environment or self.environment(), observer or _Recorder()
        out = out or self.folder / f"out-{self.count}"
        opened = open_job(JobSpec.model_validate(request), environment)
        execute_opened(opened, out, environment, observer, self.answer)
        digest = hashlib.sha256((out / SELECTION).read_bytes()).hexdigest()
        return _Result(out, digest, observer.phases, set(vars(opened.selector)))

    def fail(self, sentence: str) -> AssertionError:
        return AssertionError(f"The selector '{self.kind.name}' {sentence}")

    @contextmanager
    def only_tamis_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (TamisError, AssertionError):
            raise
        except Exception as error:
            raise self.fail(f"ended {what} with {type(error).__name__}: {error}") from error


# -- checks


def _check_description(bench: _Bench) -> None:
    info = catalogue.info(bench.kind.name)
    for name in ("name", "summary", "citation", "cost"):
        if not getattr(info, name).strip():
            raise bench.fail(f"says nothing of its {name}: give the class attribute `{name}`.")
    if "\n" in info.summary:
        raise bench.fail("has a summary of several lines: one sentence is shown in the catalogue.")
    try:
        catalogue.find(JobSpec.model_validate(bench.request()).selector)
        wrong = bench.request(selector={"name": info.name, "params": bench.params | {"no_such_parameter": 1}})
        catalogue.find(JobSpec.model_validate(wrong).selector)
    except Invalid as error:
        if "no_such_parameter" not in str(error.pointer):
            raise bench.fail(f"does not accept the parameters {bench.params}: {error.detail}") from error
    else:
        raise bench.fail("accepts unknown parameters: derive Params from tamis.selectors.plugin.Params.")


def _check_plan(bench: _Bench) -> None:
    environment = bench.environment()
    opened = open_job(JobSpec.model_validate(bench.request()), environment)
    plan = plan_opened(opened, environment)
    names = [phase.name for phase in plan.phases]
    if len(set(names)) != len(names):
        raise bench.fail(f"plans a phase twice: {', '.join(names)}.")
    if names[-1] != REPORT_PHASE:
        raise bench.fail(f"plans phases after the report: {', '.join(names)}.")
    if any(phase.cpu_seconds < 0 or phase.bytes_to_read < 0 or phase.units < 0 for phase in plan.phases):
        raise bench.fail("plans negative costs.")
    tracemalloc.start()
    try:
        result = bench.run(bench.request(), environment)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    entered = list(dict.fromkeys(result.phases))
    if entered != [name for name in names if name in entered]:
        raise bench.fail(f"enters its phases as {', '.join(entered)}, but plans {', '.join(names)}.")
    if unentered := [name for name in names if name not in entered]:
        raise bench.fail(f"plans phases that it does not enter: {', '.join(unentered)}.")
    if peak > plan.peak_memory_bytes:
        raise bench.fail(f"held {peak:,} bytes, but plans {plan.peak_memory_bytes:,}: see `memory`.")
    if result.state != {"params"}:
        smuggled = ", ".join(sorted(result.state - {"params"}))
        raise bench.fail(f"keeps state on its instance ({smuggled}): hand it to `evidence` in Decision.facts.")


def _check_same_bytes(bench: _Bench) -> None:
    digests = {threads: bench.run(bench.request(), bench.environment(threads)).sha256 for threads in (1, 2, 7)}
    if len(set(digests.values())) != 1:
        raise bench.fail(f"gives other bytes with other numbers of threads: {digests}.")
    expected = digests[1]
    for stop in STOPS:
        environment = bench.environment()
        out = bench.folder / f"stopped-{stop}"
        with suppress(Cancelled):
            bench.run(bench.request(), environment, out, _Recorder(stop_after=stop))
        if bench.run(bench.request(), environment, out).sha256 != expected:
            raise bench.fail(f"gives other bytes after a stop at unit {stop}.")


def _refused_or(bench: _Bench, request: Mapping[str, Any], what: str) -> _Result | None:
    """Run a request; None where it is refused with a pointer."""
    with bench.only_tamis_errors(what):
        try:
            return bench.run(request)
        except Invalid as error:
            if error.pointer is None:
                raise bench.fail(
                    f"refuses {what} without a pointer to a field of the request: {error.detail}"
                ) from error
            return None


def _check_budgets(bench: _Bench) -> None:
    sizes = bench.pool.column("size").to_numpy()
    for budget, rows in (({"rows": BUDGET}, BUDGET), ({"fraction": 0.05}, int(0.05 * ROWS)), ({"rows": 1}, 1)):
        result = _refused_or(bench, bench.request(budget=budget), f"the budget {budget}")
        if result is not None:
            _check_rows(bench, result, rows, f"the budget {budget}")
    request = bench.request(budget={"size": 400})
    result = _refused_or(bench, request, "a budget in size")
    if result is not None and (total := int(sizes[result.table.column("row").to_numpy()].sum())) > 400:
        raise bench.fail(f"takes a size of {total}, above the budget of 400.")
    strata = {"by": "group", "default": {"max_share": 0.5}, "quotas": {"g1": {"min": 15}}}
    result = _refused_or(bench, bench.request(strata=strata), "strata")
    if result is None:
        return
    _check_rows(bench, result, BUDGET, "strata")
    groups = np.array(bench.pool.column("group").to_pylist())[result.table.column("row").to_numpy()]
    counts = {name: int((groups == name).sum()) for name in ("g0", "g1", "g2")}
    short = counts["g1"] < 15 and not result.report["warnings"]
    if max(counts["g0"], counts["g2"]) > BUDGET // 2 or short:
        raise bench.fail(f"takes {counts} rows of the strata, outside their bounds {strata}.")


def _check_rows(bench: _Bench, result: _Result, rows: int, what: str) -> None:
    """Compare the number of rows with the request; fewer need a warning that says why."""
    table = result.table
    if table.num_rows > rows or (table.num_rows < rows and not result.report["warnings"]):
        raise bench.fail(f"takes {table.num_rows} rows for {what}, which asks {rows}.")
    if sorted(table.column("rank").to_pylist()) != list(range(table.num_rows)):
        raise bench.fail(f"gives ranks that are not 0 to {table.num_rows - 1} for {what}.")


def _check_earlier_selections(bench: _Bench) -> None:
    first = bench.run(bench.request())
    earlier, path = set(first.table.column("row").to_pylist()), str(first.folder / SELECTION)
    result = _refused_or(bench, bench.request(exclude=[path]), "excluded rows")
    if result is not None and earlier & set(result.table.column("row").to_pylist()):
        raise bench.fail("takes excluded rows.")
    wider = bench.request(preselected=path, budget={"rows": 2 * BUDGET})
    result = _refused_or(bench, wider, "preselected rows")
    if result is not None and not earlier <= set(result.table.column("row").to_pylist()):
        raise bench.fail("drops preselected rows.")


def _check_bad_rows(bench: _Bench) -> None:
    needs = bench.kind.make(bench.kind.Params.model_validate(bench.params)).needs()
    for role in dict.fromkeys((*needs.roles, *needs.either)):
        column = bench.pool.column(role)
        values = column.to_pylist()
        values[BAD_ROW] = None
        place = bench.pool.column_names.index(role)
        bench.write_pool(f"bad-{role}", bench.pool.set_column(place, role, pa.array(values, column.type)))
        with bench.only_tamis_errors(f"a job over a null in the column {role}"):
            try:
                result = bench.run(bench.request(f"bad-{role}"))
            except (DataError, Infeasible, Invalid) as error:
                if error.pointer is None and not error.where:
                    raise bench.fail(f"refuses a null in {role} without its place: {error.detail}") from error
                continue
        scores = result.table.column("score").to_numpy()
        if not np.isfinite(scores).all():
            raise bench.fail(f"selects rows without a score where {role} holds a null.")


def _check_prefix(bench: _Bench) -> None:
    if not bench.kind.nested:
        return
    whole = bench.run(bench.request()).rows_by_rank()
    half = bench.run(bench.request(budget={"rows": len(whole) // 2})).rows_by_rank()
    if whole[: len(half)] != half:
        raise bench.fail(
            "says that it is nested, but the first rows by rank are not the smaller selection: set nested to False."
        )


CHECKS: tuple[Callable[[_Bench], None], ...] = (
    _check_description,
    _check_plan,
    _check_same_bytes,
    _check_budgets,
    _check_earlier_selections,
    _check_bad_rows,
    _check_prefix,
)
"""In order; each raises `AssertionError`."""
