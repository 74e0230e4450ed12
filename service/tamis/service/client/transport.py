"""Requests with retries: those safe to repeat are repeated with growing pauses; refusals raise ProblemError."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx

from tamis.service.client.errors import BadApiKey, ProblemError, ServiceUnreachable

ATTEMPTS: Final = 5
FIRST_PAUSE_SECONDS: Final = 0.2
"""First pause; doubles with every attempt, with a random part that keeps clients apart."""

RETRIED_STATUS: Final = frozenset({429, 502, 503, 504})
MAX_PAUSE_SECONDS: Final = 10.0
"""Longest pause that a Retry-After header can cause."""

KEY_IN_FLIGHT: Final = "idempotency-key-in-flight"
CONNECT_SECONDS: Final = 5.0

_KEY: Final = re.compile(r"[\x21-\x7e]+")


class Transport:
    """Connection pool to one service."""

    def __init__(self, url: str, timeout: float, *, api_key: str | None = None) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.is_local = _is_loopback(self.url)
        self._http = httpx.Client(
            base_url=self.url,
            headers=_authorization(api_key),
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
            # A proxy of the environment is not meant for the service on this machine.
            trust_env=not self.is_local,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        retry: bool | None = None,
        timeout: float | None = None,
    ) -> httpx.Response:
        """Send a request.

        Parameters
        ----------
        retry : bool, optional
            Whether it may be sent twice; GET, HEAD and DELETE may unless said otherwise.
        timeout : float, optional
            Seconds to wait for the answer, instead of the client's own.

        Raises
        ------
        ProblemError
            The service refused.
        ServiceUnreachable
            Nobody answered, as often as it was tried.
        """
        retry = method in {"GET", "HEAD", "DELETE"} if retry is None else retry
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1 or not retry
            retry_after = 0.0
            try:
                response = self._http.request(
                    method,
                    path,
                    params=params,
                    json=json,
                    headers=headers,
                    timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
                )
            except httpx.TransportError as error:
                if last:
                    raise self._unreachable(error) from error
            else:
                if last or not _is_for_now(response):
                    return checked(response)
                retry_after = _retry_after(response)
            time.sleep(max(pause(attempt), retry_after))
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def stream(
        self, path: str, *, headers: Mapping[str, str] | None = None, read_timeout: float | None = None
    ) -> Iterator[httpx.Response]:
        """Open a GET whose body is streamed. Never retried: the caller knows where to continue.

        Raises
        ------
        ProblemError
            The service refused.
        httpx.TransportError
            The connection could not be made, or broke.
        """
        timeout = httpx.USE_CLIENT_DEFAULT if read_timeout is None else httpx.Timeout(read_timeout)
        with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if response.is_error:
                response.read()
            yield checked(response)

    def _unreachable(self, error: httpx.TransportError) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"No answer from {self.url}: {error or type(error).__name__}. Is it running (`tamis serve`), and is the "
            "address right (--url or TAMIS_URL)?"
        )


def _is_for_now(response: httpx.Response) -> bool:
    """Whether the same request may get another answer soon."""
    if response.status_code in RETRIED_STATUS:
        return True
    # An earlier attempt, of which only the answer was lost, is still being worked on.
    return response.status_code == httpx.codes.CONFLICT and KEY_IN_FLIGHT in response.text


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), MAX_PAUSE_SECONDS) if value.isascii() and value.isdigit() else 0.0


def pause(attempt: int) -> float:
    """Return the seconds to wait after a failed attempt (0 is the first)."""
    return float(FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.0))


def checked(response: httpx.Response) -> httpx.Response:
    """Return the response, or raise its problem."""
    if not response.is_error:
        return response
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        what = f"{response.status_code} {response.reason_phrase} from {response.url}, which is no answer of Tamis"
        document = {"detail": what, "code": "not-tamis"}
    raise ProblemError({"status": response.status_code, **document})


def _authorization(api_key: str | None) -> dict[str, str]:
    if api_key is None:
        return {}
    if not _KEY.fullmatch(api_key):
        raise BadApiKey
    return {"Authorization": f"Bearer {api_key}"}


def _is_loopback(url: str) -> bool:
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as error:
        raise ServiceUnreachable(f"{url} is no address: {error}. Give one like http://127.0.0.1:8321.") from error
    return host in {"localhost", "::1"} or host.startswith("127.")
