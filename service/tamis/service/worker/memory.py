"""Memory of processes, from the kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def session_memory(session: int) -> int:
    """Return the bytes held by all processes of a session; see `memory_of`."""
    return sum(memory_of(pid) for pid in _members(session))


def memory_of(pid: int) -> int:
    """Return the bytes held by a process: anonymous and shared, without mapped files; 0 when it has ended.

    What is mapped from a file can be dropped at any time and is no need of the job's: mapping a large dataset
    should not count as using memory.
    """
    with contextlib.suppress(OSError):
        total = 0
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith((b"RssAnon:", b"RssShmem:")):
                total += int(line.split()[1]) * 1024
        return total
    return 0


def _members(session: int) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # After the command's name, in parentheses and with any characters: state, parent, group, session.
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[3]) == session:
                yield int(folder.name)
