"""The supervisor's side of one job process: start it, talk to it, watch it, end it. Never blocks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Final

from tamis.service.worker.job_process import EXECUTE
from tamis.service.worker.memory import session_memory
from tamis.service.worker.protocol import Lines, Message, encode

READ_BYTES: Final = 2**16

MAX_STDERR_LINE: Final = 4096
"""Bytes of one line of standard error."""

REAP_SECONDS: Final = 5.0
"""How long to wait for a killed process to disappear."""


class JobProcessHandle:
    """One job process, in a session of its own.

    Attributes
    ----------
    pid : int
        Its process id, and that of its process group.
    ready : bool
        Whether it is warm and waits for its order.
    """

    def __init__(self, runner: str = EXECUTE) -> None:
        """Start it. The calling thread must live as long as the process: its end kills the process (on Linux)."""
        command = [sys.executable, "-P", "-m", "tamis.service.worker.job_process"]
        self._popen: Final = subprocess.Popen(
            [*command, "--parent", str(os.getpid()), "--runner", runner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.pid: Final = self._popen.pid
        self.ready = False
        self._input = _pipe(self._popen.stdin)
        self._messages = _pipe(self._popen.stdout)
        self._errors = _pipe(self._popen.stderr)
        self._message_lines = Lines()
        self._error_lines = Lines(MAX_STDERR_LINE)
        self._outgoing = bytearray()

    @property
    def descriptors(self) -> tuple[int, int]:
        """What becomes readable when the process says something."""
        return self._messages.fileno(), self._errors.fileno()

    @property
    def unsent(self) -> tuple[int, ...]:
        """What becomes writable when the rest of a message can be sent; nothing once all was."""
        return (self._input.fileno(),) if self._outgoing else ()

    def send(self, message: Message) -> None:
        """Send a message, as much of it as goes now; `receive` sends the rest."""
        if message["kind"] == "order":
            self.ready = False
        self._outgoing += encode(message)
        self._flush()

    def receive(self) -> Iterator[Message]:
        """Give the messages that came since; ``ready`` is kept, not given."""
        self._flush()
        for line in _lines(self._messages, self._message_lines):
            message = json.loads(line)
            if message["kind"] == "ready":
                self.ready = True
            else:
                yield message

    def errors(self) -> Iterator[str]:
        """Give the lines it wrote to standard error since."""
        for line in _lines(self._errors, self._error_lines):
            yield line.decode(errors="replace")

    def exit_status(self) -> int | None:
        """Give its exit status (negative: the signal that killed it), None while it runs."""
        return self._popen.poll()

    def kill(self) -> None:
        """Kill it and whatever it started, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it dies when that call returns
            self._popen.wait(REAP_SECONDS)

    def close(self) -> None:
        """Kill it if it still runs, and close the pipes."""
        self.kill()
        for stream in (self._input, self._messages, self._errors):
            stream.close()

    def memory_bytes(self) -> int:
        """Give the memory that the process and its children hold; see `memory_of`."""
        return session_memory(self.pid)

    def _flush(self) -> None:
        while self._outgoing:
            try:
                sent = os.write(self._input.fileno(), memoryview(self._outgoing)[:READ_BYTES])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._outgoing.clear()  # it ended: its exit status tells more
                return
            del self._outgoing[:sent]


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    os.set_blocking(stream.fileno(), False)
    return stream


def _lines(stream: IO[bytes], lines: Lines) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(stream.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            return
        yield from lines.feed(data)
