"""Context of the endpoints: settings, store, and the selectors' library, loaded when first needed."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import Depends, Request

from tamis.service.api.rate_limit import TokenBuckets
from tamis.service.callbacks.addresses import checked_addresses, parse_url, resolve
from tamis.service.settings import DATA_ROOTS, RequestLimits, Settings
from tamis.service.store import Store

if TYPE_CHECKING:
    from tamis.selectors.jobs.open import Environment


RESOLVE_SECONDS: Final = 2.0
"""Longest wait of a submission for the name of its callback's host to resolve."""


KEYS_POLL_INTERVAL_SECONDS: Final = 1.0
"""Time after which the store is asked again whether an API key was ever made."""


@dataclass
class Service:
    """State of one running API process."""

    settings: Settings
    store: Store
    keys_required: bool = False  # also when none was ever made: whoever listens beyond this machine says so
    names: frozenset[str] = frozenset()  # host names that it may be called by without a key; see `refuse_foreign`
    rates: TokenBuckets = field(init=False)
    resolvers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "tamis-resolve"))
    draining: threading.Event = field(default_factory=threading.Event)  # set: take no jobs, end what waits
    keys_in_flight: set[tuple[str, str]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _open_until: float = field(default=0.0, init=False)  # on the monotonic clock
    _keys_made: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.rates = TokenBuckets(self.limits.requests_per_second)

    @property
    def limits(self) -> RequestLimits:
        """Bounds of what one caller may ask for."""
        return self.settings.limits

    def requires_key(self) -> bool:
        """Whether an API key is required: always, or from `KEYS_POLL_INTERVAL_SECONDS` after the first was made."""
        if self.keys_required or self._keys_made:
            return True
        if not self.open_for_now():
            polled_at = time.monotonic()
            self._keys_made = self.store.keys.required()
            self._open_until = polled_at + KEYS_POLL_INTERVAL_SECONDS
        return self._keys_made

    def open_for_now(self) -> bool:
        """Whether no key is required, as far as is known without reading the store."""
        return not (self.keys_required or self._keys_made) and time.monotonic() < self._open_until

    def check_callback(self, url: str) -> None:
        """Refuse a URL that callbacks may not go to; a name that does not resolve yet is accepted.

        Raises
        ------
        Invalid, Forbidden
            See `tamis.service.callbacks.addresses`, which checks again whenever it is sent.
        """
        endpoint = parse_url(url)
        resolution = self.resolvers.submit(checked_addresses, endpoint, self.settings.callback_hosts, resolve)
        with contextlib.suppress(OSError):  # a timeout is one
            resolution.result(RESOLVE_SECONDS)

    def environment(self) -> Environment:
        """Return the environment in which jobs are opened. Loads the selectors' library: about a second, once.

        Without TAMIS_DATA_ROOTS that is everywhere as long as nobody needs a key, and nowhere from then on: what the
        operator may read is not for everyone who holds a key.
        """
        from tamis.selectors.datasets import open_storage
        from tamis.selectors.jobs.open import Environment

        roots = self.settings.data_roots
        if roots is None and self.requires_key():
            roots = ()
        return Environment(
            storage=open_storage(
                roots,
                s3_endpoint=self.settings.s3_endpoint,
                setting=DATA_ROOTS.variable,
                max_files=self.limits.max_shards,
            ),
            cache=self.settings.signals_dir,
            threads=self.settings.threads,
        )


async def get_service(request: Request) -> Service:
    """Return the service that answers this request. Async because a thread would cost more."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
