"""API keys in the store."""

from __future__ import annotations

import time

import pytest

from tamis.selectors.errors import NotFound
from tamis.service.store import Scope, Store
from tamis.service.store.models import api_keys

SCOPES = frozenset({Scope.READ, Scope.SUBMIT})


def test_a_key_is_found_by_its_token_alone(store: Store) -> None:
    assert not store.keys.required()
    made = store.keys.create(owner="ann", scopes=SCOPES, note="laptop")
    other = store.keys.create(owner="ann", scopes=SCOPES)
    assert store.keys.required()
    assert store.keys.find(made.token) == made.key
    assert (made.key.owner, made.key.scopes, made.key.note) == ("ann", SCOPES, "laptop")
    assert made.key.expires_at is None
    assert [key.id for key in store.keys.list()] == [made.key.id, other.key.id]
    _, name, secret = made.token.split("_")
    wrong = [
        "",
        name,
        secret,
        made.key.id,
        f"tamis_{name}_{other.token.rpartition('_')[2]}",
        f"tamis_{name}_{'0' * len(secret)}",
        made.token[:-1],
        made.token + "0",
        made.token.upper(),
        made.token + "\n",
        made.token.replace("tamis", "tamis_"),
        "tamis_" + "\x00" * 26 + "_" + secret,
    ]
    assert [token for token in wrong if store.keys.find(token)] == []


def test_what_is_stored_is_no_key(store: Store) -> None:
    made = store.keys.create(owner="ann", scopes=SCOPES)
    secret = made.token.rpartition("_")[2]
    with store.database.read() as connection:
        row = connection.execute(api_keys.select()).one()
    assert secret not in str(row)
    assert len(set(secret)) > 10
    assert made.token not in repr(made)
    assert store.keys.find(row.digest) is None
    assert store.keys.find(f"tamis_{made.key.id.removeprefix('key_')}_{row.digest[:52]}") is None


def test_expiry_and_revocation(store: Store) -> None:
    short = store.keys.create(owner="ann", scopes=SCOPES, lifetime=0.3)
    long = store.keys.create(owner="ann", scopes=SCOPES, lifetime=3600)
    assert {key.id for key in store.keys.valid()} == {short.key.id, long.key.id}
    time.sleep(0.35)
    assert store.keys.find(short.token) is None
    assert store.keys.find(long.token) is not None
    revoked = store.keys.revoke(long.key.id)
    assert revoked.revoked_at is not None
    assert store.keys.find(long.token) is None
    assert store.keys.revoke(long.key.id).revoked_at == revoked.revoked_at
    assert store.keys.valid() == []
    assert store.keys.required(), "the last key's end opens nothing"
    with pytest.raises(NotFound):
        store.keys.revoke("key_none")
