"""`tamis serve`: the HTTP API, and one supervisor as a child process."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any, Final, NamedTuple

import structlog
import typer
import uvicorn

from tamis.selectors.errors import TamisError
from tamis.service.api.app import create_app
from tamis.service.api.context import Service
from tamis.service.logs import configure_logs
from tamis.service.process_setup import prepare_process
from tamis.service.settings import Settings
from tamis.service.store import Store

BACKLOG: Final = 2048
GRACE_SECONDS: Final = 10
"""Time for running requests to end after the signal to stop."""

WORKER_GRACE_SECONDS: Final = 20.0
"""Time for the worker to give its jobs back."""

RESTART_SECONDS: Final = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Pauses before a worker that ended by itself is started again; the last one repeats."""

STEADY_SECONDS: Final = 60.0
"""Running time after which the pauses begin anew."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("tamis.serve")


class CannotListen(TamisError):
    """The address can't be listened on."""

    code = "cannot-listen"


class NeedsKey(TamisError):
    """An API key is needed to listen there."""

    code = "needs-key"


def run_service(host: str, port: int, *, jobs: int, drain: float = 0.0) -> None:
    """Serve until SIGTERM or SIGINT.

    Parameters
    ----------
    host, port : str, int
        Where to listen; port 0 takes a free one. An address that other machines reach needs an API key to be there.
    jobs : int
        Jobs that the child worker runs at a time; 0 for no worker.
    drain : float
        Seconds to go on answering after the signal to stop, for a load balancer to notice; new jobs are refused.
    """
    settings = Settings.from_environment()
    address = _resolved(host, port)
    exposed = not address.loopback
    if exposed:
        _refuse_without_key(host, settings)
    listener = _listen(address)
    # For the kernels' cache and the thread pools: the worker inherits the environment that this sets.
    prepare_process(settings)
    configure_logs()
    app = create_app(settings, keys_required=exposed, names=(host,))
    app.state.service.store.migrate()  # here, where an unusable database is reported in one line
    worker = _Worker(jobs) if jobs else None
    config = uvicorn.Config(
        app,
        http="h11",  # the faster parser answers a method that it does not know with 400 and plain text, not with 405
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    # uvicorn raises the signal again once it has stopped: that must not end the process before the worker has stopped.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _ignored)
    server = _Server(config, app.state.service, worker, _address(host, listener), drain)
    try:
        server.run(sockets=[listener])
    finally:
        if worker is not None:
            worker.stop()
    if not server.started:
        raise typer.Exit(1)  # the log says why


def _ignored(signum: int, frame: FrameType | None) -> None:
    pass


class _Address(NamedTuple):
    family: socket.AddressFamily
    address: tuple[Any, ...]
    loopback: bool  # only this machine's users reach it


def _resolved(host: str, port: int) -> _Address:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise typer.BadParameter(f"{host!r} is no address: {error.strerror}", param_hint="--host") from error
    names = [str(address[0]).partition("%")[0] for *_, address in found]
    family, *_, address = found[0]
    return _Address(family, address, all(ipaddress.ip_address(name).is_loopback for name in names))


def _refuse_without_key(host: str, settings: Settings) -> None:
    store = Store(settings.database_url)
    try:
        store.migrate()
        if not store.keys.valid():
            raise NeedsKey(
                f"{host} can be reached from other machines, and there is no valid API key: everybody there could read "
                "what this service can read. Make a key first, with the same TAMIS_HOME or TAMIS_DATABASE_URL: "
                "`tamis keys create OWNER`. Or listen on 127.0.0.1, where none is needed."
            )
    finally:
        store.close()


def _listen(address: _Address) -> socket.socket:
    # The protocol is named, or asyncio leaves Nagle's algorithm on: an answer then waits 40 ms for an acknowledgement.
    listener = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    host, port = address.address[:2]
    try:
        listener.bind(address.address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(f"Can't listen on {host} port {port}: {error.strerror}. Give another --port.") from error
    return listener


def _address(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


class _Server(uvicorn.Server):
    """Server that announces its address and ends long polls at the signal to stop."""

    def __init__(
        self, config: uvicorn.Config, service: Service, worker: _Worker | None, url: str, drain: float
    ) -> None:
        super().__init__(config)
        self._service = service
        self._worker = worker
        self._url = url
        self._drain = drain
        self._leave_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            if self._worker is not None:
                self._worker.start()
            sys.stdout.write(f"Tamis is ready at {self._url}\n")
            sys.stdout.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Long polls and event streams check this, and end.
        self._service.draining.set()
        if self._worker is not None:
            self._worker.request_stop()
        if self._leave_at is None and self._drain:
            self._leave_at = time.monotonic() + self._drain
            return  # a second signal does not wait
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._leave_at is not None and time.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)


class _Worker:
    """Child process of a supervisor, started again when it ends by itself."""

    def __init__(self, jobs: int) -> None:
        self._command = [
            sys.executable,
            "-m",
            "tamis.service.worker",
            "--jobs",
            str(jobs),
            "--parent",
            str(os.getpid()),
        ]
        self._stopping = threading.Event()
        # One thread for the whole life: the child is signalled when the thread that started it ends.
        self._thread = threading.Thread(target=self._keep, name="worker", daemon=True)

    def start(self) -> None:
        """Start the child."""
        self._thread.start()

    def request_stop(self) -> None:
        """Request an orderly stop; safe in a signal handler."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop the child and wait for its end: running jobs are released."""
        self.request_stop()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            # A session of its own: a Ctrl-C at the terminal must reach this process only.
            child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)
            steady = self._watch(child)
            if self._stopping.is_set():
                self._end(child)
                return
            failures = 0 if steady else failures + 1
            wait = RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)]
            log.error("the worker ended by itself", status=child.returncode, restart_seconds=wait)
            self._stopping.wait(wait)

    def _watch(self, child: subprocess.Popen[bytes]) -> bool:
        """Wait until the child ends or has to stop; returns whether it ran for `STEADY_SECONDS`."""
        waited = 0.0
        while child.poll() is None and not self._stopping.wait(0.2):
            waited += 0.2
        return waited >= STEADY_SECONDS

    @staticmethod
    def _end(child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        try:
            child.wait(WORKER_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            log.error("the worker does not stop; it is killed", pid=child.pid)
            child.kill()
            child.wait()
