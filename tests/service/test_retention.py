"""What is kept and what goes; removals that are cut off in the middle."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tamis.selectors.signals.store import SignalStore
from tamis.service import retention
from tamis.service.retention import Retention
from tamis.service.settings import Settings
from tamis.service.store import Claim, Store

Submit = Callable[..., Any]

HOUR = 3600.0


@pytest.fixture
def keeping(store: Store, home: Path) -> Callable[..., Retention]:
    """Make a retention: ``keeping(TAMIS_KEEP_BYTES=5)``."""

    def make(**environment: Any) -> Retention:
        texts = {name: str(value) for name, value in environment.items()}
        settings = Settings.from_environment({"TAMIS_HOME": str(home), **texts})
        settings.create_folders()
        return Retention(store, settings)

    return make


@pytest.fixture
def finished(store: Store, submit: Submit, home: Path) -> Callable[[int], str]:
    """Make a job that has succeeded, with files of so many bytes."""

    def make(size: int) -> str:
        job_id: str = submit().job_id
        claim = store.queue.claim("w", 60)
        assert claim is not None and claim.job.id == job_id
        folder = home / "jobs" / job_id
        (folder / "work").mkdir(parents=True)
        (folder / "selection.parquet").write_bytes(b"x" * (size - 1))
        (folder / "work" / "signal").write_bytes(b"x")
        store.queue.succeed(claim.lease)
        return job_id

    return make


def left(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "jobs").iterdir())


def test_everything_is_kept_unless_asked(home: Path, keeping: Any, finished: Any) -> None:
    made = [finished(10) for _ in range(2)]
    keeping().sweep()
    assert left(home) == made


def test_results_are_kept_for_so_long(*, store: Store, home: Path, keeping: Any, finished: Any, submit: Submit) -> None:
    job_id = finished(10)
    keeping(TAMIS_KEEP_SECONDS=60).sweep()
    assert left(home) == [job_id]
    time.sleep(0.01)
    keeping(TAMIS_KEEP_SECONDS=0).sweep()
    assert left(home) == [] and store.jobs.get(job_id).expired_at is not None


def test_the_oldest_results_go_first(*, store: Store, home: Path, keeping: Any, finished: Any, submit: Submit) -> None:
    first, second, third = finished(10), finished(1000), finished(10)
    submit(uses=[first])
    keeping(TAMIS_KEEP_BYTES=1020).sweep()
    assert left(home) == [first, second, third]
    keeping(TAMIS_KEEP_BYTES=1019).sweep()
    assert left(home) == [first, third]  # the first is being read
    assert store.jobs.get(second).state == "succeeded"


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_removal_that_is_cut_off_is_done_by_the_next_sweep(
    *, store: Store, home: Path, keeping: Any, finished: Any, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    """As by a SIGKILL: before the folder is put aside, and before it is removed."""

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    job_id = finished(10)
    store.jobs.delete(job_id)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*((Path, "rename", die) if cut == "before" else (retention, "_remove", die)))
        keeping().remove_files(job_id)
    (rest,) = left(home)
    assert rest == job_id if cut == "before" else rest.startswith(".removed-")
    keeping().sweep()
    assert left(home) == [] and store.removals.pending() == []


def test_a_resume_is_not_robbed_of_its_files(*, store: Store, home: Path, keeping: Any, submit: Submit) -> None:
    job_id = submit().job_id
    store.jobs.request_cancel(job_id)
    (home / "jobs" / job_id).mkdir(parents=True)
    assert store.removals.expire(job_id)
    store.jobs.resume(job_id)
    keeping().remove_files(job_id)
    assert left(home) == [job_id]


def signal(home: Path, name: str, age: float, size: int = 100) -> Path:
    path = home / "signals" / name[:2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_signals_go_when_nobody_used_them(home: Path, keeping: Any) -> None:
    old, older = signal(home, "aa.arrow", 2 * HOUR), signal(home, "ab.arrow", 3 * HOUR)
    new = signal(home, "bb.arrow", 0)
    keeping(TAMIS_KEEP_SIGNALS_BYTES=200).sweep()
    assert [path.exists() for path in (older, old, new)] == [False, True, True]
    keeping(TAMIS_KEEP_SIGNALS_SECONDS=int(HOUR)).sweep()
    assert [path.exists() for path in (old, new)] == [False, True]


def test_signals_that_a_running_job_may_use_stay(store: Store, submit: Submit, home: Path, keeping: Any) -> None:
    submit()
    claim = store.queue.claim("w", 60)
    assert isinstance(claim, Claim) and claim.job.started_at is not None
    used = signal(home, "aa.arrow", 30)
    unused = signal(home, "bb.arrow", 2 * HOUR)
    assert SignalStore(home / "signals").use("bb") and unused.stat().st_mtime > time.time() - HOUR
    keeping(TAMIS_KEEP_SIGNALS_BYTES=0).sweep()
    assert used.exists() and unused.exists()


def test_leftovers_of_killed_processes_go(home: Path, keeping: Any) -> None:
    old, new = signal(home, ".aa-1.tmp", 2 * HOUR), signal(home, ".aa-2.tmp", 60)
    keeping().sweep()
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_vanishes_meanwhile(home: Path, keeping: Any, finished: Any) -> None:
    finished(10)
    shutil.rmtree(home / "signals", ignore_errors=True)
    shutil.rmtree(home / "jobs")
    keeping(TAMIS_KEEP_BYTES=0, TAMIS_KEEP_SIGNALS_BYTES=0).sweep()
