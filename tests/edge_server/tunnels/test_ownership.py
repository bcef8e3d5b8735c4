"""Tests of the ownership of names and ports."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from edge_server.storage import sqlite
from edge_server.tunnels.ownership import MARK_USED_INTERVAL, MAX_CLAIMS, MAX_UNUSED_SECONDS, NameOwnership
from edge_server.tunnels.ownership_store import BANNED_OWNER, FILE, OwnershipStore
from quictunnel.errors import ConfigError
from tests.harness.manual_clock import ManualClock

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def time() -> ManualClock:
    return ManualClock(1_800_000_000.0)


@pytest.fixture
def claims(tmp_path: Path, time: ManualClock) -> NameOwnership:
    return NameOwnership(OwnershipStore(tmp_path), time)


def reopen(tmp_path: Path, time: ManualClock) -> NameOwnership:
    """As another edge reads them."""
    return NameOwnership(OwnershipStore(tmp_path), time)


def test_unowned_name_can_be_claimed(claims: NameOwnership, time: ManualClock):
    assert claims.owner("app") is None
    claims.claim("a", "app")
    assert claims.owner("app") == "a"
    time.now += MAX_UNUSED_SECONDS
    claims.remove_expired(())
    assert claims.owner("app") == "a"
    time.now += 1
    assert claims.owner("app") == "a", "a time alone ends nothing"
    claims.remove_expired(())
    assert claims.owner("app") is None


def test_ownership_survives_a_restart(claims: NameOwnership, tmp_path: Path, time: ManualClock):
    claims.claim("a", "app")
    claims.claim("b", ":20022")
    claims.close()
    other = reopen(tmp_path, time)
    assert other.owner("app") == "a"
    assert not other.is_free_to("a", 20022)
    assert other.is_free_to("b", 20022)
    assert other.is_free_to("a", 20023)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_long_use_keeps_the_name(claims: NameOwnership, time: ManualClock, tmp_path: Path):
    claims.claim("a", "app")
    for _ in range(60):
        time.now += MARK_USED_INTERVAL + 1
        claims.mark_used("b", "app")  # not theirs
        claims.mark_used("a", "app")
    claims.remove_expired(())
    claims.close()
    assert reopen(tmp_path, time).owner("app") == "a"


def test_an_old_one_is_forgotten_for_good(claims: NameOwnership, time: ManualClock, tmp_path: Path):
    claims.claim("a", "app")
    claims.close()
    time.now += MAX_UNUSED_SECONDS + 1
    later = reopen(tmp_path, time)
    later.remove_expired(())
    later.claim("b", "app")
    assert later.owner("app") == "b"
    later.close()
    assert [claim.owner for claim in OwnershipStore(tmp_path).claims()] == ["b"]


def test_claims_of_an_identity_are_limited(claims: NameOwnership, tmp_path: Path, time: ManualClock):
    for number in range(MAX_CLAIMS):
        assert claims.may_claim("a", f"app{number}")
        claims.claim("a", f"app{number}")
    assert not claims.may_claim("a", "one-more")
    assert claims.may_claim("a", "app7")
    assert claims.may_claim("b", "one-more")
    claims.close()
    assert not reopen(tmp_path, time).may_claim("a", "one-more")


def test_changes_by_command_are_seen(claims: NameOwnership, tmp_path: Path):
    claims.claim("a", "app")
    claims.claim("a", "gone")
    claims.synchronise()
    claims.apply_read()
    claims.synchronise()
    assert not claims.apply_read()
    command = OwnershipStore(tmp_path)
    command.ban("app", 5)
    assert command.remove("gone")
    assert not command.remove("gone")
    claims.synchronise()
    assert claims.apply_read()
    assert claims.owner("app") == BANNED_OWNER
    assert claims.owner("gone") is None


def test_a_ban_does_not_end_and_is_not_undone_by_its_owner(
    claims: NameOwnership, tmp_path: Path, time: ManualClock
):
    claims.claim("a", "app")
    claims.synchronise()
    OwnershipStore(tmp_path).ban("app", int(time.now))
    claims.claim("a", "app")  # at the same moment
    claims.synchronise()
    claims.apply_read()
    time.now += 10 * MAX_UNUSED_SECONDS
    assert claims.owner("app") == BANNED_OWNER
    assert reopen(tmp_path, time).owner("app") == BANNED_OWNER
    assert OwnershipStore(tmp_path).remove("app")
    assert reopen(tmp_path, time).owner("app") is None


def test_a_claim_made_while_others_are_read_is_kept(claims: NameOwnership, tmp_path: Path):
    claims.claim("a", "first")
    claims.synchronise()
    claims.apply_read()
    OwnershipStore(tmp_path).ban("other", 5)
    claims.synchronise()
    claims.claim("a", "second")
    claims.apply_read()
    assert claims.owner("second") == "a"
    assert claims.owner("first") == "a"


def test_unusable_database_is_reported_and_loses_nothing(
    tmp_path: Path, time: ManualClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.05)
    claims = NameOwnership(OwnershipStore(tmp_path), time)
    claims.claim("a", "app")
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match="locked"):
            claims.synchronise()
        assert claims.owner("app") == "a"
    claims.close()
    assert reopen(tmp_path, time).owner("app") == "a"


def test_claims_that_are_over_do_not_count(claims: NameOwnership, time: ManualClock, tmp_path: Path):
    for number in range(MAX_CLAIMS):
        claims.claim("a", f"app{number}")
    claims.synchronise()
    claims.apply_read()
    time.now += MAX_UNUSED_SECONDS + 1
    assert not claims.may_claim("a", "one-more")
    claims.remove_expired(())
    assert claims.may_claim("a", "one-more")
    claims.claim("a", "one-more")
    claims.synchronise()
    claims.apply_read()
    assert [claim.subject for claim in OwnershipStore(tmp_path).claims()] == ["one-more"]


def test_held_names_do_not_expire(claims: NameOwnership, time: ManualClock, tmp_path: Path):
    for what in ("held", ":20022", "free"):
        claims.claim("a", what)
    time.now += MAX_UNUSED_SECONDS + 1
    claims.remove_expired({"held", ":20022"})
    claims.synchronise()
    claims.apply_read()
    assert [claim.subject for claim in OwnershipStore(tmp_path).claims()] == [":20022", "held"]
    assert [claims.owner(what) for what in ("held", ":20022", "free")] == ["a", "a", None]


def test_claim_renewed_at_expiry_stays(claims: NameOwnership, time: ManualClock, tmp_path: Path):
    claims.claim("a", "app")
    claims.synchronise()
    claims.apply_read()
    time.now += MAX_UNUSED_SECONDS + 1
    claims.remove_expired(())
    claims.claim("b", "app")
    claims.synchronise()
    claims.apply_read()
    assert claims.owner("app") == "b"
    assert [claim.owner for claim in OwnershipStore(tmp_path).claims()] == ["b"]


def test_removed_claim_does_not_return_with_other_changes(
    claims: NameOwnership, time: ManualClock, tmp_path: Path
):
    claims.claim("a", "app")
    claims.synchronise()
    time.now += MAX_UNUSED_SECONDS + 1
    OwnershipStore(tmp_path).ban("other", 5)
    claims.synchronise()
    claims.remove_expired(())
    claims.apply_read()
    assert claims.owner("app") is None
    claims.synchronise()
    assert [claim.subject for claim in OwnershipStore(tmp_path).claims()] == ["other"]


def test_a_clock_that_is_set_forward_makes_nothing_older(claims: NameOwnership, time: ManualClock, tmp_path: Path):
    claims.claim("a", "app")
    claims.synchronise()
    OwnershipStore(tmp_path).ban("bad", 5)
    claims.synchronise()
    claims.apply_read()
    time.now += 2 * MAX_UNUSED_SECONDS
    claims.clock_changed(2.0 * MAX_UNUSED_SECONDS)
    claims.remove_expired(())
    time.now += MAX_UNUSED_SECONDS - 10
    claims.remove_expired(())
    assert claims.owner("app") == "a"
    claims.close()
    other = reopen(tmp_path, time)
    other.remove_expired(())
    assert other.owner("app") == "a"
    time.now += 11
    other.remove_expired(())
    assert other.owner("app") is None
    assert other.owner("bad") == BANNED_OWNER


def test_a_clock_that_is_set_back_ends_nothing(claims: NameOwnership, time: ManualClock):
    claims.claim("a", "app")
    time.now -= 2 * MAX_UNUSED_SECONDS
    claims.clock_changed(-2.0 * MAX_UNUSED_SECONDS)
    claims.remove_expired(())
    assert claims.owner("app") == "a"


def tunnel(name: str = "app", owner: str = "a") -> SimpleNamespace:
    return SimpleNamespace(name=name, tcp_port=0, owner=owner)


def test_events_that_wait_are_bounded_and_one_owner_leaves_room(
    tmp_path: Path, time: ManualClock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edge_server.tunnels.ownership.MAX_UNWRITTEN", 9)
    claims = NameOwnership(OwnershipStore(tmp_path), time)
    for number in range(30):
        claims.add_to_history("held", tunnel(f"n{number}", "bad"), "10.0.0.1")
    claims.add_to_history("held", tunnel("shop", "good"), "10.0.0.2")
    claims.synchronise()
    names = [(entry.owner, entry.name) for entry in OwnershipStore(tmp_path).history(None, 100)]
    assert names == [*(("bad", f"n{number}") for number in range(8)), ("good", "shop")]
    claims.add_to_history("released", tunnel("late", "bad"), "10.0.0.9")
    claims.synchronise()
    assert OwnershipStore(tmp_path).history("late", 10)


def test_repeated_events_are_one_entry(claims: NameOwnership, time: ManualClock, tmp_path: Path):
    began = int(time.now)
    for number in range(500):
        claims.add_to_history("held", tunnel(), f"10.0.0.{number % 2}")
        claims.add_to_history("released", tunnel(), f"10.0.0.{number % 2}", visitors=2)
        time.now += 1
        if number % 100 == 50:
            claims.synchronise()
    claims.add_to_history("in_use", tunnel(), "")
    claims.close()
    (entry,) = OwnershipStore(tmp_path).history("app", 10)
    assert (entry.held, entry.released, entry.banned, entry.visitors) == (500, 500, 0, 1000)
    assert (entry.host, entry.last_host) == ("10.0.0.0", "10.0.0.1")
    assert (entry.since, entry.until) == (began, began + 500)


def test_an_event_while_others_are_written_is_not_lost(claims: NameOwnership, tmp_path: Path, monkeypatch):
    add_to_history = claims._store.add_to_history

    def write(entries: object) -> None:
        add_to_history(entries)  # type: ignore[arg-type]
        claims.add_to_history("released", tunnel(), "10.0.0.2", visitors=3)
        monkeypatch.undo()

    monkeypatch.setattr(claims._store, "add_to_history", write)
    claims.add_to_history("held", tunnel(), "10.0.0.1")
    claims.synchronise()
    claims.synchronise()
    (entry,) = OwnershipStore(tmp_path).history("app", 10)
    assert (entry.held, entry.released, entry.visitors) == (1, 1, 3)
    assert claims._event_shares.used == 0
