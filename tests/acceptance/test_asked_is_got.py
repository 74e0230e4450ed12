"""Whatever is asked: exactly that is selected, or a problem points to the field of the request that can't be met.

Requests are drawn, and sent to a running service. What can be met is worked out here, by counting, so that neither a
refusal without need nor a selection of another size goes unnoticed. A budget in size is cut at whole rows, in the order
of the selector: there, what is checked is that nothing is exceeded, and that no refusal is without its reason.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from .conftest import Service

JOBS = int(os.environ.get("TAMIS_DRAWN_JOBS", "70"))
"""Requests drawn; one that runs takes half a second."""

ROWS = 240
KEPT = 12  # rows of each earlier selection
GROUPS = ("wiki", "web", "böoks/~", None)  # the third needs escapes in a JSON Pointer
CHANCES = (0.1, 0.6, 0.2, 0.1)
NULL_STRATUM = "null"

Json = dict[str, Any]
DRAWN = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


class Pool(NamedTuple):
    """The data, as the service is asked to read them and as the test counts them."""

    manifests: Mapping[str, Json]  # the same rows in two formats: of JSON lines only reading tells the number
    strata: np.ndarray  # of every row, by name
    scored: np.ndarray  # which rows have a finite score
    sizes: np.ndarray
    earlier: Mapping[str, list[str]]  # ids of two jobs that selected earlier, by format
    rows_of: Mapping[str, np.ndarray]  # of each of those jobs


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("asked")


@pytest.fixture(scope="module")
def pool(folder: Path, http: httpx.Client) -> Pool:
    draw = np.random.default_rng(3)
    groups = [GROUPS[number] for number in draw.choice(len(GROUPS), ROWS, p=CHANCES)]
    scores = draw.normal(size=ROWS)
    scores[draw.permutation(ROWS)[:30]] = [np.nan, np.inf, -np.inf] * 10
    sizes = draw.integers(0, 20, ROWS)
    vectors = draw.normal(size=(ROWS, 4)).round(1)  # some are equal
    table = pa.table({"group": groups, "score": scores, "size": sizes, "embedding": list(vectors)})
    for shard, (start, rows) in enumerate(((0, 100), (100, 0), (100, 1), (101, ROWS - 101))):
        pq.write_table(table.slice(start, rows), folder / f"part-{shard}.parquet", row_group_size=30)
    lines = [
        json.dumps(row | {"score": row["score"] if np.isfinite(row["score"]) else None}) for row in table.to_pylist()
    ]
    (folder / "all.jsonl").write_text("\n".join(lines))
    columns = {"group": "group", "size": "size"}
    manifests: Json = {
        "parquet": {"shards": [f"{folder}/part-*.parquet"], "columns": columns},
        "jsonl": {"shards": [f"{folder}/all.jsonl"], "columns": columns},
    }
    earlier: dict[str, list[str]] = {}
    rows_of: dict[str, np.ndarray] = {}
    for form, manifest in manifests.items():
        for seed in (1, 2):
            spec = {"dataset": manifest, "selector": {"name": "random"}, "budget": {"rows": KEPT}, "seed": seed}
            job = ended(http, http.post("/v1/jobs", json=spec))
            earlier.setdefault(form, []).append(job["id"])
            rows_of[job["id"]] = selection(http, job).column("row").to_numpy()
    strata = np.array([NULL_STRATUM if group is None else group for group in groups])
    return Pool(manifests, strata, np.isfinite(scores), sizes, earlier, rows_of)


def ended(http: httpx.Client, answer: httpx.Response) -> Json:
    assert answer.status_code == 202, answer.text
    job: Json = http.get(answer.headers["location"], headers={"Prefer": "wait=60"}).json()
    assert job["terminal"], job
    return job


def selection(http: httpx.Client, job: Json) -> pa.Table:
    assert job["state"] == "succeeded", job
    return pq.read_table(io.BytesIO(http.get(job["links"]["selection"]).content))


# -- what is drawn

SHARES = st.integers(0, 20).map(lambda parts: parts / 20)


@st.composite
def quotas(draw: st.DrawFn, most: int) -> Json:
    """Bounds that do not contradict each other by themselves: a minimum is mostly small, a maximum mostly large."""
    quota: Json = {}
    match draw(st.sampled_from(["min", "max", "both", "min_share", "max_share", "mixed"])):
        case "min":
            quota["min"] = draw(st.integers(0, max(1, most // 3)))
        case "max":
            quota["max"] = draw(st.integers(most // 3, most + 5))
        case "both":
            quota["min"], quota["max"] = sorted(draw(st.tuples(st.integers(0, most // 2), st.integers(0, most))))
        case "min_share":
            quota["min_share"] = draw(SHARES) / 2
        case "max_share":
            quota["max_share"] = draw(SHARES)
        case "mixed":  # which may contradict each other, by the budget
            quota["min"], quota["max_share"] = draw(st.integers(0, max(1, most // 4))), draw(SHARES)
    return quota


@st.composite
def requests(draw: st.DrawFn) -> Json:
    budget: Json = draw(
        st.one_of(
            st.integers(1, ROWS // 2).map(lambda rows: {"rows": rows}),
            st.integers(ROWS // 2, ROWS + 3).map(lambda rows: {"rows": rows}),
            st.integers(1, 1000).map(lambda parts: {"fraction": parts / 1000}),
            st.integers(1, 300).map(lambda size: {"size": size * 10.5}),
        )
    )
    most = int(next(iter(budget.values())) * (ROWS if "fraction" in budget else 1)) or 1
    request: Json = {
        "form": draw(st.sampled_from(["parquet", "jsonl"])),
        "selector": draw(
            st.sampled_from(
                [
                    {"name": "random"},
                    {"name": "topk", "params": {"order": "lowest"}},
                    {"name": "stratified"},
                    {"name": "stratified", "params": {"allocation": "equal"}},
                    {"name": "kcenter"},
                ]
            )
        ),
        "budget": budget,
        "seed": draw(st.integers(0, 2)),
        "kept": draw(st.sampled_from([None, None, None, 0])),
        "excluded": draw(st.sampled_from([[], [], [1], [1, 1], [0, 1]])),
    }
    if draw(st.booleans()):
        names = [*(name or NULL_STRATUM for name in GROUPS), "unknown"]
        strata: Json = {}
        if given := draw(st.dictionaries(st.sampled_from(names), quotas(most), max_size=3)):
            strata["quotas"] = given
        if draw(st.booleans()):
            strata["default"] = draw(quotas(most))
        if draw(st.booleans()):
            strata["on_shortfall"] = "redistribute"
        request["strata"] = strata
    return request


# -- what it comes to


class Asked(NamedTuple):
    """A request in whole numbers."""

    unit: str
    budget: int
    bounds: Mapping[str, tuple[int, int]]  # of every stratum that has rows
    broken: set[str]  # the fields of the request that can't be met; of a budget in size: as far as is known


def exact(value: float) -> Fraction:
    return Fraction(str(value))


def bound(quota: Json, budget: int) -> tuple[int, int]:
    low = max(quota.get("min", 0), ceil(exact(quota.get("min_share", 0)) * budget))
    high = min(quota.get("max", 10**9), floor(exact(quota.get("max_share", 10**9)) * budget))
    return low, high


def count(pool: Pool, request: Json) -> Asked:
    """Work out, by counting, what is asked and whether it can be met."""
    (unit, value), *_ = request["budget"].items()
    budget = max(1, floor(exact(value) * ROWS)) if unit == "fraction" else floor(value)
    amounts = pool.sizes if unit == "size" else np.ones(ROWS, np.int64)
    ids = pool.earlier[request["form"]]
    kept = np.zeros(ROWS, bool)
    if request["kept"] is not None:
        kept[pool.rows_of[ids[request["kept"]]]] = True
    gone = np.zeros(ROWS, bool)
    for index in request["excluded"]:
        gone[pool.rows_of[ids[index]]] = True
    free = (pool.scored if request["selector"]["name"] == "topk" else np.ones(ROWS, bool)) & ~kept & ~gone
    strata = request.get("strata", {})
    given, default = strata.get("quotas", {}), strata.get("default", {})
    soft = strata.get("on_shortfall") == "redistribute"
    resolved = {name: bound(quota, budget) for name, quota in given.items()} | {"": bound(default, budget)}
    taken = int(amounts[kept].sum())
    bounds, asked_lows, open_lows, reach = {}, 0, 0, 0
    broken = {
        "exclude": bool((kept & gone).any()),
        "preselected": taken > budget,
        "strata": any(low > high for low, high in resolved.values()),
    }
    for name in {*pool.strata.tolist(), *(() if soft else given)}:
        low, high = resolved.get(name, resolved[""])
        asked_lows += low
        inside = pool.strata == name
        have = int(amounts[inside & kept].sum())
        there = have + int(amounts[inside & free].sum())
        low = min(low, there) if soft else low
        broken["strata"] |= low > there
        broken["preselected"] |= have > high
        bounds[name] = low, high
        open_lows += max(0, low - have)
        reach += min(high, there)
    broken["strata"] |= asked_lows > budget or taken + open_lows > budget
    broken["budget"] = reach < budget
    if reach < budget:  # because of the maximums, where there are rows enough
        broken["strata"] |= "strata" in request
    if unit == "size" and request["selector"] == {"name": "stratified"}:
        broken["budget"] = True  # it shares a number of rows out
    return Asked(
        "size" if unit == "size" else "rows", budget, bounds, {field for field, is_so in broken.items() if is_so}
    )


def refused(problem: Json, request: Json, asked: Asked) -> None:
    """Check that a refusal says why, and points to a field of the request that can't be met."""
    assert problem["code"] in {"infeasible", "invalid-request"}, problem
    assert problem["errors"], problem
    # Of a budget in size, only the selector's order tells which whole rows fit.
    whole_rows = asked.unit == "size" and re.search("whole rows|larger than the budget", problem["detail"])
    for error in problem["errors"]:
        assert len(error["detail"]) > 20, problem
        assert whole_rows or error["pointer"].split("/")[1] in asked.broken, (problem, request, asked)
        place: Any = request
        for part in error["pointer"].split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            assert key in place if isinstance(place, dict) else int(key) < len(place), (problem, request)
            place = place[int(key) if isinstance(place, list) else key]


@settings(DRAWN, max_examples=JOBS)
@given(drawn=requests())
def test_achieved_is_asked_or_the_problem_names_what_binds(http: httpx.Client, pool: Pool, drawn: Json) -> None:
    asked = count(pool, drawn)
    ids = pool.earlier[drawn["form"]]
    request: Json = {key: drawn[key] for key in ("selector", "budget", "seed", "strata") if key in drawn}
    request["dataset"] = pool.manifests[drawn["form"]]
    request["exclude"] = [ids[index] for index in drawn["excluded"]]
    if drawn["kept"] is not None:
        request["preselected"] = ids[drawn["kept"]]
    note(json.dumps(request))
    answer = http.post("/v1/jobs", json=request)
    if answer.status_code == 422:
        event(f"refused at once: {answer.json()['errors'][0]['pointer']}")
        refused(answer.json(), request, asked)
        return
    job = ended(http, answer)
    if job["state"] == "failed":
        assert job["attempts"] == 1, "what can't get better is not tried again"
        event(f"refused as a job: {job['error']['errors'][0]['pointer']}")
        refused(job["error"], request, asked)
        return
    event(f"selected by {asked.unit}")
    assert not asked.broken, job
    chosen = selection(http, job)
    check(pool, asked, chosen, request)
    result = http.get(job["links"]["result"]).json()
    told = result["totals"]["rows"], sum(stratum["rows"] for stratum in result["strata"])
    assert told == (chosen.num_rows, chosen.num_rows)


def check(pool: Pool, asked: Asked, table: pa.Table, request: Json) -> None:
    """Check a selection against budget, bounds and earlier selections."""
    rows = table.column("row").to_numpy()
    amounts = pool.sizes[rows] if asked.unit == "size" else np.ones(len(rows), np.int64)
    assert len(np.unique(rows)) == len(rows) > 0
    achieved = int(amounts.sum())
    assert achieved == asked.budget if asked.unit == "rows" else achieved <= asked.budget
    if asked.unit == "size" and "strata" not in request:
        assert asked.budget - achieved < pool.sizes.max(), "the next row would have fitted, whatever its size"
    if "strata" in request:
        assert table.column("stratum").to_pylist() == pool.strata[rows].tolist()
        for name, (low, high) in asked.bounds.items():
            assert low <= int(amounts[pool.strata[rows] == name].sum()) <= high, (name, low, high)
    if "preselected" in request:
        assert np.isin(pool.rows_of[request["preselected"]], rows).all()
    for job in request["exclude"]:
        assert not np.isin(pool.rows_of[job], rows).any()
