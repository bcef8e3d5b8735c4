"""Tests of how many wrong tokens an address may try."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_server.auth import failed_attempts
from edge_server.auth.failed_attempts import MAX_FAILURES, WINDOW_SECONDS, FailedAttempts, peer_prefix

if TYPE_CHECKING:
    from tests.harness.manual_clock import ManualClock

HERE, THERE = "192.0.2.1", "198.51.100.7"


def flood(tries: FailedAttempts, address: str, key: str | None, count: int) -> int:
    """Try ``count`` wrong tokens; return how many were checked."""
    looked_at = 0
    for _ in range(count):
        if tries.can_try(address, key):
            looked_at += 1
            tries.record_failure(address, key)
    return looked_at


def test_a_thousand_in_a_minute(clock: ManualClock):
    tries = FailedAttempts(clock)
    assert flood(tries, HERE, None, 1000) == MAX_FAILURES
    assert tries.refused == 1000 - MAX_FAILURES
    assert tries.can_try(THERE, None)


def test_successful_attempt_does_not_count(clock: ManualClock):
    tries = FailedAttempts(clock)
    for _ in range(3 * MAX_FAILURES):
        assert tries.can_try(HERE, None)
        tries.record_failure(HERE, None)
        tries.withdraw_failure(HERE, None)
    assert len(tries) == 0
    assert tries.wrong == 3 * MAX_FAILURES  # what is counted never becomes less


def test_neighbours_behind_one_address_are_not_punished(clock: ManualClock):
    tries = FailedAttempts(clock)
    flood(tries, HERE, None, 100)
    flood(tries, HERE, "somebody", 100)
    assert not tries.can_try(HERE, "somebody")
    assert tries.can_try(HERE, "neighbour")


def test_lockout_ends_after_a_minute(clock: ManualClock):
    tries = FailedAttempts(clock)
    flood(tries, HERE, None, MAX_FAILURES)
    clock.now += WINDOW_SECONDS - 0.1
    assert not tries.can_try(HERE, None)
    clock.now += 0.2
    assert tries.can_try(HERE, None)


def test_remembered_addresses_are_bounded(clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(failed_attempts, "MAX_TRACKED", 10)
    tries = FailedAttempts(clock)
    for number in range(100):
        tries.record_failure(f"10.0.0.{number}", None)
        tries.record_failure(HERE, None)  # again and again: it is not the one that is forgotten
    assert len(tries) == 10
    assert not tries.can_try(HERE, None)


@pytest.mark.parametrize(("address", "network"), [
    ("192.0.2.1", "192.0.2.1"),
    ("::ffff:192.0.2.1", "192.0.2.1"),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ("2001:db8:1:2::", "2001:db8:1:2::/64"),
    ("fe80::1%eth0", "fe80::/64"),
])  # fmt: skip
def test_addresses_are_grouped_by_network(address: str, network: str):
    assert peer_prefix(address) == network
