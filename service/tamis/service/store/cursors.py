"""Opaque page cursors: the id after which the next page starts. Ids sort by time."""

from __future__ import annotations

import base64
import binascii

from tamis.service.store.errors import BadCursor
from tamis.service.store.ids import is_id


def encode(last_id: str) -> str:
    """Make the cursor of the page after `last_id`."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def decode(cursor: str) -> str:
    """Return the id of a cursor. Raises BadCursor."""
    try:
        last_id = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise BadCursor from error
    if not is_id(last_id):
        raise BadCursor
    return last_id
