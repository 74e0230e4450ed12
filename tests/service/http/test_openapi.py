"""openapi.yaml: as the code has it, and complete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[3]
FILE = ROOT / "openapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text())
OPERATIONS = [
    (method, path, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
]

PROMISED = {
    "/v1/jobs": {"get", "post"},
    "/v1/jobs/plan": {"post"},
    "/v1/jobs/{job_id}": {"get", "delete"},
    "/v1/jobs/{job_id}/cancel": {"post"},
    "/v1/jobs/{job_id}/resume": {"post"},
    "/v1/jobs/{job_id}/questions": {"get"},
    "/v1/jobs/{job_id}/answers": {"post"},
    "/v1/jobs/{job_id}/events": {"get"},
    "/v1/jobs/{job_id}/logs": {"get"},
    "/v1/jobs/{job_id}/units": {"get"},
    "/v1/jobs/{job_id}/result": {"get"},
    "/v1/jobs/{job_id}/selection.parquet": {"get", "head"},
    "/v1/jobs/{job_id}/report": {"get"},
    "/v1/jobs/{job_id}/explain": {"get"},
    "/v1/selectors": {"get"},
    "/v1/selectors/{name}": {"get"},
    "/v1/datasets": {"get", "post"},
    "/v1/datasets/{dataset_id}": {"get", "delete"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
    "/v1/version": {"get"},
}


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tamis.service.api.openapi", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_the_file_is_as_the_code_has_it(tmp_path: Path) -> None:
    checked = generate("--check")
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout
    assert generate(str(tmp_path / "again.yaml")).returncode == 0
    assert (tmp_path / "again.yaml").read_bytes() == FILE.read_bytes()


def test_drift_is_shown(tmp_path: Path) -> None:
    drifted = tmp_path / "openapi.yaml"
    drifted.write_text(FILE.read_text().replace("/v1/jobs/plan:", "/v1/jobs/plans:"))
    checked = generate("--check", str(drifted))
    assert checked.returncode == 1
    assert "-  /v1/jobs/plans:" in checked.stdout
    assert "+  /v1/jobs/plan:" in checked.stdout
    assert generate("--check", str(tmp_path / "none.yaml")).returncode == 1


def test_it_is_what_is_served(http: httpx.Client) -> None:
    assert http.get("/openapi.json").json() == DOCUMENT


def test_every_promised_path_is_there() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    for path, methods in PROMISED.items():
        assert methods <= set(DOCUMENT["paths"][path]), path


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=[f"{m} {p}" for m, p, _ in OPERATIONS])
def test_every_operation_is_described(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"]
    errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
    assert "500" in errors
    assert ("404" in errors) or "{" not in path
    for status, answer in errors.items():
        content = answer["content"]
        assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}, status
    if "requestBody" in operation:
        assert {"400", "413", "415", "422"} <= set(errors)


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(DOCUMENT)
    names = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names <= set(DOCUMENT["components"]["schemas"])
    assert {"JobRequest", "JobResource", "Problem", "JobPlan", "JobResult"} <= names
    assert "HTTPValidationError" not in text


def test_every_public_field_of_a_job_is_described() -> None:
    fields = DOCUMENT["components"]["schemas"]["JobRequest"]["properties"]
    assert {"dataset", "target", "selector", "budget", "strata", "preselected", "exclude", "seed"} <= set(fields)
    assert {"limits", "output", "labels"} <= set(fields)
