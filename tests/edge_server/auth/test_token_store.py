"""Changes of stored tokens, and the names of their owners."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edge_server.auth.permissions import Permissions
from edge_server.auth.token_registry import OPERATOR_NAME, TokenRegistry
from edge_server.auth.token_store import MAX_NOTE, TokenEntry, TokenStore

if TYPE_CHECKING:
    from pathlib import Path


def test_a_token_is_changed_until_it_is_revoked(tmp_path: Path):
    store = TokenStore(tmp_path)
    token, entry = store.create(Permissions(tunnels=1), "before", 1)
    registry = TokenRegistry("operator", TokenStore(tmp_path))
    identity = registry.check(token)
    assert identity is not None
    wanted = Permissions(tunnels=2, names=("shop",))
    changed = store.change(entry.key, lambda before: (wanted, before.note + "x" * (MAX_NOTE + 1)))
    assert changed == store.entries()[0]
    assert registry.refresh()
    current = registry.current(identity)
    assert current is not None
    assert current.permissions == Permissions(tunnels=2, names=("shop",))
    assert registry.name_of_owner(entry.key) == ("before" + "x" * MAX_NOTE)[:MAX_NOTE]
    assert registry.check(token) == current, "its secret is the same"
    store.revoke(entry.key, 2)
    assert not store.change(entry.key, lambda _: (Permissions(), "after"))
    assert not store.change("unknown", lambda _: (Permissions(), ""))
    (stored,) = store.entries()
    assert (stored.revoked, stored.permissions.tunnels) == (2, 2)


def test_two_changes_at_once_lose_neither(tmp_path: Path):
    first, second = TokenStore(tmp_path), TokenStore(tmp_path)
    _, entry = first.create(Permissions(), "", 1)
    is_reading = threading.Event()

    def edit(before: TokenEntry) -> tuple[Permissions, str]:
        is_reading.set()
        other.join(0.2)  # does not end before this change is written
        return replace(before.permissions, tunnels=1), before.note

    def note() -> None:
        assert is_reading.wait(9)
        second.change(entry.key, lambda before: (before.permissions, "noted"))

    other = threading.Thread(target=note)
    other.start()
    first.change(entry.key, edit)
    other.join()
    (stored,) = first.entries()
    assert (stored.note, stored.permissions.tunnels) == ("noted", 1)


def test_a_change_that_fails_changes_nothing(tmp_path: Path):
    store = TokenStore(tmp_path)
    _, entry = store.create(Permissions(), "before", 1)
    with pytest.raises(ZeroDivisionError):
        store.change(entry.key, lambda _: 1 // 0)
    assert store.change(entry.key, lambda before: (before.permissions, before.note)) == entry


def test_owners_have_names(tmp_path: Path):
    store = TokenStore(tmp_path)
    _, entry = store.create(Permissions(), "Ada", 1)
    registry = TokenRegistry("operator", store)
    own = registry.check("operator")
    assert own is not None
    assert registry.name_of_owner(entry.key) == "Ada"
    assert registry.name_of_owner(own.key) == OPERATOR_NAME
    assert registry.name_of_owner("unknown") == ""
