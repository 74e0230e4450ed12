"""Secrets that sign an owner's callbacks, in the form of Standard Webhooks 1.0."""

from __future__ import annotations

import base64
import secrets
from typing import Final

SECRET_PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
"""Random bytes of a secret."""


def new_secret() -> str:
    """Make a signing secret.

    Returns
    -------
    str
        ``whsec_`` and the base64 of 32 random bytes.
    """
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def secret_key(secret: str) -> bytes:
    """Decode the bytes of a secret that `new_secret` made: the key of the HMAC."""
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX))
