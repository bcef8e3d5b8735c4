"""Tests of the delay that the bandwidth limit imposes after some bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_server.auth.bandwidth import BURST_SECONDS, BandwidthLimiter, TokenBucket
from edge_server.auth.permissions import Identity, Permissions

if TYPE_CHECKING:
    from tests.harness.manual_clock import ManualClock


def test_traffic_below_the_rate_is_not_delayed(clock: ManualClock):
    bucket = TokenBucket(1000, clock)
    for _ in range(100):
        clock.now += 0.1
        assert bucket.spend(100) == 0


def test_over_any_time_no_more_than_the_rate_and_a_burst(clock: ManualClock):
    bucket = TokenBucket(1000, clock)
    clock.now += 50  # what was not used then is not saved up
    spent, begin = 0, clock.now
    while clock.now < begin + 10:
        spent += 300
        clock.now += bucket.spend(300)
    assert 1000 * 10 <= spent <= 1000 * (10 + BURST_SECONDS) + 300


def test_rate_is_per_direction_and_shared_by_clients():
    limiter = BandwidthLimiter()
    one = Identity("k", Permissions(bandwidth=1000))
    received, sent = limiter.buckets_of(one) or (None, None)
    assert received is not None
    assert received is not sent
    assert limiter.buckets_of(Identity("k", Permissions(bandwidth=1000))) == (received, sent)
    assert limiter.buckets_of(Identity("other", Permissions(bandwidth=1000))) != (received, sent)
    assert limiter.buckets_of(Identity("k")) is None
