"""Problems that end a job in the queue itself."""

from __future__ import annotations

from typing import Any


def worker_lost(attempts: int) -> dict[str, Any]:
    """Make the problem of a job whose workers stopped reporting in all its attempts."""
    return {
        "type": "urn:tamis:problem:worker-lost",
        "title": "The worker stopped reporting",
        "status": 500,
        "code": "worker-lost",
        "detail": f"the worker stopped reporting in each of {attempts} attempts, so the job is not started again; "
        "look at the worker's host (memory, restarts), then resume the job: its finished units are kept",
    }


def question_changed(round: int) -> dict[str, Any]:
    """Make the problem of a job whose question of a round differs from the stored one."""
    return {
        "type": "urn:tamis:problem:internal",
        "title": "Something went wrong in Tamis",
        "status": 500,
        "code": "internal",
        "detail": f"the job asked about other rows in round {round} than before; submit it again",
    }
