"""API keys: creation, authentication, listing, revocation.

A token is ``tamis_``, the key's id and 260 random bits. Only its SHA-256 is stored. Nobody guesses 260 bits: a salt or
a slow hash, which make the guessing of passwords dear, would add nothing but their cost to every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from typing import Final

import sqlalchemy as sa

from tamis.selectors.errors import NotFound
from tamis.service.store.database import Database
from tamis.service.store.ids import ALPHABET, LENGTH, new_id
from tamis.service.store.job_rows import AnyRow
from tamis.service.store.models import api_keys
from tamis.service.store.records import ApiKey, NewKey, Scope

SECRET_LENGTH: Final = 52
"""Length of the secret part in characters of base 32."""

_TOKEN: Final = re.compile(rf"tamis_([{ALPHABET}]{{{LENGTH}}})_[{ALPHABET}]{{{SECRET_LENGTH}}}")
_COLUMNS: Final = tuple(column for column in api_keys.c if column.name != "digest")


class Keys:
    """Creation, authentication, listing and revocation of API keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        *,
        owner: str,
        scopes: Collection[Scope],
        note: str | None = None,
        lifetime: float | None = None,
        token: str | None = None,
    ) -> NewKey:
        """Make a key.

        Parameters
        ----------
        lifetime : float, optional
            Seconds until it expires; never when None.
        token : str, optional
            One that `new_token` made. A key that has it already is given back as it is.

        Raises
        ------
        ValueError
            `token` is none of ours.
        """
        token = token or new_token()
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            raise ValueError("no token")
        with self._database.write() as connection:
            now = self._database.now(connection)
            key_id, digest = f"key_{parts[1]}", _digest(token)
            same = sa.select(*_COLUMNS).where(api_keys.c.id == key_id, api_keys.c.digest == digest)
            row = connection.execute(same).first()
            if row is None:
                row = connection.execute(
                    sa.insert(api_keys)
                    .values(
                        id=key_id,
                        owner=owner,
                        digest=digest,
                        scopes=sorted(scopes),
                        note=note,
                        created_at=now,
                        expires_at=None if lifetime is None else now + lifetime,
                    )
                    .returning(*_COLUMNS)
                ).one()
        return NewKey(_to_key(row), token)

    def find(self, token: str) -> ApiKey | None:
        """Return the valid key of a token; None when it is malformed, unknown, revoked or expired."""
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            return None
        query = sa.select(*_COLUMNS, api_keys.c.digest).where(api_keys.c.id == f"key_{parts[1]}")
        with self._database.read() as connection:
            row = connection.execute(query).first()
            # In constant time: the time must not reveal how much of a digest was right.
            if row is None or not hmac.compare_digest(row.digest, _digest(token)):
                return None
            key = _to_key(row)
            return key if key.valid(self._database.now(connection)) else None

    def required(self) -> bool:
        """Whether a key was ever made: from then on one is required, even when all have expired or been revoked."""
        with self._database.read() as connection:
            return bool(connection.execute(sa.select(sa.exists(sa.select(api_keys.c.id)))).scalar_one())

    def list(self) -> Sequence[ApiKey]:
        """Return all keys, the oldest first, expired and revoked ones included."""
        with self._database.read() as connection:
            return [_to_key(row) for row in connection.execute(sa.select(*_COLUMNS).order_by(api_keys.c.id))]

    def valid(self) -> Sequence[ApiKey]:
        """Return the keys that are valid now."""
        with self._database.read() as connection:
            now = self._database.now(connection)
        return [key for key in self.list() if key.valid(now)]

    def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key at once; idempotent. Raises NotFound."""
        with self._database.write() as connection:
            row = connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.id == key_id)
                .values(revoked_at=sa.func.coalesce(api_keys.c.revoked_at, self._database.now(connection)))
                .returning(*_COLUMNS)
            ).first()
        if row is None:
            raise NotFound(f"there is no key {key_id!r}")
        return _to_key(row)


def new_token() -> str:
    """Make a token; `Keys.create` makes a key of it."""
    return f"tamis_{new_id('')}_{''.join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _to_key(row: AnyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        owner=row.owner,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        note=row.note,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
