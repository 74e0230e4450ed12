"""API keys over HTTP: who is let in, to what, and whose jobs they see."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml
from typer.testing import CliRunner, Result

from tamis.selectors.errors import NotFound
from tamis.service.api.context import KEYS_POLL_INTERVAL_SECONDS
from tamis.service.api.origin_check import ForeignRequest, refuse_foreign
from tamis.service.cli.commands import app
from tamis.service.cli.output import show_error
from tamis.service.client import Client, ProblemError
from tamis.service.client.errors import BadApiKey
from tamis.service.settings import Settings
from tamis.service.store import Scope, Store

Request = Callable[..., dict[str, Any]]
DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[3] / "openapi.yaml").read_text())
ENDPOINTS = [(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item]
OPEN = {"/healthz", "/readyz"}
KEYED = [(method, path) for method, path in ENDPOINTS if path not in OPEN]
BOTH = (Scope.READ, Scope.SUBMIT)
VALUES = {"job_id": "job_00000000000000000000000000", "dataset_id": "ds_00000000000000000000000000", "name": "dsir"}


class Locked(NamedTuple):
    """A service without a worker that asks for keys."""

    url: str
    home: Path
    keys: dict[str, str]

    def http(self, name: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.keys[name]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)


def tamis(*arguments: str, **environment: str | None) -> Result:
    """Run a command of the command line in this process."""
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", **environment})


def make(home: Path, owner: str, *scopes: Scope, days: float | None = None) -> str:
    with closing(Store(Settings.from_environment({"TAMIS_HOME": str(home)}).database_url)) as store:
        store.migrate()
        lifetime = None if days is None else days * 86400
        return store.keys.create(owner=owner, scopes=scopes or BOTH, lifetime=lifetime).token


@pytest.fixture(scope="module")
def locked(serve: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Locked:
    home = tmp_path_factory.mktemp("locked")
    keys = {
        "ann": make(home, "ann"),
        "ann again": make(home, "ann", days=1),
        "bob": make(home, "bob"),
        "reader": make(home, "ann", Scope.READ),
        "submitter": make(home, "ann", Scope.SUBMIT),
        "admin": make(home, "root", Scope.ADMIN),
        "expired": make(home, "ann", days=0),
    }
    served = serve("--no-worker", "--host", "0.0.0.0", home=home, TAMIS_DATA_ROOTS=str(data))
    return Locked(served.url, home, keys)


@pytest.fixture(scope="module")
def clients(locked: Locked) -> Iterator[dict[str, httpx.Client]]:
    made = {name: locked.http(name) for name in locked.keys}
    yield made
    for client in made.values():
        client.close()


@pytest.fixture(scope="module")
def nobody(locked: Locked) -> Iterator[httpx.Client]:
    """Somebody without a key."""
    with httpx.Client(base_url=locked.url, timeout=60, trust_env=False) as client:
        yield client


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["code"] == code
    return document


@pytest.mark.parametrize(("method", "path"), KEYED)
def test_every_path_asks_for_a_key(locked: Locked, nobody: httpx.Client, method: str, path: str) -> None:
    address = path.format(**VALUES)
    wrong = locked.keys["ann"][:-4] + "0000"
    for header, code in [
        (None, "unauthorized"),
        ("", "unauthorized"),
        (f"Basic {wrong}", "unauthorized"),
        (f"Bearer {wrong}", "invalid-key"),
        ("Bearer", "invalid-key"),
        ("bearer \u00e9\u00e9", "invalid-key"),
        (f"Bearer {locked.keys['expired']}", "invalid-key"),
    ]:
        headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
        # A body that is no JSON, of no known type: nothing of it is looked at.
        content = b"{" if method == "POST" else None
        answer = nobody.request(method, address, headers=headers, content=content)
        assert answer.status_code == 401
        challenge = answer.headers["WWW-Authenticate"]
        assert challenge.startswith('Bearer realm="tamis"')
        assert ('error="invalid_token"' in challenge) == (code == "invalid-key")
        if method != "HEAD":
            problem(answer, 401, code)


def test_what_stays_open(nobody: httpx.Client) -> None:
    assert nobody.get("/healthz").status_code == 200
    assert nobody.get("/readyz").status_code == 503  # no worker, and it says so to anybody
    assert nobody.get("/openapi.json").status_code == 200


@pytest.mark.parametrize(("method", "path"), KEYED)
def test_scopes(clients: dict[str, httpx.Client], method: str, path: str) -> None:
    reads = method in {"GET", "HEAD"}
    allowed, refused = ("reader", "submitter") if reads else ("submitter", "reader")
    address = path.format(**VALUES)
    answer = clients[refused].request(method, address)
    assert answer.status_code == 403
    assert f'scope="{"read" if reads else "submit"}"' in answer.headers["WWW-Authenticate"]
    if method != "HEAD":
        problem(answer, 403, "insufficient-scope")
    for name in (allowed, "admin"):
        assert clients[name].request(method, address).status_code in {200, 404, 415}


def test_the_scheme_may_be_written_in_any_case(locked: Locked, nobody: httpx.Client) -> None:
    for scheme in ("bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {locked.keys['ann']}"}
        assert nobody.get("/v1/jobs", headers=headers).status_code == 200


def test_owners_see_their_own_only(clients: dict[str, httpx.Client], data: Path, request_of: Request) -> None:
    ann, bob, admin = clients["ann"], clients["bob"], clients["admin"]
    key = {"Idempotency-Key": "the-same"}
    job = ann.post("/v1/jobs", json=request_of(), headers=key).json()
    dataset = ann.post("/v1/datasets", json={"shards": [f"{data}/pool-0.parquet"]}).json()
    assert (job["owner"], dataset["owner"]) == ("ann", "ann")
    # Another key of the same owner opens the same.
    assert clients["ann again"].get(job["links"]["self"]).status_code == 200
    for method, path in ENDPOINTS:
        if "{job_id}" in path or "{dataset_id}" in path:
            address = path.format(job_id=job["id"], dataset_id=dataset["id"], name="selection.parquet")
            assert bob.request(method, address).status_code == 404, (method, path)
    assert bob.get("/v1/jobs").json()["items"] == []
    assert bob.get("/v1/datasets").json()["items"] == []
    # By reference neither: to use is to read.
    for changes, pointer in [
        ({"dataset": dataset["id"]}, "/dataset"),
        ({"exclude": [job["id"]]}, "/exclude/0"),
        ({"preselected": job["id"]}, "/preselected"),
        ({"target": {"model": job["id"]}}, "/target/model"),
        ({"target": {"datasets": [{"dataset": dataset["id"]}]}}, "/target/datasets/0/dataset"),
    ]:
        for address in ("/v1/jobs", "/v1/jobs/plan"):
            refused = problem(bob.post(address, json=request_of(**changes)), 404, "not-found")
            assert refused["errors"][0]["pointer"] == pointer
    # An idempotency key is its owner's.
    mine = bob.post("/v1/jobs", json=request_of(seed=1), headers=key)
    assert (mine.status_code, mine.json()["owner"]) == (202, "bob")
    assert "Idempotent-Replayed" not in mine.headers
    replayed = clients["ann again"].post("/v1/jobs", json=request_of(), headers=key)
    assert (replayed.json()["id"], replayed.headers["Idempotent-Replayed"]) == (job["id"], "true")
    # An admin sees and steers everybody's.
    seen = {one["id"]: one["owner"] for one in admin.get("/v1/jobs").json()["items"]}
    assert seen == {job["id"]: "ann", mine.json()["id"]: "bob"}
    assert admin.post("/v1/jobs/plan", json=request_of(dataset=dataset["id"])).status_code == 200
    assert admin.post(job["links"]["cancel"]).status_code in {200, 202}
    assert ann.get(job["links"]["self"]).json()["state"] == "cancelled"
    assert admin.delete(job["links"]["self"]).status_code == 204
    assert admin.delete(dataset["links"]["self"]).status_code == 204


def test_a_revoked_key_opens_nothing_at_once(locked: Locked) -> None:
    made = tamis("keys", "create", "carl", "--note", "laptop", TAMIS_HOME=str(locked.home))
    token = made.stdout.strip()
    assert (made.exit_code, len(made.stdout.splitlines())) == (0, 1)
    assert token not in made.stderr
    client = httpx.Client(base_url=locked.url, headers={"Authorization": f"Bearer {token}"})
    assert client.get("/v1/jobs").status_code == 200
    listed = json.loads(tamis("keys", "list", "--json", TAMIS_HOME=str(locked.home)).stdout)
    (key,) = [one for one in listed if one["owner"] == "carl"]
    assert (key["scopes"], key["expires_at"], key["revoked_at"]) == (["read", "submit"], None, None)
    assert token not in str(listed)
    assert tamis("keys", "revoke", key["id"], TAMIS_HOME=str(locked.home)).exit_code == 0
    problem(client.get("/v1/jobs"), 401, "invalid-key")
    shown = tamis("keys", "list", TAMIS_HOME=str(locked.home)).stderr
    assert "revoked" in shown and "expired" in shown and "laptop" in shown
    unknown = tamis("keys", "revoke", "key_x", TAMIS_HOME=str(locked.home))
    assert isinstance(unknown.exception, NotFound)
    client.close()


def test_a_key_of_a_given_token(locked: Locked, nobody: httpx.Client, tmp_path: Path) -> None:
    """As a deployment does that knows its secrets before its database."""
    token = tamis("keys", "token").stdout
    (tmp_path / "secret").write_text(token)
    headers = {"Authorization": f"Bearer {token.strip()}"}
    problem(nobody.get("/v1/jobs", headers=headers), 401, "invalid-key")
    for _ in range(2):
        made = tamis("keys", "create", "dora", "--token-file", str(tmp_path / "secret"), TAMIS_HOME=str(locked.home))
        assert (made.exit_code, made.stdout) == (0, ""), made.stderr
        assert token.strip() not in made.stderr
        assert nobody.get("/v1/jobs", headers=headers).status_code == 200
    (tmp_path / "secret").write_text("hunter2")
    weak = tamis("keys", "create", "dora", "--token-file", str(tmp_path / "secret"), TAMIS_HOME=str(locked.home))
    assert (weak.exit_code, weak.stdout) == (2, "")


def test_keys_that_can_not_be_made(locked: Locked) -> None:
    for arguments in (["a b"], [""], ["ann", "--scope", "write"], ["ann", "--days", "-1"], []):
        refused = tamis("keys", "create", *arguments, TAMIS_HOME=str(locked.home))
        assert (refused.exit_code, refused.stdout) == (2, ""), arguments


def test_the_client_and_the_command_line_send_the_key(
    locked: Locked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], request_of: Request
) -> None:
    with Client(locked.url, api_key=locked.keys["bob"]) as client:
        assert client.submit(request_of(seed=2)).resource.owner == "bob"
    monkeypatch.delenv("TAMIS_API_KEY", raising=False)
    with Client(locked.url) as client, pytest.raises(ProblemError) as caught:
        client.version()
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")
    for bad in ("two words", "\n", "k\u00e9y"):
        with pytest.raises(BadApiKey):
            Client(locked.url, api_key=bad)
    asked = tamis("jobs", TAMIS_URL=locked.url, TAMIS_API_KEY=locked.keys["bob"])
    assert asked.exit_code == 0, asked.stderr
    refused = tamis("jobs", TAMIS_URL=locked.url, TAMIS_API_KEY=None)
    assert isinstance(refused.exception, ProblemError)
    show_error(refused.exception)
    assert "TAMIS_API_KEY" in capsys.readouterr().err


def test_without_keys_loopback_asks_for_none_until_one_is_made(
    serve: Any, data: Path, tmp_path: Path, request_of: Request
) -> None:
    served = serve("--no-worker", home=tmp_path, TAMIS_DATA_ROOTS=str(data))
    with served.http() as http:
        job = http.post("/v1/jobs", json=request_of(), headers={"Authorization": "Bearer nonsense"}).json()
        assert job["owner"] == "local"
        assert http.get("/v1/jobs").status_code == 200  # the service has just seen that there is no key
        token = make(tmp_path, "local")
        time.sleep(KEYS_POLL_INTERVAL_SECONDS)
        problem(http.get("/v1/jobs"), 401, "unauthorized")
        # Who makes a key for 'local' keeps what was submitted before there were keys.
        mine = http.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"}).json()
        assert [one["id"] for one in mine["items"]] == [job["id"]]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "tamis.LOCALHOST"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "127.0.0.1.example:8321"}, 403),
        ({"Host": "localhost.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "https://page.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "rebound.example", "Origin": "http://rebound.example"}, 403),
    ],
)
def test_without_keys_web_pages_are_refused(idle: httpx.Client, headers: dict[str, str], status: int) -> None:
    for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs/job_00000000000000000000000000/cancel")):
        answer = idle.request(method, path, headers=headers)
        if status == 403:
            problem(answer, 403, "foreign-request")
        else:
            assert answer.status_code in {200, 404}, answer.text


def test_with_a_key_every_name_will_do(locked: Locked) -> None:
    with locked.http("ann") as http:
        headers = {"Host": "tamis.example", "Origin": "https://page.example"}
        assert http.get("/v1/jobs", headers=headers).status_code == 200


def test_the_name_in_host_is_the_services_own() -> None:
    refuse_foreign({"host": "Box.lan:8321"}, {"box.lan"})
    with pytest.raises(ForeignRequest, match="--host"):
        refuse_foreign({"host": "box.lan:8321"}, set())


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/plan"])
def test_going_before_others_takes_an_admin(clients: dict[str, httpx.Client], request_of: Request, path: str) -> None:
    refused = problem(clients["ann"].post(path, json=request_of(priority=1)), 403, "insufficient-scope")
    assert [error["pointer"] for error in refused["errors"]] == ["/priority"]
    for name, priority in (("ann", 0), ("ann", -5), ("admin", 1)):
        assert clients[name].post(path, json=request_of(priority=priority)).is_success


def test_with_keys_nothing_may_be_read_until_the_operator_says_what(
    serve: Any, tmp_path: Path, request_of: Request
) -> None:
    token = make(tmp_path, "ann")
    served = serve("--no-worker", "--host", "0.0.0.0", home=tmp_path)
    with served.http() as http:
        http.headers["Authorization"] = f"Bearer {token}"
        for path, body in (
            ("/v1/jobs", request_of()),
            ("/v1/jobs/plan", request_of()),
            ("/v1/datasets", request_of()["dataset"]),
        ):
            assert "TAMIS_DATA_ROOTS" in problem(http.post(path, json=body), 403, "forbidden")["detail"]
