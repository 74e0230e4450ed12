"""What the endpoints stand on: settings, store, and the selectors' library, loaded when first needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Self

from fastapi import Depends, Request

from tamis.service.settings import BadSettings, Settings
from tamis.service.store import Store

if TYPE_CHECKING:
    from tamis.selectors.jobs import Environment

OWNER: Final = "local"
"""Everybody, as long as no API keys are configured."""

DEFAULT_MAX_BODY_BYTES: Final = 8 * 2**20


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES  # TAMIS_MAX_BODY_BYTES

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the limits. Raises BadSettings."""
        value = (os.environ if environ is None else environ).get("TAMIS_MAX_BODY_BYTES") or str(DEFAULT_MAX_BODY_BYTES)
        if not value.isascii() or not value.isdigit() or not 1024 <= int(value) <= 2**30:
            raise BadSettings(f"TAMIS_MAX_BODY_BYTES: {value!r} is not a whole number from 1024 to {2**30}")
        return cls(int(value))


@dataclass
class Service:
    """One running API."""

    settings: Settings
    limits: Limits
    store: Store
    draining: threading.Event = field(default_factory=threading.Event)  # set: take no jobs, end what waits
    keys_in_flight: set[tuple[str, str]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def environment(self) -> Environment:
        """Say where jobs read. Loads the selectors' library: a second or so, once."""
        from tamis.selectors.datasets import LocalStorage
        from tamis.selectors.jobs import Environment

        return Environment(
            storage=LocalStorage(self.settings.data_roots),
            cache=self.settings.signals_dir,
            threads=self.settings.threads,
        )


def get_service(request: Request) -> Service:
    """Give the service that answers this request."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]
