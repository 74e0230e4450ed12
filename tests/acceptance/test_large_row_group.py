"""A row group whose text decodes to more than 2 GiB: read within the memory that the plan names.

It takes a minute or two, and less than half a gigabyte: the file is small, as its text repeats itself, and the service
decodes it piece by piece. Arrow's plain strings have 32-bit offsets, which do not reach over such a column. Files like
it also make jobs that run long enough for their data to be changed under them.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .conftest import Service

Job = dict[str, Any]
PATIENCE = 120.0
"""Seconds after which what does not come is a failure."""

BLOCK_ROWS = 1000
WORDS = ("ship wave sail ", "flour oven salt ", "tide and rope ", "bread butter ")


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120, trust_env=False) as client:
        yield client


def write_texts(path: Path, blocks: int, *, repeats: int = 1500, few: bool = False) -> None:
    """Write `blocks` times the same rows as one row group; `few` writes a dictionary of few distinct texts."""
    rows = range(BLOCK_ROWS)
    texts = pa.array([f"{row % 20 if few else row} " + WORDS[row % len(WORDS)] * repeats for row in rows])
    table = pa.table({"text": pa.chunked_array([texts] * blocks)})  # one buffer, named many times
    pq.write_table(table, path, row_group_size=table.num_rows, compression="zstd", use_dictionary=few)


def request_for(*shards: Path) -> Job:
    target = shards[0].with_name("target.parquet")
    pq.write_table(pa.table({"text": ["ship sail tide rope"] * 20}), target)
    return {
        "dataset": {"shards": [str(shard) for shard in shards]},
        "target": {"datasets": [{"shards": [str(target)]}]},
        "selector": {"name": "dsir", "params": {"buckets": 1000}},
        "budget": {"rows": 20},
    }


def ended(http: httpx.Client, path: str) -> Job:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        job: Job = http.get(path, headers={"Prefer": "wait=60"}).json()
        if job["terminal"]:
            return job
    pytest.fail(f"{path} did not end in {PATIENCE:.0f} seconds")


@pytest.mark.slow
@pytest.mark.parametrize("few", [False, True], ids=["distinct", "dictionary"])
def test_a_row_group_of_two_gigabytes(http: httpx.Client, tmp_path: Path, few: bool) -> None:
    path = tmp_path / "pool.parquet"
    write_texts(path, 110, few=few)
    metadata = pq.read_metadata(path)
    assert (metadata.num_row_groups, metadata.num_rows) == (1, 110 * BLOCK_ROWS)
    # What the metadata tell of a dictionary is its own size: only the text that it stands for is large.
    assert (metadata.row_group(0).total_byte_size > 2**31) != few
    job = request_for(path)
    planned = http.post("/v1/jobs/plan", json=job).json()["peak_memory_bytes"]
    assert planned < 2**30
    job["limits"] = {"memory_bytes": planned}  # a job that holds more is ended
    done = ended(http, http.post("/v1/jobs", json=job).headers["location"])
    assert done["state"] == "succeeded", done
    chosen = pq.read_table(io.BytesIO(http.get(done["links"]["selection"]).content))
    assert chosen.num_rows == 20
    totals = http.get(done["links"]["result"]).json()["totals"]
    assert totals["candidates"] == totals["eligible"] == 110 * BLOCK_ROWS


# -- data that change while they are read


def vanish(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    write_texts(path.with_name("other.parquet"), 1, repeats=2)
    path.with_name("other.parquet").rename(path)


def rewrite_in_place(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:200] = bytes(100)
    path.write_bytes(content)


def truncate_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(10)


@pytest.mark.parametrize("first", [True, False], ids=["the-one-that-is-read", "one-that-comes-later"])
@pytest.mark.parametrize("change", [vanish, replace, rewrite_in_place, truncate_in_place])
def test_a_shard_that_changes_while_the_job_runs(
    http: httpx.Client, tmp_path: Path, change: Callable[[Path], None], first: bool
) -> None:
    """The job fails and says which shard; it is not resumed over other data, and no result is given."""
    shards = [tmp_path / "first.parquet", tmp_path / "later.parquet"]
    for shard in shards:
        write_texts(shard, 40)
    path = http.post("/v1/jobs", json=request_for(*shards)).headers["location"]
    deadline = time.monotonic() + PATIENCE
    while not ((job := http.get(path).json())["progress"] or {}).get("rows_done"):
        assert not job["terminal"], job
        assert time.monotonic() < deadline
    changed = shards[0 if first else 1]
    change(changed)
    job = ended(http, path)
    assert job["state"] == "failed", job
    assert job["error"]["code"] == "inputs-changed", job["error"]
    if "shard" in job["error"]:
        assert job["error"]["shard"] == changed.as_uri()
        assert changed.name in job["error"]["detail"]
    else:  # a file cut under a mapping kills the process that reads it; the next attempt finds other inputs as a whole
        assert job["error"]["detail"].startswith("The job's inputs changed since it was accepted"), job["error"]
    refused = http.post(f"{path}/resume")
    assert (refused.status_code, refused.json()["code"]) == (412, "inputs-changed")
    assert http.get(f"{path}/selection.parquet").status_code == 409
