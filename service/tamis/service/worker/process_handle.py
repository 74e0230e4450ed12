"""Supervisor's handle of one job process: start, messages, status, end. Never blocks."""

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
"""Maximum length in bytes of one line of standard error."""

REAP_SECONDS: Final = 5.0
"""Longest wait for the end of a killed process."""


class JobProcessHandle:
    """Job process in a session of its own.

    Attributes
    ----------
    pid : int
        Its process id, and that of its process group.
    ready : bool
        Whether it is warm and waits for its order.
    """

    def __init__(self, runner: str = EXECUTE) -> None:
        """Start the process. The end of the calling thread kills it (on Linux)."""
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
        """Descriptors that become readable when the process writes."""
        return self._messages.fileno(), self._errors.fileno()

    @property
    def unsent(self) -> tuple[int, ...]:
        """Descriptors that become writable when the rest of a message can be sent; none when nothing is left."""
        return (self._input.fileno(),) if self._outgoing else ()

    def send(self, message: Message) -> None:
        """Send as much of a message as the pipe takes; `receive` sends the rest."""
        if message["kind"] == "order":
            self.ready = False
        self._outgoing += encode(message)
        self._flush()

    def receive(self) -> Iterator[Message]:
        """Yield the messages since the last call, except ``ready``, which sets the attribute."""
        self._flush()
        for line in _lines(self._messages, self._message_lines):
            message = json.loads(line)
            if message["kind"] == "ready":
                self.ready = True
            else:
                yield message

    def errors(self) -> Iterator[str]:
        """Yield the lines written to standard error since the last call."""
        for line in _lines(self._errors, self._error_lines):
            yield line.decode(errors="replace")

    def exit_status(self) -> int | None:
        """Return the exit status (negative: the signal that killed the process), None while it runs."""
        return self._popen.poll()

    def kill(self) -> None:
        """Kill the process and its children, and wait for their end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it dies when that call returns
            self._popen.wait(REAP_SECONDS)

    def close(self) -> None:
        """Kill the process if it still runs, and close the pipes."""
        self.kill()
        for stream in (self._input, self._messages, self._errors):
            stream.close()

    def memory_bytes(self) -> int:
        """Return the memory of the process and its children; see `memory_of`."""
        return session_memory(self.pid)

    def _flush(self) -> None:
        while self._outgoing:
            try:
                sent = os.write(self._input.fileno(), memoryview(self._outgoing)[:READ_BYTES])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._outgoing.clear()  # it ended: its exit status says more
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
