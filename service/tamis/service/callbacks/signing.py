"""Signatures of Standard Webhooks 1.0: the receiver verifies the sender, the time and that nothing was changed.

Six lines of the standard library's HMAC; the receiver verifies with any library of https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from tamis.service.store.secrets import secret_key


def headers(secret: str, message_id: str, timestamp: int, payload: bytes) -> dict[str, str]:
    """Sign a message.

    Parameters
    ----------
    secret : str
        As `tamis.service.store.secrets.new_secret` makes it.
    message_id : str
        The same at every attempt to send the message: the receiver recognises a repetition by it.
    timestamp : int
        Seconds since the epoch of this attempt.
    payload : bytes
        The body.

    Returns
    -------
    dict
        The headers ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``.
    """
    content = b"%s.%d.%s" % (message_id.encode(), timestamp, payload)
    digest = hmac.digest(secret_key(secret), content, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
