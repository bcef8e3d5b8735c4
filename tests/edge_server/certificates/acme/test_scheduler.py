"""Tests of the renewal schedule by itself, with times as numbers."""

from __future__ import annotations

import math
import random

import pytest

from edge_server.certificates.acme.errors import AcmeError
from edge_server.certificates.acme.scheduler import (
    FORCED_RENEWAL,
    MAX_CONCURRENT_ORDERS,
    MAX_TRIES,
    MIN_AGE,
    POLL_INTERVAL,
    RENEWAL_INFO_RETRY,
    RENEWAL_JITTER,
    RENEWAL_POINT,
    RenewalScheduler,
    ScheduledCertificate,
)
from edge_server.certificates.acme.settings import AcmeTimings
from edge_server.certificates.acme.store import IssuedCertificate

DAY = 86_400.0
NOW = 1_800_000_000.0
LIFE = 90 * DAY
TIMINGS = AcmeTimings()


def issued(name: str = "a.example", not_before: float = NOW) -> IssuedCertificate:
    return IssuedCertificate((name,), b"", b"", not_before, not_before + LIFE)


@pytest.fixture
def wanted() -> set[str]:
    return {"a.example", "b.example", "c.example"}


@pytest.fixture
def scheduler(wanted: set[str]) -> RenewalScheduler:
    return RenewalScheduler(TIMINGS, wanted.__contains__, random.Random(1))


def due(scheduler: RenewalScheduler, now: float = NOW) -> list[tuple[str, str]]:
    return [(each.certificate.identifier, each.action) for each in scheduler.plan(now).due]


@pytest.mark.parametrize(
    ("times", "action", "next_check"),
    [
        ((0.0, 0.0, math.inf), "order", POLL_INTERVAL),
        ((NOW, 0.0, math.inf), "order", POLL_INTERVAL),
        ((NOW - 1, NOW + 5, math.inf), "", 5.0),
        ((NOW + 20, NOW - 1, NOW + 30), "", 20.0),
        ((NOW + 20, 0.0, NOW + 10), "", 10.0),
        ((NOW + 20, 0.0, NOW), "renewal_info", POLL_INTERVAL),
        ((NOW, 0.0, NOW), "order", POLL_INTERVAL),
        ((NOW + 3 * DAY, 0.0, NOW + DAY), "", POLL_INTERVAL),
        ((0.0, math.inf, math.inf), "", POLL_INTERVAL),
    ],
)
def test_plan_follows_from_the_times(
    scheduler: RenewalScheduler, times: tuple[float, float, float], action: str, next_check: float
):
    """``times``: of the renewal, the retry and the request of renewal information."""
    certificate = scheduler.add(["a.example"], "t")
    certificate.renew_at, certificate.retry_at, certificate.renewal_info_at = times
    assert due(scheduler) == ([("a.example", action)] if action else [])
    assert scheduler.plan(NOW).next_check == next_check


def test_longest_overdue_comes_first_and_work_in_progress_is_left_out(scheduler: RenewalScheduler):
    for name, renew_at in (("a.example", NOW - 1), ("b.example", NOW - 2), ("c.example", NOW - 3)):
        scheduler.add([name], "t").renew_at = renew_at
    scheduler.certificates["b.example"].running = "renewal_info"
    assert due(scheduler) == [("c.example", "order"), ("a.example", "order")]
    assert scheduler.free_slots == MAX_CONCURRENT_ORDERS - 1


def test_unneeded_certificate_is_not_due(scheduler: RenewalScheduler, wanted: set[str]):
    scheduler.add(["a.example"], "t")
    assert scheduler.count_needed("t") == 1
    wanted.clear()
    assert due(scheduler) == []
    assert scheduler.count_needed("t") == 0
    assert [each.identifier for each in scheduler.unused()] == ["a.example"]
    scheduler.certificates["a.example"].running = "order"
    assert scheduler.unused() == []


def test_new_certificate_is_renewed_within_the_jitter(scheduler: RenewalScheduler):
    for _ in range(50):
        certificate = scheduler.add(["a.example"], "t")
        scheduler.on_issued(certificate, issued(), NOW)
        age = (certificate.renew_at - NOW) / LIFE
        assert RENEWAL_POINT - RENEWAL_JITTER <= age <= RENEWAL_POINT
        assert NOW <= certificate.renewal_info_at <= NOW + TIMINGS.renewal_info


def test_certificate_that_appears_expired_has_a_least_age(scheduler: RenewalScheduler):
    certificate = scheduler.add(["a.example"], "t")
    scheduler.on_loaded(certificate, issued(not_before=NOW - 2 * LIFE), NOW)
    assert certificate.due < NOW, "a stored one is renewed at once"
    scheduler.on_issued(certificate, issued(not_before=NOW - 2 * LIFE), NOW)
    assert certificate.due == NOW + MIN_AGE * LIFE


@pytest.mark.parametrize(
    ("renewal_info", "renew_at", "interval"),
    [
        (NOW + DAY, NOW + DAY, 1.0),
        (NOW - DAY, NOW - DAY, 1.0),
        (NOW + 1000 * DAY, NOW + LIFE * (1 - FORCED_RENEWAL), 1.0),
        (None, NOW + 60 * DAY, RENEWAL_INFO_RETRY),
    ],
)
def test_advice_moves_the_renewal(
    scheduler: RenewalScheduler, renewal_info: float | None, renew_at: float, interval: float
):
    certificate = scheduler.add(["a.example"], "t")
    scheduler.on_issued(certificate, issued(), NOW)
    certificate.renew_at, certificate.running = NOW + 60 * DAY, "renewal_info"
    scheduler.on_renewal_info(certificate, renewal_info, NOW)
    assert certificate.renew_at == pytest.approx(renew_at)
    assert certificate.renewal_info_at == NOW + interval * TIMINGS.renewal_info
    assert certificate.running is None


def failed(scheduler: RenewalScheduler, certificate: ScheduledCertificate, retry_after: float = 0.0) -> None:
    certificate.running = "order"
    scheduler.on_failure(certificate, AcmeError("no", retry_after), NOW)
    assert certificate.running is None


def test_failures_delay_the_next_try_and_a_success_ends_that(scheduler: RenewalScheduler):
    certificate = scheduler.add(["a.example"], "t")
    failed(scheduler, certificate, 3 * DAY)
    assert certificate.due == NOW + 3 * DAY
    assert scheduler.status(certificate).next_try == NOW + 3 * DAY
    failed(scheduler, certificate)
    assert NOW + TIMINGS.min_retry <= certificate.due <= NOW + 2 * TIMINGS.first_retry
    assert (certificate.failures, certificate.last_error) == (2, "no")
    scheduler.on_issued(certificate, issued(), NOW)
    assert (certificate.failures, certificate.last_error, certificate.retry_at) == (0, "", 0.0)
    assert certificate.backoff.ceiling == TIMINGS.first_retry


@pytest.mark.parametrize("has_certificate", [False, True])
def test_only_a_name_without_certificate_runs_out_of_tries(scheduler: RenewalScheduler, has_certificate: bool):
    certificate = scheduler.add(["a.example"], "t")
    if has_certificate:
        scheduler.on_issued(certificate, issued(not_before=NOW - LIFE), NOW)
    for _ in range(MAX_TRIES):
        failed(scheduler, certificate)
    assert math.isinf(certificate.due) is not has_certificate
    assert (scheduler.status(certificate).next_try is None) is not has_certificate
    assert scheduler.request_again(certificate, "other", NOW) is not has_certificate
    assert certificate.owner == "other"
    assert certificate.failures == (MAX_TRIES if has_certificate else 0)


@pytest.mark.parametrize("move", [-400 * DAY, -1.0, 30 * DAY])
def test_moved_clock_changes_no_wait_and_no_end(scheduler: RenewalScheduler, move: float):
    certificate = scheduler.add(["a.example"], "t")
    scheduler.on_issued(certificate, issued(), NOW)
    renew_at, certificate.renewal_info_at = certificate.renew_at, NOW + 100
    failed(scheduler, certificate, 100 * DAY)
    scheduler.adjust_clock(move)
    assert certificate.retry_at == pytest.approx(NOW + move + 100 * DAY)
    assert certificate.renewal_info_at == pytest.approx(NOW + move + 100)
    assert certificate.renew_at == renew_at


def test_aborted_order_is_no_failure(scheduler: RenewalScheduler):
    certificate = scheduler.add(["a.example"], "t")
    certificate.running = "order"
    assert scheduler.status(certificate).is_ordering
    scheduler.on_stopped(certificate)
    assert (certificate.failures, certificate.last_error) == (0, "")
    assert due(scheduler) == [("a.example", "order")]
