"""Generated requests against a running service that asks for keys: what openapi.yaml promises is what is answered.

All of schemathesis's checks are on: no 5xx, only documented statuses, types and shapes, no answer without a key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

SCHEMA = schemathesis.openapi.from_path(str(Path(__file__).parents[3] / "openapi.yaml")).exclude(
    path="/readyz"  # this service has no worker, and says so with 503
)

DECIDED_BY_MEANING = {"POST /v1/jobs", "POST /v1/jobs/plan", "POST /v1/datasets", "GET /v1/jobs", "GET /v1/datasets"}
"""What fits the schema may be refused here: no schema says which files exist, or which cursor was given before."""

OPEN = {"/healthz"}
"""Answers without a key."""

EXAMPLES = 25
"""A method and path; enough to find what is wrong, few enough to run every time."""


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_generated_requests(case: schemathesis.Case[Any], guarded: httpx.Client) -> None:
    excluded: list[Any] = [] if case.operation.label not in DECIDED_BY_MEANING else [positive_data_acceptance]
    if "Authorization" not in (case.headers or {}):
        # The request is wrong for want of the key alone, perhaps, and the line below gives it one.
        excluded.append(negative_data_rejection)
    headers = {"Authorization": guarded.headers["Authorization"]} if case.operation.path not in OPEN else {}
    case.call_and_validate(base_url=str(guarded.base_url), headers=headers, timeout=60, excluded_checks=excluded)
