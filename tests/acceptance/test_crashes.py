"""A service whose processes are killed: no job is lost, none finishes twice, and the bytes are those of a run in peace.

`make chaos` does the same for longer, and tells what it did.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from .chaos import Storm, undisturbed
from .test_every_selector import request_for, table

KILLS = int(os.environ.get("TAMIS_CHAOS_KILLS", "60"))
SEED = int(os.environ.get("TAMIS_CHAOS_SEED", "7"))

SELECTORS = ("ccs", "dsir", "heuristic", "kcenter", "moderate", "random", "semdedup", "stratified", "topk")
"""Cheap, and of every kind: text, vectors, scores, targets."""

POOLS = 3
"""Datasets: what one job has left in the cache does for others of the same."""


def make_requests(folder: Path) -> dict[str, dict[str, Any]]:
    """Write datasets of many small row groups; give a request for every selector over each."""
    requests: dict[str, dict[str, Any]] = {}
    for pool in range(POOLS):
        place = folder / f"pool-{pool}"
        place.mkdir(parents=True)
        rows = table(600, 10 + pool)
        pq.write_table(rows.slice(0, 350), place / "pool-0.parquet", row_group_size=25)
        pq.write_table(rows.slice(350), place / "pool-1.parquet", row_group_size=25)
        pq.write_table(table(120, 2), place / "target.parquet")
        requests |= {f"{name}-{pool}": request_for(place, name, 0) for name in SELECTORS}
    return requests


@pytest.mark.slow
@pytest.mark.timeout(600 + 20 * KILLS)
def test_nothing_is_lost_under_sigkill(tmp_path: Path, kernel_cache: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").symlink_to(kernel_cache)
    requests = make_requests(tmp_path / "data")
    # First, for its kernels, too: a process that is killed while it compiles has to begin again.
    expected = dict(undisturbed(requests))
    account = Storm(home, requests, seed=SEED).run(KILLS)
    assert account.kills.total() >= KILLS and set(account.kills) == {"job process", "worker", "api"}
    assert account.attempts > len(account.jobs)  # the kills hit work under way
    assert account.digests == {job_id: expected[name] for job_id, name in account.jobs.items()}
    logging.getLogger("chaos").info(
        "%d jobs, each finished once with its bytes, in %d attempts, %d resumes after three deaths; %d whole files",
        *(len(account.jobs), account.attempts, account.resumed, account.files),
    )
