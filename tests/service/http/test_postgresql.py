"""The service on PostgreSQL, and what it does while the server is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..postgresql import Server

Request = Callable[..., dict[str, Any]]


def test_the_service_on_postgresql(
    *, postgresql: Server, serve: Any, data: Path, request_of: Request, finish: Any, wait_until: Any
) -> None:
    url = postgresql.new_database("service")
    running = serve(TAMIS_DATABASE_URL=url, TAMIS_DATA_ROOTS=str(data))
    with running.http() as http:
        first = finish(http, request_of(labels={"run": "a"}))
        assert (first["state"], first["attempts"]) == ("succeeded", 1)
        assert http.get("/v1/jobs", params={"label": "run=\0"}).json()["items"] == []
        key = {"Idempotency-Key": "k"}
        answers = [http.post("/v1/jobs", json=request_of(seed=2), headers=key).json() for _ in range(2)]
        assert answers[0] == answers[1]

        postgresql.stop()
        away = http.get(first["links"]["self"])
        assert (away.status_code, away.json()["code"]) == (503, "storage")
        assert http.get("/readyz").status_code == 503
        assert http.post("/v1/jobs", json=request_of()).status_code == 503
        assert http.get("/healthz").status_code == 200
        postgresql.start()

        wait_until(lambda: http.get("/readyz").status_code, lambda status: status == 200)
        second = finish(http, request_of(seed=3))
        third = wait_until(lambda: http.get(answers[0]["links"]["self"]).json(), lambda job: job["terminal"])
        assert [second["state"], third["state"]] == ["succeeded"] * 2
    assert running.stop() == 0
    assert not (running.home / "tamis.sqlite3").exists()
