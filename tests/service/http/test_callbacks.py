"""Callbacks: where they may go, how they are signed, and that they come, against real receivers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tamis.selectors.errors import Forbidden, Invalid
from tamis.service.api.resources import job_resource
from tamis.service.callbacks import signing
from tamis.service.callbacks.addresses import checked_addresses, parse_url
from tamis.service.callbacks.delivery import Deliverer, Pace
from tamis.service.cli.commands import app
from tamis.service.job_state import JobState
from tamis.service.retry import Backoff
from tamis.service.schema import CallbackStatus
from tamis.service.settings import AllowedHosts, BadSettings, Settings
from tamis.service.store import Store

NOBODY = AllowedHosts()
QUICK = Pace(poll=0.02, timeout=2.0, lease=0.5, retry=Backoff((0.05,) * 50))
Submit = Callable[..., Any]


def settings_of(hosts: str) -> AllowedHosts:
    return Settings.from_environment({"TAMIS_HOME": "/nonexistent", "TAMIS_CALLBACK_HOSTS": hosts}).callback_hosts


LOOPBACK = settings_of("127.0.0.0/8, receiver.test")


def names(**known: list[str]) -> Callable[[str, int], Sequence[str]]:
    def resolve(host: str, port: int) -> Sequence[str]:
        try:
            return known[host.partition(".")[0]]
        except KeyError:
            raise OSError(f"no such host: {host}") from None

    return resolve


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "//example.com", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com", "http://"),
        *("http:///path", "https://user@example.com/", "http://user:pw@example.com/", "http://:pw@example.com/"),
        *(
            "http://example.com:0/",
            "http://example.com:99999/",
            "http://exa mple.com/",
            "http://example.com\\@10.0.0.1/",
        ),
        *("http://example.com/\n", "http://ex%61mple.com/", "http://-a.example/", "http://a..example/", "http://[::1"),
        # One address, written so that programs disagree about it.
        *("http://2130706433/", "http://0x7f000001/", "http://017700000001/", "http://0177.0.0.1/", "http://127.1/"),
        *(
            "http://0x7f.0.0.1/",
            "http://127.0.0.0x1/",
            "http://127.0.0.1./",
            "http://1.2.3.4.5/",
            "http://[fe80::1%25eth0]/",
        ),
        *("http://\u0661\u0662\u0667.0.0.1/", "http://\uff11\uff12\uff17.0.0.1/", "http://exa\u3002mple/"),
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(Invalid):
        parse_url(url)


PRIVATE = [
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
    *("::1", "::", "fe80::1", "fec0::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
    # IPv4 inside IPv6: mapped, compatible, 6to4, NAT64, Teredo (whose client address is inverted).
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::", "2002:c0a8:101::1", "64:ff9b::7f00:1"),
    *("64:ff9b::a9fe:a9fe", "2001:0:4136:e378:8000:63bf:f5ff:fffe"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(Forbidden, match="TAMIS_CALLBACK_HOSTS") as caught:
        checked_addresses(parse_url(f"http://{literal}:8080/hook"), NOBODY, names())
    assert caught.value.status == 403
    # One that is not public among those of a name is enough.
    for found in ([address], ["93.184.216.34", address]):
        with pytest.raises(Forbidden):
            checked_addresses(parse_url("https://inside.test/"), NOBODY, names(inside=found))


def test_addresses_that_are_public() -> None:
    for host in ("93.184.216.34", "[2606:4700::1111]", "[::ffff:93.184.216.34]", "[64:ff9b::5db8:d822]"):
        assert len(checked_addresses(parse_url(f"https://{host}/"), NOBODY, names())) == 1
    found = checked_addresses(
        parse_url("https://Outside.test:8443/a?b"), NOBODY, names(outside=["1.1.1.1", "2606:4700::1"])
    )
    assert [str(address) for address in found] == ["1.1.1.1", "2606:4700::1"]
    with pytest.raises(OSError, match="no such host"):
        checked_addresses(parse_url("https://nowhere.test/"), NOBODY, names())


def test_what_the_operator_allows() -> None:
    allowed = settings_of("Hooks.Internal, 10.1.0.0/16,fd00::/8 ,192.168.0.7")
    for host, addresses, fits in [
        ("hooks.internal", ["127.0.0.1"], True),
        ("hooks.internal.", ["127.0.0.1"], True),
        ("evil.hooks.internal", ["127.0.0.1"], False),
        ("other", ["10.1.2.3", "192.168.0.7", "fd00::1"], True),
        ("other", ["10.1.2.3", "10.2.0.1"], False),
        ("10.1.9.9", [], True),
        ("10.2.0.1", [], False),
    ]:
        endpoint = parse_url(f"http://{host}/")
        resolve = names(**{host.partition(".")[0]: addresses})
        if fits:
            assert checked_addresses(endpoint, allowed, resolve)
        else:
            with pytest.raises(Forbidden):
                checked_addresses(endpoint, allowed, resolve)
    for bad in ("10.0.0.1/8", "a b", "http://x", "x/y", "*"):
        with pytest.raises(BadSettings, match="TAMIS_CALLBACK_HOSTS"):
            settings_of(bad)


def test_the_signature_is_the_specifications() -> None:
    """The example of the Standard Webhooks libraries."""
    signed = signing.headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signed["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


class Receiver(http.server.ThreadingHTTPServer):
    """A real receiver: answers with the statuses it is given, the last one for ever, and keeps what it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses = [200]
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}/hook?x=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
        statuses = self.server.statuses
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        if status == 0:  # says a byte now and then, and never ends
            while True:
                self.wfile.write(b"H")
                time.sleep(0.1)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", self.server.url())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.handle_error = lambda request, client_address: None  # type: ignore[method-assign] # who left is expected
    yield receiver
    receiver.shutdown()
    receiver.server_close()


def verify(secret: str, headers: dict[str, str], body: bytes) -> None:
    """Check a signature as the specification describes it to receivers."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert f"v1,{expected}" in headers["webhook-signature"].split(" ")
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60


def pending(store: Store) -> int:
    from tamis.service.store.models import callbacks

    with store.database.read() as connection:
        return len(connection.execute(callbacks.select()).all())


def deliver(store: Store, until: Callable[[], bool], **more: Any) -> None:
    """Run a deliverer until something is so."""

    async def run() -> None:
        deliverer = Deliverer(store, more.pop("allowed", LOOPBACK), pace=more.pop("pace", QUICK), **more)
        task = asyncio.create_task(deliverer.run(threading.Event()))
        deadline = time.monotonic() + 60
        while not until():
            assert time.monotonic() < deadline
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.both_databases
def test_every_end_is_announced_with_the_end_itself(store: Store, submit: Submit) -> None:
    quiet = submit()
    store.jobs.request_cancel(quiet.job_id)
    url = "https://outside.test/hook"
    first = submit(callback_url=url, owner="ann")
    assert pending(store) == 0, "nothing ended"
    claim = store.queue.claim("w", 30)
    assert claim is not None
    assert store.queue.fail(claim.lease, {"code": "storage", "detail": "x"}) is JobState.QUEUED
    assert pending(store) == 0, "it is tried again"
    store.jobs.request_cancel(first.job_id)
    second = submit(callback_url=url, owner="ann")
    third = submit(callback_url=url, owner="bob", labels={"run": "a"})
    for _ in range(2):  # owners take turns
        claim = store.queue.claim("w", 30)
        assert claim is not None
        if claim.job.id == third.job_id:
            store.queue.fail(claim.lease, {"code": "bad-data", "detail": "x"})
        else:
            store.queue.succeed(claim.lease)
    taken = {callback.job_id: callback for callback in store.callbacks.claim(10, 30)}
    assert set(taken) == {first.job_id, second.job_id, third.job_id}
    ends = {job_id: json.loads(callback.payload) for job_id, callback in taken.items()}
    assert [ends[one.job_id]["type"] for one in (first, second, third)] == [
        "job.cancelled",
        "job.succeeded",
        "job.failed",
    ]
    data = ends[third.job_id]["data"]
    assert (data["id"], data["state"], data["labels"], data["owner"]) == (third.job_id, "failed", {"run": "a"}, "bob")
    assert (data["error"]["code"], data["links"]["self"]) == ("bad-data", f"/v1/jobs/{third.job_id}")
    assert ends[first.job_id]["data"]["error"] is None
    assert len({callback.id for callback in taken.values()}) == 3
    # An owner's secret is its own, and the same until it is renewed.
    assert taken[first.job_id].secret == taken[second.job_id].secret != taken[third.job_id].secret
    assert store.callbacks.secret("ann") == taken[first.job_id].secret != store.callbacks.secret("ann", renew=True)
    # Under a lease nobody else takes them; a resumed job ends again, with a message of its own.
    assert store.callbacks.claim(10, 30) == []
    store.jobs.resume(first.job_id)
    store.jobs.request_cancel(first.job_id)
    (again,) = store.callbacks.claim(10, 30)
    store.callbacks.failed(taken[first.job_id], "the one before", 30.0)
    shown = store.jobs.get(first.job_id).callback
    assert shown is not None and (shown["id"], shown["attempts"]) == (again.id, 0), "the job shows its newest"
    assert again.id not in {callback.id for callback in taken.values()}
    # Deleting a job does not unsay what it was to say.
    store.jobs.delete(first.job_id)
    store.callbacks.failed(again, "x", 0.0)
    (late,) = store.callbacks.claim(10, 30)
    assert (late.id, late.payload, late.attempts) == (again.id, again.payload, 2)
    store.callbacks.delivered(again, "x")
    assert pending(store) == 4, "an attempt that another one followed settles nothing"
    store.callbacks.delivered(late, "x")
    assert pending(store) == 3


def ended(store: Store, submit: Submit, url: str) -> str:
    job_id: str = submit(callback_url=url).job_id
    store.jobs.request_cancel(job_id)
    return job_id


def told(store: Store, job_id: str) -> CallbackStatus:
    """What the job's resource says of its callback."""
    shown = job_resource(store.jobs.get(job_id)).callback
    assert shown is not None
    return shown


def test_a_callback_comes_signed(store: Store, submit: Submit, receiver: Receiver) -> None:
    job_id = ended(store, submit, receiver.url())
    deliver(store, lambda: pending(store) == 0)
    ((path, headers, body),) = receiver.got
    assert path == "/hook?x=1"
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["data"]["id"] == job_id
    verify(store.callbacks.secret("ann"), headers, body)


def test_it_is_sent_again_until_it_is_heard(store: Store, submit: Submit, receiver: Receiver) -> None:
    receiver.statuses = [500, 302, 404, 429, 204]
    job_id = ended(store, submit, receiver.url())
    before = told(store, job_id)
    deliver(store, lambda: pending(store) == 0)
    assert len(receiver.got) == 5, "a redirect is not followed"
    after = told(store, job_id)
    assert (before.state, before.attempts, before.detail, before.at) == ("pending", 0, None, None)
    assert (after.state, after.attempts, after.detail, after.next_at) == ("delivered", 5, "answered with 204", None)
    assert after.id == receiver.got[0][1]["webhook-id"]
    assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 1
    assert len({body for _, _, body in receiver.got}) == 1
    for _, headers, body in receiver.got:
        verify(store.callbacks.secret("ann"), headers, body)


@pytest.mark.parametrize(("status", "attempts"), [(410, 1), (500, 4)])
def test_it_is_given_up(store: Store, submit: Submit, receiver: Receiver, status: int, attempts: int) -> None:
    receiver.statuses = [status]
    job_id = ended(store, submit, receiver.url())
    deliver(store, lambda: pending(store) == 0, pace=Pace(poll=0.02, timeout=2.0, retry=Backoff((0.02,) * 3)))
    assert len(receiver.got) == attempts
    shown = told(store, job_id)
    assert (shown.state, shown.attempts, shown.next_at) == ("given_up", attempts, None)
    assert shown.detail


def test_a_process_that_dies_loses_none(store: Store, submit: Submit, receiver: Receiver) -> None:
    ended(store, submit, receiver.url())
    (lost,) = store.callbacks.claim(1, 0.3)  # by one that is killed before, or after, it has sent
    deliver(store, lambda: pending(store) == 0)
    ((_, headers, _),) = receiver.got
    assert headers["webhook-id"] == lost.id


def test_a_receiver_that_never_ends_holds_up_nobody(store: Store, submit: Submit, receiver: Receiver) -> None:
    slow = Receiver()
    slow.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    slow.statuses = [0]
    ended(store, submit, slow.url())
    deliver(store, lambda: len(slow.got) == 1, pace=Pace(poll=0.02, timeout=60.0, lease=0.1))
    ended(store, submit, receiver.url())
    deliver(
        store,
        lambda: len(receiver.got) == 1 and len(slow.got) >= 3,
        pace=Pace(timeout=0.5, poll=0.02, retry=Backoff((0.02,) * 9)),
    )
    slow.shutdown()
    slow.server_close()


def test_a_name_is_resolved_once_and_its_address_is_where_it_goes(
    store: Store, submit: Submit, receiver: Receiver
) -> None:
    """DNS rebinding: the second answer would be another host's, and is never asked for."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.9"]

    ended(store, submit, receiver.url("receiver.test"))
    deliver(store, lambda: pending(store) == 0, resolve=rebinding)
    ((_, headers, _),) = receiver.got
    assert asked == ["receiver.test"]
    assert headers["host"] == f"receiver.test:{receiver.server_port}"


def test_what_was_public_when_it_was_submitted_may_be_no_more(store: Store, submit: Submit, receiver: Receiver) -> None:
    ended(store, submit, receiver.url("turned.test"))
    pace = Pace(poll=0.02, timeout=2.0, retry=Backoff((0.02,) * 2))
    deliver(store, lambda: pending(store) == 0, resolve=names(turned=["127.0.0.1"]), allowed=NOBODY, pace=pace)
    assert receiver.got == []


def test_the_next_address_where_one_does_not_answer(store: Store, submit: Submit, receiver: Receiver) -> None:
    ended(store, submit, receiver.url("receiver.test"))
    deliver(store, lambda: pending(store) == 0, resolve=names(receiver=["127.0.0.9", "127.0.0.1"]))
    assert len(receiver.got) == 1


def test_over_http_and_through_a_kill(
    serve: Any, request_of: Callable[..., dict[str, Any]], data: Path, tmp_path: Path, receiver: Receiver
) -> None:
    environment = {"TAMIS_DATA_ROOTS": str(data), "TAMIS_CALLBACK_HOSTS": "127.0.0.1"}
    receiver.statuses = [503]
    served = serve("--no-worker", home=tmp_path, **environment)
    with served.http() as http:
        for url, status in [
            ("http://127.0.0.2:1/", 403),
            ("http://169.254.169.254/latest/meta-data", 403),
            ("http://[::ffff:10.0.0.1]/", 403),
            ("ftp://example.com/", 422),
            ("http://a:b@example.com/", 422),
        ]:
            for path in ("/v1/jobs", "/v1/jobs/plan"):
                refused = http.post(path, json=request_of(callback={"url": url}))
                assert refused.status_code == status, refused.text
                assert refused.json()["errors"][0]["pointer"] == "/callback/url"
                assert ("TAMIS_CALLBACK_HOSTS" in refused.json()["detail"]) == (status == 403)
        job = http.post("/v1/jobs", json=request_of(callback={"url": receiver.url()})).json()
        assert job["request"]["callback"] == {"url": receiver.url()}
        assert http.post("/v1/jobs", json=request_of(callback={"url": "http://nowhere.invalid/"})).status_code == 202
        assert http.post(job["links"]["cancel"]).json()["state"] == "cancelled"
        while not receiver.got:
            time.sleep(0.05)
        while not (shown := http.get(job["links"]["self"]).json()["callback"])["attempts"]:
            time.sleep(0.05)
        assert shown["state"] == "pending" and "503" in shown["detail"] and shown["next_at"] > shown["at"]
    served.kill()
    receiver.statuses = [200]
    before = len(receiver.got)
    serve("--no-worker", home=tmp_path, **environment)
    while len(receiver.got) == before:
        time.sleep(0.05)
    (_, first, body), (_, last, again) = receiver.got[0], receiver.got[-1]
    assert first["webhook-id"] == last["webhook-id"]
    assert body == again
    assert json.loads(body)["data"]["id"] == job["id"]
    secret = CliRunner().invoke(app, ["keys", "webhook-secret", "local"], env={"TAMIS_HOME": str(tmp_path)})
    verify(secret.stdout.strip(), last, again)
