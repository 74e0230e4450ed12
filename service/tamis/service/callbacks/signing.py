"""Standard Webhooks 1.0: who gets a callback can tell that this service sent it, when, and that it is no copy.

Six lines of the standard library's HMAC; the receiver verifies with any library of https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

SECRET_PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32


def new_secret() -> str:
    """Make a secret: ``whsec_`` and base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def headers(secret: str, message_id: str, timestamp: int, payload: bytes) -> dict[str, str]:
    """Sign a message.

    Parameters
    ----------
    secret : str
        As `new_secret` makes it.
    message_id : str
        The same whenever the same message is sent again: the receiver knows it by that.
    timestamp : int
        Seconds since the epoch of this attempt.
    payload : bytes
        The body.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.digest(key, b"%s.%d.%s" % (message_id.encode(), timestamp, payload), hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
