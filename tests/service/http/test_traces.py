"""Traces, as OpenTelemetry's SDK gets them from real processes: one from a submission to the phases of its job."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Request = Callable[..., dict[str, Any]]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

CONFIGURE = '''\
"""Imported by every Python process that starts: what `opentelemetry-instrument` does, with a file for a collector."""
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

out = open(os.path.join(os.environ["SPANS"], f"{os.getpid()}.jsonl"), "a", buffering=1)
one_line = lambda span: span.to_json(indent=None) + "\\n"
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=one_line)))
trace.set_tracer_provider(provider)
'''


@pytest.fixture
def traced(serve: Any, data: Path, tmp_path: Path) -> Any:
    (tmp_path / "sitecustomize.py").write_text(CONFIGURE)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    served = serve(TAMIS_DATA_ROOTS=str(data), PYTHONPATH=path, SPANS=str(tmp_path))
    yield served
    served.stop()


def spans(folder: Path) -> list[dict[str, Any]]:
    """All spans that have ended so far, of all processes."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return [span for line in lines if (span := json.loads(line))["context"]["trace_id"] == f"0x{TRACE}"]


def attempts(folder: Path, count: int) -> list[dict[str, Any]]:
    """The spans of attempts, once there are so many: an attempt's is written after its job's end."""
    deadline = time.monotonic() + 60
    while len(found := [span for span in spans(folder) if span["name"] == "attempt"]) < count:
        assert time.monotonic() < deadline, spans(folder)
        time.sleep(0.1)
    return found


def test_one_trace_from_the_submission_to_the_phases(
    traced: Any, request_of: Request, finish: Any, data: Path, tmp_path: Path
) -> None:
    broken = data / "broken-later.jsonl"
    broken.write_text('{"text": "a sail", "doc_id": 1, "topic": "x"}\n{"text": 7, "doc_id": 2, "topic": "x"}\n')
    with traced.http() as http:
        http.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
        good = finish(http, request_of())
        assert good["state"] == "succeeded"
        request = request_of()
        request["dataset"]["shards"] = [str(broken)]
        bad = finish(http, request | {"budget": {"rows": 1}})
        assert bad["state"] == "failed"
    by_job = {span["attributes"]["tamis.job"]: span for span in attempts(tmp_path, 2)}
    found = spans(tmp_path)
    submissions = [span for span in found if span["name"] == "HTTP /v1/jobs"]
    assert [span["parent_id"] for span in submissions] == [f"0x{PARENT}"] * 2
    assert [span["attributes"]["http.response.status_code"] for span in submissions] == [202, 202]
    assert {span["parent_id"] for span in by_job.values()} == {span["context"]["span_id"] for span in submissions}
    succeeded, failed = by_job[good["id"]], by_job[bad["id"]]
    assert (succeeded["status"]["status_code"], succeeded["attributes"]["tamis.outcome"]) == ("UNSET", "succeeded")
    assert (failed["status"]["status_code"], failed["attributes"]["error.type"]) == ("ERROR", bad["error"]["code"])
    phases = [span for span in found if span["parent_id"] == succeeded["context"]["span_id"]]
    # A phase that is over before the next report of progress is not seen.
    assert phases and all(span["name"].startswith("phase ") for span in phases)
    assert all(succeeded["start_time"] <= span["start_time"] <= span["end_time"] for span in phases)
