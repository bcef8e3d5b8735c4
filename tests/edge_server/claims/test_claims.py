"""Whose is this name, or this port?"""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from edge_server import database
from edge_server.claims.claims import KEPT, MAX_CLAIMS, SEEN_AGAIN, Claims
from edge_server.claims.store import BANNED, FILE, Store
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


class Time:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def claims(tmp_path: Path, time: Time) -> Claims:
    return Claims(Store(tmp_path), time)


def again(tmp_path: Path, time: Time) -> Claims:
    """As another edge reads them."""
    return Claims(Store(tmp_path), time)


def test_a_name_is_nobodys_and_then_somebodys(claims: Claims, time: Time):
    assert claims.owner("app") is None
    claims.claim("a", "app")
    assert claims.owner("app") == "a"
    time.now += KEPT
    assert claims.owner("app") == "a"
    time.now += 1
    assert claims.owner("app") is None


def test_it_stays_so_when_the_edge_is_started_again(claims: Claims, tmp_path: Path, time: Time):
    claims.claim("a", "app")
    claims.claim("b", ":20022")
    claims.close()
    other = again(tmp_path, time)
    assert other.owner("app") == "a"
    assert not other.is_free_to("a", 20022)
    assert other.is_free_to("b", 20022)
    assert other.is_free_to("a", 20023)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_who_uses_it_for_long_keeps_it(claims: Claims, time: Time, tmp_path: Path):
    claims.claim("a", "app")
    for _ in range(60):
        time.now += SEEN_AGAIN + 1
        claims.seen("b", "app")  # not theirs
        claims.seen("a", "app")
    claims.close()
    assert again(tmp_path, time).owner("app") == "a"


def test_an_old_one_is_forgotten_for_good(claims: Claims, time: Time, tmp_path: Path):
    claims.claim("a", "app")
    claims.close()
    time.now += KEPT + 1
    later = again(tmp_path, time)
    later.claim("b", "app")
    assert later.owner("app") == "b"
    later.close()
    assert [claim.owner for claim in Store(tmp_path).claims()] == ["b"]


def test_one_identity_claims_only_so_many(claims: Claims, tmp_path: Path, time: Time):
    for number in range(MAX_CLAIMS):
        assert claims.may_claim("a", f"app{number}")
        claims.claim("a", f"app{number}")
    assert not claims.may_claim("a", "one-more")
    assert claims.may_claim("a", "app7")
    assert claims.may_claim("b", "one-more")
    claims.close()
    assert not again(tmp_path, time).may_claim("a", "one-more")


def test_what_a_command_changes_is_seen(claims: Claims, tmp_path: Path):
    claims.claim("a", "app")
    claims.claim("a", "gone")
    claims.synchronise()
    claims.settle()
    claims.synchronise()
    assert not claims.settle()
    command = Store(tmp_path)
    command.ban("app", 5)
    assert command.remove("gone")
    assert not command.remove("gone")
    claims.synchronise()
    assert claims.settle()
    assert claims.owner("app") == BANNED
    assert claims.owner("gone") is None


def test_a_ban_does_not_end_and_is_not_undone_by_its_owner(claims: Claims, tmp_path: Path, time: Time):
    claims.claim("a", "app")
    claims.synchronise()
    Store(tmp_path).ban("app", int(time.now))
    claims.claim("a", "app")  # at the same moment
    claims.synchronise()
    claims.settle()
    time.now += 10 * KEPT
    assert claims.owner("app") == BANNED
    assert again(tmp_path, time).owner("app") == BANNED
    assert Store(tmp_path).remove("app")
    assert again(tmp_path, time).owner("app") is None


def test_a_claim_made_while_others_are_read_is_kept(claims: Claims, tmp_path: Path):
    claims.claim("a", "first")
    claims.synchronise()
    claims.settle()
    Store(tmp_path).ban("other", 5)
    claims.synchronise()
    claims.claim("a", "second")
    claims.settle()
    assert claims.owner("second") == "a"
    assert claims.owner("first") == "a"


def test_a_database_that_cannot_be_used_is_said_and_nothing_is_lost(
    tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    claims = Claims(Store(tmp_path), time)
    claims.claim("a", "app")
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match="locked"):
            claims.synchronise()
        assert claims.owner("app") == "a"
    claims.close()
    assert again(tmp_path, time).owner("app") == "a"


def test_claims_that_are_over_do_not_count(claims: Claims, time: Time, tmp_path: Path):
    for number in range(MAX_CLAIMS):
        claims.claim("a", f"app{number}")
    claims.synchronise()
    claims.settle()
    time.now += KEPT + 1
    assert claims.may_claim("a", "one-more")
    claims.claim("a", "one-more")
    claims.synchronise()
    claims.settle()
    assert [claim.what for claim in Store(tmp_path).claims()] == ["one-more"]


def test_events_that_wait_are_bounded(claims: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edge_server.claims.claims.MAX_PENDING_EVENTS", 3)
    lease = SimpleNamespace(name="app", tcp_port=0, owner="a")
    for number in range(5):
        claims.record("held", lease, f"10.0.0.{number}")
    claims.synchronise()
    claims.record("released", lease, "10.0.0.9")
    claims.synchronise()
    hosts = [event.host for event in Store(tmp_path).history(None, 10)]
    assert hosts == ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.9"]
