"""Downloads: atomic, verified against the digest, resumed after a broken connection."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx

from tamis.service.client.errors import DownloadDamaged, ServiceUnreachable
from tamis.service.client.transport import Transport, pause

ATTEMPTS: Final = 5
"""Maximum number of attempts in a row that bring no bytes."""

CHUNK_BYTES: Final = 2**20


def download(transport: Transport, url: str, path: Path, *, sha256: str, size: int) -> None:
    """Download a file of known digest to `path`, which appears whole or not at all.

    Parameters
    ----------
    transport : Transport
        Connection to the service.
    url : str
        Path of the file on the service.
    path : Path
        File to write; its folder is created.
    sha256 : str
        Digest of the content, hexadecimal.
    size : int
        Bytes.

    Raises
    ------
    DownloadDamaged
        It came whole, but with another digest.
    ServiceUnreachable
        The connection broke again and again.
    ProblemError
        The service refused.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
    digest = hashlib.sha256()
    try:
        with temporary.open("xb") as file:
            _fetch(transport, url, file, digest, sha256=sha256, size=size)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise DownloadDamaged(f"{url} came with another sha256 than {sha256}, which was promised: try again.")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _fetch(transport: Transport, url: str, file: BinaryIO, digest: Any, *, sha256: str, size: int) -> None:
    tag = f'"{sha256}"'
    failures = 0
    while file.tell() < size:
        start = file.tell()
        # If-Match: when the file there is another one, a rest of it would be of no use.
        headers = {"If-Match": tag, "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with transport.stream(url, headers=headers) as response:
                if start and response.status_code != httpx.codes.PARTIAL_CONTENT:
                    raise DownloadDamaged(f"{url} can't be resumed: the service ignored the range. Download it again.")
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                    failures = 0
        except httpx.TransportError as error:
            failures += 1
            if failures >= ATTEMPTS:
                raise ServiceUnreachable(f"The download of {url} broke {failures} times: {error}.") from error
            time.sleep(pause(failures - 1))
        else:
            if file.tell() < size and file.tell() == start:
                raise DownloadDamaged(f"{url} ended after {start} of {size} bytes.")
