"""Changes of stored tokens, and the names of their owners."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_server.auth.permissions import Permissions
from edge_server.auth.token_registry import DEVELOPER_NAME, TokenRegistry
from edge_server.auth.token_store import MAX_NOTE, TokenStore

if TYPE_CHECKING:
    from pathlib import Path


def test_a_token_is_changed_until_it_is_revoked(tmp_path: Path):
    store = TokenStore(tmp_path)
    token, entry = store.create(Permissions(tunnels=1), "before", 1)
    registry = TokenRegistry("operator", TokenStore(tmp_path))
    identity = registry.check(token)
    assert identity is not None
    assert store.change(entry.key, Permissions(tunnels=2, names=("shop",)), "x" * (MAX_NOTE + 1))
    assert registry.refresh()
    current = registry.current(identity)
    assert current is not None
    assert current.permissions == Permissions(tunnels=2, names=("shop",))
    assert registry.name_of_owner(entry.key) == "x" * MAX_NOTE
    assert registry.check(token) == current, "its secret is the same"
    store.revoke(entry.key, 2)
    assert not store.change(entry.key, Permissions(), "after")
    assert not store.change("unknown", Permissions(), "")
    (stored,) = store.entries()
    assert (stored.revoked, stored.permissions.tunnels) == (2, 2)


def test_owners_have_names(tmp_path: Path):
    store = TokenStore(tmp_path)
    _, entry = store.create(Permissions(), "Ada", 1)
    registry = TokenRegistry("operator", store)
    own = registry.check("operator")
    assert own is not None
    assert registry.name_of_owner(entry.key) == "Ada"
    assert registry.name_of_owner(own.key) == DEVELOPER_NAME
    assert registry.name_of_owner("unknown") == ""
