"""Deliver webhooks from the outbox, retrying until acknowledged or expired: one task in the API's event loop.

What is in the outbox was put there in the transaction that ended the job. Any API process takes it under a lease, so
that one that is killed loses nothing: the callback is sent again, under the same id, by whoever takes it next.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import httpx
import structlog
from fastapi.concurrency import run_in_threadpool

from tamis.selectors.errors import StorageError, TamisError
from tamis.service.callbacks import signing
from tamis.service.callbacks.addresses import Address, Endpoint, Resolve, checked_addresses, parse_url, resolve
from tamis.service.retry import Backoff, GiveUp, RetryAfter
from tamis.service.settings import AllowedHosts
from tamis.service.store import Callback, Store

AT_A_TIME: Final = 16
"""Maximum number of callbacks under way in one process."""

RESOLVING_THREADS: Final = 8
"""Threads that resolve names, apart from all others: a silent name server holds up nothing else."""

TRIED_ADDRESSES: Final = 3
"""Addresses of one host tried in one attempt."""

RETRY: Final = Backoff((5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400), jitter=0.1)
"""Pauses that Standard Webhooks suggests; delivery is given up on the fourth day."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("tamis.callbacks")


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals and limits of delivery, in seconds."""

    poll: float = 1.0  # between two polls of the outbox
    timeout: float = 15.0  # of one attempt, the resolution of the name included
    lease: float = 60.0  # time after which another process takes a callback whose process died
    store_down: float = 10.0  # until the next poll when the store did not answer
    retry: Backoff = RETRY


class NotDelivered(TamisError):
    """The callback was not accepted."""

    code = "not-delivered"


class Gone(NotDelivered):
    """The receiver wants no more callbacks (410 Gone)."""


class Deliverer:
    """Task that claims callbacks from the outbox and sends them."""

    def __init__(
        self, store: Store, allowed: AllowedHosts, *, resolve: Resolve = resolve, pace: Pace | None = None
    ) -> None:
        self._store = store
        self._allowed = allowed
        self._resolve = resolve
        self._pace = pace or Pace()
        self._under_way: set[asyncio.Task[None]] = set()
        self._resolvers = ThreadPoolExecutor(RESOLVING_THREADS, "tamis-resolve")

    async def run(self, stopping: threading.Event) -> None:
        """Deliver until `stopping` is set or the task is cancelled; another process resends what is under way then."""
        try:
            # No proxy, no cookies, no redirects, no connection kept: each request goes where it was checked to go.
            limits = httpx.Limits(max_keepalive_connections=0)
            async with httpx.AsyncClient(trust_env=False, timeout=self._pace.timeout, limits=limits) as client:
                while not stopping.is_set():
                    await asyncio.sleep(await self._poll_outbox(client))
        finally:
            for task in self._under_way:
                task.cancel()
            self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def _poll_outbox(self, client: httpx.AsyncClient) -> float:
        free = AT_A_TIME - len(self._under_way)
        if free:
            try:
                due = await run_in_threadpool(self._store.callbacks.claim, free, self._pace.lease)
            except StorageError as error:
                log.warning("the store does not answer", detail=error.detail)
                return self._pace.store_down
            for callback in due:
                task = asyncio.create_task(self._deliver(client, callback))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
        return self._pace.poll

    async def _deliver(self, client: httpx.AsyncClient, callback: Callback) -> None:
        fields = {"job": callback.job_id, "callback": callback.id, "attempt": callback.attempts}
        try:
            status = await self._send(client, callback)
        except (TamisError, OSError, httpx.HTTPError) as error:  # a timeout is an OSError
            reason = error.detail if isinstance(error, TamisError) else str(error) or type(error).__name__
            decision = GiveUp() if isinstance(error, Gone) else self._pace.retry.decide(callback.attempts)
            wait = decision.seconds if isinstance(decision, RetryAfter) else None
            log.warning("callback not delivered", reason=reason, retry_seconds=wait, **fields)
            await self._settle(self._store.callbacks.failed, callback, reason, wait)
        else:
            log.info("callback delivered", status=status, **fields)
            await self._settle(self._store.callbacks.delivered, callback, f"answered with {status}")

    async def _settle(self, settle: Callable[..., None], callback: Callback, *outcome: Any) -> None:
        try:
            await run_in_threadpool(settle, callback, *outcome)
        except StorageError as error:  # it is sent again once the lease is over
            log.warning("the store does not answer", detail=error.detail)

    async def _send(self, client: httpx.AsyncClient, callback: Callback) -> int:
        """Make one attempt; returns the status of a 2xx answer and raises otherwise."""
        endpoint = parse_url(callback.url)
        async with asyncio.timeout(self._pace.timeout):
            loop = asyncio.get_running_loop()
            # Again at every attempt: what was public when the job was submitted may be another host's now.
            addresses = await loop.run_in_executor(
                self._resolvers, checked_addresses, endpoint, self._allowed, self._resolve
            )
            refused: httpx.ConnectError | None = None
            for address in addresses[:TRIED_ADDRESSES]:
                try:
                    return await self._post(client, callback, endpoint, address)
                except httpx.ConnectError as error:
                    refused = error
        raise NotDelivered(f"{endpoint.host} can't be connected to: {refused or 'it has no address'}.")

    async def _post(self, client: httpx.AsyncClient, callback: Callback, endpoint: Endpoint, address: Address) -> int:
        payload = callback.payload.encode()
        request = client.build_request(
            "POST",
            endpoint.url.copy_with(host=str(address), fragment=None),
            content=payload,
            headers={
                # The name goes where a name is needed: the connection itself is made to the address that was checked.
                "Host": endpoint.url.netloc.decode("ascii"),
                "Content-Type": "application/json",
                "User-Agent": f"tamis/{version('tamis')}",
                **signing.headers(callback.secret, callback.id, int(time.time()), payload),
            },
            extensions={"sni_hostname": endpoint.host},
        )
        response = await client.send(request, stream=True, follow_redirects=False)
        await response.aclose()  # its status is all that is wanted
        if response.status_code == httpx.codes.GONE:
            raise Gone
        if not response.is_success:
            redirected = ", and redirects are not followed" if response.is_redirect else ""
            raise NotDelivered(f"{endpoint.host} answered with {response.status_code}{redirected}.")
        return response.status_code
