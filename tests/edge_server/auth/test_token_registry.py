"""Tests of the token registry: the identity of a token."""

from __future__ import annotations

import sqlite3
import stat
from typing import TYPE_CHECKING

import pytest

from edge_server.auth.permissions import Permissions
from edge_server.auth.token import key_of, new_token
from edge_server.auth.token_registry import TokenRegistry
from edge_server.auth.token_store import FILE_NAME, TokenStore
from edge_server.storage.steady_clock import Clock
from quictunnel.errors import ConfigError
from tests.harness.manual_clock import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

CHOSEN = "a-token-that-somebody-chose"
NOW = 1_800_000_000
ALL = Permissions()


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path)


def test_the_operators_token_is_accepted():
    tokens = TokenRegistry(CHOSEN)
    found = tokens.check(CHOSEN)
    assert found is not None
    assert found.permissions == ALL
    assert tokens.current(found) == found
    assert found == TokenRegistry(CHOSEN).check(CHOSEN)
    assert CHOSEN not in repr(found)
    assert CHOSEN not in repr(vars(tokens))


@pytest.mark.parametrize(
    "token", ["", "x", CHOSEN[:-1], CHOSEN + "x", CHOSEN.upper(), CHOSEN + "\0", " " + CHOSEN, "é" * 512]
)
def test_other_text_is_no_token(token: str):
    assert TokenRegistry(CHOSEN).check(token) is None


def test_an_empty_token_is_never_accepted():
    assert TokenRegistry("").check("") is None


def test_a_token_of_the_database(store: TokenStore):
    rights = Permissions(tunnels=3, visitors=100, tcp_ports=range(20000, 20010), expires=NOW + 60)
    token, entry = store.create(rights, "for the shop", NOW)
    tokens = TokenRegistry(CHOSEN, store, ManualClock(NOW))
    found = tokens.check(token)
    assert found is not None
    assert (found.key, found.permissions) == (entry.key, rights)
    assert key_of(token) == entry.key
    assert tokens.known_key(token) == entry.key
    assert tokens.check(CHOSEN) is not None


def test_only_the_whole_of_it_is_good(store: TokenStore):
    token, entry = store.create(ALL, "", NOW)
    other, _ = store.create(ALL, "", NOW)
    tokens = TokenRegistry(CHOSEN, store)
    mixed = f"qt1.{entry.key}.{other.rpartition('.')[2]}"
    for wrong in (token[:-1], token + "x", token.upper(), mixed, new_token()[1]):
        assert tokens.check(wrong) is None
    assert tokens.known_key(mixed) == entry.key
    assert tokens.known_key(new_token()[1]) is None


def test_an_operators_token_of_the_usual_form_has_attempts_of_its_own():
    key, token = new_token()
    assert TokenRegistry(token).known_key(token) == key
    assert TokenRegistry(CHOSEN).known_key(CHOSEN) is None


def test_changes_of_another_process_are_seen(store: TokenStore, tmp_path: Path):
    tokens = TokenRegistry(CHOSEN, store)
    assert not tokens.refresh()
    elsewhere = TokenStore(tmp_path)
    token, entry = elsewhere.create(ALL, "", NOW)
    assert tokens.check(token) is None
    assert tokens.refresh()
    found = tokens.check(token)
    assert found is not None
    assert elsewhere.revoke(entry.key, NOW)
    assert tokens.refresh()
    assert tokens.check(token) is None
    assert tokens.current(found) is None
    assert not tokens.refresh()


def test_a_token_expires(store: TokenStore):
    time = ManualClock(NOW)
    token, _ = store.create(Permissions(expires=NOW + 60), "", NOW)
    tokens = TokenRegistry(CHOSEN, store, time)
    found = tokens.check(token)
    assert found is not None
    time.now += 59.9
    assert tokens.current(found) == found
    time.now += 0.1
    assert tokens.check(token) is None
    assert tokens.current(found) is None


def test_a_revoked_token_stays_revoked_and_on_record(store: TokenStore):
    _, entry = store.create(ALL, "", NOW)
    assert store.revoke(entry.key, NOW + 1)
    assert store.revoke(entry.key, NOW + 2)
    assert [(found.key, found.revoked) for found in store.entries()] == [(entry.key, NOW + 1)]
    assert not store.revoke("nobody", NOW)


def test_database_is_private_and_holds_no_secret(store: TokenStore, tmp_path: Path):
    token, _ = store.create(ALL, "a note", NOW)
    files = sorted(tmp_path.glob(f"{FILE_NAME}*"))
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert token.rpartition(".")[2].encode() not in path.read_bytes()


def test_an_edge_that_never_had_a_token_makes_no_file(store: TokenStore, tmp_path: Path):
    assert TokenRegistry(CHOSEN, store).check(new_token()[1]) is None
    assert not (tmp_path / FILE_NAME).exists()


def test_a_damaged_database_is_no_edge(tmp_path: Path):
    (tmp_path / FILE_NAME).write_bytes(b"this is no database at all" * 100)
    with pytest.raises(ConfigError, match="cannot be used"):
        TokenRegistry(CHOSEN, TokenStore(tmp_path))


def test_a_database_of_another_version_is_no_edge(store: TokenStore, tmp_path: Path):
    store.create(ALL, "", NOW)
    store.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(ConfigError, match="another version"):
        TokenRegistry(CHOSEN, TokenStore(tmp_path))


def test_unreadable_database_keeps_the_known_tokens(store: TokenStore, tmp_path: Path):
    token, _ = store.create(ALL, "", NOW)
    tokens = TokenRegistry(CHOSEN, TokenStore(tmp_path))
    store.close()
    tokens.close()
    (tmp_path / FILE_NAME).write_bytes(b"gone" * 1000)
    with pytest.raises(ConfigError):
        tokens.refresh()
    assert tokens.check(token) is not None


@pytest.mark.parametrize("jump", [3000, -3000])
def test_a_token_outlives_a_jump_of_the_clock(store: TokenStore, jump: float):
    """Expired is what is so by a clock that has been believed; and a clock that is put right gives it back."""
    time = ManualClock(NOW)
    wrong = 0.0
    clock = Clock(lambda: time.now + wrong, lambda: time.now)
    token, _ = store.create(Permissions(expires=NOW + 5000), "", NOW)
    tokens = TokenRegistry("", store, clock.now)

    def pass_(seconds: float) -> None:
        for _ in range(10):
            time.now += seconds / 10
            clock.check()

    pass_(700)
    wrong = 5 * jump
    pass_(500)
    assert tokens.check(token) is not None
    pass_(300)
    assert (tokens.check(token) is None) is (jump > 0)
    wrong = 0.0
    pass_(700)
    assert tokens.check(token) is not None
    time.now = NOW + 5000.0
    assert tokens.check(token) is None
