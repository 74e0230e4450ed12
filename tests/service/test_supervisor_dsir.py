"""The real thing: DSIR on the demo's data, through the store, the supervisor and the job process."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.selectors.jobs.execute import execute
from tamis.selectors.jobs.open import Environment, open_job
from tamis.selectors.schema.request import JobSpec
from tamis.service.job_state import JobState
from tamis.service.store import Job, Store
from tamis.service.worker.job_process import EXECUTE

Submit = Callable[..., Any]
StartWorker = Callable[..., Any]
Ended = Callable[[str], Job]
WaitUntil = Callable[[Callable[[], Any], Callable[[Any], object]], Any]

COPIES = 20


@pytest.fixture(scope="session")
def candidates(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's pool many times over, in small row groups, so that there is a middle in which to kill."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted((demo_data / "pool").glob("*.parquet"))])
    path = tmp_path_factory.mktemp("candidates") / "pool.parquet"
    pq.write_table(pa.concat_tables([table] * COPIES), path, row_group_size=3000)
    return path


@pytest.fixture
def spec(candidates: Path, demo_data: Path) -> dict[str, Any]:
    return {
        "dataset": {"shards": [str(candidates)], "columns": {"text": "text"}},
        "target": {"datasets": [{"shards": [str(demo_data / "targets" / "python.parquet")]}]},
        "selector": {"name": "dsir", "params": {}},
        "budget": {"rows": 500},
        "seed": 3,
    }


@pytest.fixture
def expected(spec: dict[str, Any], environment: Callable[..., Environment], tmp_path: Path) -> str:
    """The digest of the selection that the library makes of it."""
    execute(JobSpec.model_validate(spec), tmp_path / "library", environment(threads=1))
    return digest(tmp_path / "library")


def digest(out: Path) -> str:
    return hashlib.sha256((out / "selection.parquet").read_bytes()).hexdigest()


def test_the_service_makes_the_librarys_bytes(
    *, submit: Submit, worker: StartWorker, home: Path, ended: Ended, spec: dict[str, Any], expected: str
) -> None:
    worker(runner=EXECUTE)
    job = ended(submit(spec=spec).job_id)
    assert (job.state, job.attempts, job.error) == (JobState.SUCCEEDED, 1, None)
    assert job.progress is not None and job.progress["fraction"] == 1
    assert digest(home / "jobs" / job.id) == expected


def test_a_limit_that_is_enough(*, submit: Submit, worker: StartWorker, ended: Ended, spec: dict[str, Any]) -> None:
    """What the job says it needs before it runs is what the supervisor lets it have."""
    worker(runner=EXECUTE)
    job = ended(submit(spec=spec | {"limits": {"memory_bytes": 700 * 2**20, "seconds": 300}}).job_id)
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_job_gives_the_same_bytes(
    *,
    store: Store,
    submit: Submit,
    worker: StartWorker,
    home: Path,
    ended: Ended,
    wait_until: WaitUntil,
    spec: dict[str, Any],
    expected: str,
    seed: int,
) -> None:
    """The supervisor is killed, and its job with it, at a random moment of the work; another one goes on."""
    first = worker(runner=EXECUTE, lease=0.8)
    job_id = submit(spec=spec).job_id
    wait_until(lambda: store.jobs.get(job_id).progress, bool)
    time.sleep(random.Random(seed).random())
    first.kill()
    worker(runner=EXECUTE, lease=0.8)
    job = ended(job_id)
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    assert digest(home / "jobs" / job_id) == expected


def test_bad_data_fails_with_its_place(
    *, submit: Submit, worker: StartWorker, ended: Ended, spec: dict[str, Any], candidates: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.parquet"
    data = bytearray(candidates.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200_000] = random.Random(0).randbytes(200_000)
    broken.write_bytes(data)
    spec["dataset"] = {"shards": [str(broken)], "columns": {"text": "text"}}
    worker(runner=EXECUTE)
    job = ended(submit(spec=spec).job_id)
    assert job.state is JobState.FAILED and job.error is not None
    assert (job.error["code"], job.attempts) == ("bad-data", 1)
    assert job.error["shard"].endswith("broken.parquet") and "row_group" in job.error


def test_inputs_that_changed_while_the_job_waited(
    *,
    submit: Submit,
    worker: StartWorker,
    ended: Ended,
    spec: dict[str, Any],
    demo_data: Path,
    environment: Callable[..., Environment],
    tmp_path: Path,
) -> None:
    """A job never gives another result than the one it was accepted for."""
    shard = tmp_path / "pool.parquet"
    spec["dataset"] = {"shards": [str(shard)], "columns": {"text": "text"}}
    shard.write_bytes((demo_data / "pool" / "part-0.parquet").read_bytes())
    accepted = open_job(JobSpec.model_validate(spec), environment(threads=1)).fingerprint
    changed = submit(spec=spec, fingerprint=accepted).job_id
    shard.write_bytes((demo_data / "pool" / "part-1.parquet").read_bytes())
    worker(runner=EXECUTE)
    job = ended(changed)
    assert job.state is JobState.FAILED and job.error is not None
    assert (job.error["code"], job.attempts) == ("inputs-changed", 1)
    shard.write_bytes((demo_data / "pool" / "part-0.parquet").read_bytes())
    assert ended(submit(spec=spec, fingerprint=accepted).job_id).state is JobState.SUCCEEDED


def test_cancel_stops_real_work(
    *, store: Store, submit: Submit, worker: StartWorker, ended: Ended, wait_until: WaitUntil, spec: dict[str, Any]
) -> None:
    running = worker(runner=EXECUTE, grace=60)
    job_id = submit(spec=spec).job_id
    wait_until(lambda: store.jobs.get(job_id).progress, bool)
    store.jobs.request_cancel(job_id)
    job = ended(job_id)
    assert (job.state, job.error) == (JobState.CANCELLED, None)
    store.jobs.resume(job_id)
    assert ended(job_id).state is JobState.SUCCEEDED
    running.signal(signal.SIGTERM)
